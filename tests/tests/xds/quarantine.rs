//! What Envoy refuses costs itself and nothing else, is told, and is forgotten when it is fixed.

use std::time::Duration;

use kubelb_manager::xds::server::Count;
use kubelb_tests::envoy::Envoy;
use kubelb_tests::traffic::http_get;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};

use crate::hub::Hub;
use crate::world::{SOON, World, listen, port, web};

/// Nothing that is good may take longer because of what is not.
const AT_ONCE: Duration = Duration::from_secs(1);

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
    // It came alone: nothing of the other tenant's was in a response that was rejected.
    assert_eq!(hub.total(Count::Nacks), 1);

    hub.publish(with(&fixed));
    kubelb_tests::wait::until(Duration::from_secs(2), || {
        let peers = hub.server().registry().peers();
        anyhow::ensure!(peers.iter().all(|peer| peer.rejections.is_empty()), "{peers:?}");
        Ok(())
    })
    .unwrap();
    hub.until_synced();
    load.finish().unwrap().all_good().unwrap();
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

/// Publishes tenant b's `bad` and, in the same response, `good` ones; these serve within a second, and only the bad one is told of.
fn costs_not_even_its_neighbours(
    role: &str,
    bad: Vec<Resource>,
    (kind, name): (ResourceType, &str),
    good: Vec<Resource>,
    serves: impl Fn(&Envoy<'_>) -> anyhow::Result<()>,
) {
    let mut world = World::new(role);
    let one = world.backend("one");
    let base = || web("one", &[("one", one)]);
    let hub = Hub::start(&world.namespace, world.state(), base());
    let envoy = world.envoy(&hub, "a,b");
    let load = world.load();
    load.until_more(20).unwrap();

    let mut resources = base();
    resources.extend(bad);
    resources.extend(good);
    hub.publish(resources);
    envoy.until(AT_ONCE, serves).unwrap();
    hub.until_synced();
    let peers = hub.server().registry().peers();
    let rejected: Vec<_> = peers[0].rejections.keys().collect();
    assert_eq!(rejected, [&(kind, name.into())]);
    // It is not tried again and again.
    let nacks = hub.total(Count::Nacks);
    if kind == ResourceType::Route {
        assert_eq!(nacks, 1, "no two route configurations come in one response");
    }
    load.until_more(200).unwrap();
    assert_eq!(hub.total(Count::Nacks), nacks);
    load.finish().unwrap().all_good().unwrap();
    hub.assert_no_stall();
}

const NEIGHBOURS: u16 = 20;

fn neighbour(number: u16) -> String {
    format!("good-{number}")
}

fn good_clusters() -> Vec<Resource> {
    let add = |tenant: Tenant, number| tenant.cluster(&neighbour(number), &[port(9)]);
    (0..NEIGHBOURS).fold(Tenant::new("b"), add).resources()
}

fn bad_cluster(cluster: &xds::Cluster) -> Vec<Resource> {
    Tenant::new("b")
        .with(cluster, &[(ResourceType::Endpoints, "bad")])
        .with(&xds::endpoints("bad", &[port(9)]), &[])
        .resources()
}

fn has_all_clusters(envoy: &Envoy<'_>) -> anyhow::Result<()> {
    let clusters = envoy.clusters()?;
    let all = (0..NEIGHBOURS).all(|number| clusters.iter().any(|cluster| cluster.name == neighbour(number)));
    anyhow::ensure!(all, "not all: {clusters:?}");
    Ok(())
}

#[test]
fn a_cluster_that_breaks_a_rule_of_the_schema_among_good_ones_of_the_same_response() {
    let mut bad = xds::cluster("bad");
    bad.connect_timeout = Some(kubelb_xds::pb::google::protobuf::Duration { seconds: 0, nanos: 0 });
    costs_not_even_its_neighbours(
        "xds-pgv-cds",
        bad_cluster(&bad),
        (ResourceType::Cluster, "bad"),
        good_clusters(),
        has_all_clusters,
    );
}

#[test]
fn a_cluster_that_makes_no_sense_among_good_ones_of_the_same_response() {
    use kubelb_xds::pb::envoy::config::cluster::v3::cluster::LbPolicy;

    let mut bad = xds::cluster("bad");
    bad.lb_policy = LbPolicy::ClusterProvided.into();
    costs_not_even_its_neighbours(
        "xds-sense-cds",
        bad_cluster(&bad),
        (ResourceType::Cluster, "bad"),
        good_clusters(),
        has_all_clusters,
    );
}

/// Listeners of tenant b on ports of their own, all to the same routes.
fn listeners(bad: &xds::Listener) -> (Vec<Resource>, Vec<Resource>) {
    let bad = Tenant::new("b").with(bad, &[(ResourceType::Route, "b")]).resources();
    let shared = Tenant::new("b").routes("b", &[("*", "b")]).cluster("b", &[port(9)]);
    let add = |tenant: Tenant, number| tenant.http(&neighbour(number), port(9100 + number), "b");
    (bad, (0..NEIGHBOURS).fold(shared, add).resources())
}

fn has_all_listeners(envoy: &Envoy<'_>) -> anyhow::Result<()> {
    let listeners = envoy.listeners()?;
    let all = (0..NEIGHBOURS).all(|number| listeners.iter().any(|listener| listener.name == neighbour(number)));
    anyhow::ensure!(all, "not all: {listeners:?}");
    Ok(())
}

#[test]
fn a_listener_that_breaks_a_rule_of_the_schema_among_good_ones_of_the_same_response() {
    let mut bad = xds::http_listener("bad", port(8082), "b");
    // One of its fields is required.
    bad.connection_balance_config = Some(Default::default());
    let (bad, good) = listeners(&bad);
    let name = (ResourceType::Listener, "bad");
    costs_not_even_its_neighbours("xds-pgv-lds", bad, name, good, has_all_listeners);
}

#[test]
fn a_listener_that_makes_no_sense_among_good_ones_of_the_same_response() {
    let mut bad = xds::http_listener("bad", port(8082), "b");
    bad.filter_chains.push(bad.filter_chains[0].clone());
    let (bad, good) = listeners(&bad);
    let name = (ResourceType::Listener, "bad");
    costs_not_even_its_neighbours("xds-sense-lds", bad, name, good, has_all_listeners);
}

#[test]
fn routes_that_break_a_rule_of_the_schema_beside_good_ones() {
    let mut bad = xds::routes("bad", &[("*", "b")]);
    // A host must have a name.
    bad.virtual_hosts[0].name.clear();
    let bad = Tenant::new("b")
        .with(&bad, &[(ResourceType::Cluster, "b")])
        .http("bad", port(8082), "bad")
        .resources();
    let shared = Tenant::new("b").cluster("b", &[port(9)]);
    let add = |tenant: Tenant, number| {
        let name = neighbour(number);
        tenant
            .http(&name, port(9100 + number), &name)
            .routes(&name, &[("*", "b")])
    };
    let good = (0..NEIGHBOURS).fold(shared, add).resources();
    let name = (ResourceType::Route, "bad");
    costs_not_even_its_neighbours("xds-pgv-rds", bad, name, good, has_all_listeners);
}
