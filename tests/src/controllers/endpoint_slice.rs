//! Keeps the EndpointSlices of a Service: one set for each address family, at most 100 endpoints in each. Pure.
//!
//! Slices that somebody else manages are not touched.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::action::{Action, Plan};
use super::pods;
use super::world::{Kind, World};

/// Label: the Service.
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Endpoints in one slice, as kube-controller-manager's `--max-endpoints-per-slice`.
const CAPACITY: usize = 100;

/// What all endpoints of a slice share: address family and ports (name, protocol, number, application protocol).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: String,
    ports: Vec<(String, String, i32, Option<String>)>,
}

/// Compares what is with what shall be.
pub(super) fn reconcile(world: &World, namespace: &str, name: &str) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = world.services.get(namespace, name) else {
        return plan;
    };
    let Some(spec) = service
        .spec
        .as_ref()
        .filter(|_| service.metadata.deletion_timestamp.is_none())
    else {
        return plan;
    };
    let known: Vec<&EndpointSlice> = world
        .endpoint_slices
        .within(namespace)
        .filter(|slice| is_ours(slice, name) && slice.metadata.deletion_timestamp.is_none())
        .collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        for slice in known {
            plan.delete(Kind::EndpointSlice, slice);
        }
        return plan;
    }
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return plan;
    };
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let families = families(spec);
    for pod in world.pods.within(namespace) {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
        if !selector.iter().all(has) || !pods::is_live(pod) {
            continue;
        }
        for family in &families {
            if let Some(endpoint) = endpoint(world, service, spec, pod, family) {
                let ports = ports(spec, pod);
                let family = (*family).to_owned();
                wanted.entry(Group { family, ports }).or_default().push(endpoint);
            }
        }
    }
    for family in &families {
        // A Service without endpoints says so, with a slice that is empty.
        if !wanted.keys().any(|group| group.family == *family) {
            let (family, ports) = ((*family).to_owned(), Vec::new());
            wanted.insert(Group { family, ports }, Vec::new());
        }
    }
    let mut spare: Vec<&EndpointSlice> = known
        .iter()
        .copied()
        .filter(|slice| !wanted.contains_key(&group_of(slice)))
        .collect();
    for (group, endpoints) in wanted {
        let slices: Vec<&EndpointSlice> = known.iter().copied().filter(|slice| group_of(slice) == group).collect();
        fill(service, &group, endpoints, slices, &mut spare, &mut plan);
    }
    for slice in spare {
        plan.delete(Kind::EndpointSlice, slice);
    }
    plan
}

fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref()?.get(key).map(String::as_str);
    label(SERVICE) == Some(service) && label(MANAGED_BY) == Some(MANAGER)
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let name = |six: bool| if six { "IPv6" } else { "IPv4" };
    if let Some(families) = spec.ip_families.as_ref().filter(|families| !families.is_empty()) {
        return families.iter().map(|family| name(family == "IPv6")).collect();
    }
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    vec![name(address.contains(':'))]
}

/// The Pod as an endpoint, when it has an address of that family.
fn endpoint(world: &World, service: &Service, spec: &ServiceSpec, pod: &Pod, family: &str) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let of_family = |address: &&str| address.contains(':') == (family == "IPv6");
    let all = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let address = all.chain(status.pod_ip.as_deref()).find(of_family)?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = pods::is_ready(pod);
    let pod_spec = pod.spec.as_ref()?;
    let in_domain = pod_spec.subdomain.is_some() && pod_spec.subdomain == service.metadata.name;
    let node = world.nodes.get("", pods::node_name(pod));
    let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(spec.publish_not_ready_addresses == Some(true) || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.hostname.clone().filter(|_| in_domain),
        node_name: pod_spec.node_name.clone(),
        target_ref: Some(k8s_openapi::api::core::v1::ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        zone,
        ..Endpoint::default()
    })
}

/// The Service's ports as numbers of this Pod. A name that the Pod does not have leaves its port out.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<(String, String, i32, Option<String>)> {
    let mut ports: Vec<_> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let number = target_port(port, &protocol, pod)?;
            Some((
                port.name.clone().unwrap_or_default(),
                protocol,
                number,
                port.app_protocol.clone(),
            ))
        })
        .collect();
    ports.sort();
    ports
}

