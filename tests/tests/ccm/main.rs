//! A CCM between two API servers: what a tenant's user does, and what the management cluster then holds. What a manager would answer is
//! written by the tests.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests say what they expect")]

mod layer7;
mod removal;
mod tenant;
mod world;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{ListParams, PostParams};
use kubelb_api::v1alpha1::{Addresses, LoadBalancer};
use kubelb_tests::control_plane::Host;
use serde_json::json;
use world::{World, until};

fn is_held(service: &Service) -> bool {
    service
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == "kubelb.k8c.io/cleanup")
}

fn addresses_of(object: Option<&Addresses>) -> Vec<String> {
    let all = object.iter().flat_map(|object| &object.spec.addresses);
    all.filter_map(|address| address.ip.clone()).collect()
}

fn ingress_of(service: Option<&Service>) -> Vec<String> {
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.clone()).collect()
}

/// Status and message of one of our conditions.
fn condition(service: Option<&Service>, type_: &str) -> Option<(String, String)> {
    let conditions = service?.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == format!("kubelb.k8c.io/{type_}"))?;
    Some((found.status.clone(), found.message.clone()))
}

#[tokio::test]
async fn a_service_is_copied_and_its_address_comes_back() {
    let world = World::start().await;
    let service = world.create_service("web", |_| {}).await;
    let uid = service.metadata.uid.clone().unwrap();
    let copies = world.load_balancers();
    let copy = until(&copies, &uid, "the copy", |copy| copy.is_some()).await.unwrap();
    let port = until(&world.services(), "web", "held", |service| service.is_some_and(is_held))
        .await
        .unwrap();
    let node_port = port.spec.unwrap().ports.unwrap()[0].node_port.unwrap();
    assert_eq!(copy.spec.endpoints[0].ports[0].port, node_port);
    assert_eq!(copy.labels()["kubelb.k8c.io/origin-name"], "web");
    until(&world.addresses(), "default", "the nodes' addresses", |object| {
        addresses_of(object) == ["10.0.0.1", "10.0.0.2"]
    })
    .await;

    let generation = copy.metadata.generation;
    let condition_of = |status: &str, reason: &str, message: &str| {
        json!({"type": "Programmed", "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let ingress = json!({"ingress": [{"ip": "203.0.113.10", "ipMode": "VIP"}]});
    world
        .answer(
            &uid,
            json!({
                "loadBalancer": ingress,
                "conditions": [condition_of("False", "Rejected", "node-1 says: no room")],
            }),
        )
        .await;
    let services = world.services();
    until(&services, "web", "address and condition", |service| {
        ingress_of(service) == ["203.0.113.10"]
            && condition(service, "Programmed") == Some(("False".to_owned(), "node-1 says: no room".to_owned()))
    })
    .await;
    let events = world.events().await;
    assert!(
        events
            .iter()
            .any(|event| event == "AddressAssigned: reachable at 203.0.113.10"),
        "{events:?}"
    );
    assert!(
        events
            .iter()
            .any(|event| event.starts_with("Rejected: Programmed is False")),
        "{events:?}"
    );

    world.delete_service("web").await;
    until(&copies, &uid, "the copy is gone", |copy| copy.is_none()).await;
    until(&services, "web", "the Service is gone", |service| service.is_none()).await;
}

#[tokio::test]
async fn a_service_that_is_no_load_balancer_any_more_leaves_nothing_behind() {
    let world = World::start().await;
    let uid = world.create_service("web", |_| {}).await.metadata.uid.unwrap();
    let copies = world.load_balancers();
    until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
    world
        .answer(&uid, json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}))
        .await;
    let services = world.services();
    until(&services, "web", "the address", |service| {
        !ingress_of(service).is_empty()
    })
    .await;
    world
        .patch_service(
            "web",
            json!({"spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "nodePort": null}]}}),
        )
        .await;
    until(&copies, &uid, "the copy is gone", |copy| copy.is_none()).await;
    until(&services, "web", "released", |service| {
        service.is_some_and(|service| !is_held(service)) && ingress_of(service).is_empty()
    })
    .await;
}

#[tokio::test]
async fn other_classes_are_left_alone() {
    let world = World::start().await;
    let other = world
        .create_service("other", |value| {
            value["spec"]["loadBalancerClass"] = json!("example.com/other")
        })
        .await;
    let ours = world
        .create_service("ours", |value| value["spec"]["loadBalancerClass"] = json!("kubelb"))
        .await;
    until(
        &world.load_balancers(),
        &ours.metadata.uid.unwrap(),
        "the copy",
        |copy| copy.is_some(),
    )
    .await;
    let list = world.load_balancers().list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1, "only of ours");
    let untouched = world.services().get("other").await.unwrap();
    assert_eq!(untouched.metadata.resource_version, other.metadata.resource_version);
}

#[tokio::test]
async fn nodes_come_and_go() {
    let world = World::start().await;
    let addresses = world.addresses();
    let wait_for = |wanted: &'static [&'static str]| {
        let addresses = addresses.clone();
        async move {
            until(&addresses, "default", "the addresses", |object| {
                addresses_of(object) == wanted
            })
            .await
        }
    };
    wait_for(&["10.0.0.1", "10.0.0.2"]).await;
    world.add_node("node-c", "10.0.0.3").await;
    wait_for(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    world.node_is("node-a", "10.0.0.1", "Unknown").await;
    wait_for(&["10.0.0.2", "10.0.0.3"]).await;
    // What was there before is better than nothing.
    world.node_is("node-b", "10.0.0.2", "Unknown").await;
    wait_for(&["10.0.0.3"]).await;
    world.node_is("node-c", "10.0.0.3", "Unknown").await;
    world.node_is("node-a", "10.0.0.9", "True").await;
    wait_for(&["10.0.0.9"]).await;
}

#[tokio::test]
async fn local_traffic_goes_where_the_endpoints_are() {
    let world = World::start().await;
    let service = world
        .create_service("web", |value| value["spec"]["externalTrafficPolicy"] = json!("Local"))
        .await;
    let uid = service.metadata.uid.clone().unwrap();
    let copies = world.load_balancers();
    let weights = |copy: Option<&LoadBalancer>| -> Vec<(String, i32)> {
        let endpoints = copy.iter().flat_map(|copy| &copy.spec.endpoints);
        let addresses = endpoints.flat_map(|endpoints| &endpoints.addresses);
        addresses
            .map(|address| (address.ip.clone().unwrap(), address.weight.unwrap()))
            .collect()
    };
    let at = |ip: &str, weight: i32| (ip.to_owned(), weight);
    until(&copies, &uid, "no endpoints yet", |copy| {
        weights(copy) == [at("10.0.0.1", 0), at("10.0.0.2", 0)]
    })
    .await;
    let slices: kube::Api<k8s_openapi::api::discovery::v1::EndpointSlice> =
        kube::Api::default_namespaced(world.tenant.client.clone());
    let on = |node: &str, ready: bool, last: u8| json!({"addresses": [format!("10.1.0.{last}")], "nodeName": node, "conditions": {"ready": ready}});
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [on("node-a", false, 1), on("node-b", true, 2), on("node-b", true, 3)],
    });
    let slice = serde_json::from_value(slice).unwrap();
    slices.create(&PostParams::default(), &slice).await.unwrap();
    until(&copies, &uid, "two on one node", |copy| {
        weights(copy) == [at("10.0.0.2", 2)]
    })
    .await;
    let check = copies.get(&uid).await.unwrap().spec.health_check.unwrap();
    let service = world.services().get("web").await.unwrap();
    assert_eq!(check.port, service.spec.unwrap().health_check_node_port);
}

