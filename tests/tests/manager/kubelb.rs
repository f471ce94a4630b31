//! Objects as KubeLB's CCM and manager leave them: served as they are, and they go when they are deleted.

use kube::api::{Api, DeleteParams};
use kubelb_api::v1alpha1::{LoadBalancer, Route};
use kubelb_tests::bare::until;
use serde_json::json;

use crate::world::{TENANT, World, ingress};

/// As KubeLB's CCM names a copy: by the UID of its Service.
const UID: &str = "6b5f1f0e-7f0c-4a39-9c61-0f4b7f1d2a11";

#[tokio::test]
async fn what_its_ccm_writes_is_served_and_what_its_manager_left_holds_nothing_up() {
    let world = World::start("203.0.113.10-203.0.113.19").await;
    let copy: LoadBalancer = world
        .create(json!({
            "metadata": {
                "name": UID, "namespace": TENANT,
                "labels": {
                    "kubelb.k8c.io/origin-ns": "shop", "kubelb.k8c.io/origin-name": "web",
                    "kubelb.k8c.io/tenant": TENANT,
                },
                "annotations": {"example.com/theirs": "kept"},
                // Its manager's.
                "finalizers": ["kubelb.k8c.io/cleanup", "kubelb.k8c.io/cleanup-envoy-proxy", "kubelb.k8c.io/cleanup-hostname"],
            },
            "spec": {
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Cluster",
                "persistence": {"type": "SourceIP"},
                "ports": [
                    {"name": "http", "port": 80, "protocol": "TCP"},
                    {"name": "53-udp", "port": 53, "protocol": "UDP"},
                ],
                "endpoints": [{
                    "addressesReference": {"name": "default", "namespace": TENANT, "kind": "Addresses"},
                    "ports": [
                        {"name": "http", "port": 31234, "protocol": "TCP"},
                        {"name": "53-udp", "port": 31235, "protocol": "UDP"},
                    ],
                }],
            },
        }))
        .await;
    assert_eq!(copy.metadata.finalizers.as_ref().map(Vec::len), Some(3));
    // The port of its Envoy, and the address of the Service that it made, which one of the pools has.
    world
        .patch_status(
            UID,
            json!({
                "loadBalancer": {"ingress": [{"ip": "203.0.113.17"}]},
                "service": {"ports": [
                    {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 12345, "nodePort": 30999, "upstreamTargetPort": 31234},
                ]},
            }),
        )
        .await;
    // One that is going already when the manager comes.
    let route: Route = world
        .create(json!({
            "metadata": {"name": "old", "namespace": TENANT, "finalizers": ["kubelb.k8c.io/cleanup"]},
            "spec": {"endpoints": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 31236}]}]},
        }))
        .await;
    let routes: Api<Route> = Api::namespaced(world.client(), TENANT);
    let name = route.metadata.name.unwrap();
    routes.delete(&name, &DeleteParams::default()).await.unwrap();

    let mut manager = world.manage("a", &[]).await;
    let wanted = [
        format!("{TENANT}/{UID}/203.0.113.17/53-udp"),
        format!("{TENANT}/{UID}/203.0.113.17/80-tcp"),
    ];
    manager
        .serves("both ports, at the address it had", |names| names == wanted)
        .await;
    let api = world.load_balancers();
    let told = until(&api, UID, "told", |object| {
        object.is_some_and(|object| {
            let conditions = object.status.iter().flat_map(|status| &status.conditions);
            conditions
                .into_iter()
                .any(|known| known.type_ == "Accepted" && known.status == "True")
        })
    })
    .await;
    assert_eq!(ingress(told.as_ref()), ["203.0.113.17"]);
    assert_eq!(
        told.unwrap().metadata.annotations.unwrap()["example.com/theirs"],
        "kept"
    );
    until(&routes, &name, "the Route is gone", |route| route.is_none()).await;

    // Nobody of KubeLB's is there any more to take its finalizers off.
    api.delete(UID, &DeleteParams::default()).await.unwrap();
    until(&api, UID, "it is gone", |object| object.is_none()).await;
    manager.serves("nothing", <[String]>::is_empty).await;
    until(&world.claims(), "v4-203-0-113-17", "its address is free", |claim| {
        claim.is_none()
    })
    .await;
    manager.stop().await;
}
