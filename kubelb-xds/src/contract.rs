//! What kubelb adds to the xDS API: how peers are called, how resources are called, what metadata says where Envoy has no field, and
//! messages of its own. Foreign implementations find the messages in `proto/kubelb/v1alpha1/`.
//!
//! Must not know: sessions and snapshots.

pub mod limits;
pub mod messages;
pub mod metadata;
pub mod names;
pub mod node;
pub mod relay;
pub mod reports;

pub use messages::{Rejection, VirtualAddress};
pub use metadata::{FlowTimeouts, Metadata, OnUnhealthy};
pub use names::{ClusterName, Family, ListenerName, Protocol};
pub use node::NodeId;
