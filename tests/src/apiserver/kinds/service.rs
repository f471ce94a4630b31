//! Services: defaults, cluster addresses and node ports, what is given back when the type changes, checks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::super::object::{as_map, default_to, field_mut, items, name, text};
use super::super::server::Txn;
use super::super::status::Cause;

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// 10.96.0.0/16; the first address is the server's own Service.
const CLUSTER_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const CLUSTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0);
/// Addresses tried at random before the server gives up.
const TRIES: usize = 4096;

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
    if kind == "ExternalName" {
        let spec = field_mut(object, "spec");
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(key);
        }
    } else {
        cluster_addresses(object, old, txn, &mut causes);
    }
    if let Some(old) = old {
        release(object, old, &kind);
    }
    if has_node_ports(object) {
        node_ports(object, old, txn, &mut causes);
    }
    health_check_port(object, &kind, txn);
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

fn cluster_addresses(object: &mut Value, old: Option<&Value>, txn: &Txn<'_>, causes: &mut Vec<Cause>) {
    let old_address = old.map(|old| text(old, "/spec/clusterIP")).unwrap_or_default();
    let address = text(object, "/spec/clusterIP").to_owned();
    if !old_address.is_empty() && (address.is_empty() || address == old_address) {
        let spec = field_mut(object, "spec");
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old.and_then(|old| old.get("spec")).and_then(|spec| spec.get(key)) {
                default_to(spec, key, value.clone());
            }
        }
        return;
    }
    let families = families(object);
    let spec = field_mut(object, "spec");
    let policy = if families.len() > 1 {
        "PreferDualStack"
    } else {
        "SingleStack"
    };
    default_to(spec, "ipFamilyPolicy", policy);
    spec.insert("ipFamilies".to_owned(), json!(families));
    if address == "None" {
        spec.insert("clusterIPs".to_owned(), json!(["None"]));
        return;
    }
    let used = used_addresses(txn);
    let mut addresses: Vec<String> = items(object, "/spec/clusterIPs")
        .iter()
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    if !address.is_empty() {
        addresses.retain(|one| *one != address);
        addresses.insert(0, address);
    }
    for (index, address) in addresses.iter().enumerate() {
        if used.contains(address) {
            let why = "failed to allocate IP: provided IP is already allocated";
            causes.push(Cause::invalid(
                format!("spec.clusterIPs[{index}]"),
                &json!(addresses),
                why,
            ));
        } else if address.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(
                format!("spec.clusterIPs[{index}]"),
                &json!(address),
                why,
            ));
        }
    }
    for family in families.iter().skip(addresses.len()) {
        if let Some(free) = free_address(family, &used) {
            addresses.push(free);
        }
    }
    let spec = field_mut(object, "spec");
    spec.insert("clusterIP".to_owned(), json!(addresses.first()));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
}

