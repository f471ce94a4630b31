//! A CCM with the credential that its tenant was given.

use std::path::PathBuf;

use clap::Parser as _;
use k8s_openapi::api::core::v1::{Event, Secret, Service, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use kubelb_api::v1alpha1::LoadBalancer;
use kubelb_ccm::args::Cli;
use kubelb_tests::bare::Cluster;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::world::{World, client, kubeconfig_of, merge, revoked, until};

/// A tenant's cluster, and a CCM. All end when it is dropped.
struct Tenant {
    cluster: Cluster,
    directory: TempDir,
    shutdown: CancellationToken,
    _running: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Tenant {
    async fn start(kubeconfig: &str, flags: &[&str]) -> Self {
        let cluster = Cluster::start().await;
        cluster.create_namespace("kubelb").await;
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "kubelb");
        let secret = json!({"metadata": {"name": "kubelb-cluster"}, "stringData": {"kubelb": kubeconfig}});
        let secret = serde_json::from_value(secret).unwrap();
        secrets.create(&PostParams::default(), &secret).await.unwrap();
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("kubelb");
        std::fs::write(&file, kubeconfig).unwrap();
        let mut arguments = vec![
            "kubelb-ccm".to_owned(),
            "--cluster-name=a".to_owned(),
            "--metrics-addr=0".to_owned(),
            "--health-probe-bind-address=0".to_owned(),
            "--enable-leader-election=false".to_owned(),
            "--kubelb-kubeconfig-secret=kubelb/kubelb-cluster".to_owned(),
            format!("--kubeconfig={}", cluster.server.kubeconfig().display()),
            format!("--kubelb-kubeconfig={}", file.display()),
        ];
        arguments.extend(flags.iter().map(ToString::to_string));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(kubelb_ccm::run::start(Cli::parse_from(arguments), shutdown.clone()));
        Self {
            cluster,
            directory,
            shutdown,
            _running: running,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("kubelb")
    }

    fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.cluster.client.clone())
    }

    /// Creates a Service of type LoadBalancer: its UID.
    async fn create_service(&self, name: &str) -> String {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
        });
        let service = serde_json::from_value(service).unwrap();
        let created = self.services().create(&PostParams::default(), &service).await.unwrap();
        created.metadata.uid.unwrap()
    }

    /// Waits until the condition Submitted of a Service has this reason: its message.
    async fn submitted(&self, name: &str, reason: &str) -> String {
        let told = |service: Option<&Service>| {
            let conditions = service?.status.as_ref()?.conditions.as_ref()?;
            let submitted = conditions
                .iter()
                .find(|condition| condition.type_ == "kubelb.k8c.io/Submitted")?;
            (submitted.reason == reason).then(|| submitted.message.clone())
        };
        let service = until(&self.services(), name, reason, |service| told(service).is_some()).await;
        told(service.as_ref()).unwrap()
    }
}

#[tokio::test]
async fn a_ccm_renews_its_token_and_keeps_it_for_the_next_start() {
    let world = World::start().await;
    world.register("a").await;
    let given = world.kubeconfig("a").await;
    let tenant = Tenant::start(&given, &["--kubelb-token-renew-after=2s"]).await;
    let secrets: Api<Secret> = Api::namespaced(tenant.cluster.client.clone(), "kubelb");
    let kept = until(&secrets, "kubelb-cluster", "another token", |secret| {
        secret.is_some_and(|secret| kubeconfig_of(secret) != given)
    })
    .await;
    let kept = client(&kubeconfig_of(&kept.unwrap())).await;
    let with_kept: Api<LoadBalancer> = Api::namespaced(kept, "tenant-a");
    with_kept.list(&ListParams::default()).await.unwrap();
    let uid = tenant.create_service("web").await;
    until(&with_kept, &uid, "the copy", |copy| copy.is_some()).await;
}

