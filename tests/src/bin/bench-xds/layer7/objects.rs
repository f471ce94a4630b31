//! What a tenant's users write: one Gateway and many HTTPRoutes to Services of one node.

use std::ops::Range;

use serde_json::{Value, json};

pub(super) const TENANT: &str = "a";
pub(super) const VIP: &str = "198.51.100.1";
pub(super) const NODE: &str = "192.0.2.1";
const FIRST_PORT: u16 = 30_080;
/// Services that routes take turns with.
const SERVICES: u16 = 50;
/// What a route's answer says of the version of the route.
pub(super) const VERSION: &str = "x-version";

/// Copies of HTTPRoutes, in the management cluster.
pub(super) const COPIES: &str = "kubelb.k8c.io/origin-resource-kind=HTTPRoute.gateway.networking.k8s.io";

/// Ports of the node that somebody answers on.
pub(super) const NODE_PORTS: Range<u16> = FIRST_PORT..FIRST_PORT + SERVICES;

pub(super) fn config() -> Value {
    let pools = json!([{"name": "all", "ranges": [format!("{VIP}-{VIP}")]}]);
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config", "metadata": {"name": "default", "namespace": "kubelb"}, "spec": {"addressPools": pools}})
}

pub(super) fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}})
}

pub(super) fn node_status() -> Value {
    json!({"status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": NODE}],
    }})
}

pub(super) fn services() -> impl Iterator<Item = Value> {
    NODE_PORTS.enumerate().map(|(number, port)| {
        let ports = json!([{"port": 80, "nodePort": port}]);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": format!("web-{number}")},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports}})
    })
}

pub(super) fn gateway() -> Value {
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    object(
        "Gateway",
        "gateway",
        json!({"gatewayClassName": "kubelb", "listeners": listeners}),
    )
}

pub(super) fn name(number: u32) -> String {
    format!("route-{number}")
}

pub(super) fn host(number: u32) -> String {
    format!("r{number}.example")
}

/// A route whose answers name the version of it.
pub(super) fn http_route(number: u32, version: u32) -> Value {
    let service = format!("web-{}", number % u32::from(SERVICES));
    let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": VERSION, "value": version.to_string()}]}});
    let rule = json!({"backendRefs": [{"name": service, "port": 80}], "filters": [filter]});
    let spec = json!({"parentRefs": [{"name": "gateway"}], "hostnames": [host(number)], "rules": [rule]});
    object("HTTPRoute", &name(number), spec)
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}
