//! Managers that die, end, and share peers: an Envoy that moves is sent nothing that it has, and serves all the time.

use kubelb_manager::xds::server::{Count, Options};
use kubelb_tests::xds::Tenant;
use kubelb_xds::Resource;

use std::time::Duration;

use crate::hub::{Hub, Setup};
use crate::relay::Relay;
use crate::world::{SOON, World, port, web};

/// Tenant a's web, and clusters enough that a push takes a while.
fn many(world: &mut World, clusters: u16) -> Vec<Resource> {
    let one = world.backend("one");
    let mut resources = web("one", &[("one", one)]);
    for number in 0..clusters {
        let name = format!("cluster-{number}");
        resources.extend(Tenant::new("a").cluster(&name, &[port(1000 + number)]).resources());
    }
    resources
}

#[test]
fn a_manager_that_comes_back_sends_nothing_again() {
    let mut world = World::new("xds-restart");
    let resources = many(&mut world, 200);
    let mut hub = Hub::start(&world.namespace, world.state(), resources);
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(20).unwrap();
    for orderly in [false, true] {
        if orderly {
            hub.stop();
        } else {
            hub.kill();
        }
        load.until_more(20).unwrap();
        hub.restart();
        hub.until_synced();
        assert_eq!(hub.total(Count::Resources), 0, "{}", hub.server().render_metrics());
        assert_eq!(hub.total(Count::Removals), 0);
        load.until_more(20).unwrap();
    }
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn a_manager_killed_in_the_middle_of_a_push_goes_on_where_envoy_is() {
    const MORE: u16 = 2_000;
    let mut world = World::new("xds-killed");
    let resources = many(&mut world, 10);
    let more = many(&mut world, MORE);
    let mut hub = Hub::start(&world.namespace, world.state(), resources);
    let relay = Relay::start(&world.namespace, hub.address());
    let envoy = world.envoy_at(&hub.bootstrap("a", &[relay.address()]));
    hub.until_synced();
    envoy.until_serving(SOON).unwrap();
    let load = world.load();
    load.until_more(20).unwrap();

    // Envoy gets the first part of the response and no more; then there is no manager.
    let acknowledged = hub.total(Count::Acks);
    let updates = envoy.stat("cluster_manager.cds.update_success").unwrap();
    let sent = hub.count(Count::Resources, "cds");
    relay.let_pass(5_000);
    hub.publish(more);
    relay.until_stuck();
    assert!(hub.count(Count::Resources, "cds") > sent + 50, "they are on their way");
    assert_eq!(hub.total(Count::Acks), acknowledged);
    hub.kill();
    assert_eq!(envoy.stat("cluster_manager.cds.update_success").unwrap(), updates);
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected").unwrap(), 0);
    load.until_more(50).unwrap();

    relay.let_all_pass();
    hub.restart();
    hub.until_synced_within(SOON * 6);
    let clusters = envoy.clusters().unwrap();
    let dynamic = clusters.iter().filter(|cluster| cluster.dynamic).count();
    assert_eq!(dynamic, usize::from(MORE) + 1);
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn what_changes_while_no_manager_is_there_loses_no_request() {
    let mut world = World::new("xds-away");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let mut hub = Hub::start(&world.namespace, world.state(), web("cluster-0", &[("cluster-0", one)]));
    let _envoy = world.envoy(&hub, "a");
    let load = world.load();
    load.until_more(20).unwrap();
    for round in 1..=4 {
        hub.kill();
        load.until_more(20).unwrap();
        // The cluster that routes lead to goes, and another comes: all that the peer brings along is of before.
        let cluster = format!("cluster-{round}");
        hub.publish(web(&cluster, &[(&cluster, if round % 2 == 0 { one } else { two })]));
        hub.restart();
        hub.until_synced();
        load.until_more(20).unwrap();
        hub.assert_no_stall();
        assert_eq!(hub.count(Count::Removals, "cds"), 1);
    }
    let tally = load.finish().unwrap();
    tally.all_good().unwrap();
    assert_eq!(tally.answers.len(), 2, "both backends have answered: {tally:?}");
}

#[test]
fn an_envoy_that_is_moved_between_two_equal_managers_is_sent_nothing() {
    let mut world = World::new("xds-replicas");
    let resources = many(&mut world, 100);
    let mut first = Hub::start(&world.namespace, world.state(), resources.clone());
    let mut second = Hub::start(&world.namespace, world.state(), resources);
    let bootstrap = first.bootstrap("a", &[first.address(), second.address()]);
    let envoy = world.envoy_at(&bootstrap);
    envoy.until_listener(SOON, "web").unwrap();
    let load = world.load();
    for _ in 0..2 {
        // Whichever it is at goes away; the figures of the other then start at nothing.
        let (at, other) = if first.server().registry().peers().is_empty() {
            (&mut second, &first)
        } else {
            (&mut first, &second)
        };
        let before = other.total(Count::Resources);
        at.stop();
        other.until_synced();
        assert_eq!(other.total(Count::Resources), before);
        load.until_more(20).unwrap();
        at.restart();
    }
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn a_connection_that_has_grown_old_is_replaced_and_nothing_is_sent_again() {
    let mut world = World::new("xds-age");
    let resources = many(&mut world, 50);
    let options = Options {
        max_connection_age: Duration::from_millis(500),
        ..Options::default()
    };
    let setup = Setup {
        options,
        ..Setup::default()
    };
    let hub = Hub::with(&world.namespace, world.state(), resources, setup);
    let envoy = world.envoy(&hub, "a");
    let load = world.load();
    let sent = hub.total(Count::Resources);
    envoy
        .until(SOON * 2, |_| {
            let connections = hub.total(Count::Connections);
            anyhow::ensure!(connections >= 4, "{connections} connections");
            Ok(())
        })
        .unwrap();
    hub.until_synced();
    assert_eq!(hub.total(Count::Resources), sent);
    load.finish().unwrap().all_good().unwrap();
}
