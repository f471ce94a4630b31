//! What is to be forwarded on one node, decided from the API's objects. Knows neither nftables nor clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Label of a slice that names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services with this label are somebody else's to forward (KEP-2447).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Seconds that an affinity lasts when nothing else is asked for, as the API's default.
const AFFINITY: u32 = 10_800;

/// What the API has, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    /// All Services.
    pub(crate) services: Vec<Arc<Service>>,
    /// All EndpointSlices.
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    /// The node that this proxy serves.
    pub(crate) node: Option<Arc<Node>>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A transport protocol that Services may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn of(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Its name in lower case, as nftables and DNS write it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Which endpoints traffic may go to (`internalTrafficPolicy`, `externalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// All.
    Cluster,
    /// Those on this node.
    Local,
}

impl Policy {
    fn of(text: Option<&str>) -> Self {
        if text == Some("Local") {
            Self::Local
        } else {
            Self::Cluster
        }
    }
}

/// One port of a Service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Of the Service.
    pub(crate) namespace: String,
    /// Of the Service.
    pub(crate) service: String,
    /// Name of the port, or its number when it has none.
    pub(crate) port_name: String,
    /// Of everything here.
    pub(crate) family: Family,
    /// Of everything here.
    pub(crate) protocol: Protocol,
    /// On the Service's addresses.
    pub(crate) port: u16,
    /// Reached from inside the cluster.
    pub(crate) cluster_ip: Option<IpAddr>,
    /// On the node's own addresses.
    pub(crate) node_port: Option<u16>,
    /// `externalIPs`.
    pub(crate) external_ips: BTreeSet<IpAddr>,
    /// Ingress addresses of the load balancer whose `ipMode` is VIP (KEP-1860).
    pub(crate) load_balancer_ips: BTreeSet<IpAddr>,
    /// Who may use the load balancer's addresses; empty: everyone.
    pub(crate) source_ranges: Vec<IpNet>,
    /// Seconds that a client stays with its endpoint after a new connection.
    pub(crate) affinity: Option<u32>,
    /// For the cluster's address.
    pub(crate) internal: Policy,
    /// For all others.
    pub(crate) external: Policy,
    /// Endpoints to choose from.
    pub(crate) endpoints: BTreeSet<SocketAddr>,
    /// Endpoints on this node to choose from.
    pub(crate) local: BTreeSet<SocketAddr>,
}

impl ServicePort {
    /// Whether anything may send to it from outside the cluster.
    #[must_use]
    pub(crate) fn is_exposed(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
}

/// What a load balancer is told on a Service's `healthCheckNodePort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// Of the Service.
    pub(crate) namespace: String,
    /// Of the Service.
    pub(crate) service: String,
    /// Ready endpoints on this node.
    pub(crate) local_endpoints: usize,
}

/// All that one node forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Addresses on which node ports answer.
    pub(crate) node_addresses: BTreeSet<IpAddr>,
    /// Where this node's pods have their addresses.
    pub(crate) pod_cidrs: BTreeSet<IpNet>,
    /// Sorted by Service.
    pub(crate) ports: Vec<ServicePort>,
    /// By port.
    pub(crate) health_checks: BTreeMap<u16, HealthCheck>,
}

/// Decides. `except` are addresses that something else serves (the cluster's DNS); what an object has that can't be
/// understood is left out, the rest of it holds.
#[must_use]
pub(crate) fn build(objects: &Objects, node_name: &str, except: &BTreeSet<IpAddr>) -> State {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &objects.slices {
        if let Some(key) = service_of(slice) {
            slices.entry(key).or_default().push(slice);
        }
    }
    let mut state = State::default();
    if let Some(node) = &objects.node {
        state.node_addresses = node_addresses(node);
        state.pod_cidrs = pod_cidrs(node);
    }
    for service in &objects.services {
        let (Some(namespace), Some(name), Some(spec)) =
            (&service.metadata.namespace, &service.metadata.name, &service.spec)
        else {
            continue;
        };
        let elsewhere = service
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(OTHER_PROXY));
        let addresses = cluster_addresses(spec);
        if elsewhere || addresses.is_empty() || addresses.iter().any(|address| except.contains(address)) {
            continue;
        }
        let own = slices.get(&(namespace.as_str(), name.as_str()));
        let own = own.map(Vec::as_slice).unwrap_or_default();
        let target = Target {
            namespace,
            name,
            spec,
            ingress: ingress_addresses(service),
            slices: own,
            node_name,
        };
        for address in addresses {
            let ports = spec.ports.iter().flatten();
            state
                .ports
                .extend(ports.filter_map(|port| target.service_port(port, address)));
        }
        if let Some((port, check)) = target.health_check() {
            state.health_checks.insert(port, check);
        }
    }
    state.ports.sort_by(|one, other| {
        let key = |port: &ServicePort| {
            (
                port.namespace.clone(),
                port.service.clone(),
                port.family,
                port.protocol,
                port.port,
            )
        };
        key(one).cmp(&key(other))
    });
    state
}

