//! One LoadBalancer by itself: its listeners and clusters, as if no other object asked for the same address and port.
//!
//! Must not know: other LoadBalancers. Whatever is wrong with a port, an address or a value costs that and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::LoadBalancerStatus as CoreStatus;
use kubelb_api::annotations::{Annotation, PROXY_PROTOCOL_V2};
use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1 as api;

use super::backends::Backends;
use super::data_plane::{Choice, DataPlane, Needs, choose};
use super::policy::not_routable;
use super::reach::Pair;
use super::traffic::{self, Traffic, port_number};
use super::{Cluster, ClusterId, Family, Frontend, Listener, LoadBalancer, Protocol, Target};
use crate::allocate::Given;
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};

/// Most ports of one object, as the schema has it.
const MAX_PORTS: usize = 256;

/// What a LoadBalancer is read with.
pub(super) struct Context<'a> {
    pub(super) tenant: &'a TenantName,
    /// Addresses that it holds a claim on.
    pub(super) claimed: &'a BTreeSet<IpAddr>,
    /// What addresses of its status mean.
    pub(super) given: Given,
    /// Where the address is whoever's who implements the management cluster's Services: what they say.
    pub(super) delegated: Option<&'a CoreStatus>,
    /// Addresses that others hold.
    pub(super) is_claimed_by_another: &'a dyn Fn(IpAddr) -> bool,
    /// The backends of its first group of endpoints.
    pub(super) backends: &'a Backends,
}

/// One port pair.
struct Port {
    frontend: NonZeroU16,
    protocol: Protocol,
    backend: NonZeroU16,
}

/// An address, and whether traffic is delivered to it or to a node's own.
struct Vip {
    address: IpAddr,
    delivered: bool,
}

/// Reads one object.
pub(super) fn read(
    name: &ObjectName,
    object: &api::LoadBalancer,
    context: &Context<'_>,
) -> (LoadBalancer, Vec<Problem>) {
    let key = ObjectKey {
        kind: Kind::LoadBalancer,
        name: name.clone(),
    };
    let mut problems = Vec::new();
    unserved_fields(&key, object, &mut problems);
    let traffic = traffic::read(&key, &object.spec, &mut problems);
    let ports = ports(&key, &object.spec, &mut problems);
    let vips = vips(&key, object, context, &mut problems);
    let has_names = !context.backends.dns.is_empty();
    let proxy_protocol = Annotation::PROXY_PROTOCOL.get(&object.metadata) == Some(PROXY_PROTOCOL_V2);

    let mut listeners = Vec::new();
    let mut clusters: BTreeMap<ClusterId, Cluster> = BTreeMap::new();
    let mut strongest: Option<Choice> = None;
    let mut lonely: BTreeSet<IpAddr> = BTreeSet::new();
    for vip in &vips {
        for port in &ports {
            let choice = choose(Needs {
                protocol: port.protocol,
                proxy_protocol,
                has_names,
                tls_passthrough: false,
                delivered_to_vip: vip.delivered,
            });
            strongest = strongest.max(Some(choice));
            let family = if has_names {
                Family::Dns
            } else {
                Family::of(vip.address)
            };
            let hosts = match family {
                Family::V4 => &context.backends.v4,
                Family::V6 => &context.backends.v6,
                Family::Dns => &context.backends.dns,
            };
            if hosts.is_empty() {
                lonely.insert(vip.address);
            }
            let id = ClusterId {
                port: port.frontend,
                protocol: port.protocol,
                family,
            };
            clusters.entry(id).or_insert_with(|| Cluster {
                id,
                data_plane: choice.mode,
                backend_port: port.backend,
                hosts: Arc::clone(hosts),
                algorithm: traffic.algorithm,
                health_check: traffic.health_check(port.protocol),
                on_unhealthy: traffic.on_unhealthy,
                proxy_protocol: proxy_protocol && port.protocol == Protocol::Tcp,
            });
            listeners.push(listener(vip, port, id, choice.mode, &traffic));
        }
    }
    if !ports.is_empty() && !vips.is_empty() {
        missing_backends(&key, context.backends, &lonely, &mut problems);
    }
    let load_balancer = LoadBalancer {
        tenant: context.tenant.clone(),
        name: name.clone(),
        addresses: vips.iter().map(|vip| vip.address).collect(),
        data_plane: strongest.unwrap_or(match context.delegated {
            Some(_) => Choice::DELEGATED,
            None => Choice::DEFAULT,
        }),
        is_delegated: context.delegated.is_some() && context.claimed.is_empty(),
        local_only: object.spec.external_traffic_policy.as_deref() == Some("Local"),
        listeners,
        clusters: clusters.into_values().collect(),
    };
    (load_balancer, problems)
}

