//! Layer 7 when a CCM goes for good, or the management cluster, or the tenant in it, or the Gateway API.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kubelb_api::v1alpha1::TenantState;
use kubelb_ccm::layer7::object::Kind;
use kubelb_tests::control_plane::Host;
use serde_json::{Value, json};

use super::{condition, status};
use crate::world::{NAMESPACE, World, until};

/// What a tenant has, with the answers of a manager.
struct Site {
    gateway: String,
    route: String,
    secret: String,
    service: String,
}

impl Site {
    async fn new(world: &World) -> Self {
        let secret = world.create_secret("default", "cert", "first").await;
        let tls = json!({"certificateRefs": [{"name": "cert"}]});
        let listener = json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls});
        let class = json!({"controllerName": "kubelb.k8c.io/gateway-controller"});
        world.create(Kind::GatewayClass, "", "kubelb", class).await;
        let spec = json!({"gatewayClassName": "kubelb", "listeners": [listener]});
        let gateway = world.create(Kind::Gateway, "default", "edge", spec).await;
        let service = world.create_backend("default", "web", "ClusterIP").await;
        world.pods_are("web", &["node-a"]).await;
        let backend = json!({"name": "web", "port": 80});
        let route = world.create_route("web", "edge", backend).await;
        let site = Self {
            gateway,
            route,
            secret,
            service: service.metadata.uid.unwrap(),
        };
        site.is_served(world).await;
        site
    }

    /// Waits until it is copied, and answers.
    async fn is_served(&self, world: &World) {
        for uid in [&self.gateway, &self.route] {
            world.route_until(uid, "the Route", |_| true).await;
        }
        until(&world.sync_secrets(), &self.secret, "its certificate", |copy| {
            copy.is_some()
        })
        .await;
        until(&world.addresses(), &self.service, "nodes", |object| object.is_some()).await;
        let address = json!([{"type": "IPAddress", "value": "203.0.113.10"}]);
        let answer = json!({"addresses": address, "listeners": [], "conditions": [condition("True")]});
        world.answer_route(&self.gateway, answer).await;
        let parent = json!({"parentRef": {"name": "edge"}, "controllerName": "kubelb.k8c.io/gateway-controller",
            "conditions": [condition("True")]});
        world.answer_route(&self.route, json!({"parents": [parent]})).await;
        let (gateways, routes) = objects(world);
        until(&gateways, "edge", "its address", |gateway| {
            status(gateway, "/addresses") == address
        })
        .await;
        until(&routes, "web", "its parent", |route| {
            status(route, "/parents/0/conditions/0/status") == json!("True")
        })
        .await;
    }

    /// Waits until nothing of it is in the management cluster.
    async fn is_not_copied(&self, world: &World) {
        for uid in [&self.gateway, &self.route] {
            until(&world.routes(), uid, "the Route is gone", |route| route.is_none()).await;
        }
        until(&world.sync_secrets(), &self.secret, "no certificate", |copy| {
            copy.is_none()
        })
        .await;
        until(&world.addresses(), &self.service, "no nodes", |object| object.is_none()).await;
    }
}

/// Gateways and HTTPRoutes.
fn objects(world: &World) -> (Api<DynamicObject>, Api<DynamicObject>) {
    let of = |kind| world.objects(kind, "default");
    (of(Kind::Gateway), of(Kind::HttpRoute))
}

fn is_free(object: Option<&DynamicObject>) -> bool {
    object.is_some_and(|object| object.finalizers().is_empty())
}

async fn shadow_is_gone(world: &World) {
    let gone = "nobody needs the shadow";
    until(&world.services(), "web-nodeport", gone, |shadow| shadow.is_none()).await;
}

