//! LoadBalancers in the management cluster whose Service is gone: what a deletion could not remove while that cluster did not answer, or
//! while no CCM ran.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kubelb_api::labels::Label;
use kubelb_api::v1alpha1::LoadBalancer;
use kubelb_runtime::or_never::or_never;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::hub::Hub;
use crate::tenancy::Tenancy;
use crate::watch::Followed;

/// Pause after a failed removal.
const RETRY: Duration = Duration::from_secs(5);
/// Pause before looking, so that many changes at once are one.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What it works with.
#[derive(Clone, Debug)]
pub(crate) struct Orphans {
    pub(crate) hub: Hub,
    pub(crate) tenancy: Tenancy,
    pub(crate) services: Followed<Service>,
    pub(crate) load_balancers: Followed<LoadBalancer>,
    /// Rung when a Service or a LoadBalancer may have come or gone.
    pub(crate) changed: Arc<Notify>,
}

impl Orphans {
    /// Removes them for ever.
    pub(crate) async fn follow(self) {
        // Services first: with half of them the other half would be orphans.
        self.services.listed().await;
        self.load_balancers.listed().await;
        loop {
            let failed = self.remove().await;
            tokio::select! {
                () = self.changed.notified() => sleep(DEBOUNCE).await,
                () = or_never(failed.then(|| sleep(RETRY))) => {}
            }
        }
    }

    async fn remove(&self) -> bool {
        let mut failed = false;
        if self.tenancy.is_over() {
            return failed;
        }
        for name in orphans(self.services.store.state(), self.load_balancers.store.state()) {
            match self.hub.delete(&name).await {
                Ok(()) => tracing::info!(load_balancer = name, "removed; its Service is gone"),
                Err(error) => {
                    tracing::warn!(load_balancer = name, %error, "its Service is gone, and it could not be removed");
                    failed = true;
                }
            }
        }
        failed
    }
}

/// Names of the LoadBalancers that were made from a Service that is gone. Those that say nothing of a Service were made by somebody else.
pub(crate) fn orphans<S: Borrow<Service>, L: Borrow<LoadBalancer>>(
    services: impl IntoIterator<Item = S>,
    load_balancers: impl IntoIterator<Item = L>,
) -> Vec<String> {
    let uids: BTreeSet<String> = services
        .into_iter()
        .filter_map(|service| service.borrow().metadata.uid.clone())
        .collect();
    let all = load_balancers.into_iter().filter_map(|object| {
        let metadata = &object.borrow().metadata;
        let is_copy = Label::ORIGIN_NAME.get(metadata).is_some() && Label::ORIGIN_NAMESPACE.get(metadata).is_some();
        let name = metadata.name.clone()?;
        let is_orphan = is_copy && is_uid(&name) && !uids.contains(&name) && metadata.deletion_timestamp.is_none();
        is_orphan.then_some(name)
    });
    all.collect()
}

/// As API servers make them (RFC 9562): copies are named by one, objects that people make are not.
pub(crate) fn is_uid(name: &str) -> bool {
    let groups: Vec<&str> = name.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HERE: &str = "5f1c3a0e-0000-4000-8000-000000000001";
    const GONE: &str = "5f1c3a0e-0000-4000-8000-000000000002";

    fn copy(name: &str, labels: &serde_json::Value) -> LoadBalancer {
        serde_json::from_value(json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
            "metadata": {"name": name, "labels": labels}, "spec": {"endpoints": []},
        }))
        .unwrap()
    }

    #[test]
    fn only_copies_of_services_that_are_gone_are_orphans() {
        let origin = json!({"kubelb.k8c.io/origin-ns": "a", "kubelb.k8c.io/origin-name": "b"});
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "b", "uid": HERE}})).unwrap();
        let objects = [
            copy(HERE, &origin),
            copy(GONE, &origin),
            copy("5f1c3a0e-0000-4000-8000-000000000003", &json!({})),
            copy("made-by-hand", &origin),
        ];
        assert_eq!(orphans([&service], &objects), [GONE]);
        let mut going = copy(GONE, &origin);
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(orphans(Vec::<Service>::new(), [going]).is_empty());
    }
}
