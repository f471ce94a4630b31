//! A management cluster without address pools: addresses come from whoever implements its Services.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kubelb_api::v1alpha1::{Addresses, Config, LoadBalancer, VirtualAddressOwner};
use kubelb_tests::bare::until;
use kubelb_tests::controllers;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::POOL;
use crate::world::{NAMESPACE, TENANT, World, condition, ingress};

const SERVICE: &str = "kubelb-web";

impl World {
    async fn configure(&self, spec: Value) {
        let configs: Api<Config> = Api::namespaced(self.client(), NAMESPACE);
        let patch = Patch::Merge(json!({"spec": spec}));
        configs.patch("default", &PatchParams::default(), &patch).await.unwrap();
    }

    /// As whoever implements Services does.
    async fn tell_service(&self, ingress: Value) {
        let services: Api<Service> = Api::namespaced(self.client(), TENANT);
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        let parameters = PatchParams::default();
        services.patch_status(SERVICE, &parameters, &patch).await.unwrap();
    }
}

fn is_said(object: Option<&LoadBalancer>, type_: &str, status: &str, reason: &str) -> bool {
    condition(object, type_).is_some_and(|known| (known.0.as_str(), known.1.as_str()) == (status, reason))
}

fn mode(object: Option<&LoadBalancer>) -> Option<Value> {
    let status = object?.status.as_ref()?;
    serde_json::to_value(status.data_plane.as_ref()?.mode).ok()
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .flat_map(|endpoint| endpoint.addresses.iter().map(String::as_str))
        .collect()
}

#[tokio::test]
async fn without_pools_a_service_of_the_management_cluster_brings_the_address() {
    let world = World::start(POOL).await;
    let options = controllers::Options {
        api_ca: world.cluster.server.ca().unwrap().to_owned(),
        ..controllers::Options::default()
    };
    let controllers = controllers::run(world.client(), options, std::future::pending());
    let _controllers = AbortOnDropHandle::new(tokio::spawn(controllers));
    world
        .configure(
            json!({"addressPools": null, "deniedRanges": ["10.9.0.0/16"], "loadBalancer": {"class": "example.com/lb"}}),
        )
        .await;
    let mut manager = world.manage("a", &[]).await;
    let services: Api<Service> = Api::namespaced(world.client(), TENANT);
    let slices: Api<EndpointSlice> = Api::namespaced(world.client(), TENANT);
    let objects = world.load_balancers();
    for name in ["web", "other"] {
        world.create_load_balancer(name, |_| {}).await;
    }

    let service = until(&services, SERVICE, "the Service", |service| service.is_some()).await;
    let spec = service.unwrap().spec.unwrap();
    assert_eq!(spec.selector, None);
    assert_eq!(spec.load_balancer_class.as_deref(), Some("example.com/lb"));
    let slice = until(&slices, "kubelb-web-v4-0", "its endpoints", |slice| slice.is_some()).await;
    let slice = slice.unwrap();
    assert_eq!(addresses(&slice), ["10.0.0.1"]);
    assert_eq!(slice.ports.unwrap()[0].port, Some(30_080));
    until(&objects, "web", "nobody has given an address", |object| {
        is_said(object, "AddressAssigned", "False", "ServicePending")
    })
    .await;

    world.tell_service(json!([{"ip": "192.0.2.7", "ipMode": "VIP"}])).await;
    let told = until(&objects, "web", "its address", |object| {
        ingress(object) == ["192.0.2.7"]
    })
    .await;
    assert!(is_said(told.as_ref(), "AddressAssigned", "True", "AddressAssigned"));
    assert!(is_said(told.as_ref(), "Programmed", "True", "KubeProxy"));
    assert_eq!(mode(told.as_ref()), Some(json!("KubeProxy")));
    // Node agents, where there are any, take a short cut.
    let listener = format!("{TENANT}/web/192.0.2.7/80-tcp");
    manager
        .serves("the address", |names| names == std::slice::from_ref(&listener))
        .await;
    let owners: Api<VirtualAddressOwner> = Api::all(world.client());
    let owners = owners.list(&ListParams::default()).await.unwrap();
    assert_eq!(owners.items.len(), 0, "whoever gave the address announces it");

    let nodes: Api<Addresses> = Api::namespaced(world.client(), TENANT);
    let patch = Patch::Merge(json!({"spec": {"addresses": [{"ip": "10.0.0.2"}, {"ip": "10.9.0.1"}]}}));
    nodes.patch("default", &PatchParams::default(), &patch).await.unwrap();
    until(&slices, "kubelb-web-v4-0", "the other node", |slice| {
        slice.is_some_and(|slice| addresses(slice) == ["10.0.0.2"])
    })
    .await;

    // One that delivers to the nodes' own addresses, by a name.
    world.tell_service(json!([{"hostname": "lb.example.com"}])).await;
    manager.serves("nothing", <[String]>::is_empty).await;
    until(&objects, "web", "its name", |object| {
        let status = object.and_then(|object| object.status.as_ref()?.load_balancer.as_ref());
        let ingress = status.and_then(|status| status.ingress.as_ref()?.first());
        ingress.is_some_and(|ingress| ingress.hostname.as_deref() == Some("lb.example.com"))
            && is_said(object, "Programmed", "True", "KubeProxy")
    })
    .await;

    // What goes takes its Service along.
    objects.delete("other", &DeleteParams::default()).await.unwrap();
    until(&services, "kubelb-other", "the other Service is gone", |service| {
        service.is_none()
    })
    .await;
    until(&slices, "kubelb-other-v4-0", "and its endpoints", |slice| {
        slice.is_none()
    })
    .await;

    // Pools take over.
    world
        .configure(json!({"addressPools": [{"name": "lan", "ranges": [POOL]}]}))
        .await;
    until(&objects, "web", "an address of the pool", |object| {
        ingress(object) == ["203.0.113.10"]
    })
    .await;
    until(&services, SERVICE, "the Service is gone", |service| service.is_none()).await;
    until(&slices, "kubelb-web-v4-0", "and its endpoints", |slice| slice.is_none()).await;
    manager.stop().await;
}