fn listener(vip: &Vip, port: &Port, cluster: ClusterId, data_plane: DataPlane, traffic: &Traffic) -> Listener {
    Listener {
        frontend: Frontend {
            address: vip.address,
            port: port.frontend,
            protocol: port.protocol,
        },
        data_plane,
        source_ranges: traffic.source_ranges.clone(),
        affinity: traffic.affinity,
        timeouts: traffic.timeouts,
        targets: vec![Target { cluster, weight: 1 }],
    }
}

/// What is asked for and not done is said, not dropped.
fn unserved_fields(key: &ObjectKey, object: &api::LoadBalancer, problems: &mut Vec<Problem>) {
    let mut say = |field: String, reason, message: String| problems.push(Problem::new(key, field, reason, message));
    for index in 1..object.spec.endpoints.len() {
        let message = "ports refer to the first group of endpoints; this one gets no traffic".to_owned();
        say(format!("spec.endpoints[{index}]"), Reason::Unsupported, message);
    }
    if let Some(policy) = object.spec.external_traffic_policy.as_deref()
        && !matches!(policy, "" | "Cluster" | "Local")
    {
        let message = format!("{policy:?} is not known; Cluster holds");
        say("spec.externalTrafficPolicy".to_owned(), Reason::InvalidValue, message);
    }
    if let Some(version) = Annotation::PROXY_PROTOCOL
        .get(&object.metadata)
        .filter(|version| !version.is_empty())
    {
        let field = format!("metadata.annotations[{}]", Annotation::PROXY_PROTOCOL.key());
        if version != PROXY_PROTOCOL_V2 {
            let message = format!("{version:?} is not known; no header is sent. Use {PROXY_PROTOCOL_V2}");
            say(field, Reason::InvalidValue, message);
        } else if object
            .spec
            .ports
            .iter()
            .any(|port| port.protocol == Some(api::Protocol::Udp))
        {
            let message = "there is no PROXY protocol for UDP; UDP ports are served without".to_owned();
            say(field, Reason::Unsupported, message);
        }
    }
}

/// The pairs of ports that nothing is wrong with.
pub(super) fn pairs(key: &ObjectKey, spec: &api::LoadBalancerSpec) -> Vec<Pair> {
    let ports = ports(key, spec, &mut Vec::new()).into_iter();
    let pairs = ports.map(|port| Pair {
        frontend: port.frontend,
        protocol: port.protocol,
        backend: port.backend,
    });
    pairs.collect()
}