/// Namespace and name of the Service that a slice belongs to.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref()?, name))
}

/// The Service's own addresses; none for headless ones and those of type ExternalName.
pub(super) fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let all = spec.cluster_ips.iter().flatten();
    let mut addresses: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(spec.cluster_ip.as_ref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    addresses
}

fn node_addresses(node: &Node) -> BTreeSet<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

fn pod_cidrs(node: &Node) -> BTreeSet<IpNet> {
    let all = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    all.filter_map(|text| text.parse().ok()).collect()
}

fn ingress_addresses(service: &Service) -> BTreeSet<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    ingress
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// An endpoint's state as the API means it: what is unset counts as ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// It serves although it is about to end (KEP-1669).
    pub(super) draining: bool,
}

impl Readiness {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false);
        Self {
            ready,
            draining: serving && terminating,
        }
    }
}

/// Endpoints of one port, by what they are good for.
#[derive(Default)]
struct Candidates {
    ready: BTreeSet<SocketAddr>,
    draining: BTreeSet<SocketAddr>,
}

impl Candidates {
    fn add(&mut self, address: SocketAddr, readiness: Readiness) {
        if readiness.ready {
            self.ready.insert(address);
        } else if readiness.draining {
            self.draining.insert(address);
        }
    }

    /// Those that are about to end are the last resort.
    fn choose(self) -> BTreeSet<SocketAddr> {
        if self.ready.is_empty() {
            self.draining
        } else {
            self.ready
        }
    }
}

/// A Service with what belongs to it.
struct Target<'a> {
    namespace: &'a str,
    name: &'a str,
    spec: &'a ServiceSpec,
    ingress: BTreeSet<IpAddr>,
    slices: &'a [&'a EndpointSlice],
    node_name: &'a str,
}

impl Target<'_> {
    fn service_port(&self, api: &ApiPort, cluster_ip: IpAddr) -> Option<ServicePort> {
        let spec = self.spec;
        let family = Family::of(cluster_ip);
        let protocol = Protocol::of(api.protocol.as_deref())?;
        let port = u16::try_from(api.port).ok()?;
        let of_family = |address: &IpAddr| Family::of(*address) == family;
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let external_ips = spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok());
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok());
        let (endpoints, local) = self.endpoints(api.name.as_deref().unwrap_or_default(), protocol, family);
        Some(ServicePort {
            namespace: self.namespace.to_owned(),
            service: self.name.to_owned(),
            port_name: match api.name.as_deref() {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ => port.to_string(),
            },
            family,
            protocol,
            port,
            cluster_ip: Some(cluster_ip),
            node_port: api
                .node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            external_ips: external_ips.filter(of_family).collect(),
            load_balancer_ips: self
                .ingress
                .iter()
                .copied()
                .filter(|_| balanced)
                .filter(of_family)
                .collect(),
            source_ranges: ranges
                .filter_map(|range| range.trim().parse::<IpNet>().ok())
                .filter(|range| Family::of(range.addr()) == family)
                .collect(),
            affinity: affinity.then(|| seconds.unwrap_or(AFFINITY)),
            internal: Policy::of(spec.internal_traffic_policy.as_deref()),
            external: Policy::of(spec.external_traffic_policy.as_deref()),
            endpoints,
            local,
        })
    }

    /// All endpoints of a port and those on this node, each to choose from.
    fn endpoints(
        &self,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
        let (mut all, mut local) = (Candidates::default(), Candidates::default());
        for slice in self.slices {
            let port = slice.ports.iter().flatten().find(|port| {
                port.name.as_deref().unwrap_or_default() == port_name
                    && Protocol::of(port.protocol.as_deref()) == Some(protocol)
            });
            let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().flatten() {
                // Clients shall use the first address of an endpoint only (API documentation of `addresses`).
                let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
                let Some(address) = address.filter(|address| Family::of(*address) == family) else {
                    continue;
                };
                let readiness = Readiness::of(endpoint);
                all.add(SocketAddr::new(address, port), readiness);
                if endpoint.node_name.as_deref() == Some(self.node_name) {
                    local.add(SocketAddr::new(address, port), readiness);
                }
            }
        }
        (all.choose(), local.choose())
    }

    fn health_check(&self) -> Option<(u16, HealthCheck)> {
        let port = u16::try_from(self.spec.health_check_node_port?).ok()?;
        let here = self.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let ready: BTreeSet<&str> = here
            .filter(|endpoint| endpoint.node_name.as_deref() == Some(self.node_name) && Readiness::of(endpoint).ready)
            // The same pod is in a slice of each family.
            .filter_map(|endpoint| match &endpoint.target_ref {
                Some(target) => target.name.as_deref(),
                None => endpoint.addresses.first().map(String::as_str),
            })
            .collect();
        let check = HealthCheck {
            namespace: self.namespace.to_owned(),
            service: self.name.to_owned(),
            local_endpoints: ready.len(),
        };
        (port != 0).then_some((port, check))
    }
}

#[cfg(test)]
mod tests;
