//! Which backends of an object are healthy, by what several agents found.
//!
//! A backend is healthy unless more than half of the agents that know say otherwise. An agent whose checks have no result yet for some backend of
//! a listener does not count for that listener, unless all are like that: then the one that knows most does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use kubelb_xds::reports::{Known, Received};

use crate::ir::{Cluster, ClusterId, DataPlane, Listener, LoadBalancer, Location, Protocol};
use crate::status::Health;

/// Of all backends that agents check; `None` when there is none, or nobody says anything. `names` are those of the listeners.
pub(super) fn of(object: &LoadBalancer, names: &[String], voters: &[&Arc<Received>]) -> Option<Health> {
    if voters.is_empty() {
        return None;
    }
    // Listeners of several addresses have the same backends.
    let mut groups: BTreeMap<Vec<ClusterId>, Vec<&str>> = BTreeMap::new();
    for (listener, name) in object.listeners.iter().zip(names) {
        if listener.data_plane == DataPlane::Ebpf {
            groups.entry(clusters(listener)).or_default().push(name);
        }
    }
    let mut votes: BTreeMap<(Protocol, SocketAddr), Votes> = BTreeMap::new();
    let mut partly = Health::default();
    for (clusters, names) in &groups {
        let backends = backends(object, clusters);
        if backends.is_empty() {
            continue;
        }
        let told: Vec<Told<'_>> = voters.iter().map(|received| Told::new(received, names)).collect();
        let sure: Vec<&Told<'_>> = told.iter().filter(|told| !told.is_pending).collect();
        if sure.is_empty() {
            let best = told.iter().max_by_key(|told| told.healthy + told.unhealthy.len());
            partly.healthy += best.map_or(0, |best| best.healthy);
            partly.checked += best.map_or(0, |best| best.healthy + best.unhealthy.len());
            continue;
        }
        for backend in backends {
            let votes = votes.entry(backend).or_default();
            votes.all += sure.len();
            votes.against += sure.iter().filter(|told| told.unhealthy.contains(&backend.1)).count();
        }
    }
    let mut health = partly;
    for votes in votes.values() {
        health.checked += 1;
        health.healthy += usize::from(votes.against * 2 <= votes.all);
        health.disputed += usize::from(votes.against > 0 && votes.against < votes.all);
    }
    (health.checked > 0).then_some(health)
}

#[derive(Default)]
struct Votes {
    all: usize,
    against: usize,
}

/// What one agent tells of listeners with the same backends.
struct Told<'a> {
    unhealthy: BTreeSet<&'a SocketAddr>,
    healthy: usize,
    is_pending: bool,
}

impl<'a> Told<'a> {
    fn new(received: &'a Received, names: &[&str]) -> Self {
        let known: Vec<&Known> = names.iter().filter_map(|name| received.standing(name)).collect();
        let unhealthy = known.iter().flat_map(|known| &known.unhealthy);
        let healthy = known.iter().map(|known| known.healthy).min().unwrap_or_default();
        Self {
            unhealthy: unhealthy.map(|backend| &backend.address).collect(),
            healthy: usize::try_from(healthy).unwrap_or_default(),
            is_pending: known.iter().any(|known| known.pending > 0),
        }
    }
}

/// Those that get new flows.
fn clusters(listener: &Listener) -> Vec<ClusterId> {
    let targets = listener.targets.iter().filter(|target| target.weight > 0);
    let mut clusters: Vec<ClusterId> = targets.map(|target| target.cluster).collect();
    clusters.sort();
    clusters
}

/// Backends that are checked and do not drain.
fn backends(object: &LoadBalancer, clusters: &[ClusterId]) -> BTreeSet<(Protocol, SocketAddr)> {
    let checked = |cluster: &&Cluster| clusters.contains(&cluster.id) && cluster.health_check.is_some();
    let of_cluster = |cluster: &Cluster| {
        let port = cluster.backend_port.get();
        let hosts = cluster.hosts.iter().filter(|host| host.weight > 0);
        let addresses = hosts.filter_map(|host| match &host.location {
            Location::Address(address) => Some(*address),
            Location::Name(_) => None,
        });
        addresses
            .map(|address| (cluster.id.protocol, SocketAddr::new(address, port)))
            .collect::<Vec<_>>()
    };
    object.clusters.iter().filter(checked).flat_map(of_cluster).collect()
}
