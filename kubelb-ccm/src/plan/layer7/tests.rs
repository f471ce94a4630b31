use std::collections::BTreeSet;

use kubelb_api::names::TenantName;
use serde_json::{Value, json};

use super::*;
use crate::layer7::object::Kind;

/// A tenant's cluster, from its objects.
#[derive(Default)]
struct Cluster {
    classes: Vec<Arc<Object>>,
    gateways: Vec<Arc<Object>>,
    services: Vec<Arc<Service>>,
    grants: Vec<Arc<Object>>,
}

fn object(value: Value) -> Arc<Object> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn found(all: &[Arc<Object>], namespace: &str, name: &str) -> Option<Arc<Object>> {
    all.iter()
        .find(|object| object.namespace() == namespace && object.name() == name)
        .cloned()
}

impl View for Cluster {
    fn class(&self, name: &str) -> Option<Arc<Object>> {
        found(&self.classes, "", name)
    }

    fn gateway(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        found(&self.gateways, namespace, name)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let is_meant = |service: &&Arc<Service>| {
            service.metadata.namespace.as_deref() == Some(namespace) && service.metadata.name.as_deref() == Some(name)
        };
        self.services.iter().find(is_meant).cloned()
    }

    fn grants(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.grants
            .iter()
            .filter(|grant| grant.namespace() == namespace)
            .cloned()
            .collect()
    }

    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())])
    }
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    let value = json!({"metadata": {"namespace": "a", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "7",
        "labels": {"noise": "yes"}}, "spec": spec});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn http_route(spec: Value) -> Arc<Object> {
    object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {
            "namespace": "a", "name": "r", "uid": "u", "generation": 3, "resourceVersion": "9",
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": spec, "status": {"parents": []},
    }))
}

fn planned(route: &Object, cluster: &Cluster) -> Value {
    let references = read(Kind::HttpRoute, route);
    let mut reaches = BTreeMap::new();
    for (name, ports) in permitted_services(Kind::HttpRoute, route, &references, cluster) {
        if let Some(service) = cluster.service(&name.0, &name.1) {
            let shadow = cluster.service(&name.0, &shadow_name(&service));
            reaches.insert(name.clone(), reach(&service, shadow.as_deref(), ports));
        }
    }
    let tenant = TenantName::new("primary").unwrap();
    let missing = BTreeSet::new();
    let planned = super::route(
        Kind::HttpRoute,
        route,
        &references,
        &reaches,
        &missing,
        &tenant,
        cluster,
    )
    .unwrap();
    assert!(planned.notices.is_empty(), "{:?}", planned.notices);
    serde_json::to_value(planned.route).unwrap()
}

