//! Small configurations: consistent ones, and all that a shrinking test needs to vary.

use std::fmt;
use std::sync::Arc;

use kubelb_xds::contract::VirtualAddress;
use kubelb_xds::pb::envoy::config::cluster::v3::Cluster;
use kubelb_xds::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, cluster_load_assignment::Policy};
use kubelb_xds::pb::envoy::config::listener::v3::Listener;
use kubelb_xds::pb::envoy::config::route::v3::RouteConfiguration;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType, Scope, Snapshot, Tenants};
use proptest::prelude::*;

/// Resources of each type: half of tenant a, half of tenant b.
pub(crate) const SLOTS: u8 = 8;

/// What is in each slot: nothing (0) or a version (1 to 3); listeners and routes also say which clusters of their tenant they name.
#[derive(Clone, Default)]
pub(crate) struct World {
    clusters: [u8; 8],
    endpoints: [u8; 8],
    listeners: [(u8, u8); 8],
    routes: [(u8, u8); 8],
    addresses: [u8; 8],
}

impl fmt::Debug for World {
    /// On one line: histories are long.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            clusters,
            endpoints,
            listeners,
            routes,
            addresses,
        } = self;
        let text = format!(
            "clusters {clusters:?} endpoints {endpoints:?} listeners {listeners:?} routes {routes:?} addresses {addresses:?}"
        );
        formatter.write_str(&text)
    }
}

impl World {
    pub(crate) fn strategy() -> impl Strategy<Value = Self> {
        let plain = || prop::array::uniform8(0_u8..4);
        let linked = || prop::array::uniform8((0_u8..4, 0_u8..16));
        (plain(), plain(), linked(), linked(), plain()).prop_map(
            |(clusters, endpoints, listeners, routes, addresses)| Self {
                clusters,
                endpoints,
                listeners,
                routes,
                addresses,
            },
        )
    }

    /// With this version of a cluster and its endpoints.
    pub(crate) fn cluster(mut self, slot: usize, version: u8) -> Self {
        self.clusters[slot] = version;
        self
    }

    /// With this version of a listener, and a bit for each of its tenant's clusters that it names.
    pub(crate) fn listener(mut self, slot: usize, version: u8, clusters: u8) -> Self {
        self.listeners[slot] = (version, clusters);
        self
    }

    pub(crate) fn build(&self, previous: Option<&Snapshot>) -> Arc<Snapshot> {
        let mut all = Vec::new();
        for slot in 0..SLOTS {
            let at = usize::from(slot);
            let name = name(slot);
            let contents = |version: u8, links: &[Reference]| format!("v{version} {links:?}");
            if self.clusters[at] > 0 {
                // Endpoints follow their cluster: what is referenced exists.
                let links = [reference(ResourceType::Endpoints, &name)];
                let cluster = Cluster {
                    name: name.clone(),
                    alt_stat_name: contents(self.clusters[at], &links),
                    ..Cluster::default()
                };
                all.push(resource(&cluster, slot).needing(links));
                let endpoints = ClusterLoadAssignment {
                    cluster_name: name.clone(),
                    policy: Some(Policy {
                        weighted_priority_health: self.endpoints[at] > 1,
                        ..Policy::default()
                    }),
                    ..ClusterLoadAssignment::default()
                };
                all.push(resource(&endpoints, slot));
            }
            let (version, mask) = self.routes[at];
            if version > 0 {
                let links = self.links(slot, mask);
                let route = RouteConfiguration {
                    name: name.clone(),
                    internal_only_headers: vec![contents(version, &links)],
                    ..RouteConfiguration::default()
                };
                all.push(resource(&route, slot).needing(links));
            }
            let (version, mask) = self.listeners[at];
            if version > 0 {
                let mut links = self.links(slot, mask);
                if mask & 1 == 1 && self.routes[at].0 > 0 {
                    links.push(reference(ResourceType::Route, &name));
                }
                if mask & 2 == 2 && self.addresses[at] > 0 {
                    links.push(reference(ResourceType::Secret, &name));
                }
                let listener = Listener {
                    name: name.clone(),
                    stat_prefix: contents(version, &links),
                    ..Listener::default()
                };
                all.push(resource(&listener, slot).needing(links));
            }
            if self.addresses[at] > 0 {
                let address = VirtualAddress {
                    address: name.clone(),
                    epoch: self.addresses[at].into(),
                    ..VirtualAddress::default()
                };
                all.push(resource(&address, slot));
                let secret = Secret {
                    name: name.clone(),
                    ..Secret::default()
                };
                all.push(resource(&secret, slot));
            }
        }
        let snapshot = Snapshot::build(all, previous).unwrap();
        snapshot.check_references().unwrap();
        Arc::new(snapshot)
    }

    /// What is in the slot of a type, 0 to 3.
    pub(crate) fn number(&self, kind: ResourceType, slot: u8) -> u8 {
        let at = usize::from(slot);
        match kind {
            ResourceType::Cluster => self.clusters[at],
            ResourceType::Endpoints => self.endpoints[at],
            ResourceType::Listener => self.listeners[at].0,
            ResourceType::Route => self.routes[at].0,
            ResourceType::Secret | ResourceType::VirtualAddress => self.addresses[at],
        }
    }

    fn links(&self, slot: u8, mask: u8) -> Vec<Reference> {
        let first = slot / 4 * 4;
        (0..4)
            .filter(|bit| mask & (1 << bit) != 0 && self.clusters[usize::from(first + bit)] > 0)
            .map(|bit| reference(ResourceType::Cluster, &name(first + bit)))
            .collect()
    }
}

fn resource<M: kubelb_xds::resource::XdsResource>(message: &M, slot: u8) -> Resource {
    Resource::new(message, owner(slot), Audience::Everyone)
}

fn reference(kind: ResourceType, name: &str) -> Reference {
    Reference {
        kind,
        name: name.into(),
    }
}

fn owner(slot: u8) -> Owner {
    match slot {
        0 | 4 => Owner::tenant(if slot == 0 { "a" } else { "b" }),
        1..4 => Owner::tenant("a"),
        _ => Owner::tenant("b"),
    }
}

pub(crate) fn name(slot: u8) -> String {
    format!("{}/{slot}", if slot < 4 { "a" } else { "b" })
}

pub(crate) fn scope(number: u8) -> Scope {
    match number {
        0 => Scope::Agent,
        1 => Scope::Fleet(Tenants::All),
        2 => Scope::tenant("a"),
        _ => Scope::tenant("b"),
    }
}
