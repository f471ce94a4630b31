//! What a user sees on the Service.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap())
}

fn service() -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}})).unwrap()
}

fn object(status: Value) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
        "metadata": {"name": "u", "namespace": "tenant-a", "generation": 2},
        "spec": {"endpoints": []},
        "status": status,
    }))
    .unwrap()
}

fn programmed(status: &str, generation: i64) -> Value {
    json!({"type": "Programmed", "status": status, "reason": "Pending", "message": "0 of 2 data planes serve it",
        "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// The Service as it is after the status was written.
fn written(mut service: Service, told: &Told) -> Service {
    let status = service.status.get_or_insert_default();
    if let Some(load_balancer) = &told.load_balancer {
        status.load_balancer = Some(load_balancer.clone());
    }
    status.conditions = Some(told.conditions.clone());
    service
}

fn reasons(events: &[Happened]) -> Vec<&str> {
    events.iter().map(|event| event.reason.as_str()).collect()
}

#[test]
fn an_address_is_told_once() {
    let object = object(json!({
        "loadBalancer": {"ingress": [{"ip": "203.0.113.10", "ipMode": "VIP"}]},
        "conditions": [programmed("True", 2)],
    }));
    let told = told(&service(), Some(&object), &Submitted::Yes, &[], &at(10));
    assert!(!says(&service(), &told));
    assert_eq!(reasons(&happened(&service(), &told)), ["AddressAssigned"]);
    let after = written(service(), &told);
    assert!(says(&after, &told));
    assert!(happened(&after, &told).is_empty());
    let types: Vec<&str> = told
        .conditions
        .iter()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(
        types,
        [
            "kubelb.k8c.io/Programmed",
            "kubelb.k8c.io/Submitted",
            "kubelb.k8c.io/Supported"
        ]
    );
}

#[test]
fn a_server_that_drops_the_mode_of_an_address_is_not_written_to_again() {
    let object = object(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10", "ipMode": "VIP"}]}}));
    let told = told(&service(), Some(&object), &Submitted::Yes, &[], &at(10));
    let mut after = written(service(), &told);
    let ingress = after.status.as_mut().unwrap().load_balancer.as_mut().unwrap();
    ingress.ingress.as_mut().unwrap()[0].ip_mode = None;
    assert!(says(&after, &told));
}

#[test]
fn nothing_known_changes_no_address() {
    let mut before = service();
    before.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}})).unwrap();
    for object in [None, Some(object(json!({})))] {
        let told = told(&before, object.as_ref(), &Submitted::Yes, &[], &at(10));
        assert_eq!(told.load_balancer, None);
    }
    // Somebody has looked, and there is no address.
    let refused = object(json!({"conditions": [programmed("False", 2)]}));
    let told = told(&before, Some(&refused), &Submitted::Yes, &[], &at(10));
    assert_eq!(told.load_balancer, Some(LoadBalancerStatus::default()));
    assert!(reasons(&happened(&before, &told)).contains(&"AddressRemoved"));
}

#[test]
fn services_of_a_deleted_tenant_lose_their_addresses_and_say_why() {
    let served =
        object(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}, "conditions": [programmed("True", 2)]}));
    let before = told(&service(), Some(&served), &Submitted::Yes, &[], &at(10));
    let before = written(service(), &before);
    // Whether its copy is still there or not.
    for object in [None, Some(&served)] {
        let after = told(&before, object, &Submitted::TenantDeleted, &[], &at(20));
        assert_eq!(after.load_balancer, Some(LoadBalancerStatus::default()));
        let types: Vec<&str> = after
            .conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(types, [SUBMITTED, SUPPORTED]);
        assert_eq!(reasons(&happened(&before, &after)), ["TenantDeleted", "AddressRemoved"]);
    }
}

#[test]
fn what_is_about_an_older_object_is_not_told() {
    let told = told(
        &service(),
        Some(&object(json!({"conditions": [programmed("True", 1)]}))),
        &Submitted::Yes,
        &[],
        &at(10),
    );
    assert_eq!(told.conditions.len(), 2, "{:?}", told.conditions);
}

#[test]
fn an_outage_is_told_with_what_it_means() {
    let lost = Submitted::Unreachable("connection refused".to_owned());
    let during = told(&service(), None, &lost, &[], &at(10));
    let submitted = &during.conditions[0];
    assert_eq!(
        (submitted.type_.as_str(), submitted.status.as_str()),
        (SUBMITTED, "Unknown")
    );
    assert!(submitted.message.contains("traffic goes on"), "{}", submitted.message);
    assert_eq!(
        reasons(&happened(&service(), &during)),
        ["ManagementClusterUnreachable"]
    );
    let after = written(service(), &during);
    let later = told(&after, None, &lost, &[], &at(20));
    assert!(says(&after, &later), "the time is the first failure's");
    let back = told(&after, None, &Submitted::Yes, &[], &at(30));
    assert_eq!(reasons(&happened(&after, &back)), ["Submitted"]);
}

#[test]
fn what_is_not_supported_is_a_condition_and_an_event() {
    let notices = [Notice {
        field: "spec.externalIPs".to_owned(),
        message: "are not announced".to_owned(),
    }];
    let told = told(&service(), None, &Submitted::Yes, &notices, &at(10));
    let supported = told
        .conditions
        .iter()
        .find(|condition| condition.type_ == SUPPORTED)
        .unwrap();
    assert_eq!(supported.message, "spec.externalIPs: are not announced");
    let events = happened(&service(), &told);
    assert_eq!(reasons(&events), ["NotSupported"]);
    assert!(events[0].is_warning);
}
