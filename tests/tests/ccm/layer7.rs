//! Gateways and routes between the two clusters.

mod removal;

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kubelb_api::v1alpha1::SyncSecret;
use kubelb_ccm::layer7::object::Kind;
use serde_json::{Value, json};

use crate::tenant::{refused_in, services_in, weights_in};
use crate::world::{World, until};

fn status(object: Option<&DynamicObject>, path: &str) -> Value {
    let found = object.and_then(|object| object.data.pointer(&format!("/status{path}")));
    found.cloned().unwrap_or_default()
}

fn condition(status: &str) -> Value {
    json!({"type": "Accepted", "status": status, "reason": "Accepted", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

#[tokio::test]
async fn a_route_is_copied_and_its_status_comes_back() {
    let world = World::start_layer7().await;
    let gateway = world.create_gateway("default", "edge").await;
    let service = world.create_backend("default", "web", "ClusterIP").await;
    world.pods_are("web", &["node-b", "node-b"]).await;
    let uid = world
        .create_route("web", "edge", json!({"name": "web", "port": 80}))
        .await;

    let route = world.route_until(&uid, "the Route", |_| true).await;
    let shadow = world.services().get("web-nodeport").await.unwrap();
    let spec = shadow.spec.clone().unwrap();
    assert_eq!(spec.external_traffic_policy.as_deref(), Some("Local"));
    let ports = spec.ports.unwrap();
    assert_eq!(ports.len(), 1, "only what is referred to: {ports:?}");
    assert_eq!(ports[0].app_protocol.as_deref(), Some("kubernetes.io/h2c"));
    assert_eq!(
        services_in(&route),
        [("web-nodeport".to_owned(), vec![ports[0].node_port.unwrap()])]
    );
    let labels = route.labels();
    assert_eq!(
        labels["kubelb.k8c.io/origin-resource-kind"],
        "HTTPRoute.gateway.networking.k8s.io"
    );
    let groups: Vec<&str> = route
        .spec
        .endpoints
        .iter()
        .filter_map(|group| group.name.as_deref())
        .collect();
    assert_eq!(groups, ["default", "default/web"]);
    let source = route.spec.source.as_ref().unwrap().kubernetes.as_ref().unwrap();
    let resource = source.resource.as_ref().unwrap();
    assert_eq!(resource.fields()["spec"]["parentRefs"], json!([{"name": "edge"}]));
    assert!(resource.fields()["metadata"].get("managedFields").is_none());
    assert_eq!(resource.fields()["metadata"]["generation"], json!(1));
    assert_eq!(source.namespace_labels["kubernetes.io/metadata.name"], "default");

    // Pods that move are a write of their addresses, not of routes.
    let nodes = service.metadata.uid.clone().unwrap();
    let addresses = world.addresses();
    let on = |ip: &str, weight: i32| (ip.to_owned(), weight);
    until(&addresses, &nodes, "two on one node", |object| {
        weights_in(object) == [on("10.0.0.2", 2)]
    })
    .await;
    world.pods_are("web", &["node-a", "node-b"]).await;
    until(&addresses, &nodes, "one on each", |object| {
        weights_in(object) == [on("10.0.0.1", 1), on("10.0.0.2", 1)]
    })
    .await;
    assert_eq!(
        world.routes().get(&uid).await.unwrap().metadata.generation,
        Some(1),
        "one write"
    );

    // What another controller says stays.
    let routes = world.objects(Kind::HttpRoute, "default");
    let other = json!({"parentRef": {"name": "other"}, "controllerName": "example.com/other", "conditions": []});
    let patch = Patch::Merge(json!({"status": {"parents": [other]}}));
    routes
        .patch_status("web", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let ours = |status: &str| json!({"parentRef": {"name": "edge"}, "controllerName": "kubelb.k8c.io/gateway-controller", "conditions": [condition(status)]});
    for said in ["False", "True"] {
        world.answer_route(&uid, json!({"parents": [ours(said)]})).await;
        until(&routes, "web", "both parents", |route| {
            status(route, "/parents") == json!([other, ours(said)])
        })
        .await;
    }
    let listeners =
        json!([{"name": "http", "attachedRoutes": 1, "supportedKinds": [], "conditions": [condition("True")]}]);
    let answer = json!({"addresses": [{"type": "IPAddress", "value": "203.0.113.10"}], "listeners": listeners, "conditions": [condition("True")]});
    world.answer_route(&gateway, answer.clone()).await;
    let gateways = world.objects(Kind::Gateway, "default");
    let told = until(&gateways, "edge", "the answer", |gateway| status(gateway, "") == answer).await;

    // Nothing is written that is there already.
    world
        .patch(
            Kind::HttpRoute,
            "default",
            "web",
            json!({"metadata": {"annotations": {"a": "b"}}}),
        )
        .await;
    world
        .route_until(&uid, "the annotation", |route| route.metadata.generation == Some(2))
        .await;
    let now = gateways.get("edge").await.unwrap();
    assert_eq!(now.metadata.resource_version, told.unwrap().metadata.resource_version);

    world.delete(Kind::HttpRoute, "default", "web").await;
    until(&world.routes(), &uid, "the Route is gone", |route| route.is_none()).await;
    until(&routes, "web", "the HTTPRoute is gone", |route| route.is_none()).await;
    until(&world.services(), "web-nodeport", "the shadow is gone", |service| {
        service.is_none()
    })
    .await;
    until(&addresses, &nodes, "its nodes are gone", |object| object.is_none()).await;
    world.services().get("web").await.unwrap();
}

#[tokio::test]
async fn kinds_are_followed_when_they_are_installed() {
    let mut world = World::new().await;
    world.start_layer7_ccm();
    world.create_service("l4", |_| {}).await;
    until(&world.services(), "l4", "Services are served meanwhile", |service| {
        service.is_some_and(|service| !service.finalizers().is_empty())
    })
    .await;
    world.install_gateway_api().await;
    let class = json!({"controllerName": "kubelb.k8c.io/gateway-controller"});
    world.create(Kind::GatewayClass, "", "edge", class).await;
    world
        .create(
            Kind::GatewayClass,
            "",
            "other",
            json!({"controllerName": "example.com/other"}),
        )
        .await;
    let classes = world.objects(Kind::GatewayClass, "");
    until(&classes, "edge", "accepted", |class| {
        status(class, "/conditions/0/type") == json!("Accepted")
            && status(class, "/conditions/0/status") == json!("True")
    })
    .await;
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let spec = |class: &str| json!({"gatewayClassName": class, "listeners": [listener]});
    let others = world.create(Kind::Gateway, "default", "others", spec("other")).await;
    let ours = world.create(Kind::Gateway, "default", "ours", spec("edge")).await;
    let backend = json!({"name": "web", "port": 80});
    let not_ours = world.create_route("others", "others", backend.clone()).await;
    world.route_until(&ours, "the Gateway", |_| true).await;
    let grpc = json!({"parentRefs": [{"name": "ours"}], "rules": [{"backendRefs": [backend]}]});
    let grpc = world.create(Kind::GrpcRoute, "default", "calls", grpc).await;
    world.route_until(&grpc, "the GRPCRoute", |_| true).await;
    for uid in [&others, &not_ours] {
        assert!(world.routes().get_opt(uid).await.unwrap().is_none());
    }
    assert_eq!(status(Some(&classes.get("other").await.unwrap()), ""), Value::Null);

    // Of another class from now on: nothing of it stays, and the route goes with it.
    world
        .patch(
            Kind::Gateway,
            "default",
            "ours",
            json!({"spec": {"gatewayClassName": "other"}}),
        )
        .await;
    for uid in [&ours, &grpc] {
        until(&world.routes(), uid, "the Route is gone", |route| route.is_none()).await;
    }
    until(
        &world.objects(Kind::Gateway, "default"),
        "ours",
        "released",
        |gateway| gateway.is_some_and(|gateway| gateway.finalizers().is_empty()),
    )
    .await;
}

#[tokio::test]
async fn other_namespaces_are_reached_with_a_grant_only() {
    let world = World::start_layer7().await;
    world.tenant.create_namespace("other").await;
    world.create_gateway("default", "edge").await;
    world.create_backend("other", "web", "NodePort").await;
    let uid = world
        .create_route("web", "edge", json!({"name": "web", "namespace": "other", "port": 80}))
        .await;
    let refused = |reason: &str| vec![("Service".to_owned(), "web".to_owned(), reason.to_owned())];
    world
        .route_until(&uid, "refused", |route| refused_in(route) == refused("RefNotPermitted"))
        .await;
    let grant = |kind: &str| {
        json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}],
        })
    };
    world
        .create(Kind::ReferenceGrant, "other", "wrong", grant("GRPCRoute"))
        .await;
    world
        .create(Kind::ReferenceGrant, "other", "right", grant("HTTPRoute"))
        .await;
    let route = world
        .route_until(&uid, "granted", |route| refused_in(route).is_empty())
        .await;
    assert_eq!(services_in(&route)[0].1.len(), 2, "as it is, with both node ports");
    assert!(
        world
            .services_of("other")
            .get_opt("web-nodeport")
            .await
            .unwrap()
            .is_none()
    );
    world
        .services_of("other")
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world
        .route_until(&uid, "not there", |route| {
            refused_in(route) == refused("BackendNotFound")
        })
        .await;
    world.delete(Kind::ReferenceGrant, "other", "right").await;
    world
        .route_until(&uid, "refused again", |route| {
            refused_in(route) == refused("RefNotPermitted")
        })
        .await;
}

