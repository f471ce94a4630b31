//! Configuration over xDS: Listener, Cluster and ClusterLoadAssignment resources, as Envoy reads them too, become frontends.
//!
//! Owns which of their fields the kernel path can honour; whatever else is set is refused with the field's name, because what
//! a control plane asks for must not be lost in silence. Each resource is read alone: a bad one costs itself only, and the last
//! good one of that name stays in force. All of it is pure but [`stream`].

mod address;
mod assemble;
mod cluster;
mod endpoints;
mod listener;
mod matcher;
mod refusal;
mod share;
pub mod stream;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_xds::ResourceType;

use crate::model::{Desired, Snat, VirtualAddress};
pub use assemble::Waiting;
use cluster::Cluster;
use endpoints::Endpoints;
use listener::Listener;
pub use refusal::Refusal;

/// A resource as this agent understands it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Listener(Listener),
    Cluster(Cluster),
    Endpoints(Endpoints),
    Address(IpAddr, VirtualAddress),
}

/// What this node is.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a str,
    /// Source addresses and ports of its own.
    pub snat: &'a Snat,
}

/// Longest name of a resource, in bytes: four parts of Kubernetes names and addresses are shorter.
pub const MAX_NAME: usize = 512;

/// Reads one resource, the value of its `google.protobuf.Any`.
///
/// # Errors
/// With the first field that is wrong, or that the kernel path cannot do.
pub fn decode(kind: ResourceType, name: &str, value: &[u8], here: Here<'_>) -> Result<Decoded, Refusal> {
    if name.is_empty() || name.len() > MAX_NAME {
        return refusal::refuse("name", format!("must have 1 to {MAX_NAME} bytes, has {}", name.len()));
    }
    let decoded = match kind {
        ResourceType::Listener => Kind::Listener(listener::decode(value)?),
        ResourceType::Cluster => Kind::Cluster(cluster::decode(value, here.snat)?),
        ResourceType::Endpoints => Kind::Endpoints(endpoints::decode(value)?),
        ResourceType::VirtualAddress => {
            let (address, announced) = address::decode(value, here.node)?;
            Kind::Address(address, announced)
        }
        ResourceType::Secret | ResourceType::Route => {
            return refusal::refuse("type_url", format!("this agent does not ask for {}", kind.type_url()));
        }
    };
    Ok(Decoded(decoded))
}

/// Everything that is in force, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    listeners: BTreeMap<String, Listener>,
    clusters: BTreeMap<String, Cluster>,
    endpoints: BTreeMap<String, Endpoints>,
    addresses: BTreeMap<String, (IpAddr, VirtualAddress)>,
    /// Whoever is asked has said which addresses there are, none included.
    knows_addresses: bool,
}

impl Resources {
    /// Adds a resource or takes the place of the one of that name.
    pub fn set(&mut self, name: String, resource: Decoded) {
        match resource.0 {
            Kind::Listener(listener) => drop(self.listeners.insert(name, listener)),
            Kind::Cluster(cluster) => drop(self.clusters.insert(name, cluster)),
            Kind::Endpoints(endpoints) => drop(self.endpoints.insert(name, endpoints)),
            Kind::Address(address, announced) => {
                self.knows_addresses = true;
                self.addresses.insert(name, (address, announced));
            }
        }
    }

    /// Removes a resource, if there is one.
    pub fn remove(&mut self, kind: ResourceType, name: &str) {
        match kind {
            ResourceType::Listener => drop(self.listeners.remove(name)),
            ResourceType::Cluster => drop(self.clusters.remove(name)),
            ResourceType::Endpoints => drop(self.endpoints.remove(name)),
            ResourceType::VirtualAddress => drop(self.addresses.remove(name)),
            ResourceType::Secret | ResourceType::Route => {}
        }
    }

    /// From here on, addresses that are not there are nobody's.
    pub fn know_addresses(&mut self) {
        self.knows_addresses = true;
    }

    /// Who announces which address, if anybody has said so. Where two resources are of one address, the higher epoch wins.
    fn addresses(&self) -> Option<BTreeMap<IpAddr, VirtualAddress>> {
        let mut all: BTreeMap<IpAddr, VirtualAddress> = BTreeMap::new();
        for (address, announced) in self.addresses.values() {
            if all.get(address).is_none_or(|other| other.epoch < announced.epoch) {
                all.insert(*address, announced.clone());
            }
        }
        self.knows_addresses.then_some(all)
    }

    /// Names of the ClusterLoadAssignments that clusters ask for, sorted.
    pub fn wanted_endpoints(&self) -> impl Iterator<Item = &str> {
        let names: BTreeSet<&str> = self
            .clusters
            .values()
            .filter_map(|cluster| match &cluster.source {
                cluster::EndpointSource::Discovered(name) => Some(name.as_str()),
                cluster::EndpointSource::Inline(_) => None,
            })
            .collect();
        names.into_iter()
    }

    /// Names of ClusterLoadAssignments that are there and not among `wanted`.
    pub(crate) fn endpoints_beyond(&self, wanted: &BTreeSet<String>) -> Vec<String> {
        let names = self.endpoints.keys();
        names.filter(|name| !wanted.contains(*name)).cloned().collect()
    }

    /// All of it as one configuration, and the listeners that can't be part of it yet.
    #[must_use]
    pub fn desired(&self, snat: Snat) -> (Desired, Vec<Waiting>) {
        assemble::desired(self, snat)
    }
}

#[cfg(test)]
mod tests;
