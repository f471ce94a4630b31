//! Objects go through the Rust types and lose nothing.

use std::fmt::Debug;

use kube::Resource;
use kubelb_api::v1alpha1::{
    AddressClaim, Addresses, Config, DataPlaneMode, LoadBalancer, PersistenceType, Protocol, Route, SyncSecret, Tenant,
    TenantState, VirtualAddressOwner,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::definition::all;

/// Objects, and a part of what an API server with these definitions says when it refuses one. With `old`, the object replaces that one.
/// Here they only have to be readable; what refuses them is tested on an API server.
const VALIDATION: &str = include_str!("../data/validation.json");

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    object: Value,
    old: Option<Value>,
    error: Option<String>,
}

#[test]
fn what_an_api_server_accepts_can_be_read() {
    let cases: Vec<Case> = serde_json::from_str(VALIDATION).unwrap();
    for case in &cases {
        let accepted = case.error.is_none().then_some(&case.object);
        for object in accepted.into_iter().chain(&case.old) {
            let mut object = object.clone();
            let kind = object["kind"].as_str().unwrap().to_owned();
            if matches!(kind.as_str(), "Config" | "Tenant" | "TenantState") && object.get("spec").is_none() {
                // As the API server does.
                object["spec"] = json!({});
            }
            if let Err(error) = read(&kind, object) {
                panic!("{kind}, {}: {error}", case.name);
            }
        }
    }
    for kind in all().iter().map(|definition| definition.kind.as_str()) {
        let is_accepted = |case: &&Case| case.object["kind"] == kind && case.error.is_none();
        assert!(
            cases.iter().any(|case| is_accepted(&case)),
            "no {kind} that is accepted"
        );
    }
}

#[test]
fn an_object_with_every_field_loses_none() {
    for definition in all() {
        let mut object = sample(definition.root());
        object["apiVersion"] = "kubelb.k8c.io/v1alpha1".into();
        object["kind"] = definition.kind.clone().into();
        object["metadata"] = json!({"name": "sample"});
        let written = read(&definition.kind, object.clone()).unwrap_or_else(|error| panic!("{error}\n{object:#}"));
        assert_eq!(written, object, "left: what was written, right: what was read");
    }
}

#[test]
fn a_load_balancer_as_kubelb_writes_it() {
    let object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {
            "name": "8c5d1bd4-6d39-4d6c-a2a6-0d7c8b9e0f11",
            "namespace": "tenant-primary",
            "labels": {
                "kubelb.k8c.io/origin-name": "dns",
                "kubelb.k8c.io/origin-ns": "shop",
                "kubelb.k8c.io/tenant": "primary",
            },
            "annotations": {"kubelb.k8c.io/proxy-protocol": "v2"},
            "finalizers": ["kubelb.k8c.io/cleanup"],
        },
        "spec": {
            "endpoints": [{
                "addressesReference": {"name": "default"},
                "name": "default",
                "ports": [
                    {"name": "53-udp", "port": 30053, "protocol": "UDP"},
                    {"name": "53-tcp", "port": 30054, "protocol": "TCP"},
                ],
            }],
            "externalTrafficPolicy": "Local",
            "persistence": {"type": "SourceIP"},
            "ports": [
                {"name": "53-udp", "port": 53, "protocol": "UDP"},
                {"name": "53-tcp", "port": 53, "protocol": "TCP"},
            ],
            "type": "LoadBalancer",
        },
        "status": {
            "loadBalancer": {"ingress": [{"ip": "203.0.113.10", "ipMode": "VIP"}]},
            "service": {"ports": [
                {"name": "53-udp", "nodePort": 31053, "port": 53, "protocol": "UDP", "targetPort": 10053, "upstreamTargetPort": 30053},
            ]},
        },
    });
    let read: LoadBalancer = round_trip(&object);
    assert_eq!(read.spec.ports[0].protocol, Some(Protocol::Udp));
    assert_eq!(read.spec.persistence.unwrap().type_, PersistenceType::SourceIP);
    assert_eq!(
        read.status.unwrap().service.unwrap().ports[0].upstream_target_port,
        30053
    );
}

#[test]
fn a_route_keeps_what_no_type_knows() {
    let object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1",
        "kind": "Route",
        "metadata": {
            "name": "2f1f1c5a-0b3e-4df5-9e60-2f6f5d6b7a88",
            "namespace": "tenant-primary",
            "labels": {"kubelb.k8c.io/origin-resource-kind": "HTTPRoute.gateway.networking.k8s.io"},
        },
        "spec": {
            "endpoints": [{"addressesReference": {"name": "default"}, "name": "default"}],
            "source": {"kubernetes": {
                "resource": {
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": "HTTPRoute",
                    "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": null},
                    "spec": {"rules": [{"filterOfTomorrow": {"deep": [1, 2.5, null]}}]},
                    "status": {"parents": []},
                },
                "services": [{
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": "web-nodeport", "namespace": "shop"},
                    "spec": {
                        "fieldOfTomorrow": true,
                        "ports": [{"nodePort": 31080, "port": 80, "protocol": "TCP", "targetPort": "http"}],
                        "type": "NodePort",
                    },
                    "status": {"loadBalancer": {}},
                }],
            }},
        },
        "status": {"resources": {
            "source": "kubernetes",
            "services": {"shop/web-nodeport": {
                "apiVersion": "v1", "kind": "Service", "name": "web-nodeport", "namespace": "shop",
                "generatedName": "shop-web",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 10080}],
                "status": {"loadBalancer": {}},
            }},
            "route": {"kind": "HTTPRoute", "status": {"parents": [{"controllerName": "x"}]}},
        }},
    });
    let read: Route = round_trip(&object);
    let source = read.spec.source.unwrap().kubernetes.unwrap();
    assert_eq!(source.resource.unwrap().name(), "web");
    assert_eq!(source.services[0].kind(), "Service");
    let resources = read.status.unwrap().resources.unwrap();
    let service = &resources.services["shop/web-nodeport"];
    assert_eq!(service.state.generated_name.as_deref(), Some("shop-web"));
}