#[tokio::test]
async fn certificates_that_are_referred_to_are_copied_and_no_others() {
    let world = World::start_layer7().await;
    world.create_secret("default", "unused", "nobody's").await;
    let secret = world.create_secret("default", "cert", "first").await;
    let listener = |name: &str| json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": name}]}});
    let spec = json!({"gatewayClassName": "kubelb", "listeners": [listener("cert")]});
    let gateway = world.create(Kind::Gateway, "default", "edge", spec).await;
    world.route_until(&gateway, "the Gateway", |_| true).await;
    // It was there before the Gateway was: a listener is never without its certificate.
    let copies = world.sync_secrets();
    let all = copies.list(&ListParams::default()).await.unwrap().items;
    let names: Vec<String> = all.iter().map(|copy| copy.name_any()).collect();
    assert_eq!(names, std::slice::from_ref(&secret));
    let keys: Vec<&String> = all[0].content.data.keys().collect();
    assert_eq!(keys, ["tls.crt", "tls.key"]);
    assert_eq!(all[0].labels()["kubelb.k8c.io/origin-name"], "cert");

    let patch = Patch::Merge(json!({"stringData": {"tls.crt": "second"}}));
    world
        .secrets("default")
        .patch("cert", &PatchParams::default(), &patch)
        .await
        .unwrap();
    until(&copies, &secret, "renewed", |copy| {
        copy.is_some_and(|copy| copy.content.data["tls.crt"].0 == b"second")
    })
    .await;
    // Somebody deletes the copy.
    copies.delete(&secret, &DeleteParams::default()).await.unwrap();
    until(&copies, &secret, "written again", |copy| {
        copy.is_some_and(|copy| copy.content.data["tls.crt"].0 == b"second")
    })
    .await;
    // Another one of the same name.
    world
        .secrets("default")
        .delete("cert", &DeleteParams::default())
        .await
        .unwrap();
    until(&copies, &secret, "gone", |copy| copy.is_none()).await;
    let secret = world.create_secret("default", "cert", "third").await;
    until(&copies, &secret, "there again", |copy| copy.is_some()).await;
    world
        .patch(
            Kind::Gateway,
            "default",
            "edge",
            json!({"spec": {"listeners": [listener("absent")]}}),
        )
        .await;
    until(&copies, &secret, "not referred to any more", |copy| copy.is_none()).await;
    world
        .route_until(&gateway, "the change", |route| route.metadata.generation == Some(2))
        .await;
}