fn families(object: &Value) -> Vec<String> {
    let mut families: Vec<String> = items(object, "/spec/ipFamilies")
        .iter()
        .filter_map(|family| family.as_str().map(str::to_owned))
        .collect();
    if families.is_empty() {
        let first = text(object, "/spec/clusterIP").parse::<IpAddr>();
        let family = if first.is_ok_and(|address| address.is_ipv6()) {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(family.to_owned());
    }
    let dual = matches!(
        text(object, "/spec/ipFamilyPolicy"),
        "PreferDualStack" | "RequireDualStack"
    );
    if dual && families.len() == 1 {
        let other = if families.iter().any(|family| family == "IPv4") {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.to_owned());
    }
    families
}

fn used_addresses(txn: &Txn<'_>) -> BTreeSet<String> {
    txn.store
        .list("services", None)
        .flat_map(|(_, service)| items(service, "/spec/clusterIPs"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect()
}

fn free_address(family: &str, used: &BTreeSet<String>) -> Option<String> {
    std::iter::repeat_with(|| {
        let host = fastrand::u16(16..u16::MAX);
        if family == "IPv6" {
            Ipv6Addr::from_bits(CLUSTER_V6.to_bits() | u128::from(host)).to_string()
        } else {
            Ipv4Addr::from_bits(CLUSTER_V4.to_bits() | u32::from(host)).to_string()
        }
    })
    .take(TRIES)
    .find(|address| !used.contains(address))
}

fn number(port: &Map<String, Value>, key: &str) -> u64 {
    port.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn node_ports(object: &mut Value, old: Option<&Value>, txn: &Txn<'_>, causes: &mut Vec<Cause>) {
    let own = name(object).to_owned();
    let namespace = super::meta(object, "namespace").to_owned();
    let mut used: BTreeSet<(u64, String)> = txn
        .store
        .list("services", None)
        .filter(|((in_namespace, name), _)| *in_namespace != namespace || *name != own)
        .flat_map(|(_, service)| items(service, "/spec/ports"))
        .filter_map(Value::as_object)
        .map(|port| (number(port, "nodePort"), protocol(port)))
        .collect();
    let before: Vec<Map<String, Value>> = old
        .map(|old| items(old, "/spec/ports"))
        .unwrap_or_default()
        .iter()
        .filter_map(|port| port.as_object().cloned())
        .collect();
    let Some(Value::Array(ports)) = object.pointer_mut("/spec/ports") else {
        return;
    };
    let mut given: Vec<(u64, u64)> = Vec::new();
    for (index, port) in ports.iter_mut().enumerate() {
        let port = as_map(port);
        let (number_of, protocol) = (number(port, "port"), protocol(port));
        let asked = match number(port, "nodePort") {
            0 => before
                .iter()
                .find(|old| number(old, "port") == number_of && self::protocol(old) == protocol)
                .map_or(0, |old| number(old, "nodePort")),
            asked => asked,
        };
        // One number for both protocols of the same port, where that is free.
        let shared = given
            .iter()
            .find(|(of, node)| *of == number_of && !used.contains(&(*node, protocol.clone())))
            .map(|(_, node)| *node);
        let node = match (asked, shared) {
            (0, Some(shared)) => shared,
            (0, None) => free_port(&used).unwrap_or_default(),
            (asked, _) => {
                let field = format!("spec.ports[{index}].nodePort");
                if used.contains(&(asked, protocol.clone())) {
                    causes.push(Cause::invalid(
                        field,
                        &json!(asked),
                        "provided port is already allocated",
                    ));
                } else if !u16::try_from(asked).is_ok_and(|asked| NODE_PORTS.contains(&asked)) {
                    let why = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                    causes.push(Cause::invalid(field, &json!(asked), why));
                }
                asked
            }
        };
        used.insert((node, protocol));
        given.push((number_of, node));
        port.insert("nodePort".to_owned(), json!(node));
    }
}

fn protocol(port: &Map<String, Value>) -> String {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned()
}

fn free_port(used: &BTreeSet<(u64, String)>) -> Option<u64> {
    let taken = |port: u64| used.iter().any(|(used, _)| *used == port);
    std::iter::repeat_with(|| u64::from(fastrand::u16(NODE_PORTS)))
        .take(TRIES)
        .find(|port| !taken(*port))
}

fn health_check_port(object: &mut Value, kind: &str, txn: &Txn<'_>) {
    let local = kind == "LoadBalancer" && text(object, "/spec/externalTrafficPolicy") == "Local";
    let has = object.pointer("/spec/healthCheckNodePort").is_some();
    if local && !has {
        let used: BTreeSet<(u64, String)> = txn
            .store
            .list("services", None)
            .flat_map(|(_, service)| items(service, "/spec/ports"))
            .filter_map(Value::as_object)
            .map(|port| (number(port, "nodePort"), String::new()))
            .collect();
        let port = free_port(&used);
        field_mut(object, "spec").insert("healthCheckNodePort".to_owned(), json!(port));
    } else if !local && has {
        field_mut(object, "spec").remove("healthCheckNodePort");
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