#[tokio::test]
async fn an_outage_of_the_management_cluster_is_told_and_mended() {
    let mut world = World::new().await;
    world.hub.server.stop().unwrap();
    world.start_ccm(&["--cleanup-timeout=1s"]);
    let services = world.services();
    let uid = world.create_service("web", |_| {}).await.metadata.uid.unwrap();
    until(&services, "web", "the outage is told", |service| {
        condition(service, "Submitted")
            .is_some_and(|(status, message)| status == "Unknown" && message.contains("traffic goes on"))
    })
    .await;
    world.hub.server.start(Host::Here).unwrap();
    let copies = world.load_balancers();
    until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
    until(&services, "web", "all is well", |service| {
        condition(service, "Submitted").is_some_and(|(status, _)| status == "True")
    })
    .await;

    // A Service that goes meanwhile does not wait for ever, and what it leaves is removed later.
    world.hub.server.stop().unwrap();
    world.delete_service("web").await;
    until(&services, "web", "the Service is gone", |service| service.is_none()).await;
    let events = world.events().await;
    assert!(
        events.iter().any(|event| event.starts_with("CleanupPostponed")),
        "{events:?}"
    );
    world.hub.server.start(Host::Here).unwrap();
    until(&copies, &uid, "the copy is gone", |copy| copy.is_none()).await;
}

#[tokio::test]
async fn what_happens_while_no_ccm_runs_is_caught_up_with() {
    let mut world = World::start().await;
    let copies = world.load_balancers();
    let gone = world.create_service("gone", |_| {}).await.metadata.uid.unwrap();
    let changed = world.create_service("changed", |_| {}).await.metadata.uid.unwrap();
    for uid in [&gone, &changed] {
        until(&copies, uid, "the copy", |copy| copy.is_some()).await;
    }
    world.stop_ccm().await;
    // Somebody takes the finalizer off, in a hurry.
    world
        .patch_service("gone", json!({"metadata": {"finalizers": null}}))
        .await;
    world.delete_service("gone").await;
    world
        .patch_service(
            "changed",
            json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}),
        )
        .await;
    world.start_ccm(&[]);
    until(&copies, &gone, "the orphan is gone", |copy| copy.is_none()).await;
    until(&copies, &changed, "the change", |copy| {
        copy.is_some_and(|copy| copy.spec.source_ranges == ["192.0.2.0/24"])
    })
    .await;
}