#[tokio::test]
async fn a_cleanup_leaves_nothing_of_layer_7() {
    let mut world = World::start_layer7().await;
    let site = Site::new(&world).await;
    let (gateways, routes) = objects(&world);
    world.stop_ccm().await;
    // Deleted while no CCM runs: it waits.
    world
        .create_route("going", "edge", json!({"name": "web", "port": 80}))
        .await;
    let held = json!({"metadata": {"finalizers": ["kubelb.k8c.io/cleanup"]}});
    world.patch(Kind::HttpRoute, "default", "going", held).await;
    world.delete(Kind::HttpRoute, "default", "going").await;

    world.clean_up(&[]).await.unwrap();
    site.is_not_copied(&world).await;
    assert!(
        world
            .routes()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(routes.get_opt("going").await.unwrap().is_none());
    assert!(world.services().get_opt("web-nodeport").await.unwrap().is_none());
    let (gateway, route) = (gateways.get("edge").await.unwrap(), routes.get("web").await.unwrap());
    assert!(is_free(Some(&gateway)) && is_free(Some(&route)));
    assert_eq!(status(Some(&gateway), "/addresses"), Value::Null);
    assert_eq!(status(Some(&route), "/parents"), json!([]));
    let class = world.objects(Kind::GatewayClass, "").get("kubelb").await.unwrap();
    assert_ne!(status(Some(&class), "/conditions/0/status"), json!("True"));
    // Again is as good, and a CCM that is installed again serves what there is.
    world.clean_up(&[]).await.unwrap();
    world.start_layer7_ccm();
    site.is_served(&world).await;
}

#[tokio::test]
async fn a_cleanup_needs_neither_the_gateway_api_nor_the_management_cluster() {
    let mut world = World::start_layer7().await;
    Site::new(&world).await;
    let (gateways, routes) = objects(&world);
    world.stop_ccm().await;
    world
        .clean_up(&["--kubelb-kubeconfig=/nonexistent/kubelb"])
        .await
        .unwrap();
    for (api, name) in [(gateways, "edge"), (routes, "web")] {
        assert!(is_free(Some(&api.get(name).await.unwrap())), "{name}");
    }
    World::new().await.clean_up(&[]).await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_is_deleted_is_not_served_and_not_waited_for() {
    let world = World::start_layer7().await;
    let site = Site::new(&world).await;
    let states: Api<TenantState> = Api::namespaced(world.hub.client.clone(), NAMESPACE);
    let state = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "TenantState", "metadata": {"name": "default"}, "spec": {}});
    let state = serde_json::from_value(state).unwrap();
    states.create(&PostParams::default(), &state).await.unwrap();
    let says = async |status: &str, reason: &str| {
        let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let patch = Patch::Merge(json!({"status": {"conditions": [ready]}}));
        let parameters = PatchParams::default();
        states.patch_status("default", &parameters, &patch).await.unwrap();
    };
    says("False", "TenantDeleted").await;

    let (gateways, routes) = objects(&world);
    until(&gateways, "edge", "the reason", |gateway| {
        is_free(gateway)
            && status(gateway, "/addresses") == Value::Null
            && status(gateway, "/conditions/0/reason") == json!("TenantDeleted")
    })
    .await;
    let reason = "/parents/0/conditions/0/reason";
    until(&routes, "web", "the reason", |route| {
        is_free(route) && status(route, reason) == json!("TenantDeleted")
    })
    .await;
    shadow_is_gone(&world).await;
    let events = world.events().await;
    let told = events.iter().filter(|event| event.starts_with("TenantDeleted"));
    assert_eq!(told.count(), 2, "{events:?}");
    // What comes now is told at once, and is not written there.
    let backend = json!({"name": "web", "port": 80});
    let late = world.create_route("late", "edge", backend).await;
    until(&routes, "late", "the reason", |route| {
        status(route, reason) == json!("TenantDeleted")
    })
    .await;
    assert!(world.routes().get_opt(&late).await.unwrap().is_none());
    world.delete(Kind::HttpRoute, "default", "late").await;
    until(&routes, "late", "nothing is waited for", |route| route.is_none()).await;

    // There is a tenant of that name again, and nothing of the old one.
    for uid in [&site.gateway, &site.route] {
        let parameters = DeleteParams::default();
        world.routes().delete(uid, &parameters).await.unwrap();
    }
    let parameters = DeleteParams::default();
    world.sync_secrets().delete(&site.secret, &parameters).await.unwrap();
    says("True", "Registered").await;
    site.is_served(&world).await;
}

#[tokio::test]
async fn a_management_cluster_that_is_gone_for_good_keeps_no_route() {
    let mut world = World::start_layer7().await;
    let site = Site::new(&world).await;
    let (gateways, routes) = objects(&world);
    world.stop_ccm().await;
    world.hub.server.stop().unwrap();
    world.start_ccm(&[
        "--enable-gateway-api",
        "--unused-backend-grace=100ms",
        "--cleanup-timeout=1s",
    ]);
    world.delete(Kind::HttpRoute, "default", "web").await;
    world.delete(Kind::Gateway, "default", "edge").await;
    until(&routes, "web", "the HTTPRoute is gone", |route| route.is_none()).await;
    until(&gateways, "edge", "the Gateway is gone", |gateway| gateway.is_none()).await;
    let events = world.events().await;
    let told = events.iter().filter(|event| event.starts_with("CleanupPostponed"));
    assert_eq!(told.count(), 2, "{events:?}");
    // Against all expectation it is back.
    world.hub.server.start(Host::Here).unwrap();
    site.is_not_copied(&world).await;
}

#[tokio::test]
async fn definitions_that_are_deleted_are_not_kept_by_their_objects() {
    let world = World::start_layer7().await;
    let site = Site::new(&world).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(world.tenant.client.clone());
    for kind in [Kind::HttpRoute, Kind::Gateway] {
        let name = kind.definition();
        definitions.delete(&name, &DeleteParams::default()).await.unwrap();
        let gone = "the definition is gone";
        until(&definitions, &name, gone, |definition| definition.is_none()).await;
    }
    site.is_not_copied(&world).await;
    shadow_is_gone(&world).await;
}
