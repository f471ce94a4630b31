//! What a manager that does not lead tells the one that does, from both ends: a [`Teller`] is told how things are and says what differs, a
//! [`Heard`] takes that in.
//!
//! By [`kubelb_xds::telling`], so without I/O and clock. Must not know: transports, who the other manager is, and what is made of it.

mod heard;
pub mod layer7;
pub mod sighting;
mod teller;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use kubelb_xds::contract::relay::{NodePresence, RelayedView};
use kubelb_xds::contract::reports::Standing;
use kubelb_xds::{ResourceType, Snapshot, Version};

use crate::object::ObjectName;

pub use heard::{Changes, Fault, Heard, Limits};
pub use teller::{PACE, Teller};

/// Of what is served for each object, and of each resource of [`layer7`] by its name: the same for two managers that serve it alike.
pub type Digests = BTreeMap<ObjectName, u64>;

/// What one manager has to tell of those that are connected to it.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// By the number of the connection.
    pub peers: BTreeMap<u64, OutgoingPeer>,
    /// What these have taken is about this configuration.
    pub digests: Arc<Digests>,
}

/// One that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingPeer {
    /// What it is, has taken and refuses.
    pub view: RelayedView,
    /// What its agent tells, if that is everything once.
    pub standings: Option<BTreeMap<String, Standing>>,
}

/// Nodes, how each one's agent is, and since when.
pub type Presences = BTreeMap<String, (NodePresence, Instant)>;

/// The digest of an object; `None`: nothing is served for it.
#[must_use]
pub fn digest(snapshot: &Snapshot, object: &ObjectName) -> Option<u64> {
    // Names of an object's resources begin with the object's.
    let prefix = format!("{object}/");
    let mut text = String::new();
    for kind in ResourceType::ALL {
        let from = snapshot
            .table(kind)
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        for (name, resource) in from.take_while(|(name, _)| name.starts_with(&prefix)) {
            text.push_str(&format!("{} {name} {}\n", kind.label(), resource.version()));
        }
    }
    // 0 is what says that there is none.
    (!text.is_empty()).then(|| Version::of(text.as_bytes()).number().max(1))
}

/// The object of this name, `namespace/name`, or what stands for a resource of [`layer7`].
pub(crate) fn object(name: &str) -> Option<ObjectName> {
    let (namespace, name) = name.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty()).then(|| ObjectName::new(namespace, name))
}

#[cfg(test)]
mod tests;