/// Pairs frontend ports with those of the endpoints: by name, else by place.
fn ports(key: &ObjectKey, spec: &api::LoadBalancerSpec, problems: &mut Vec<Problem>) -> Vec<Port> {
    let backends: &[api::EndpointPort] = spec.endpoints.first().map_or(&[], |group| &group.ports);
    let mut refuse = |field: String, reason, message: String| problems.push(Problem::new(key, field, reason, message));
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}]{field}");
        if index >= MAX_PORTS {
            refuse(
                at(""),
                Reason::InvalidPort,
                format!("an object has {MAX_PORTS} ports at most"),
            );
            break;
        }
        let Some(frontend) = port_number(port.port) else {
            refuse(
                at(".port"),
                Reason::InvalidPort,
                format!("{} is no port; use 1 to 65535", port.port),
            );
            continue;
        };
        let protocol = protocol_of(port.protocol);
        if !seen.insert((frontend, protocol)) {
            let message = format!("port {frontend} is listed twice for this protocol; the first counts");
            refuse(at(".port"), Reason::InvalidPort, message);
            continue;
        }
        let named = |wanted: &String| {
            let same = |port: &&api::EndpointPort| port.name.as_ref() == Some(wanted);
            backends.iter().enumerate().find(|(_, port)| same(port))
        };
        let by_name = port.name.as_ref().filter(|name| !name.is_empty()).and_then(named);
        let Some((place, pair)) = by_name.or_else(|| backends.get(index).map(|pair| (index, pair))) else {
            refuse(
                at(""),
                Reason::NoBackendPort,
                "no port of spec.endpoints[0] belongs to it".to_owned(),
            );
            continue;
        };
        let field = |name: &str| format!("spec.endpoints[0].ports[{place}].{name}");
        if protocol_of(pair.protocol) != protocol {
            let message = "is not the protocol of the frontend's port; what clients speak is not translated".to_owned();
            refuse(field("protocol"), Reason::InvalidPort, message);
            continue;
        }
        match port_number(pair.port) {
            Some(backend) => ports.push(Port {
                frontend,
                protocol,
                backend,
            }),
            None => refuse(
                field("port"),
                Reason::InvalidPort,
                format!("{} is no port; use 1 to 65535", pair.port),
            ),
        }
    }
    ports
}

const fn protocol_of(protocol: Option<api::Protocol>) -> Protocol {
    match protocol {
        None | Some(api::Protocol::Tcp) => Protocol::Tcp,
        Some(api::Protocol::Udp) => Protocol::Udp,
    }
}

/// The claimed addresses, else those of the status where they hold.
fn vips(key: &ObjectKey, object: &api::LoadBalancer, context: &Context<'_>, problems: &mut Vec<Problem>) -> Vec<Vip> {
    let mut vips: BTreeMap<IpAddr, bool> = BTreeMap::new();
    if !context.claimed.is_empty() {
        vips.extend(context.claimed.iter().map(|address| (*address, true)));
    }
    let of_object = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let status = context.delegated.or(of_object);
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let is_held = context.given == Given::Held || context.delegated.is_some();
    let is_asked = context.claimed.is_empty() && is_held;
    for (index, entry) in ingress.iter().enumerate().filter(|_| is_asked) {
        let Some(text) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        let field = format!("status.loadBalancer.ingress[{index}].ip");
        let Ok(address) = text.parse::<IpAddr>() else {
            let message = format!("{text:?} is not an IP address");
            problems.push(Problem::new(key, field, Reason::InvalidAddress, message));
            continue;
        };
        if let Some(why) = not_routable(address) {
            let message = format!("{address} {why}");
            problems.push(Problem::new(key, field, Reason::InvalidAddress, message));
        } else if (context.is_claimed_by_another)(address) {
            let message = format!("{address} belongs to another object, as its AddressClaim says");
            problems.push(Problem::new(key, field, Reason::AddressConflict, message));
        } else {
            vips.insert(address, entry.ip_mode.as_deref() != Some("Proxy"));
        }
    }
    let vips = vips.into_iter();
    vips.map(|(address, delivered)| Vip { address, delivered }).collect()
}

fn missing_backends(key: &ObjectKey, backends: &Backends, lonely: &BTreeSet<IpAddr>, problems: &mut Vec<Problem>) {
    if backends.is_empty() {
        let message = "there is no usable backend; connections are refused";
        problems.push(Problem::new(key, "spec.endpoints[0]", Reason::NoEndpoints, message));
        return;
    }
    for vip in lonely {
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        let message = format!("no backend has an {family} address, so connections to {vip} are refused");
        problems.push(Problem::new(
            key,
            "spec.endpoints[0]",
            Reason::NoEndpointsOfFamily,
            message,
        ));
    }
}
