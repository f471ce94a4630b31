//! The whole of layer 7 at work: a manager that follows manifests and writes statuses, and Envoys that it serves.

use std::path::PathBuf;

use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::manager::{self, Manager};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use serde_json::Value;

use super::site;
use crate::world::SOON;

/// Where managers serve, and where they tell of it.
pub(crate) const MANAGERS: [[&str; 2]; 2] = [
    ["127.0.0.1:18000", "127.0.0.1:19000"],
    ["127.0.0.1:18001", "127.0.0.1:19001"],
];

/// A namespace with manifests in it, so to say.
pub(crate) struct Live {
    pub(crate) namespace: Namespace,
    directory: Scratch,
}

impl Live {
    pub(crate) fn new(role: &str, objects: &[Value]) -> Self {
        let live = Self {
            namespace: Namespace::new(role).unwrap(),
            directory: Scratch::new().unwrap(),
        };
        std::fs::create_dir(live.manifests()).unwrap();
        site::addresses(&live.namespace);
        for object in objects {
            live.put(object);
        }
        live
    }

    fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    pub(crate) fn state(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("state-{index}"))
    }

    /// Writes an object in one step.
    pub(crate) fn put(&self, object: &Value) {
        let meta = &object["metadata"];
        let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let file = format!(
            "{}.{}.{}.json",
            part(&object["kind"]),
            part(&meta["namespace"]),
            part(&meta["name"])
        );
        let next = self.directory.path().join("next");
        std::fs::write(&next, object.to_string()).unwrap();
        std::fs::rename(next, self.manifests().join(file)).unwrap();
    }

    pub(crate) fn manager(&self, index: usize) -> Manager {
        let addresses = MANAGERS[index];
        let started = Manager::start(&self.namespace, addresses, &self.state(index), &self.manifests()).unwrap();
        manager::until_ready(&self.namespace, addresses[1]).unwrap();
        started
    }

    /// An Envoy of these tenants.
    pub(crate) fn envoy(&self, tenants: &str, managers: &[&str]) -> Envoy<'_> {
        self.envoy_with(Setup::default(), tenants, managers, |bootstrap| bootstrap)
    }

    /// The same with a setup; `change` is made to its bootstrap.
    pub(crate) fn envoy_with(
        &self,
        setup: Setup,
        tenants: &str,
        managers: &[&str],
        change: impl FnOnce(String) -> String,
    ) -> Envoy<'_> {
        let bootstrap = manager::bootstrap_for(&["--fleet", tenants], managers, &self.state(0)).unwrap();
        let envoy = Envoy::start(&self.namespace, setup, &change(bootstrap)).unwrap();
        envoy.until_serving(SOON).unwrap();
        envoy
    }

    /// Status of a Route, as the first manager has written it last.
    pub(crate) fn status(&self, tenant: &str, uid: &str) -> anyhow::Result<Value> {
        let file = format!("Route.tenant-{tenant}.{uid}.yaml");
        let text = std::fs::read_to_string(self.state(0).join("status").join(file))?;
        let object: Value = serde_saphyr::from_str(&text)?;
        Ok(object["status"].clone())
    }

    /// Waits until the status of a Route is as wanted.
    pub(crate) fn until_told(&self, tenant: &str, uid: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let found = wait::until(SOON * 2, || {
            let status = self.status(tenant, uid)?;
            anyhow::ensure!(is_wanted(&status), "{uid}: {status:#}");
            Ok(status)
        });
        found.unwrap().0
    }
}

/// Status, reason and message of a condition in a list of them.
pub(crate) fn condition(conditions: &Value, type_: &str) -> (String, String, String) {
    let all = conditions.as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|one| one["type"] == type_).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// The status of the tenant's own object.
pub(crate) fn own(status: &Value) -> &Value {
    &status["resources"]["route"]["status"]
}

/// Whether a Route is served by all who are to.
pub(crate) fn is_programmed(status: &Value) -> bool {
    condition(&status["conditions"], "Programmed").0 == "True"
}