/// A case with every way to a backend, written out whole.
#[test]
fn a_route_carries_what_was_written_and_where_its_backends_are() {
    let cluster = Cluster {
        services: vec![
            service("ports", json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})),
            service("local", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30081}]})),
            service("inner", json!({"type": "ClusterIP", "selector": {"app": "x"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]})),
            Arc::new(serde_json::from_value(json!({
                "metadata": {"namespace": "a", "name": "inner-nodeport", "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "inner", "uid": "uid-inner"}]},
                "spec": {"type": "NodePort", "externalTrafficPolicy": "Local", "selector": {"app": "x"},
                    "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30082}]},
            })).unwrap()),
            service("outside", json!({"type": "ExternalName", "externalName": "api.example.com."})),
            service("by-hand", json!({"type": "ClusterIP", "ports": [{"port": 80}]})),
        ],
        ..Cluster::default()
    };
    let to = |name: &str| json!({"name": name, "port": 80});
    let spec = json!({
        "parentRefs": [{"name": "edge", "sectionName": "https"}],
        "fieldOfANewerVersion": {"kept": true},
        "rules": [{
            "backendRefs": [to("ports"), to("local"), to("inner"), to("outside"), to("by-hand"), to("absent"), {"name": "x", "kind": "Other", "group": "e.com"}],
            "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "mirror", "namespace": "b", "port": 80}}}],
        }],
    });
    let by = |name: &str| json!({"kubelb.k8c.io/origin-ns": "a", "kubelb.k8c.io/origin-name": name});
    let wanted = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route",
        "metadata": {"name": "u", "namespace": "tenant-primary", "labels": {
            "kubelb.k8c.io/managed-by": "kubelb", "kubelb.k8c.io/origin-name": "r", "kubelb.k8c.io/origin-ns": "a",
            "kubelb.k8c.io/origin-resource-kind": "HTTPRoute.gateway.networking.k8s.io", "kubelb.k8c.io/tenant": "primary",
        }},
        "spec": {
            "endpoints": [
                {"name": "default", "addressesReference": {"name": "default"}},
                {"name": "a/inner", "addressesReference": {"name": "uid-inner"}},
                {"name": "a/local", "addressesReference": {"name": "uid-local"}},
                {"name": "a/outside", "addresses": [{"hostname": "api.example.com"}], "ports": [{"name": "port-80", "port": 80, "protocol": "TCP"}]},
            ],
            "source": {"kubernetes": {
                "resource": {
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                    "metadata": {"namespace": "a", "name": "r", "uid": "u", "generation": 3,
                        "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"kept": "yes"}},
                    "spec": spec,
                },
                "namespaceLabels": {"kubernetes.io/metadata.name": "a"},
                "services": [
                    {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "inner-nodeport", "labels": by("inner")},
                     "spec": {"type": "NodePort", "externalTrafficPolicy": "Local",
                        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30082}]}},
                    {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "local", "labels": by("local")},
                     "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30081}]}},
                    {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "outside", "labels": by("outside")},
                     "spec": {"type": "ExternalName", "externalName": "api.example.com.", "ports": [{"name": "port-80", "port": 80}]}},
                    {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "ports", "labels": by("ports")},
                     "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}},
                ],
                "refused": [
                    {"kind": "Service", "namespace": "a", "name": "by-hand", "reason": "BackendNotFound",
                     "message": "Service a/by-hand: it has no selector and no node ports, so nothing outside of the cluster reaches it; give it type NodePort"},
                    {"kind": "Service", "namespace": "b", "name": "mirror", "reason": "RefNotPermitted",
                     "message": "no ReferenceGrant in b lets HTTPRoutes of a refer to the Service mirror"},
                ],
            }},
        },
    });
    assert_eq!(planned(&http_route(spec), &cluster), wanted);
}

#[test]
fn a_grant_permits_what_it_names_and_nothing_else() {
    let grant = |from: Value, to: Value| {
        let metadata = json!({"namespace": "b", "name": "g"});
        object(json!({"metadata": metadata, "spec": {"from": [from], "to": [to]}}))
    };
    let from = |kind: &str, namespace: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace});
    let service = json!({"group": "", "kind": "Service"});
    let named = |name: &str| json!({"group": "", "kind": "Service", "name": name});
    let spec = json!({"rules": [{"backendRefs": [{"name": "s", "namespace": "b", "port": 80}]}]});
    let route = http_route(spec);
    let references = read(Kind::HttpRoute, &route);
    let permits = |grants: Vec<Arc<Object>>| {
        let cluster = Cluster {
            grants,
            ..Cluster::default()
        };
        permitted_services(Kind::HttpRoute, &route, &references, &cluster).count() == 1
    };
    assert!(!permits(Vec::new()));
    assert!(permits(vec![grant(from("HTTPRoute", "a"), service.clone())]));
    assert!(permits(vec![grant(from("HTTPRoute", "a"), named("s"))]));
    assert!(!permits(vec![grant(from("HTTPRoute", "a"), named("t"))]));
    assert!(!permits(vec![grant(from("GRPCRoute", "a"), service.clone())]));
    assert!(!permits(vec![grant(from("HTTPRoute", "c"), service.clone())]));
    assert!(!permits(vec![grant(
        from("HTTPRoute", "a"),
        json!({"group": "", "kind": "Secret"})
    )]));
    assert!(!permits(vec![grant(
        json!({"group": "", "kind": "HTTPRoute", "namespace": "a"}),
        service
    )]));
    // One that cannot be read permits nothing, and costs the others nothing.
    let broken = object(json!({"metadata": {"namespace": "b", "name": "x"}, "spec": {"from": 7}}));
    assert!(permits(vec![broken, grant(from("HTTPRoute", "a"), named("s"))]));
}

