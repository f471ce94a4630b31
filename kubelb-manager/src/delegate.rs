//! LoadBalancers whose address comes from elsewhere: where the Config has no address pools, each gets a Service of type LoadBalancer in the
//! management cluster, with EndpointSlices that point at the tenant's nodes, and whoever implements such Services there gives it an address.
//!
//! No I/O, no clock. Nothing of a tenant's goes along that was not read here: ports, addresses that the tenant may use, networks of clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus as CoreStatus, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1::{Addresses, AnnotationSettings, ConfigSpec, LoadBalancer, TenantSpec};
use kubelb_api::{API_VERSION, GROUP};
use kubelb_xds::Version;

use crate::ir::Protocol;
use crate::ir::reach::{Pair, reach};
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::store::Store;

/// How the names of such Services begin.
const PREFIX: &str = "kubelb-";
/// Longest name of a Service (RFC 1035 label).
const MAX_NAME: usize = 63;
/// Most endpoints of one slice, as the API has it.
const MAX_ENDPOINTS: usize = 1_000;
/// By what an EndpointSlice is known to be of a Service, and who keeps it: nobody else does then.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_MANAGER: &str = "kubelb.k8c.io";
/// Seconds for which a client keeps its backend when nothing is said (as the API has it for Services).
const DEFAULT_AFFINITY: i32 = 10_800;

/// What there is to be in the management cluster for one LoadBalancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The Service, with nothing in it that selects Pods.
    pub service: Service,
    /// Where its traffic goes.
    pub slices: Vec<EndpointSlice>,
}

/// Whether a LoadBalancer gets its address elsewhere.
#[must_use]
pub fn is_delegated(config: &ConfigSpec, tenant: &TenantSpec, object: &LoadBalancer) -> bool {
    let disabled = |settings: &Option<kubelb_api::v1alpha1::LoadBalancerSettings>| settings.as_ref()?.disable;
    let is_disabled = disabled(&tenant.load_balancer).or(disabled(&config.load_balancer));
    config.address_pools.is_empty()
        && object.spec.type_ == "LoadBalancer"
        && object.metadata.deletion_timestamp.is_none()
        && is_disabled != Some(true)
}

/// Name of the Service of a LoadBalancer, in the same namespace.
#[must_use]
pub fn service_name(load_balancer: &str) -> String {
    let name = format!("{PREFIX}{load_balancer}");
    if name.len() <= MAX_NAME && kubelb_api::names::is_label(&name) {
        return name;
    }
    let hash = Version::of(load_balancer.as_bytes()).number();
    format!("{PREFIX}{hash:016x}")
}

/// What the Service of a LoadBalancer has been told; `None` when there is none, or it is another's.
#[must_use]
pub fn told(store: &Store, object: &LoadBalancer) -> Option<CoreStatus> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = service_name(object.metadata.name.as_deref().unwrap_or_default());
    let service = store.services().get(&ObjectName::new(namespace, &name))?;
    if !is_of(&service.metadata, object) || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    service.status.as_ref()?.load_balancer.clone()
}

/// Whether something was made for this very LoadBalancer.
#[must_use]
pub fn is_of(metadata: &ObjectMeta, object: &LoadBalancer) -> bool {
    let owners = metadata.owner_references.iter().flatten();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    owners
        .filter(|owner| owner.kind == Kind::LoadBalancer.as_str() && owner.api_version.starts_with(GROUP))
        .any(|owner| owner.uid == uid)
}

/// The LoadBalancers that a Service may be of, there or gone.
#[must_use]
pub fn load_balancers_of(store: &Store, service: &ObjectKey) -> Vec<ObjectName> {
    let namespace = &service.name.namespace;
    let in_namespace = store.load_balancers_in(namespace).map(|(name, _)| name);
    in_namespace
        .filter(|name| service_name(&name.name) == *service.name.name)
        .cloned()
        .collect()
}

/// What there is to be for a LoadBalancer that [gets its address elsewhere](is_delegated). `addresses` is what it refers to.
#[must_use]
pub fn wanted(
    object: &LoadBalancer,
    addresses: Option<&Addresses>,
    config: &ConfigSpec,
    tenant: &TenantSpec,
) -> Wanted {
    let reach = reach(object, addresses, config, tenant);
    let name = service_name(object.metadata.name.as_deref().unwrap_or_default());
    let service = Service {
        metadata: ObjectMeta {
            annotations: Some(annotations(object, config, tenant)).filter(|all| !all.is_empty()),
            ..metadata(object, name.clone())
        },
        spec: Some(spec(object, &reach.ports, config, tenant)),
        status: None,
    };
    let mut slices = Vec::new();
    for (family, type_, addresses) in [("v4", "IPv4", &reach.v4), ("v6", "IPv6", &reach.v6)] {
        for (number, addresses) in addresses.chunks(MAX_ENDPOINTS).enumerate() {
            let mut metadata = metadata(object, format!("{name}-{family}-{number}"));
            let labels = metadata.labels.get_or_insert_default();
            labels.insert(SERVICE_NAME.to_owned(), name.clone());
            labels.insert(SLICE_MANAGED_BY.to_owned(), SLICE_MANAGER.to_owned());
            slices.push(EndpointSlice {
                metadata,
                address_type: type_.to_owned(),
                endpoints: Some(addresses.iter().map(endpoint).collect()),
                ports: Some(reach.ports.iter().map(slice_port).collect()),
            });
        }
    }
    Wanted { service, slices }
}

