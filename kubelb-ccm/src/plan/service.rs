//! Service → LoadBalancer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubelb_api::labels::Label;
use kubelb_api::names::{CLASS, DEFAULT_ADDRESSES, TenantName};
use kubelb_api::v1alpha1::{
    EndpointAddress, EndpointPort, HealthCheck, HealthCheckType, HttpHealthCheck, LoadBalancer, LoadBalancerEndpoints,
    LoadBalancerPort, LoadBalancerSpec, Persistence, PersistenceType, Protocol,
};

use super::{Local, Nodes, Notice};

/// Annotations that say how the tenant's object was written, not what is wanted.
const NOT_COPIED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];
/// The older way to say `spec.loadBalancerSourceRanges`, which counts where that field is empty.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Where kube-proxy tells whether a node has endpoints of a Service (port `healthCheckNodePort`).
const LOCAL_HEALTH_PATH: &str = "/healthz";

/// What holds for all Services of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The tenant.
    pub tenant: TenantName,
    /// Only Services of the class `kubelb` are ours, not those without a class.
    pub use_class: bool,
    /// Traffic goes to nodes. Otherwise to the addresses that another implementation has already given to the Service.
    pub to_nodes: bool,
}

/// What a Service is looked at with.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The nodes that take traffic.
    pub nodes: &'a Nodes,
    /// Where its endpoints are.
    pub local: &'a Local,
}

/// What the management cluster shall hold for a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The object.
    pub load_balancer: LoadBalancer,
    /// What of the Service is not done.
    pub notices: Vec<Notice>,
}

/// Why nothing of a Service can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was not read from an API server.
    #[error("metadata.{0} is missing")]
    Metadata(&'static str),
    /// None of its ports can be served.
    #[error("{}", join(.0))]
    NoPorts(Vec<Notice>),
    /// Nothing takes its traffic.
    #[error("{0}")]
    NoEndpoints(Notice),
}

fn join(notices: &[Notice]) -> String {
    let all: Vec<String> = notices.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// Whether a Service asks for a load balancer of ours. One that is being deleted does not any more.
#[must_use]
pub fn is_ours(service: &Service, settings: &Settings) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref();
    let is_our_class = match class {
        Some(class) => class == CLASS,
        None => !settings.use_class,
    };
    spec.type_.as_deref() == Some("LoadBalancer") && is_our_class && service.metadata.deletion_timestamp.is_none()
}

/// The LoadBalancer of a Service that [`is_ours`].
///
/// # Errors
/// When nothing of it can be served; what was there before is then left as it is.
pub fn load_balancer(service: &Service, settings: &Settings, inputs: Inputs<'_>) -> Result<Planned, PlanError> {
    let uid = service.metadata.uid.clone().ok_or(PlanError::Metadata("uid"))?;
    let name = service.metadata.name.clone().ok_or(PlanError::Metadata("name"))?;
    let namespace = service
        .metadata
        .namespace
        .clone()
        .ok_or(PlanError::Metadata("namespace"))?;
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let mut notices = Vec::new();
    let (ports, endpoint_ports) = ports(spec, settings.to_nodes, &mut notices)?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let endpoints = endpoints(service, settings, inputs, is_local, endpoint_ports, &mut notices)?;
    let wanted = LoadBalancerSpec {
        endpoints: vec![endpoints],
        ports,
        type_: "LoadBalancer".to_owned(),
        external_traffic_policy: spec.external_traffic_policy.clone(),
        ip_families: spec.ip_families.clone().unwrap_or_default(),
        ip_family_policy: spec.ip_family_policy.clone(),
        load_balancer_ip: spec.load_balancer_ip.clone().filter(|ip| !ip.is_empty()),
        persistence: persistence(spec, &mut notices),
        source_ranges: source_ranges(service, spec),
        health_check: health_check(spec, settings.to_nodes && is_local),
        ..LoadBalancerSpec::default()
    };
    let mut metadata = ObjectMeta {
        name: Some(uid),
        namespace: Some(settings.tenant.namespace()),
        annotations: annotations(&service.metadata),
        ..ObjectMeta::default()
    };
    Label::ORIGIN_NAMESPACE.set(&mut metadata, namespace);
    Label::ORIGIN_NAME.set(&mut metadata, name);
    Label::TENANT.set(&mut metadata, settings.tenant.as_str());
    notices.extend(unused(spec));
    notices.sort();
    Ok(Planned {
        load_balancer: LoadBalancer {
            metadata,
            spec: wanted,
            status: None,
        },
        notices,
    })
}

type Ports = (Vec<LoadBalancerPort>, Vec<EndpointPort>);

/// Frontend and backend ports, in pairs of one name.
fn ports(spec: &ServiceSpec, to_nodes: bool, notices: &mut Vec<Notice>) -> Result<Ports, PlanError> {
    let mut refused = Vec::new();
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = |part: &str| format!("spec.ports[{index}].{part}");
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                let message = format!("{other} is not forwarded; only TCP and UDP are");
                refused.push(Notice::new(field("protocol"), message));
                continue;
            }
        };
        let target = if to_nodes {
            port.node_port.filter(|port| *port > 0)
        } else {
            Some(port.port)
        };
        let Some(target) = target else {
            let message = "is missing, and traffic enters a cluster by it; leave spec.allocateLoadBalancerNodePorts true, \
                           or set the port";
            refused.push(Notice::new(field("nodePort"), message));
            continue;
        };
        let name = name_of(port, protocol);
        front.push(LoadBalancerPort {
            name: Some(name.clone()),
            protocol: Some(protocol),
            port: port.port,
        });
        back.push(EndpointPort {
            name: Some(name),
            port: target,
            protocol: Some(protocol),
        });
    }
    if front.is_empty() {
        if refused.is_empty() {
            refused.push(Notice::new("spec.ports", "is empty"));
        }
        return Err(PlanError::NoPorts(refused));
    }
    notices.extend(refused);
    Ok((front, back))
}

