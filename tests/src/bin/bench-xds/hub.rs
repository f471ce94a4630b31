//! A management cluster with tenants, and CCMs of them as processes.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use kubelb_api::v1alpha1::{Config, Tenant, TenantPhase};
use kubelb_tests::control_plane::ControlPlane;
use kubelb_tests::{tool, wait};
use serde_json::{Value, json};

use crate::manager::tell_lines;

/// Until something is there at all.
pub(crate) const WITHIN: Duration = Duration::from_secs(300);
/// Objects under way to an API server.
const AT_ONCE: usize = 32;

/// A client of a server's administrator.
pub(crate) async fn client(server: &ControlPlane) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Creates kinds, and waits until they are served.
pub(crate) async fn install(client: &Client, kinds: Vec<CustomResourceDefinition>) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in kinds {
        definitions.create(&PostParams::default(), &definition).await?;
        let established = kube::runtime::wait::conditions::is_crd_established();
        let name = definition.name_any();
        let waiting = kube::runtime::wait::await_condition(definitions.clone(), &name, established);
        tokio::time::timeout(WITHIN, waiting)
            .await
            .context("a kind is not served")??;
    }
    Ok(())
}

/// Makes a management cluster of it: our kinds, our namespace, a Config.
pub(crate) async fn prepare(hub: &Client, config: Value) -> anyhow::Result<()> {
    install(hub, kubelb_api::crds::all()).await?;
    let namespaces: Api<Namespace> = Api::all(hub.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kubelb"}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let configs: Api<Config> = Api::namespaced(hub.clone(), "kubelb");
    configs
        .create(&PostParams::default(), &serde_json::from_value(config)?)
        .await?;
    Ok(())
}

/// Creates tenants, and waits until the manager has made what each needs.
pub(crate) async fn register(hub: &Client, names: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let tenants: Api<Tenant> = Api::all(hub.clone());
    for name in names {
        let tenant =
            json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": {}});
        tenants
            .create(&PostParams::default(), &serde_json::from_value(tenant)?)
            .await?;
    }
    let deadline = wait::now() + WITHIN;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let list = tenants.list(&ListParams::default()).await?;
        let is_ready =
            |tenant: &Tenant| tenant.status.as_ref().and_then(|status| status.phase) == Some(TenantPhase::Ready);
        let missing = list.iter().filter(|tenant| !is_ready(tenant)).count();
        if missing == 0 {
            return Ok(());
        }
        ensure!(wait::now() < deadline, "{missing} tenants are not registered");
    }
}

/// Creates objects of any kind, many at a time.
pub(crate) async fn create_all(client: &Client, objects: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
    let created = objects.into_iter().map(|object| create(client, object));
    let mut created = futures_util::stream::iter(created).buffer_unordered(AT_ONCE);
    while let Some(made) = created.next().await {
        made?;
    }
    Ok(())
}

async fn create(client: &Client, object: Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.as_ref().context("objects have a kind")?;
    // Addresses are the only ones that are many by their name already.
    let resource = match types.kind.as_str() {
        "Addresses" => ApiResource::from_gvk_with_plural(&GroupVersionKind::try_from(types)?, "addresses"),
        _ => ApiResource::from_gvk(&GroupVersionKind::try_from(types)?),
    };
    let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// A CCM, this program started again. Killed on drop.
pub(crate) struct Ccm(Child);

impl Ccm {
    /// Starts the CCM of a tenant that is registered, with the credential that the manager has made; the credential is kept in `directory`.
    pub(crate) async fn start(
        hub: &Client,
        tenant: &str,
        server: &ControlPlane,
        directory: &Path,
        flags: &[&str],
        log: &str,
    ) -> anyhow::Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(hub.clone(), &format!("tenant-{tenant}"));
        let secret = secrets.get("kubelb-ccm-kubeconfig").await?;
        let text = secret.data.and_then(|mut data| data.remove("kubelb"));
        let credential = directory.join("credential");
        std::fs::write(&credential, text.context("no kubeconfig")?.0)?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut child = tool::bound(program)
            .arg("ccm")
            .arg(format!("--cluster-name={tenant}"))
            .arg(format!("--kubeconfig={}", server.kubeconfig().display()))
            .arg(format!("--kubelb-kubeconfig={}", credential.display()))
            .args([
                "--node-address-type=InternalIP",
                "--metrics-addr=0",
                "--health-probe-bind-address=0",
            ])
            .args(flags)
            .env("RUST_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a CCM")?;
        tell_lines("ccm", child.stderr.take().context("its standard error is a pipe")?);
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Ccm {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
