//! Listeners with their clusters and endpoints, as frontends. Owns what happens when these don't fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::cluster::{Cluster, EndpointSource, check_at};
use super::endpoints::Endpoint;
use super::listener::Listener;
use super::{Resources, share};
use crate::model::{Backend, Desired, Frontend, HealthCheck, Protocol, Snat};
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
    /// Its clusters choose among their endpoints in different ways.
    DifferentAlgorithms,
    /// A cluster's own SNAT address is not of the family of the listener's address.
    SnatFamily(IpAddr),
    /// Two of its clusters have this endpoint, and different SNAT addresses.
    DifferentSnat(SocketAddr),
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
            Reason::DifferentAlgorithms => {
                write!(
                    formatter,
                    "its clusters have different load balancing policies; a flow is given out once"
                )
            }
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
    (Desired { snat, frontends }, waiting)
}

fn frontend(resources: &Resources, listener: &Listener) -> Result<Frontend, Reason> {
    let mut members: Vec<(&Cluster, &Endpoint)> = Vec::new();
    let mut weights: Vec<(u32, Vec<u32>)> = Vec::new();
    for (name, weight) in &listener.clusters {
        let cluster = resources
            .clusters
            .get(name)
            .ok_or_else(|| Reason::NoCluster(name.clone()))?;
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
    let mut algorithms = listener
        .clusters
        .iter()
        .filter_map(|(name, _)| resources.clusters.get(name).map(|cluster| cluster.algorithm));
    let algorithm = algorithms.next().unwrap_or_default();
    if algorithms.any(|other| other != algorithm) {
        return Err(Reason::DifferentAlgorithms);
    }
    Ok(Frontend {
        vip: listener.vip,
        port: listener.port,
        protocol: listener.protocol,
        algorithm,
        health_check: checks.into_iter().next().flatten(),
        timeouts: listener.timeouts,
        half_open_budget: listener.half_open_budget,
        backends: backends.into_values().collect(),
    })
}