fn name_of(port: &ServicePort, protocol: Protocol) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        Some(_) | None => format!("{}-{}", port.port, protocol.as_str().to_ascii_lowercase()),
    }
}

fn endpoints(
    service: &Service,
    settings: &Settings,
    inputs: Inputs<'_>,
    is_local: bool,
    ports: Vec<EndpointPort>,
    notices: &mut Vec<Notice>,
) -> Result<LoadBalancerEndpoints, PlanError> {
    let group = |addresses| LoadBalancerEndpoints {
        name: Some("default".to_owned()),
        addresses,
        addresses_reference: None,
        ports: Vec::new(),
    };
    let group = if !settings.to_nodes {
        let given = given(service);
        if given.is_empty() {
            let message = "is empty: the implementation that gives the Service its address has not done so";
            return Err(PlanError::NoEndpoints(Notice::new(
                "status.loadBalancer.ingress",
                message,
            )));
        }
        group(given)
    } else if is_local {
        let (addresses, too_many) = inputs.local.addresses(inputs.nodes);
        if addresses.is_empty() {
            let message =
                "is Local, and no node that takes traffic has an address of the type given by --node-address-type";
            return Err(PlanError::NoEndpoints(Notice::new(
                "spec.externalTrafficPolicy",
                message,
            )));
        }
        if too_many > 0 {
            let message = format!(
                "is Local, and {too_many} addresses of nodes are more than one object can list; they get no traffic"
            );
            notices.push(Notice::new("spec.externalTrafficPolicy", message));
        }
        group(addresses)
    } else {
        LoadBalancerEndpoints {
            addresses_reference: Some(ObjectReference {
                name: Some(DEFAULT_ADDRESSES.to_owned()),
                ..ObjectReference::default()
            }),
            ..group(Vec::new())
        }
    };
    Ok(LoadBalancerEndpoints { ports, ..group })
}

/// The addresses that another implementation has given to a Service.
fn given(service: &Service) -> Vec<EndpointAddress> {
    let ingress = service
        .status
        .iter()
        .flat_map(|status| &status.load_balancer)
        .flat_map(|status| status.ingress.iter().flatten());
    ingress
        .filter(|ingress| ingress.ip.is_some() || ingress.hostname.is_some())
        .map(|ingress| EndpointAddress {
            ip: ingress.ip.clone(),
            // With both, the address counts.
            hostname: ingress.hostname.clone().filter(|_| ingress.ip.is_none()),
            weight: None,
        })
        .collect()
}

fn persistence(spec: &ServiceSpec, notices: &mut Vec<Notice>) -> Option<Persistence> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => Some(Persistence {
            type_: PersistenceType::SourceIP,
            timeout_seconds: spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref()?.timeout_seconds),
        }),
        None | Some("None" | "") => None,
        Some(other) => {
            notices.push(Notice::new(
                "spec.sessionAffinity",
                format!("{other} is not known; use None or ClientIP"),
            ));
            None
        }
    }
}

/// The field, or the annotation where the field is empty, as kube-proxy reads them. What is no network is left in: the management cluster
/// then refuses the object, where leaving it out would let more clients in than were meant.
fn source_ranges(service: &Service, spec: &ServiceSpec) -> Vec<String> {
    let of_field = spec.load_balancer_source_ranges.iter().flatten();
    let mut ranges: Vec<String> = of_field.map(|range| range.trim().to_owned()).collect();
    if ranges.is_empty() {
        let annotations = service.metadata.annotations.as_ref();
        let text = annotations.and_then(|annotations| annotations.get(SOURCE_RANGES_ANNOTATION));
        let listed = text.iter().flat_map(|text| text.split(',')).map(str::trim);
        ranges = listed.filter(|range| !range.is_empty()).map(str::to_owned).collect();
    }
    ranges
}

/// Of a Local Service, each node says itself whether it has endpoints, also where its ports are UDP.
fn health_check(spec: &ServiceSpec, is_local: bool) -> Option<HealthCheck> {
    let port = spec.health_check_node_port.filter(|port| *port > 0)?;
    is_local.then(|| HealthCheck {
        type_: Some(HealthCheckType::Http),
        port: Some(port),
        http: Some(HttpHealthCheck {
            path: Some(LOCAL_HEALTH_PATH.to_owned()),
            host: None,
        }),
        ..HealthCheck::default()
    })
}

fn annotations(metadata: &ObjectMeta) -> Option<BTreeMap<String, String>> {
    let copied: BTreeMap<String, String> = metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (!copied.is_empty()).then_some(copied)
}

/// Fields that mean something for traffic from outside and are not done here.
fn unused(spec: &ServiceSpec) -> Vec<Notice> {
    let mut notices = Vec::new();
    if spec.external_ips.iter().flatten().next().is_some() {
        let message = "are served by the tenant's own nodes only; the management cluster does not announce them";
        notices.push(Notice::new("spec.externalIPs", message));
    }
    notices
}

#[cfg(test)]
mod tests;
