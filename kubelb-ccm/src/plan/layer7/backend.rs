//! How a Service becomes reachable from outside of its cluster, with the least exposure: by the node ports that it has, else by a shadow Service of
//! type NodePort for the ports that routes refer to, which sends traffic only to nodes with Pods of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::v1alpha1::{EndpointAddress, EndpointPort, LoadBalancerEndpoints, Protocol};

/// What the name of a shadow ends with, as KubeLB has it.
const SHADOW_SUFFIX: &str = "-nodeport";
/// Longest name of a Service.
const MAX_NAME: usize = 63;

/// How a Service is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// So.
    Carried(Box<Carried>),
    /// By a shadow that is not there yet, or not as it shall be.
    NeedsShadow,
    /// Not at all: a sentence why.
    Not(String),
}

/// A Service as a Route carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// The Service, or its shadow.
    pub service: Service,
    /// The nodes that take its traffic; `None`: all.
    pub endpoints: Option<LoadBalancerEndpoints>,
    /// Its nodes are in an Addresses object, which has the name of its UID.
    pub is_local: bool,
}

/// How a Service is reached at these ports. `shadow` is what there is by the name of its shadow.
#[must_use]
pub fn reach(service: &Service, shadow: Option<&Service>, ports: &BTreeSet<i32>) -> Reach {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    if spec.type_.as_deref() == Some("ExternalName") {
        return external(service, spec, ports);
    }
    let wanted = |port: &&ServicePort| ports.contains(&port.port) && is_tcp(port);
    let own: Vec<&ServicePort> = spec.ports.iter().flatten().filter(wanted).collect();
    if own.iter().all(|port| port.node_port.is_some_and(|port| port > 0)) {
        return carried(service, service);
    }
    if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) {
        let message =
            "it has no selector and no node ports, so nothing outside of the cluster reaches it; give it type NodePort";
        return Reach::Not(message.to_owned());
    }
    let Some(shadow) = shadow else {
        return Reach::NeedsShadow;
    };
    if !is_shadow_of(shadow, service) {
        let name = shadow.metadata.name.as_deref().unwrap_or_default();
        return Reach::Not(format!(
            "it has no node ports, and a Service {name} that is somebody else's has the name of the one that would give it some"
        ));
    }
    if is_as_wanted(shadow, &self::shadow(service, ports), false) {
        carried(service, shadow)
    } else {
        Reach::NeedsShadow
    }
}

/// The shadow of a Service, for some of its ports.
#[must_use]
pub fn shadow(service: &Service, ports: &BTreeSet<i32>) -> Service {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let mut metadata = ObjectMeta {
        name: Some(shadow_name(service)),
        namespace: service.metadata.namespace.clone(),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: service.metadata.name.clone().unwrap_or_default(),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        }]),
        ..ObjectMeta::default()
    };
    label(&mut metadata, service);
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    let wanted = |port: &&ServicePort| ports.contains(&port.port) && is_tcp(port);
    let exposed =
        spec.ports.iter().flatten().filter(wanted).map(|port| ServicePort {
            // Its own is given to it, and stays.
            node_port: None,
            // Where it is left out it is the port, which an API server would write down.
            target_port: port.target_port.clone().or(Some(
                k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port.port),
            )),
            protocol: Some("TCP".to_owned()),
            ..port.clone()
        });
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("NodePort".to_owned()),
            selector: spec.selector.clone(),
            ports: Some(exposed.collect()),
            external_traffic_policy: Some("Local".to_owned()),
            publish_not_ready_addresses: spec.publish_not_ready_addresses.filter(|publish| *publish),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Name of the shadow of a Service.
#[must_use]
pub fn shadow_name(service: &Service) -> String {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let whole = format!("{name}{SHADOW_SUFFIX}");
    if whole.len() <= MAX_NAME {
        return whole;
    }
    // Made unique again by the uid, where names of Services are ASCII.
    let uid: String = service
        .metadata
        .uid
        .iter()
        .flat_map(|uid| uid.chars())
        .take(8)
        .collect();
    let kept = MAX_NAME.saturating_sub(SHADOW_SUFFIX.len().saturating_add(uid.len()).saturating_add(1));
    let start: String = name.chars().take(kept).collect();
    format!("{start}-{uid}{SHADOW_SUFFIX}")
}

/// Whether `shadow` was made for this very Service.
#[must_use]
pub fn is_shadow_of(shadow: &Service, service: &Service) -> bool {
    let owners = shadow.metadata.owner_references.iter().flatten();
    let mut uids = owners.map(|owner| owner.uid.as_str());
    service
        .metadata
        .uid
        .as_deref()
        .is_some_and(|uid| uids.any(|owner| owner == uid))
}

