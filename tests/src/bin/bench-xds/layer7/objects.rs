//! Objects that a CCM writes for a tenant with one Gateway and many HTTPRoutes.

use serde_json::{Value, json};

pub(super) const NAMESPACE: &str = "tenant-a";
pub(super) const VIP: &str = "198.51.100.1";
pub(super) const NODE: &str = "192.0.2.1";
pub(super) const BACKEND_PORT: u16 = 30_080;
pub(super) const GATEWAY: &str = "gateway";
/// Services that routes take turns with.
const SERVICES: u32 = 50;

pub(super) fn config() -> Value {
    let pools = json!([{"name": "all", "ranges": [format!("{VIP}-{VIP}")]}]);
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config", "metadata": {"name": "default", "namespace": "kubelb"}, "spec": {"addressPools": pools}})
}

pub(super) fn addresses() -> Value {
    object("Addresses", "default", json!({"addresses": [{"ip": NODE}]}))
}

pub(super) fn gateway() -> Value {
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    route(
        GATEWAY,
        "Gateway",
        json!({"gatewayClassName": "kubelb", "listeners": listeners}),
        &json!([]),
    )
}

pub(super) fn name(number: u32) -> String {
    format!("route-{number}")
}

pub(super) fn host(number: u32) -> String {
    format!("r{number}.example")
}

/// `version` is something in it that a change changes.
pub(super) fn http_route(number: u32, version: u32) -> Value {
    let service = format!("web-{}", number % SERVICES);
    let ports = json!([{"port": 80, "nodePort": BACKEND_PORT}]);
    let services = json!([{"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": service}, "spec": {"ports": ports}}]);
    let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-version", "value": version.to_string()}]}});
    let rule = json!({"backendRefs": [{"name": service, "port": 80}], "filters": [filter]});
    let spec = json!({"parentRefs": [{"name": "gateway"}], "hostnames": [host(number)], "rules": [rule]});
    route(&name(number), "HTTPRoute", spec, &services)
}

fn route(name: &str, kind: &str, spec: Value, services: &Value) -> Value {
    let resource = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "spec": spec,
        "metadata": {"namespace": "default", "name": name, "generation": 1}});
    let source = json!({"kubernetes": {"resource": resource, "services": services}});
    let endpoints = json!([{"addressesReference": {"name": "default"}}]);
    object("Route", name, json!({"endpoints": endpoints, "source": source}))
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}
