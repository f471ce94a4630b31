//! Says in the Config's status which manager reads it.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt as _};
use kubelb_api::API_VERSION;
use kubelb_api::v1alpha1::Config;
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::or_never::or_never;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{FIELD_MANAGER, registration};

/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps it up for ever.
pub(crate) async fn keep(client: Client, configs: Store<Config>, mut changed: watch::Receiver<()>) {
    loop {
        let mut failed = false;
        for config in configs.state() {
            failed |= !say(&client, &config).await;
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return std::future::pending().await },
            () = or_never(failed.then(|| sleep(RETRY))) => {}
        }
    }
}

/// Whether it is said.
async fn say(client: &Client, config: &Config) -> bool {
    let version = registration::version();
    let said = config.status.as_ref().and_then(|status| status.version.as_ref());
    if said == Some(&version) {
        return true;
    }
    let (name, namespace) = (config.name_any(), config.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": "Config",
        "metadata": {"name": name, "namespace": namespace, "uid": config.metadata.uid},
        "status": {"version": version},
    });
    let api: Api<Config> = Api::namespaced(client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the Config's status could not be written");
            false
        }
    }
}