/// Whether a shadow is as it shall be, and its ports have their node ports; `exactly`: and it has no others.
#[must_use]
pub fn is_as_wanted(shadow: &Service, wanted: &Service, exactly: bool) -> bool {
    let (Some(present), Some(spec)) = (&shadow.spec, &wanted.spec) else {
        return false;
    };
    let ports = |spec: &ServiceSpec| -> BTreeMap<i32, ServicePort> {
        let all = spec.ports.iter().flatten().cloned();
        all.map(|port| {
            (
                port.port,
                ServicePort {
                    node_port: None,
                    ..port
                },
            )
        })
        .collect()
    };
    let (has, shall) = (ports(present), ports(spec));
    let is_given = |port: &ServicePort| port.node_port.is_some_and(|port| port > 0);
    shadow.metadata.deletion_timestamp.is_none()
        && present.type_ == spec.type_
        && present.selector == spec.selector
        && present.external_traffic_policy == spec.external_traffic_policy
        && present.publish_not_ready_addresses.unwrap_or(false) == spec.publish_not_ready_addresses.unwrap_or(false)
        && present.ports.iter().flatten().all(is_given)
        && shall.iter().all(|(number, port)| has.get(number) == Some(port))
        && (!exactly || has.len() == shall.len())
}

fn carried(service: &Service, bearer: &Service) -> Reach {
    let default = ServiceSpec::default();
    let spec = bearer.spec.as_ref().unwrap_or(&default);
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let endpoints = is_local.then(|| LoadBalancerEndpoints {
        name: Some(group_name(service)),
        addresses_reference: Some(k8s_openapi::api::core::v1::ObjectReference {
            name: service.metadata.uid.clone(),
            ..Default::default()
        }),
        ..LoadBalancerEndpoints::default()
    });
    Reach::Carried(Box::new(Carried {
        service: strip(service, bearer, spec.ports.clone()),
        endpoints,
        is_local,
    }))
}

/// A name outside of the cluster is dialled as it is.
fn external(service: &Service, spec: &ServiceSpec, ports: &BTreeSet<i32>) -> Reach {
    let Some(hostname) = spec.external_name.as_deref().filter(|name| !name.is_empty()) else {
        return Reach::Not("it is of type ExternalName and has no name".to_owned());
    };
    let mut named: Vec<ServicePort> = spec.ports.clone().unwrap_or_default();
    // Such a Service needs no ports: those of references are then meant as they are.
    for number in ports {
        if !named.iter().any(|port| port.port == *number) {
            named.push(ServicePort {
                name: Some(format!("port-{number}")),
                port: *number,
                ..ServicePort::default()
            });
        }
    }
    let dialled = named.iter().map(|port| EndpointPort {
        name: port.name.clone(),
        port: match &port.target_port {
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) if *target > 0 => *target,
            _ => port.port,
        },
        protocol: Some(Protocol::Tcp),
    });
    let endpoints = LoadBalancerEndpoints {
        name: Some(group_name(service)),
        addresses: vec![EndpointAddress {
            hostname: Some(hostname.trim_end_matches('.').to_owned()),
            ..EndpointAddress::default()
        }],
        ports: dialled.collect(),
        ..LoadBalancerEndpoints::default()
    };
    Reach::Carried(Box::new(Carried {
        service: strip(service, service, Some(named)),
        endpoints: Some(endpoints).filter(|endpoints| !endpoints.ports.is_empty()),
        is_local: false,
    }))
}

/// What counts for its traffic, and nothing that changes beside that: every change of it is a write for each route that refers to it.
fn strip(service: &Service, bearer: &Service, ports: Option<Vec<ServicePort>>) -> Service {
    let mut metadata = ObjectMeta {
        name: bearer.metadata.name.clone(),
        namespace: bearer.metadata.namespace.clone(),
        ..ObjectMeta::default()
    };
    label(&mut metadata, service);
    let spec = bearer.spec.as_ref();
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: spec.and_then(|spec| spec.type_.clone()),
            external_name: spec.and_then(|spec| spec.external_name.clone()),
            external_traffic_policy: spec.and_then(|spec| spec.external_traffic_policy.clone()),
            ports,
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Which Service is meant.
fn label(metadata: &mut ObjectMeta, service: &Service) {
    Label::ORIGIN_NAMESPACE.set(metadata, service.metadata.namespace.clone().unwrap_or_default());
    Label::ORIGIN_NAME.set(metadata, service.metadata.name.clone().unwrap_or_default());
}

fn group_name(service: &Service) -> String {
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    format!(
        "{}/{}",
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default()
    )
}

fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}
