//! The objects, as JSON. Pure.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Tenants altogether, as long as each has a LoadBalancer.
pub(super) const ALL_TENANTS: u32 = 100;
/// First NodePort of every tenant.
pub(super) const FIRST_PORT: u16 = 30_000;
/// NodePorts that are served.
pub(super) const PORTS: u16 = 64;
/// NodePort of the Service whose port changes, of the one with all nodes, of the Local one, and of that one's health checks.
pub(super) const WEB: u16 = FIRST_PORT;
pub(super) const PLAIN: u16 = FIRST_PORT + 1;
pub(super) const LOCAL: u16 = FIRST_PORT + 2;
const LOCAL_HEALTH: u16 = FIRST_PORT + 3;
/// NodePort of the first other Service.
const OTHERS: u16 = FIRST_PORT + 4;
/// Addresses of one tenant's nodes are this far from the next tenant's.
const STRIDE: u32 = 64;
const FIRST_NODE: u32 = u32::from_be_bytes([10, 64, 0, 1]);
/// Nodes of a tenant without machines of its own.
const NODES: u32 = 3;

pub(super) fn config() -> Value {
    json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config", "metadata": {"name": "default", "namespace": "kubelb"},
        "spec": {"addressPools": [{"name": "all", "ranges": ["198.18.0.0/16"]}]},
    })
}

/// Name of a tenant. The first ones have machines of their own.
pub(super) fn tenant_name(tenant: u32) -> String {
    format!("t{tenant}")
}

/// As a CCM writes them.
pub(super) fn addresses(tenant: u32) -> Value {
    let all: Vec<Value> = (0..NODES)
        .map(|node| json!({"ip": Ipv4Addr::from(FIRST_NODE + tenant * STRIDE + node).to_string()}))
        .collect();
    json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Addresses",
        "metadata": {"name": "default", "namespace": format!("tenant-{}", tenant_name(tenant))}, "spec": {"addresses": all},
    })
}

/// As a CCM writes them.
pub(super) fn load_balancer(tenant: u32, number: u16) -> Value {
    let name = tenant_name(tenant);
    json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
        "metadata": {
            "name": format!("lb{number}"), "namespace": format!("tenant-{name}"),
            "labels": {
                "kubelb.k8c.io/tenant": format!("tenant-{name}"),
                "kubelb.k8c.io/origin-ns": "default", "kubelb.k8c.io/origin-name": format!("web-{number}"),
            },
        },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Cluster",
            "ports": [{"name": "80-tcp", "port": 80, "protocol": "TCP"}],
            "endpoints": [{
                "name": "default", "addressesReference": {"name": "default"},
                "ports": [{"name": "80-tcp", "port": OTHERS + number % (PORTS - 4), "protocol": "TCP"}],
            }],
        },
    })
}

/// A tenant's Service with this NodePort.
pub(super) fn service(name: &str, port: u16, node_port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": name},
            "ports": [{"name": "web", "port": port, "nodePort": node_port}],
        },
    })
}

/// One that goes to nodes with endpoints only.
pub(super) fn local_service() -> Value {
    let mut service = service("local", 80, LOCAL);
    if let Some(spec) = service.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("externalTrafficPolicy".to_owned(), json!("Local"));
        spec.insert("healthCheckNodePort".to_owned(), json!(LOCAL_HEALTH));
    }
    service
}

/// Services beside those that are measured.
pub(super) fn other_service(number: u16) -> Value {
    service(&format!("other-{number}"), 80, OTHERS + number)
}

pub(super) fn slice(node: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "local-1", "labels": {"kubernetes.io/service-name": "local"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.9"], "nodeName": node, "conditions": {"ready": true}}],
    })
}

pub(super) fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

pub(super) fn node_status(address: &str) -> Value {
    json!({"status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": address}],
    }})
}
