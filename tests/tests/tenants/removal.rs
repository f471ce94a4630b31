//! How a tenant goes.

use kube::Api;
use kube::api::{ListParams, PostParams};
use kubelb_api::v1alpha1::{Addresses, LoadBalancer, Route, SyncSecret, TenantPhase};
use serde_json::json;

use crate::world::{World, client, code, load_balancer, merge, revoked, until};

#[tokio::test]
async fn a_tenant_goes_in_order_and_says_what_it_waits_for() {
    let world = World::start().await;
    let tenant = world.register("a").await;
    let mine: Api<LoadBalancer> = Api::namespaced(tenant.clone(), "tenant-a");
    for (name, finalizer) in [
        ("plain", None),
        ("kubelbs", Some("kubelb.k8c.io/cleanup")),
        ("older", Some("kubelb.k8c.io/cleanup-envoy-proxy")),
        ("held", Some("example.com/theirs")),
    ] {
        let mut object = load_balancer(name);
        object.metadata.finalizers = finalizer.map(|finalizer| vec![finalizer.to_owned()]);
        mine.create(&PostParams::default(), &object).await.unwrap();
    }
    let api_version = "kubelb.k8c.io/v1alpha1";
    let finalizers = json!(["kubelb.k8c.io/cleanup"]);
    let route = json!({"apiVersion": api_version, "kind": "Route", "metadata": {"name": "r", "finalizers": finalizers},
        "spec": {"endpoints": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]}});
    world.create_in::<Route>("tenant-a", route).await;
    let secret =
        json!({"apiVersion": api_version, "kind": "SyncSecret", "metadata": {"name": "s", "finalizers": finalizers}});
    world.create_in::<SyncSecret>("tenant-a", secret).await;
    let addresses = json!({"apiVersion": api_version, "kind": "Addresses", "metadata": {"name": "default"},
        "spec": {"addresses": [{"ip": "10.0.0.1"}]}});
    world.create_in::<Addresses>("tenant-a", addresses).await;

    world.delete_tenant("a").await;
    let message = world.told("a", "WaitingForFinalizers").await;
    assert!(
        message.contains("LoadBalancer held (metadata.finalizers: example.com/theirs)"),
        "{message}"
    );
    let waiting = world.tenants().get("a").await.unwrap();
    assert_eq!(waiting.status.unwrap().phase, Some(TenantPhase::Terminating));
    let left = world
        .api::<LoadBalancer>("tenant-a")
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(left.items.len(), 1, "only what others hold");
    // The tenant can do nothing any more.
    assert_eq!(
        code(mine.create(&PostParams::default(), &load_balancer("late")).await),
        403
    );

    merge(
        &world.api::<LoadBalancer>("tenant-a"),
        "held",
        json!({"metadata": {"finalizers": null}}),
    )
    .await;
    world.gone("a").await;

    // Again, at once; what was good for the first one opens nothing of the second.
    let again = world.register("a").await;
    let new: Api<LoadBalancer> = Api::namespaced(again, "tenant-a");
    new.create(&PostParams::default(), &load_balancer("web")).await.unwrap();
    revoked(&mine).await;
}

#[tokio::test]
async fn a_tenant_that_never_had_a_namespace_leaves_that_of_somebody_else_alone() {
    let world = World::start().await;
    world
        .create_all::<k8s_openapi::api::core::v1::Namespace>(json!({"metadata": {"name": "tenant-a"}}))
        .await;
    let theirs = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "metadata": {"name": "theirs"}});
    world.create_in::<SyncSecret>("tenant-a", theirs).await;
    world.create_tenant("a").await;
    world.told("a", "NamespaceTaken").await;
    world.delete_tenant("a").await;
    until(&world.tenants(), "a", "the Tenant is gone", |tenant| tenant.is_none()).await;
    assert!(
        world
            .namespaces()
            .get("tenant-a")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
    world.api::<SyncSecret>("tenant-a").get("theirs").await.unwrap();
}

#[tokio::test]
async fn a_namespace_that_somebody_deletes_comes_back() {
    let world = World::start().await;
    world.register("a").await;
    let before = world.namespaces().get("tenant-a").await.unwrap().metadata.uid;
    world
        .namespaces()
        .delete("tenant-a", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    until(&world.namespaces(), "tenant-a", "another namespace", |namespace| {
        namespace.is_some_and(|namespace| namespace.metadata.uid != before)
    })
    .await;
    let secrets = world.api::<k8s_openapi::api::core::v1::Secret>("tenant-a");
    until(&secrets, "kubelb-ccm-kubeconfig", "its kubeconfig", |secret| {
        secret.is_some()
    })
    .await;
    let tenant = client(&world.kubeconfig("a").await).await;
    let mine: Api<LoadBalancer> = Api::namespaced(tenant, "tenant-a");
    mine.list(&ListParams::default()).await.unwrap();
}