fn metadata(object: &LoadBalancer, name: String) -> ObjectMeta {
    let mut metadata = ObjectMeta {
        name: Some(name),
        namespace: object.metadata.namespace.clone(),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: Kind::LoadBalancer.as_str().to_owned(),
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    };
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(tenant) = TenantName::from_namespace(namespace) {
        Label::TENANT.set(&mut metadata, tenant.as_str());
    }
    for label in [Label::ORIGIN_NAMESPACE, Label::ORIGIN_NAME] {
        if let Some(value) = label.get(&object.metadata) {
            label.set(&mut metadata, value);
        }
    }
    metadata
}

fn spec(object: &LoadBalancer, ports: &[Pair], config: &ConfigSpec, tenant: &TenantSpec) -> ServiceSpec {
    let class = |settings: &Option<kubelb_api::v1alpha1::LoadBalancerSettings>| {
        settings.as_ref()?.class.clone().filter(|class| !class.is_empty())
    };
    let wanted = &object.spec;
    let persistence = wanted.persistence.as_ref();
    ServiceSpec {
        type_: Some("LoadBalancer".to_owned()),
        ports: Some(ports.iter().map(service_port).collect()),
        load_balancer_class: class(&tenant.load_balancer).or_else(|| class(&config.load_balancer)),
        load_balancer_ip: wanted.load_balancer_ip.clone().filter(|address| !address.is_empty()),
        load_balancer_source_ranges: Some(wanted.source_ranges.clone()).filter(|ranges| !ranges.is_empty()),
        // Endpoints are nodes of another cluster: none is on the node that a packet comes to.
        external_traffic_policy: Some("Cluster".to_owned()),
        session_affinity: Some(persistence.map_or("None", |_| "ClientIP").to_owned()),
        session_affinity_config: persistence.map(|persistence| SessionAffinityConfig {
            client_ip: Some(ClientIPConfig {
                timeout_seconds: Some(persistence.timeout_seconds.unwrap_or(DEFAULT_AFFINITY)),
            }),
        }),
        ip_families: Some(wanted.ip_families.clone()).filter(|families| !families.is_empty()),
        ip_family_policy: wanted.ip_family_policy.clone(),
        ..ServiceSpec::default()
    }
}

fn port_name(pair: &Pair) -> String {
    format!("{}-{}", protocol(pair).to_lowercase(), pair.frontend)
}

const fn protocol(pair: &Pair) -> &'static str {
    match pair.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

fn service_port(pair: &Pair) -> ServicePort {
    ServicePort {
        name: Some(port_name(pair)),
        protocol: Some(protocol(pair).to_owned()),
        port: pair.frontend.get().into(),
        target_port: Some(IntOrString::Int(pair.backend.get().into())),
        ..ServicePort::default()
    }
}

fn slice_port(pair: &Pair) -> EndpointPort {
    EndpointPort {
        name: Some(port_name(pair)),
        protocol: Some(protocol(pair).to_owned()),
        port: Some(pair.backend.get().into()),
        app_protocol: None,
    }
}

fn endpoint(address: &IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        ..Endpoint::default()
    }
}

/// The annotations that go along: what the Tenant's settings allow, else the Config's. kubelb's own never do.
fn annotations(object: &LoadBalancer, config: &ConfigSpec, tenant: &TenantSpec) -> BTreeMap<String, String> {
    let (all, own) = (&config.annotations, &tenant.annotations);
    let settings = if *own == AnnotationSettings::default() {
        all
    } else {
        own
    };
    let denied = |key: &str| settings.denied_annotations.iter().any(|pattern| matches(pattern, key));
    let allowed = |key: &str, value: &str| {
        settings.propagate_all_annotations == Some(true)
            || settings.propagated_annotations.iter().any(|(pattern, values)| {
                let values: BTreeSet<&str> = values
                    .split(',')
                    .map(str::trim)
                    .filter(|value| !value.is_empty())
                    .collect();
                matches(pattern, key) && (values.is_empty() || values.contains(value))
            })
    };
    let given = object.metadata.annotations.iter().flatten();
    let mut annotations: BTreeMap<String, String> = given
        .filter(|(key, value)| !key.contains("kubelb.k8c.io/") && !denied(key) && allowed(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for kind in ["service", "all"] {
        for (key, value) in settings.default_annotations.get(kind).into_iter().flatten() {
            annotations.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    annotations
}

/// Whether a key is meant by a pattern, in which `*` is any text.
fn matches(pattern: &str, key: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| key.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