#[test]
fn gateways_are_ours_by_their_class() {
    let class = |name: &str, controller: &str, more: Value| {
        object(json!({"metadata": {"name": name}, "spec": {"controllerName": controller, "parametersRef": more}}))
    };
    let ours = "kubelb.k8c.io/gateway-controller";
    let cluster = |classes: Vec<Arc<Object>>| Cluster {
        classes,
        ..Cluster::default()
    };
    let gateway = |class: &str| {
        let metadata = json!({"namespace": "a", "name": "g"});
        object(json!({"metadata": metadata, "spec": {"gatewayClassName": class, "listeners": []}}))
    };
    let strict = GatewaySettings { use_class: true };
    let is_ours = |class: &str, classes: Vec<Arc<Object>>| is_our_gateway(&gateway(class), strict, &cluster(classes));
    assert!(is_ours("kubelb", Vec::new()), "KubeLB's needs no object");
    assert!(!is_ours("edge", Vec::new()));
    assert!(is_ours("edge", vec![class("edge", ours, Value::Null)]));
    assert!(
        !is_ours("edge", vec![class("edge", ours, json!({"name": "x"}))]),
        "parameters are not known"
    );
    assert!(!is_ours(
        "kubelb",
        vec![class("kubelb", "example.com/other", Value::Null)]
    ));
    let any = GatewaySettings { use_class: false };
    assert!(is_our_gateway(&gateway("whatever"), any, &cluster(Vec::new())));
    let going = object(
        json!({"metadata": {"namespace": "a", "name": "g", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"gatewayClassName": "kubelb"}}),
    );
    assert!(!is_our_gateway(&going, any, &cluster(Vec::new())));
}

#[test]
fn a_shadow_has_what_is_referred_to_and_is_told_from_somebody_elses() {
    let original = service(
        "inner",
        json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"app": "x"}, "ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "admin", "port": 9000},
        ]}),
    );
    let wanted = shadow(&original, &BTreeSet::from([80, 53]));
    let spec = wanted.spec.clone().unwrap();
    let ports: Vec<i32> = spec.ports.iter().flatten().map(|port| port.port).collect();
    assert_eq!((ports, spec.cluster_ip), (vec![80], None));
    let mut present = wanted.clone();
    assert_eq!(
        reach(&original, Some(&present), &BTreeSet::from([80])),
        Reach::NeedsShadow,
        "no node port yet"
    );
    present.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(30_000);
    assert!(matches!(
        reach(&original, Some(&present), &BTreeSet::from([80])),
        Reach::Carried(_)
    ));
    assert_eq!(
        reach(&original, Some(&present), &BTreeSet::from([80, 9000])),
        Reach::NeedsShadow
    );
    present.metadata.owner_references = None;
    assert!(matches!(
        reach(&original, Some(&present), &BTreeSet::from([80])),
        Reach::Not(_)
    ));
    let long = Arc::new(Service {
        metadata: kube::core::ObjectMeta {
            name: Some("x".repeat(63)),
            uid: Some("0123456789".to_owned()),
            ..Default::default()
        },
        ..Service::default()
    });
    let name = shadow_name(&long);
    assert!(name.len() == 63 && name.ends_with("x-01234567-nodeport"), "{name}");
}
