//! What Envoy refuses costs itself and nothing else, is told, and is forgotten when it is fixed.

use std::time::Duration;

use kubelb_manager::xds::server::Count;
use kubelb_tests::traffic::http_get;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};

use crate::hub::Hub;
use crate::world::{SOON, World, listen, port, web};

/// Publishes `bad` of tenant b beside a change of tenant a, looks, then publishes `fixed`.
fn costs_only_itself(role: &str, bad: Vec<Resource>, fixed: Vec<Resource>, kind: ResourceType, name: &str) {
    let mut world = World::new(role);
    let (one, two) = (world.backend("one"), world.backend("two"));
    let hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", one)]));
    let envoy = world.envoy(&hub, "a,b");
    let load = world.load();
    load.until_more(20).unwrap();

    let with = |others: &[Resource]| {
        let mut resources = web("two", &[("two", two)]);
        resources.extend(others.iter().cloned());
        resources
    };
    hub.publish(with(&bad));
    let rejection = kubelb_tests::wait::until(SOON, || {
        let peers = hub.server().registry().peers();
        let peer = peers.first().ok_or_else(|| anyhow::anyhow!("gone"))?;
        let found = peer.rejections.get(&(kind, name.into()));
        found
            .cloned()
            .ok_or_else(|| anyhow::anyhow!("not rejected: {:?}", peer.rejections))
    })
    .unwrap()
    .0;
    assert!(!rejection.reason.is_empty());
    // What came with it is there all the same.
    hub.until_synced();
    envoy
        .until(SOON, |_| {
            let answer = http_get(&world.namespace, listen(), "/")?;
            anyhow::ensure!(answer == (200, "two".to_owned()), "{answer:?}");
            Ok(())
        })
        .unwrap();
    let peers = hub.server().registry().peers();
    assert_eq!(peers[0].rejections.len(), 1, "{:?}", peers[0].rejections);

    hub.publish(with(&fixed));
    kubelb_tests::wait::until(Duration::from_secs(2), || {
        let peers = hub.server().registry().peers();
        anyhow::ensure!(peers.iter().all(|peer| peer.rejections.is_empty()), "{peers:?}");
        Ok(())
    })
    .unwrap();
    hub.until_synced();
    load.finish().unwrap().all_good().unwrap();
    assert!(hub.total(Count::Nacks) > 0);
}

#[test]
fn a_cluster_that_breaks_a_rule_of_the_schema() {
    let mut bad = xds::cluster("bad");
    bad.connect_timeout = Some(kubelb_xds::pb::google::protobuf::Duration { seconds: 0, nanos: 0 });
    let b = |cluster: &xds::Cluster| {
        Tenant::new("b")
            .with(cluster, &[(ResourceType::Endpoints, "bad")])
            .with(&xds::endpoints("bad", &[port(9)]), &[])
            .resources()
    };
    costs_only_itself(
        "xds-nack-cds",
        b(&bad),
        b(&xds::cluster("bad")),
        ResourceType::Cluster,
        "bad",
    );
}

#[test]
fn routes_with_one_domain_twice() {
    let b = |hosts: &[(&str, &str)]| {
        Tenant::new("b")
            .http("b", port(8082), "b")
            .routes("b", hosts)
            .cluster("b", &[port(9)])
            .resources()
    };
    let bad = b(&[("x.example", "b"), ("X.example", "b")]);
    costs_only_itself("xds-nack-rds", bad, b(&[("x.example", "b")]), ResourceType::Route, "b");
}

#[test]
fn a_listener_without_a_filter_that_ends() {
    let b = |listener: &xds::Listener| {
        Tenant::new("b")
            .with(listener, &[(ResourceType::Route, "b")])
            .routes("b", &[("*", "b")])
            .cluster("b", &[port(9)])
            .resources()
    };
    let good = xds::http_listener("b", port(8082), "b");
    let mut bad = good.clone();
    // Two chains with equal matches.
    bad.filter_chains.push(bad.filter_chains[0].clone());
    costs_only_itself("xds-nack-lds", b(&bad), b(&good), ResourceType::Listener, "b");
}
