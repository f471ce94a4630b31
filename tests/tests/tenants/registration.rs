//! How a tenant is registered, and stays so.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kubelb_api::v1alpha1::{Config, LoadBalancer, TenantState};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::world::{MANAGER, World, client, kubeconfig_of, load_balancer, merge, revoked, until};

/// The tenant's LoadBalancers, with a credential.
fn load_balancers(client: &kube::Client, namespace: &str) -> Api<LoadBalancer> {
    Api::namespaced(client.clone(), namespace)
}

#[tokio::test]
async fn a_tenant_is_registered_and_its_ccm_can_work() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let mine = load_balancers(&tenant, "tenant-a");
    mine.create(&PostParams::default(), &load_balancer("web"))
        .await
        .unwrap();
    assert_eq!(mine.list(&ListParams::default()).await.unwrap().items.len(), 1);

    let state: Api<TenantState> = Api::namespaced(tenant, "tenant-a");
    let state = until(&state, "default", "told", |state| {
        state.is_some_and(|state| state.status.is_some())
    })
    .await;
    let state = state.unwrap().status.unwrap();
    assert_eq!(state.load_balancer.unwrap().disable, Some(false));
    assert!(state.version.unwrap().git_version.unwrap().starts_with('v'));
    assert!(state.last_updated.is_some());
    until(&world.api::<Config>(MANAGER), "default", "its version", |config| {
        config.is_some_and(|config| config.status.as_ref().is_some_and(|status| status.version.is_some()))
    })
    .await;
    let events = world.events().await;
    assert!(
        events.iter().any(|event| event.starts_with("Normal Registered")),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_kubeconfig_names_every_api_server() {
    let mut world = World::new().await;
    let here = format!("https://{}", world.server().address());
    let urls = vec![here.clone(), "https://192.0.2.1:6443".to_owned()];
    world.start_manager(|settings| settings.api_server_urls = urls.clone());
    world.register("a").await;
    let read = Kubeconfig::from_yaml(&world.kubeconfig("a").await).unwrap();
    let named: Vec<String> = read
        .clusters
        .into_iter()
        .filter_map(|named| named.cluster.unwrap().server)
        .collect();
    assert_eq!(named, urls);
    assert_eq!(read.contexts.len(), 2);

    // An address that changes is changed for everybody, and no token is wasted.
    world.stop_manager().await;
    let before = world.kubeconfig("a").await;
    world.start_manager(|settings| settings.api_server_urls = vec![here]);
    let secrets = world.api::<Secret>("tenant-a");
    let after = until(&secrets, "kubelb-ccm-kubeconfig", "one address", |secret| {
        secret.is_some_and(|secret| !kubeconfig_of(secret).contains("192.0.2.1"))
    })
    .await;
    let token = |text: &str| text.lines().find(|line| line.contains("token:")).map(str::to_owned);
    assert_eq!(token(&kubeconfig_of(&after.unwrap())), token(&before));
}

#[tokio::test]
async fn what_somebody_changes_is_put_right() {
    let world = World::start().await;
    let before = world.register("a").await;
    let roles = world.api::<Role>("tenant-a");
    let right = roles.get("kubelb-ccm").await.unwrap().rules;
    merge(
        &roles,
        "kubelb-ccm",
        json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    )
    .await;
    until(&roles, "kubelb-ccm", "the Role", |role| {
        role.is_some_and(|role| role.rules == right)
    })
    .await;

    let bindings = world.api::<RoleBinding>("tenant-a");
    let more = json!({"subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}]});
    merge(&bindings, "kubelb-ccm", more).await;
    let is_right = |binding: Option<&RoleBinding>| {
        binding.is_some_and(|binding| {
            let subjects = binding.subjects.as_deref().unwrap_or_default();
            binding.role_ref.kind == "Role" && subjects.len() == 1 && subjects[0].kind == "ServiceAccount"
        })
    };
    until(&bindings, "kubelb-ccm", "the RoleBinding", is_right).await;
    // What a binding refers to is never changed: another one of its name is replaced.
    bindings.delete("kubelb-ccm", &DeleteParams::default()).await.unwrap();
    until(&bindings, "kubelb-ccm", "the RoleBinding is back", is_right).await;

    let states = world.api::<TenantState>("tenant-a");
    states.delete("default", &DeleteParams::default()).await.unwrap();
    until(&states, "default", "the TenantState is back", |state| {
        state.is_some_and(|state| state.status.is_some())
    })
    .await;

    let secrets = world.api::<Secret>("tenant-a");
    merge(
        &secrets,
        "kubelb-ccm-kubeconfig",
        json!({"data": {"kubelb": "bm9uc2Vuc2U="}, "metadata": {"labels": null}}),
    )
    .await;
    until(&secrets, "kubelb-ccm-kubeconfig", "the kubeconfig", |secret| {
        secret.is_some_and(|secret| kubeconfig_of(secret).contains("token:"))
    })
    .await;
    let again = client(&world.kubeconfig("a").await).await;
    load_balancers(&again, "tenant-a")
        .list(&ListParams::default())
        .await
        .unwrap();

    // How an administrator revokes: all tokens go with their account, and a new kubeconfig is there.
    let last = world.kubeconfig("a").await;
    let accounts = world.api::<ServiceAccount>("tenant-a");
    let uid = accounts.get("kubelb-ccm").await.unwrap().metadata.uid;
    accounts.delete("kubelb-ccm", &DeleteParams::default()).await.unwrap();
    until(&accounts, "kubelb-ccm", "the account is back", |account| {
        account.is_some_and(|account| account.metadata.uid != uid)
    })
    .await;
    until(&secrets, "kubelb-ccm-kubeconfig", "another kubeconfig", |secret| {
        secret.is_some_and(|secret| kubeconfig_of(secret) != last)
    })
    .await;
    revoked(&load_balancers(&before, "tenant-a")).await;
    let fresh = client(&world.kubeconfig("a").await).await;
    load_balancers(&fresh, "tenant-a")
        .list(&ListParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_is_replaced_long_before_it_ends() {
    let mut world = World::new().await;
    world.start_manager(|settings| settings.renew_after = Some(Duration::from_secs(2)));
    let first = world.register("a").await;
    let secrets = world.api::<Secret>("tenant-a");
    let before = world.kubeconfig("a").await;
    let after = until(&secrets, "kubelb-ccm-kubeconfig", "another token", |secret| {
        secret.is_some_and(|secret| kubeconfig_of(secret) != before)
    })
    .await;
    let second = client(&kubeconfig_of(&after.unwrap())).await;
    for client in [&first, &second] {
        load_balancers(client, "tenant-a")
            .list(&ListParams::default())
            .await
            .unwrap();
    }
}

async fn is_absent<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> bool {
    api.get_opt(name).await.unwrap().is_none()
}

#[tokio::test]
async fn a_namespace_of_somebody_else_is_used_when_it_is_given() {
    let world = World::start().await;
    world
        .create_all::<Namespace>(json!({"metadata": {"name": "tenant-a"}}))
        .await;
    world.create_tenant("a").await;
    let message = world.told("a", "NamespaceTaken").await;
    assert!(message.contains("metadata.labels[kubelb.k8c.io/tenant]"), "{message}");
    assert!(is_absent(&world.api::<Role>("tenant-a"), "kubelb-ccm").await);
    let events = world.events().await;
    assert!(
        events.iter().any(|event| event.starts_with("Warning NamespaceTaken")),
        "{events:?}"
    );

    let labels = json!({"metadata": {"labels": {"kubelb.k8c.io/tenant": "a"}}});
    merge(&world.namespaces(), "tenant-a", labels).await;
    world.ready("a").await;

    // It stays when the tenant goes, and nothing of the tenant does.
    world.delete_tenant("a").await;
    until(&world.tenants(), "a", "the Tenant is gone", |tenant| tenant.is_none()).await;
    let namespace = world.namespaces().get("tenant-a").await.unwrap();
    assert!(namespace.metadata.deletion_timestamp.is_none());
    assert!(is_absent(&world.api::<ServiceAccount>("tenant-a"), "kubelb-ccm").await);
    assert!(is_absent(&world.api::<RoleBinding>("tenant-a"), "kubelb-ccm").await);
    assert!(is_absent(&world.api::<Secret>("tenant-a"), "kubelb-ccm-kubeconfig").await);
}

#[tokio::test]
async fn limits_are_told_when_they_change_and_only_then() {
    let mut world = World::start().await;
    world.register("a").await;
    let states = world.api::<TenantState>("tenant-a");
    let is = |wanted: bool| {
        move |state: Option<&TenantState>| {
            let status = state.and_then(|state| state.status.as_ref());
            status.and_then(|status| status.load_balancer.as_ref()?.disable) == Some(wanted)
        }
    };
    let before = until(&states, "default", "not disabled", is(false)).await.unwrap();
    // A manager that comes anew has nothing to write.
    world.stop_manager().await;
    world.start_manager(|_| {});
    merge(
        &world.api::<Config>(MANAGER),
        "default",
        json!({"spec": {"loadBalancer": {"disable": true}}}),
    )
    .await;
    let disabled = until(&states, "default", "disabled for all", is(true)).await.unwrap();
    assert_ne!(disabled.status.unwrap().last_updated, None);
    assert_eq!(before.metadata.uid, disabled.metadata.uid);
    merge(
        &world.tenants(),
        "a",
        json!({"spec": {"loadBalancer": {"disable": false}}}),
    )
    .await;
    let enabled = until(&states, "default", "enabled for one", is(false)).await.unwrap();
    world.ready("a").await;
    // Something that changes no limit.
    merge(
        &world.tenants(),
        "a",
        json!({"spec": {"allowedRanges": ["10.0.0.0/8"]}}),
    )
    .await;
    world.ready("a").await;
    let after = states.get("default").await.unwrap();
    assert_eq!(after.metadata.resource_version, enabled.metadata.resource_version);
}

#[tokio::test]
async fn what_happens_while_no_manager_leads_is_caught_up_with() {
    let mut world = World::start().await;
    world.register("goes").await;
    world.register("stays").await;
    world.stop_manager().await;
    world.delete_tenant("goes").await;
    world.create_tenant("comes").await;
    let bindings = world.api::<RoleBinding>("tenant-stays");
    bindings.delete("kubelb-ccm", &DeleteParams::default()).await.unwrap();
    world.start_manager(|_| {});
    world.ready("comes").await;
    until(&bindings, "kubelb-ccm", "the RoleBinding is back", |binding| {
        binding.is_some()
    })
    .await;
    world.gone("goes").await;
}