#[tokio::test]
async fn authorities_of_clients_are_copied_and_nothing_else_of_a_config_map() {
    let world = World::start_layer7().await;
    world.tenant.create_namespace("other").await;
    // Both of one name: which is which is known by the kind.
    let secret = world.create_secret("default", "edge", "certificate").await;
    let own = world.create_config_map("default", "edge", "first").await;
    let foreign = world.create_config_map("other", "clients", "foreign").await;
    world.create_config_map("default", "unused", "nobody's").await;
    let to = |namespace: &str, name: &str| {
        let reference = json!({"group": "", "kind": "ConfigMap", "namespace": namespace, "name": name});
        json!({"validation": {"caCertificateRefs": [reference]}})
    };
    let listener = |port: u16| json!({"name": format!("p{port}"), "port": port, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "edge"}]}});
    let frontend = json!({"default": to("default", "edge"), "perPort": [
        {"port": 8443, "tls": to("other", "clients")}, {"port": 80, "tls": to("default", "unused")},
    ]});
    let plain = json!({"name": "plain", "port": 80, "protocol": "HTTP"});
    let spec = json!({"gatewayClassName": "kubelb", "listeners": [listener(443), listener(8443), plain], "tls": {"frontend": frontend}});
    let gateway = world.create(Kind::Gateway, "default", "edge", spec).await;
    let refused = |reason: &str| vec![("ConfigMap".to_owned(), "clients".to_owned(), reason.to_owned())];
    world
        .route_until(&gateway, "refused", |route| {
            refused_in(route) == refused("RefNotPermitted")
        })
        .await;
    let copies = world.sync_secrets();
    let all = copies.list(&ListParams::default()).await.unwrap().items;
    let kind_of = |copy: &SyncSecret| copy.labels()["kubelb.k8c.io/origin-resource-kind"].clone();
    let kinds: BTreeMap<String, String> = all.iter().map(|copy| (copy.name_any(), kind_of(copy))).collect();
    let wanted = [(secret.as_str(), "Secret"), (own.as_str(), "ConfigMap")];
    let wanted = wanted.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(kinds, BTreeMap::from(wanted));
    let holds = |copy: Option<&SyncSecret>, value: &str| {
        copy.is_some_and(|copy| {
            let data = &copy.content.data;
            data.len() == 1 && data["ca.crt"].0 == value.as_bytes()
        })
    };
    until(&copies, &own, "copied", |copy| holds(copy, "first")).await;

    let from = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "default"});
    let grant = json!({"from": [from], "to": [{"group": "", "kind": "ConfigMap", "name": "clients"}]});
    world.create(Kind::ReferenceGrant, "other", "clients", grant).await;
    world
        .route_until(&gateway, "granted", |route| refused_in(route).is_empty())
        .await;
    until(&copies, &foreign, "copied", |copy| holds(copy, "foreign")).await;
    let patch = Patch::Merge(json!({"data": {"ca.crt": "second"}}));
    let parameters = PatchParams::default();
    world
        .config_maps("default")
        .patch("edge", &parameters, &patch)
        .await
        .unwrap();
    until(&copies, &own, "renewed", |copy| holds(copy, "second")).await;
    // Who is let in by it is let in no more.
    let parameters = DeleteParams::default();
    world.config_maps("default").delete("edge", &parameters).await.unwrap();
    until(&copies, &own, "gone", |copy| copy.is_none()).await;
    world.delete(Kind::ReferenceGrant, "other", "clients").await;
    world
        .route_until(&gateway, "refused again", |route| {
            refused_in(route) == refused("RefNotPermitted")
        })
        .await;
    until(&copies, &foreign, "gone", |copy| copy.is_none()).await;
    until(&copies, &secret, "still there", |copy| copy.is_some()).await;
}

