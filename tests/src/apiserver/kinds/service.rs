//! Services: defaults, cluster addresses and node ports, what is given back when the type changes, checks.

mod addresses;
mod node_ports;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::object::{as_map, default_to, field_mut, items, name, text};
use super::super::server::Txn;
use super::super::status::Cause;

fn kind(object: &Value) -> &str {
    match text(object, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn has_node_ports(object: &Value) -> bool {
    match kind(object) {
        "NodePort" => true,
        "LoadBalancer" => object.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

pub(super) fn default(object: &mut Value) {
    let kind = kind(object).to_owned();
    let exposed = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let spec = field_mut(object, "spec");
    default_to(spec, "type", kind.as_str());
    default_to(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
        default_to(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10_800}}),
        );
    }
    if kind != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if exposed {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports {
            let port = as_map(port);
            default_to(port, "protocol", "TCP");
            let same = port.get("port").cloned().unwrap_or_default();
            let unset = port
                .get("targetPort")
                .is_none_or(|target| *target == 0 || *target == "");
            if unset && !same.is_null() {
                port.insert("targetPort".to_owned(), same);
            }
        }
    }
}

/// Gives the Service what it needs and takes back what its type no longer has.
pub(super) fn allocate(object: &mut Value, old: Option<&Value>, txn: &Txn<'_>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = kind(object).to_owned();
    let ranges = txn.ranges();
    if kind == "ExternalName" {
        addresses::release(object);
    } else {
        let used: BTreeSet<String> = txn
            .store
            .list("services", None)
            .flat_map(|(_, service)| items(service, "/spec/clusterIPs"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        addresses::assign(object, old, ranges, &used, &mut causes);
    }
    if let Some(old) = old {
        release(object, old, &kind);
    }
    let (own, namespace) = (name(object).to_owned(), super::meta(object, "namespace").to_owned());
    let mut used: node_ports::Used = txn
        .store
        .list("services", None)
        .filter(|((in_namespace, name), _)| *in_namespace != namespace || *name != own)
        .flat_map(|(_, service)| node_ports::of(service))
        .collect();
    if has_node_ports(object) {
        node_ports::assign(object, old, &ranges.node_ports, &mut used, &mut causes);
    }
    node_ports::health(object, old, &ranges.node_ports, &used);
    causes
}

fn release(object: &mut Value, old: &Value, kind: &str) {
    let exposed = matches!(kind, "NodePort" | "LoadBalancer");
    let had_node_ports = has_node_ports(old);
    let spec = field_mut(object, "spec");
    if kind != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            spec.remove(key);
        }
    }
    if !exposed {
        for key in ["externalTrafficPolicy", "healthCheckNodePort"] {
            spec.remove(key);
        }
        if had_node_ports && let Some(Value::Array(ports)) = spec.get_mut("ports") {
            for port in ports {
                as_map(port).remove("nodePort");
            }
        }
    }
    if kind != "LoadBalancer" && self::kind(old) == "LoadBalancer" {
        as_map(object).insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
}

pub(super) fn check(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kind = kind(object);
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"].map(Value::from);
        causes.push(Cause::unsupported("spec.type", &json!(kind), &known));
    }
    check_ports(object, kind, causes);
    if kind == "ExternalName" && text(object, "/spec/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let class = object.pointer("/spec/loadBalancerClass");
    if class.is_some() && kind != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("spec.loadBalancerClass", why));
    }
    for (index, range) in items(object, "/spec/loadBalancerSourceRanges").iter().enumerate() {
        let valid = range.as_str().map(str::trim).and_then(|range| range.split_once('/'));
        let valid = valid.is_some_and(|(address, length)| {
            address.parse::<IpAddr>().is_ok_and(|address| {
                length
                    .parse::<u8>()
                    .is_ok_and(|length| length <= if address.is_ipv4() { 32 } else { 128 })
            })
        });
        if !valid {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                range,
                why,
            ));
        }
    }
    if let Some(old) = old {
        let both = self::kind(old) == "LoadBalancer" && kind == "LoadBalancer";
        if both && old.pointer("/spec/loadBalancerClass") != class {
            let shown = class.cloned().unwrap_or_default();
            causes.push(Cause::invalid(
                "spec.loadBalancerClass",
                &shown,
                "may not change once set",
            ));
        }
        let (before, after) = (text(old, "/spec/clusterIP"), text(object, "/spec/clusterIP"));
        if !before.is_empty() && !after.is_empty() && before != after {
            causes.push(Cause::invalid(
                "spec.clusterIPs[0]",
                &json!([after]),
                "may not change once set",
            ));
        }
    }
}

fn check_ports(object: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let ports = items(object, "/spec/ports");
    let headless = text(object, "/spec/clusterIP") == "None";
    if ports.is_empty() && kind != "ExternalName" && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let field = |key: &str| format!("spec.ports[{index}].{key}");
        let named = text(port, "/name");
        if ports.len() > 1 && named.is_empty() {
            causes.push(Cause::required(field("name"), ""));
        }
        if !named.is_empty() && ports.iter().take(index).any(|other| text(other, "/name") == named) {
            causes.push(Cause::duplicate(field("name"), &json!(named)));
        }
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !(1..=65_535).contains(&number) {
            let why = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(field("port"), &json!(number), why));
        }
        let protocol = text(port, "/protocol");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            let known = ["SCTP", "TCP", "UDP"].map(Value::from);
            causes.push(Cause::unsupported(field("protocol"), &json!(protocol), &known));
        }
        let same = |other: &&Value| other.get("port") == port.get("port") && text(other, "/protocol") == protocol;
        if ports.iter().take(index).any(|other| same(&other)) {
            let shown = json!({"port": number, "protocol": protocol});
            causes.push(Cause::duplicate(format!("spec.ports[{index}]"), &shown));
        }
    }
}