fn target_port(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            let named = containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
            named.map(|port| port.container_port)
        }
    }
}

fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .map(|port: &EndpointPort| {
            (
                port.name.clone().unwrap_or_default(),
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port.port.unwrap_or_default(),
                port.app_protocol.clone(),
            )
        })
        .collect();
    ports.sort();
    Group {
        family: slice.address_type.clone(),
        ports,
    }
}

/// Identifies an endpoint over changes of its conditions.
fn identity(endpoint: &Endpoint) -> (Option<String>, Vec<String>) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (uid, endpoint.addresses.clone())
}

/// Lays the endpoints of a group into slices: each stays where it is, new ones go where there is room.
fn fill<'a>(
    service: &Service,
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: Vec<&'a EndpointSlice>,
    spare: &mut Vec<&'a EndpointSlice>,
    plan: &mut Plan,
) {
    let mut rest: BTreeMap<_, _> = endpoints
        .into_iter()
        .map(|endpoint| (identity(&endpoint), endpoint))
        .collect();
    let mut filled: Vec<(&EndpointSlice, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let known = slice.endpoints.iter().flatten().map(identity);
        let kept: BTreeSet<_> = known
            .filter(|identity| rest.contains_key(identity))
            .take(CAPACITY)
            .collect();
        let kept = kept.iter().filter_map(|identity| rest.remove(identity)).collect();
        filled.push((slice, kept));
    }
    let mut rest = rest.into_values();
    for (_, held) in &mut filled {
        held.extend(rest.by_ref().take(CAPACITY.saturating_sub(held.len())));
        held.sort_by_key(identity);
    }
    let mut more: Vec<Endpoint> = rest.collect();
    // Of slices that are all empty one stays.
    let mut is_first_empty = filled.iter().all(|(_, held)| held.is_empty()) && more.is_empty();
    let none_yet = filled.is_empty();
    for (slice, held) in filled {
        if held.is_empty() && !std::mem::take(&mut is_first_empty) {
            spare.push(slice);
        } else {
            update(service, group, slice, &held, plan);
        }
    }
    if none_yet && more.is_empty() {
        create(service, group, &[], plan);
    }
    while !more.is_empty() {
        let next = more.split_off(more.len().min(CAPACITY));
        create(service, group, &more, plan);
        more = next;
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
    {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn ports_json(group: &Group) -> Value {
    let port = |(name, protocol, number, app): &(String, String, i32, Option<String>)| {
        let mut port = json!({"name": name, "protocol": protocol, "port": number});
        if let (Some(app), Some(port)) = (app, port.as_object_mut()) {
            port.insert("appProtocol".to_owned(), json!(app));
        }
        port
    };
    Value::Array(group.ports.iter().map(port).collect())
}

fn create(service: &Service, group: &Group, endpoints: &[Endpoint], plan: &mut Plan) {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    plan.act(Action::Create {
        kind: Kind::EndpointSlice,
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        object: json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": format!("{name}-"),
                "labels": labels(service),
                "ownerReferences": [pods::owner_reference(Kind::Service, service)],
            },
            "addressType": group.family,
            "endpoints": endpoints,
            "ports": ports_json(group),
        }),
    });
}

fn update(service: &Service, group: &Group, slice: &EndpointSlice, endpoints: &[Endpoint], plan: &mut Plan) {
    let wanted = labels(service);
    let known = slice.metadata.labels.clone().unwrap_or_default();
    let mut changed: Map<String, Value> = Map::new();
    for key in known.keys().filter(|key| !wanted.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    for (key, value) in wanted.iter().filter(|(key, value)| known.get(*key) != Some(value)) {
        changed.insert(key.clone(), json!(value));
    }
    let mut held = slice.endpoints.clone().unwrap_or_default();
    held.sort_by_key(identity);
    if changed.is_empty() && held == endpoints {
        return;
    }
    let patch = json!({
        "metadata": {"labels": changed},
        "endpoints": endpoints,
        "ports": ports_json(group),
    });
    plan.patch(Kind::EndpointSlice, slice, patch);
}
