use serde_json::{Value, json};

use super::*;

fn object(spec: Value) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
        "metadata": {
            "name": "3c0f", "namespace": "tenant-primary", "uid": "u",
            "annotations": {"example.com/a": "1", "example.com/secret": "2", "kubelb.k8c.io/proxy-protocol": "v2"},
            "labels": {"kubelb.k8c.io/origin-ns": "shop", "kubelb.k8c.io/origin-name": "web"},
        },
        "spec": spec,
    }))
    .unwrap()
}

fn plain() -> Value {
    json!({
        "type": "LoadBalancer",
        "ports": [{"port": 443, "name": "https"}, {"port": 53, "protocol": "UDP"}],
        "endpoints": [{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.9.0.1"}, {"ip": "127.0.0.1"}, {"ip": "10.0.0.2", "weight": 0}, {"ip": "2001:db8::1"}],
            "ports": [{"port": 30_443, "name": "https"}, {"port": 30_053, "protocol": "UDP"}],
        }],
    })
}

fn config(spec: Value) -> ConfigSpec {
    serde_json::from_value(spec).unwrap()
}

#[test]
fn a_service_selects_nothing_and_its_slices_have_what_a_tenant_may_use() {
    let mut spec = plain();
    spec["sourceRanges"] = json!(["192.0.2.0/24"]);
    spec["persistence"] = json!({"type": "SourceIP"});
    let config = config(json!({"deniedRanges": ["10.9.0.0/16"], "loadBalancer": {"class": "example.com/lb"}}));
    let Wanted { service, slices } = wanted(&object(spec), None, &config, &TenantSpec::default());
    let expected = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubelb-3c0f", "namespace": "tenant-primary",
            "labels": {
                "kubelb.k8c.io/managed-by": "kubelb", "kubelb.k8c.io/tenant": "primary",
                "kubelb.k8c.io/origin-ns": "shop", "kubelb.k8c.io/origin-name": "web",
            },
            "ownerReferences": [{
                "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer", "name": "3c0f", "uid": "u", "controller": true,
            }],
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "externalTrafficPolicy": "Cluster", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10_800}},
            "ports": [
                {"name": "tcp-443", "protocol": "TCP", "port": 443, "targetPort": 30_443},
                {"name": "udp-53", "protocol": "UDP", "port": 53, "targetPort": 30_053},
            ],
        },
    });
    assert_eq!(serde_json::to_value(&service).unwrap(), expected);
    let shown: Vec<(&str, &str, Vec<&str>)> = slices
        .iter()
        .map(|slice| {
            let endpoints = slice.endpoints.iter().flatten();
            let addresses = endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(String::as_str));
            let name = slice.metadata.name.as_deref().unwrap();
            (name, slice.address_type.as_str(), addresses.collect())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("kubelb-3c0f-v4-0", "IPv4", vec!["10.0.0.1"]),
            ("kubelb-3c0f-v6-0", "IPv6", vec!["2001:db8::1"]),
        ]
    );
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "kubelb-3c0f");
}

#[test]
fn what_is_neither_asked_for_nor_allowed_gets_no_service() {
    let open = config(json!({}));
    let tenant = |spec: Value| serde_json::from_value::<TenantSpec>(spec).unwrap();
    let is =
        |config: &ConfigSpec, settings: Value, object: &LoadBalancer| is_delegated(config, &tenant(settings), object);
    let asked = object(plain());
    assert!(is(&open, json!({}), &asked));
    assert!(!is(
        &config(json!({"addressPools": [{"name": "a", "ranges": ["192.0.2.0/24"]}]})),
        json!({}),
        &asked
    ));
    assert!(!is(&open, json!({"loadBalancer": {"disable": true}}), &asked));
    let off = config(json!({"loadBalancer": {"disable": true}}));
    assert!(!is(&off, json!({}), &asked));
    assert!(
        is(&off, json!({"loadBalancer": {"disable": false}}), &asked),
        "the tenant wins"
    );
    let mut inside = plain();
    inside["type"] = json!("ClusterIP");
    assert!(!is(&open, json!({}), &object(inside)));
    let mut going = asked;
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(!is(&open, json!({}), &going));
}

#[test]
fn annotations_go_along_as_far_as_it_is_allowed() {
    let annotations_with = |settings: Value, own: Value| {
        let tenant: TenantSpec = serde_json::from_value(own).unwrap();
        annotations(&object(plain()), &config(settings), &tenant)
    };
    let keys = |settings: Value, own: Value| annotations_with(settings, own).into_keys().collect::<Vec<_>>();
    assert!(keys(json!({}), json!({})).is_empty());
    let all = json!({"propagateAllAnnotations": true, "deniedAnnotations": ["*/secret"]});
    assert_eq!(keys(all.clone(), json!({})), ["example.com/a"]);
    assert_eq!(
        keys(json!({"propagatedAnnotations": {"example.com/*": "1, 3"}}), json!({})),
        ["example.com/a"]
    );
    assert_eq!(
        keys(all, json!({"propagatedAnnotations": {"example.com/secret": ""}})),
        ["example.com/secret"],
        "the tenant's settings replace the Config's"
    );
    let defaults = json!({"defaultAnnotations": {"service": {"x": "1"}, "all": {"x": "2", "y": "3"}}});
    let added = annotations_with(defaults, json!({}));
    assert_eq!((added["x"].as_str(), added["y"].as_str()), ("1", "3"));
}

#[test]
fn patterns_have_stars() {
    for (pattern, key, is_meant) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "anything", true),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*c", "abc", true),
        ("a*b*c", "a-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("ab*ba", "aba", false),
    ] {
        assert_eq!(matches(pattern, key), is_meant, "{pattern} {key}");
    }
}

#[test]
fn names_are_those_of_services() {
    assert_eq!(service_name("1c9e4c1e-58b3-4b3e-8d5a-0b7f3f1d2c3b").len(), 43);
    for long in ["a.b", &"a".repeat(200)] {
        let name = service_name(long);
        assert!(name.len() <= MAX_NAME && kubelb_api::names::is_label(&name), "{name}");
    }
    assert_ne!(service_name("a.b"), service_name("a.c"));
}