#[tokio::test]
async fn a_revoked_credential_is_told_and_another_one_is_taken_up_without_a_restart() {
    let world = World::start().await;
    let given = world.register("a").await;
    let before = world.kubeconfig("a").await;
    let tenant = Tenant::start(&before, &[]).await;
    let uid = tenant.create_service("web").await;
    let copies = world.api::<LoadBalancer>("tenant-a");
    until(&copies, &uid, "the copy", |copy| copy.is_some()).await;

    let accounts = world.api::<ServiceAccount>("tenant-a");
    accounts.delete("kubelb-ccm", &DeleteParams::default()).await.unwrap();
    revoked(&Api::namespaced(given, "tenant-a")).await;
    let narrow = json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}});
    merge(&tenant.services(), "web", narrow).await;
    let message = tenant.submitted("web", "CredentialRefused").await;
    assert!(message.contains("Secret tenant-a/kubelb-ccm-kubeconfig"), "{message}");
    assert!(message.contains("traffic goes on"), "{message}");

    let secrets = world.api::<Secret>("tenant-a");
    let new = until(&secrets, "kubelb-ccm-kubeconfig", "another kubeconfig", |secret| {
        secret.is_some_and(|secret| kubeconfig_of(secret) != before)
    })
    .await;
    std::fs::write(tenant.file(), kubeconfig_of(&new.unwrap())).unwrap();
    tenant.submitted("web", "Submitted").await;
    until(&copies, &uid, "the change", |copy| {
        copy.is_some_and(|copy| copy.spec.source_ranges == ["192.0.2.0/24"])
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let mut world = World::new().await;
    let here = format!("https://{}", world.server().address());
    // Nobody listens at port 9.
    world.start_manager(|settings| settings.api_server_urls = vec!["https://127.0.0.1:9".to_owned(), here]);
    world.create_tenant("a").await;
    world.ready("a").await;
    let tenant = Tenant::start(&world.kubeconfig("a").await, &[]).await;
    let uid = tenant.create_service("web").await;
    until(&world.api::<LoadBalancer>("tenant-a"), &uid, "the copy", |copy| {
        copy.is_some()
    })
    .await;
    tenant.submitted("web", "Submitted").await;
}

#[tokio::test]
async fn a_tenant_is_deleted_while_its_ccm_runs() {
    let world = World::start().await;
    world.register("a").await;
    // Nothing here waits for this time.
    let tenant = Tenant::start(&world.kubeconfig("a").await, &["--cleanup-timeout=1h"]).await;
    let copies = world.api::<LoadBalancer>("tenant-a");
    for name in ["web", "other"] {
        let uid = tenant.create_service(name).await;
        until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
        let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}}));
        copies
            .patch_status(&uid, &PatchParams::default(), &status)
            .await
            .unwrap();
        until(&tenant.services(), name, "its address", has_address).await;
    }

    world.delete_tenant("a").await;
    world.gone("a").await;
    assert!(world.namespaces().get_opt("tenant-a").await.unwrap().is_none());
    for name in ["web", "other"] {
        let message = tenant.submitted(name, "TenantDeleted").await;
        assert!(message.contains("deleted in the management cluster"), "{message}");
        until(&tenant.services(), name, "nothing left of ours", |service| {
            !has_address(service) && service.is_some_and(|service| service.finalizers().is_empty())
        })
        .await;
    }
    let events: Api<Event> = Api::default_namespaced(tenant.cluster.client.clone());
    let reasons: Vec<String> = events
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|event| event.reason)
        .collect();
    for reason in ["TenantDeleted", "AddressRemoved"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason}: {reasons:?}");
    }
    tenant
        .services()
        .delete("other", &DeleteParams::background())
        .await
        .unwrap();
    until(&tenant.services(), "other", "the Service is gone", |service| {
        service.is_none()
    })
    .await;

    // Registered anew, and its administrator brings the new credential: all is served again.
    world.register("a").await;
    std::fs::write(tenant.file(), world.kubeconfig("a").await).unwrap();
    tenant.submitted("web", "Submitted").await;
    let uid = tenant.services().get("web").await.unwrap().metadata.uid.unwrap();
    until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
    until(&tenant.services(), "web", "held again", |service| {
        service.is_some_and(|service| !service.finalizers().is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_whose_ccm_is_gone_is_deleted_with_all_that_it_left() {
    let world = World::start().await;
    world.register("a").await;
    let tenant = Tenant::start(&world.kubeconfig("a").await, &[]).await;
    let uid = tenant.create_service("web").await;
    until(&world.api::<LoadBalancer>("tenant-a"), &uid, "the copy", |copy| {
        copy.is_some()
    })
    .await;
    // Not in good order: nothing was cleaned up.
    drop(tenant);
    world.delete_tenant("a").await;
    world.gone("a").await;
    assert!(world.namespaces().get_opt("tenant-a").await.unwrap().is_none());
    let left = world
        .api::<LoadBalancer>("tenant-a")
        .list(&ListParams::default())
        .await
        .unwrap();
    assert!(left.items.is_empty(), "{left:?}");
}

fn has_address(service: Option<&Service>) -> bool {
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref());
    status.is_some_and(|status| status.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty()))
}