#[test]
fn a_secret_is_at_the_top_and_not_in_logs() {
    let object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1",
        "kind": "SyncSecret",
        "metadata": {"name": "tls", "namespace": "tenant-primary"},
        "data": {"tls.key": "c2VjcmV0"},
        "stringData": {"password": "hunter2"},
        "type": "kubernetes.io/tls",
        "immutable": true,
    });
    let read: SyncSecret = round_trip(&object);
    assert_eq!(read.content.data["tls.key"].0, b"secret");
    let logged = format!("{read:?}");
    assert!(logged.contains("tls.key") && logged.contains("password"));
    for secret in ["secret", "hunter2", "115, 101"] {
        assert!(
            !logged.contains(&format!("\"{secret}")) && !logged.contains(&format!("[{secret}")),
            "{logged}"
        );
    }
}

#[test]
fn words_on_the_wire_are_those_of_the_design() {
    let mode = |mode| serde_json::to_value::<DataPlaneMode>(mode).unwrap();
    assert_eq!(mode(DataPlaneMode::Ebpf), "eBPF");
    assert_eq!(mode(DataPlaneMode::KubeProxy), "KubeProxy");
    assert_eq!(<LoadBalancer as Resource>::plural(&()), "loadbalancers");
    assert_eq!(<SyncSecret as Resource>::kind(&()), "SyncSecret");
    assert_eq!(<SyncSecret as Resource>::api_version(&()), kubelb_api::API_VERSION);
}

#[test]
fn an_empty_config_has_the_defaults() {
    let proxy = serde_json::from_value::<Config>(json!({
        "metadata": {"name": "default"},
        "spec": {"envoyProxy": {}},
    }))
    .unwrap()
    .spec
    .envoy_proxy
    .unwrap();
    assert_eq!(proxy.replicas, 3);
    assert_eq!(serde_json::to_value(proxy.topology).unwrap(), "shared");
}

/// What is written after an object was read as its kind.
fn read(kind: &str, object: Value) -> serde_json::Result<Value> {
    fn through<K: DeserializeOwned + Serialize>(object: Value) -> serde_json::Result<Value> {
        serde_json::to_value(serde_json::from_value::<K>(object)?)
    }
    match kind {
        "AddressClaim" => through::<AddressClaim>(object),
        "Addresses" => through::<Addresses>(object),
        "Config" => through::<Config>(object),
        "LoadBalancer" => through::<LoadBalancer>(object),
        "Route" => through::<Route>(object),
        "SyncSecret" => through::<SyncSecret>(object),
        "Tenant" => through::<Tenant>(object),
        "TenantState" => through::<TenantState>(object),
        "VirtualAddressOwner" => through::<VirtualAddressOwner>(object),
        kind => panic!("{kind} has no type"),
    }
}

fn round_trip<K: DeserializeOwned + Serialize + Debug>(object: &Value) -> K {
    let read: K = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}\n{object:#}"));
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written, *object, "left: what was written, right: what was read");
    read
}

/// A value with everything that a schema knows.
fn sample(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return "http".into();
    }
    if let Some(value) = schema["enum"].as_array().and_then(|values| values.last()) {
        return value.clone();
    }
    match schema["type"].as_str().unwrap() {
        "string" => sample_text(schema).into(),
        "integer" => schema["minimum"]
            .as_f64()
            .map_or(7, |minimum| if minimum > 7.0 { 42 } else { 7 })
            .into(),
        "boolean" => true.into(),
        "array" => json!([sample(&schema["items"])]),
        "object" => {
            let mut object = Map::new();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                object.insert(name.clone(), sample(property));
            }
            if schema["additionalProperties"].is_object() {
                object.insert("some-key".to_owned(), sample(&schema["additionalProperties"]));
            }
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                object.insert("fieldOfTomorrow".to_owned(), json!({"deep": [1, null, {"a": 2.5}]}));
            }
            Value::Object(object)
        }
        other => panic!("type {other}"),
    }
}

fn sample_text(schema: &Value) -> &'static str {
    match (schema["format"].as_str(), schema["pattern"].as_str()) {
        (Some("byte"), _) => "c2FtcGxl",
        (Some("date-time"), _) => "2026-01-02T03:04:05Z",
        (_, Some(pattern)) if pattern.contains("ns|us") => "90s",
        _ => "sample",
    }
}
