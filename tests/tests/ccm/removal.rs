//! A CCM that goes for good, and a management cluster that does.

use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use kubelb_tests::control_plane::Host;
use serde_json::json;

use crate::world::{World, until};
use crate::{condition, ingress_of, is_held};

#[tokio::test]
async fn a_cleanup_leaves_nothing_on_either_side() {
    let mut world = World::start().await;
    let (copies, services) = (world.load_balancers(), world.services());
    for name in ["web", "going"] {
        let uid = world.create_service(name, |_| {}).await.metadata.uid.unwrap();
        until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
        world
            .answer(&uid, json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}))
            .await;
        until(&services, name, "its address", |service| {
            !ingress_of(service).is_empty()
        })
        .await;
    }
    until(&world.addresses(), "default", "the nodes' addresses", |object| {
        object.is_some()
    })
    .await;
    world.stop_ccm().await;
    // Deleted while no CCM runs: it waits.
    world.delete_service("going").await;
    assert!(
        services
            .get("going")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );

    world.clean_up(&[]).await.unwrap();
    assert!(copies.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert!(
        world
            .addresses()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(services.get_opt("going").await.unwrap().is_none());
    let web = services.get("web").await.unwrap();
    assert!(
        !is_held(&web) && ingress_of(Some(&web)).is_empty() && condition(Some(&web), "Submitted").is_none(),
        "{web:?}"
    );
    // Again is as good.
    world.clean_up(&[]).await.unwrap();
    // And a CCM that is installed again serves what there is.
    world.start_ccm(&[]);
    until(&copies, &web.uid().unwrap(), "the copy", |copy| copy.is_some()).await;
}

#[tokio::test]
async fn a_cleanup_does_not_need_the_management_cluster() {
    let mut world = World::start().await;
    let uid = world.create_service("web", |_| {}).await.metadata.uid.unwrap();
    until(&world.load_balancers(), &uid, "the copy", |copy| copy.is_some()).await;
    until(&world.services(), "web", "held", |service| service.is_some_and(is_held)).await;
    world.stop_ccm().await;
    // Whoever removed the credential first is not punished for it.
    world
        .clean_up(&["--kubelb-kubeconfig=/nonexistent/kubelb"])
        .await
        .unwrap();
    let web = world.services().get("web").await.unwrap();
    assert!(!is_held(&web), "{web:?}");
    assert!(world.load_balancers().get_opt(&uid).await.unwrap().is_some());
}

#[tokio::test]
async fn a_management_cluster_that_is_gone_for_good_keeps_nothing() {
    let mut world = World::start().await;
    let services = world.services();
    let (mut uids, copies) = (Vec::new(), world.load_balancers());
    for name in ["a", "b", "c"] {
        let uid = world.create_service(name, |_| {}).await.metadata.uid.unwrap();
        until(&copies, &uid, "the copy", |copy| copy.is_some()).await;
        uids.push(uid);
    }
    world.stop_ccm().await;
    world.hub.server.stop().unwrap();
    world.start_ccm(&["--cleanup-timeout=1s"]);
    for name in ["a", "b", "c"] {
        services.delete(name, &DeleteParams::background()).await.unwrap();
    }
    for name in ["a", "b", "c"] {
        until(&services, name, "the Service is gone", |service| service.is_none()).await;
    }
    let events = world.events().await;
    let told = events
        .iter()
        .filter(|event| event.starts_with("CleanupPostponed"))
        .count();
    assert_eq!(told, 3, "{events:?}");
    // Against all expectation it is back.
    world.hub.server.start(Host::Here).unwrap();
    for uid in &uids {
        until(&copies, uid, "the copy is gone", |copy| copy.is_none()).await;
    }
}
