//! Keeps `Addresses/default` up with the tenant's nodes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::{ObjectRef, Store};
use kubelb_api::names::DEFAULT_ADDRESSES;
use kubelb_api::v1alpha1::Addresses;
use kubelb_runtime::or_never::or_never;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::hub::Hub;
use crate::plan::{AddressType, Nodes, addresses};
use crate::tenancy::Tenancy;
use crate::watch::Followed;

/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(2);
/// Pause after a write, so that of many changes at once the first counts at once and the others together.
const PAUSE: Duration = Duration::from_millis(50);

/// What it works with.
#[derive(Clone, Debug)]
pub(crate) struct NodeAddresses {
    pub(crate) hub: Hub,
    pub(crate) tenancy: Tenancy,
    pub(crate) type_: AddressType,
    pub(crate) nodes: Followed<Node>,
    pub(crate) present: Store<Addresses>,
    /// Rung when a node, or the Addresses, may have changed.
    pub(crate) changed: Arc<Notify>,
}

/// What became of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Something was written.
    Yes,
    /// There was nothing to write.
    No,
    /// It is to be tried again.
    Failed,
}

impl NodeAddresses {
    /// Follows the nodes for ever.
    pub(crate) async fn follow(self) {
        // Nothing is written before the nodes were listed once: half of them are not all.
        self.nodes.listed().await;
        loop {
            let written = self.write().await;
            if written == Written::Yes {
                sleep(PAUSE).await;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = or_never((written == Written::Failed).then(|| sleep(RETRY))) => {}
            }
        }
    }

    async fn write(&self) -> Written {
        if self.tenancy.is_over() {
            return Written::No;
        }
        let nodes = Nodes::choose(self.nodes.store.state().iter().map(AsRef::as_ref), self.type_);
        if !nodes.without_address.is_empty() {
            let names: Vec<&str> = nodes.without_address.iter().map(String::as_str).collect();
            tracing::debug!(
                type_ = %self.type_,
                nodes = names.join(", "),
                "have no address of this type and take no traffic",
            );
        }
        let Some(wanted) = addresses(&nodes) else {
            tracing::warn!(
                type_ = %self.type_,
                "no node that takes traffic has an address of this type; the addresses stay as they were. See --node-address-type",
            );
            return Written::No;
        };
        let key = ObjectRef::new(DEFAULT_ADDRESSES).within(self.hub.namespace());
        if self.present.get(&key).is_some_and(|present| present.spec == wanted) {
            return Written::No;
        }
        match self.hub.apply_nodes(wanted).await {
            Ok(_) => {
                tracing::info!(nodes = nodes.len(), "wrote the nodes' addresses");
                Written::Yes
            }
            Err(error) => {
                tracing::warn!(%error, "the nodes' addresses could not be written");
                Written::Failed
            }
        }
    }
}
