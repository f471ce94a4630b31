//! Definitions of the Gateway API's kinds, for tests: the structure that kubelb relies on, everything else kept as it comes.
//!
//! Written here, because the published ones are not this project's to carry. They say nothing of what the API refuses.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";

/// What `kubectl get` shows of routes.
const HOSTNAMES: &[(&str, &str)] = &[("Hostnames", ".spec.hostnames")];

/// GatewayClass, Gateway, HTTPRoute, GRPCRoute and ReferenceGrant.
///
/// # Panics
/// Never: what is written here can be read.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let route = json!({"type": "object", "required": ["parents"], "properties": {"parents": {
        "type": "array", "x-kubernetes-list-type": "atomic", "items": anything(),
    }}});
    let class = json!({"type": "object", "properties": {"conditions": conditions()}});
    let gateway = json!({"type": "object", "properties": {
        "addresses": {"type": "array", "x-kubernetes-list-type": "atomic", "items": anything()},
        "conditions": conditions(),
        "listeners": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "attachedRoutes": {"type": "integer"}, "conditions": conditions(),
                "supportedKinds": {"type": "array", "items": anything()},
            }},
        },
    }});
    vec![
        definition(
            "GatewayClass",
            "Cluster",
            &["v1"],
            Some(&class),
            &[
                ("Controller", ".spec.controllerName"),
                ("Accepted", ".status.conditions[?(@.type==\"Accepted\")].status"),
            ],
        ),
        definition(
            "Gateway",
            "Namespaced",
            &["v1"],
            Some(&gateway),
            &[
                ("Class", ".spec.gatewayClassName"),
                ("Address", ".status.addresses[*].value"),
                ("Programmed", ".status.conditions[?(@.type==\"Programmed\")].status"),
            ],
        ),
        definition("HTTPRoute", "Namespaced", &["v1"], Some(&route), HOSTNAMES),
        definition("GRPCRoute", "Namespaced", &["v1"], Some(&route), HOSTNAMES),
        definition("ReferenceGrant", "Namespaced", &["v1beta1", "v1"], None, &[]),
    ]
}

#[expect(clippy::expect_used, reason = "what is written here can be read")]
fn definition(
    kind: &str,
    scope: &str,
    versions: &[&str],
    status: Option<&Value>,
    columns: &[(&str, &str)],
) -> CustomResourceDefinition {
    let singular = kind.to_lowercase();
    let plural = if singular.ends_with('s') {
        format!("{singular}es")
    } else {
        format!("{singular}s")
    };
    let mut properties = json!({
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}, "spec": anything(),
    });
    if let (Some(fields), Some(status)) = (properties.as_object_mut(), status) {
        fields.insert("status".to_owned(), status.clone());
    }
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let columns = columns
        .iter()
        .map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}));
    let columns: Vec<Value> = columns.chain([age]).collect();
    let served = versions.iter().enumerate().map(|(index, version)| {
        json!({
            "name": version, "served": true, "storage": index == 0, "additionalPrinterColumns": columns,
            "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": properties}},
            "subresources": if status.is_some() { json!({"status": {}}) } else { Value::Null },
        })
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            // API servers refuse definitions in groups of Kubernetes' without it.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/4904"},
        },
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular},
            "versions": served.collect::<Vec<_>>(),
        },
    });
    serde_json::from_value(definition).expect("a definition")
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn conditions() -> Value {
    json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"}, "message": {"type": "string"},
                "observedGeneration": {"type": "integer", "format": "int64"}, "reason": {"type": "string"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]}, "type": {"type": "string"},
            },
        },
    })
}