#[tokio::test]
async fn what_went_while_no_ccm_ran_is_removed() {
    let mut world = World::start_layer7().await;
    let gateway = world.create_gateway("default", "edge").await;
    let service = world.create_backend("default", "web", "ClusterIP").await;
    let backend = json!({"name": "web", "port": 80});
    let gone = world.create_route("gone", "edge", backend.clone()).await;
    let stays = world.create_route("stays", "edge", backend).await;
    for uid in [&gateway, &gone, &stays] {
        world.route_until(uid, "copied", |_| true).await;
    }
    world.stop_ccm().await;
    let before = world.services().get("web-nodeport").await.unwrap();
    world
        .patch(
            Kind::HttpRoute,
            "default",
            "gone",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    world.delete(Kind::HttpRoute, "default", "gone").await;
    world.start_layer7_ccm();
    until(&world.routes(), &gone, "the orphan is gone", |route| route.is_none()).await;
    // What is still in use was not touched meanwhile.
    let after = world.services().get("web-nodeport").await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    assert_eq!(world.routes().get(&stays).await.unwrap().metadata.generation, Some(1));

    world.stop_ccm().await;
    world
        .patch(
            Kind::HttpRoute,
            "default",
            "stays",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    world.delete(Kind::HttpRoute, "default", "stays").await;
    world.start_layer7_ccm();
    until(&world.services(), "web-nodeport", "nobody's any more", |service| {
        service.is_none()
    })
    .await;
    until(
        &world.addresses(),
        &service.metadata.uid.unwrap(),
        "nor its nodes",
        |object| object.is_none(),
    )
    .await;
}
