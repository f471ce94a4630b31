//! Listeners with their clusters and endpoints, as frontends. Owns what happens when these don't fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cluster::{Cluster, EndpointSource, check_at};
use super::endpoints::Endpoint;
use super::listener::Listener;
use super::{Resources, share};
use crate::model::{Algorithm, Backend, Desired, Frontend, HealthCheck, Protocol, Snat};
use crate::source::limits::MAX_BACKENDS;

/// A listener that is not served, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The listener.
    pub listener: String,
    /// Why it is not served.
    pub reason: Reason,
}

/// Why a listener is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A cluster that it names has not come.
    NoCluster(String),
    /// The endpoints of a cluster have not come.
    NoEndpoints(String),
    /// Another listener, which comes first by name, has the same address, port and protocol.
    TakenBy(String),
    /// An endpoint is not of the family of the listener's address.
    Family(SocketAddr),
    /// Endpoints of all its clusters together.
    TooManyEndpoints(usize),
    /// Its clusters' endpoints are not checked alike.
    DifferentChecks,
    /// A cluster's own SNAT address is not of the family of the listener's address.
    SnatFamily(IpAddr),
    /// Two of its clusters have this endpoint, and different SNAT addresses.
    DifferentSnat(SocketAddr),
    /// Its clusters' endpoints are not chosen alike.
    DifferentChoice,
    /// Its health check asks by TCP at a UDP port, unless another port is named.
    UdpCheck,
}

impl fmt::Display for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "listener {} is not served: ", self.listener)?;
        match &self.reason {
            Reason::NoCluster(name) => write!(formatter, "its cluster {name} has not come yet"),
            Reason::NoEndpoints(name) => write!(formatter, "the endpoints {name} have not come yet"),
            Reason::TakenBy(other) => write!(formatter, "listener {other} has the same address, port and protocol"),
            Reason::Family(address) => write!(formatter, "endpoint {address} is not of its address family"),
            Reason::TooManyEndpoints(count) => {
                write!(
                    formatter,
                    "{count} endpoints are too many, at most {MAX_BACKENDS} can be served"
                )
            }
            Reason::DifferentChecks => write!(formatter, "its endpoints have different health checks"),
            Reason::SnatFamily(address) => {
                write!(
                    formatter,
                    "SNAT address {address} of a cluster is not of its address family"
                )
            }
            Reason::DifferentSnat(address) => {
                write!(
                    formatter,
                    "endpoint {address} is in two clusters with different SNAT addresses"
                )
            }
            Reason::DifferentChoice => write!(
                formatter,
                "its clusters have different ways to choose an endpoint (lb_policy, affinityTimeout)"
            ),
            Reason::UdpCheck => write!(
                formatter,
                "its health check needs endpoints with a health_check_config.port_value: a UDP port cannot be asked by TCP"
            ),
        }
    }
}

pub(super) fn desired(resources: &Resources, snat: Snat) -> (Desired, Vec<Waiting>) {
    let mut frontends = BTreeMap::new();
    let mut taken: BTreeMap<(IpAddr, u16, Protocol), &str> = BTreeMap::new();
    let mut waiting = Vec::new();
    for (name, listener) in &resources.listeners {
        let triple = (listener.vip, listener.port.get(), listener.protocol);
        let built = match taken.get(&triple) {
            Some(other) => Err(Reason::TakenBy((*other).to_owned())),
            None => frontend(resources, listener),
        };
        match built {
            Ok(frontend) => {
                taken.insert(triple, name);
                frontends.insert(name.clone(), frontend);
            }
            Err(reason) => waiting.push(Waiting {
                listener: name.clone(),
                reason,
            }),
        }
    }
    let desired = Desired {
        snat,
        frontends,
        addresses: resources.addresses(),
    };
    (desired, waiting)
}

fn frontend(resources: &Resources, listener: &Listener) -> Result<Frontend, Reason> {
    let mut choices: BTreeSet<(bool, Option<Duration>)> = BTreeSet::new();
    let mut members: Vec<(&Cluster, &Endpoint)> = Vec::new();
    let mut weights: Vec<(u32, Vec<u32>)> = Vec::new();
    for (name, weight) in &listener.clusters {
        let cluster = resources
            .clusters
            .get(name)
            .ok_or_else(|| Reason::NoCluster(name.clone()))?;
        choices.insert((cluster.is_maglev, cluster.affinity));
        let endpoints = match &cluster.source {
            EndpointSource::Inline(endpoints) => endpoints,
            EndpointSource::Discovered(name) => {
                let found = resources.endpoints.get(name);
                found.ok_or_else(|| Reason::NoEndpoints(name.clone()))?
            }
        };
        members.extend(endpoints.iter().map(|endpoint| (cluster, endpoint)));
        weights.push((*weight, endpoints.iter().map(|endpoint| endpoint.weight).collect()));
    }
    if members.len() > MAX_BACKENDS {
        return Err(Reason::TooManyEndpoints(members.len()));
    }
    let mut backends: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    let mut checks: BTreeSet<Option<HealthCheck>> = BTreeSet::new();
    for ((cluster, endpoint), weight) in members.into_iter().zip(share::weights(&weights)) {
        if endpoint.address.is_ipv4() != listener.vip.is_ipv4() {
            return Err(Reason::Family(endpoint.address));
        }
        let port = endpoint.check_port.filter(|port| port.get() != endpoint.address.port());
        let check = check_at(cluster, port);
        if listener.protocol == Protocol::Udp && check.as_ref().is_some_and(|_| endpoint.check_port.is_none()) {
            return Err(Reason::UdpCheck);
        }
        checks.insert(check);
        if let Some(snat) = cluster.snat.filter(|snat| snat.is_ipv4() != listener.vip.is_ipv4()) {
            return Err(Reason::SnatFamily(snat));
        }
        let backend = backends.entry(endpoint.address).or_insert(Backend {
            snat: cluster.snat,
            ..Backend::new(endpoint.address, 0)
        });
        if backend.snat != cluster.snat {
            return Err(Reason::DifferentSnat(endpoint.address));
        }
        // The same backend in two clusters gets the sum, and is reset if one of them says so.
        backend.weight = backend.weight.saturating_add(weight);
        backend.on_unhealthy = backend.on_unhealthy.max(cluster.on_unhealthy);
    }
    if checks.len() > 1 {
        return Err(Reason::DifferentChecks);
    }
    if choices.len() > 1 {
        return Err(Reason::DifferentChoice);
    }
    let (is_maglev, affinity) = choices.into_iter().next().unwrap_or_default();
    Ok(Frontend {
        vip: listener.vip,
        port: listener.port,
        protocol: listener.protocol,
        // What Envoy does with a source-ip hash policy, too: round robin takes no notice of it.
        algorithm: match (is_maglev, listener.hashes_source) {
            (false, _) => Algorithm::RoundRobin,
            (true, false) => Algorithm::Maglev,
            (true, true) => Algorithm::MaglevBySource,
        },
        affinity,
        source_ranges: listener.source_ranges.clone(),
        health_check: checks.into_iter().next().flatten(),
        timeouts: listener.timeouts,
        half_open_budget: listener.half_open_budget,
        backends: backends.into_values().collect(),
    })
}
