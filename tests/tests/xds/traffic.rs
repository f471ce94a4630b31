//! Changes under traffic: no request fails, whatever changes and in whatever order Envoy takes it.

use kubelb_tests::xds::Tenant;

use crate::hub::Hub;
use crate::world::{World, listen, web};

#[test]
fn a_route_that_moves_from_one_new_cluster_to_the_next_loses_no_request() {
    let mut world = World::new("xds-switch");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let hub = Hub::start(&world.namespace, world.state(), web("one-0", &[("one-0", one)]));
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(50).unwrap();
    // The old cluster goes with the same change that brings the new one.
    for round in 0..20 {
        let (name, address) = if round % 2 == 0 { ("two", two) } else { ("one", one) };
        let cluster = format!("{name}-{}", round + 1);
        hub.push(web(&cluster, &[(&cluster, address)]));
        load.until_more(50).unwrap();
    }
    let tally = load.finish().unwrap();
    tally.all_good().unwrap();
    assert!(tally.answers.len() == 2, "both backends have answered: {tally:?}");
    hub.assert_no_stall();
}

#[test]
fn a_route_that_moves_between_clusters_that_bring_their_endpoints_along_loses_no_request() {
    let mut world = World::new("xds-static");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let with = |cluster: &str, address| {
        Tenant::new("a")
            .http("web", listen(), "web")
            .routes("web", &[("*", cluster)])
            .static_cluster(cluster, &[address])
            .resources()
    };
    let hub = Hub::start(&world.namespace, world.state(), with("static-0", one));
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(50).unwrap();
    for round in 1..=20 {
        let cluster = format!("static-{round}");
        hub.push(with(&cluster, if round % 2 == 0 { one } else { two }));
        load.until_more(50).unwrap();
    }
    let tally = load.finish().unwrap();
    tally.all_good().unwrap();
    assert!(tally.answers.len() == 2, "both backends have answered: {tally:?}");
    hub.assert_no_stall();
}

#[test]
fn changes_that_come_faster_than_envoy_takes_them_lose_no_request() {
    let mut world = World::new("xds-burst");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let hub = Hub::start(&world.namespace, world.state(), web("start", &[("start", one)]));
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(50).unwrap();
    for round in 0..200 {
        let cluster = format!("cluster-{round}");
        hub.publish(web(&cluster, &[(&cluster, if round % 2 == 0 { one } else { two })]));
        if round % 20 == 0 {
            load.until_more(5).unwrap();
        }
    }
    hub.until_synced();
    load.until_more(100).unwrap();
    load.finish().unwrap().all_good().unwrap();
    hub.assert_no_stall();
}

#[test]
fn a_listener_that_moves_to_other_routes_loses_no_request() {
    let mut world = World::new("xds-rds");
    let one = world.backend("one");
    let with = |routes: &str| {
        Tenant::new("a")
            .http("web", listen(), routes)
            .routes(routes, &[("*", "one")])
            .cluster("one", &[one])
            .resources()
    };
    let hub = Hub::start(&world.namespace, world.state(), with("routes-0"));
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(50).unwrap();
    for round in 1..10 {
        hub.push(with(&format!("routes-{round}")));
        load.until_more(20).unwrap();
    }
    let tally = load.finish().unwrap();
    // A listener whose chain is replaced drains it: a kept connection may be asked to go elsewhere, in good order.
    assert!(tally.answers.keys().all(|(status, _)| *status == 200), "{tally:?}");
    hub.assert_no_stall();
}
