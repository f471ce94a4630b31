//! Envoy holds back acknowledgements, or does not serve, while something is missing that it has asked for. Nothing ever is.

use std::time::Duration;

use kubelb_tests::envoy::Envoy;
use kubelb_tests::traffic::http_get;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};

use crate::hub::Hub;
use crate::world::{SOON, World, listen, port, web};

/// Envoy's own wait for something that it has asked for.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn a_first_configuration_serves_at_once_and_a_change_of_every_type_is_taken_at_once() {
    let mut world = World::new("xds-first");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", one)]));
    let envoy = world.envoy(&hub, "a");
    envoy.until_listener(SOON, "web").unwrap();
    assert_eq!(
        http_get(&world.namespace, listen(), "/").unwrap(),
        (200, "one".to_owned())
    );

    // Endpoints, then a listener and routes beside the first.
    hub.push(web("one", &[("one", two)]));
    assert_eq!(
        http_get(&world.namespace, listen(), "/").unwrap(),
        (200, "two".to_owned())
    );
    let mut more = web("one", &[("one", two)]);
    more.extend(
        Tenant::new("a")
            .http("more", port(8081), "more")
            .routes("more", &[("*", "one")])
            .resources(),
    );
    hub.push(more);
    envoy.until_listener(SOON, "more").unwrap();
    assert_eq!(
        http_get(&world.namespace, port(8081), "/").unwrap(),
        (200, "two".to_owned())
    );
    hub.assert_no_stall();
}

#[test]
fn nothing_to_serve_is_an_answer_too() {
    let world = World::new("xds-empty");
    let hub = Hub::start(&world.namespace, world.state(), Vec::new());
    let envoy = world.envoy(&hub, "a");
    // Without a first answer Envoy would wait for it and not be ready.
    envoy
        .until(FETCH_TIMEOUT / 3, |envoy| envoy.get("/ready").map(drop))
        .unwrap();
    hub.assert_no_stall();
}

#[test]
fn a_new_cluster_has_its_endpoints_right_behind_it_also_when_it_has_none() {
    let mut world = World::new("xds-warm");
    let one = world.backend("one");
    let hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", one)]));
    let envoy = world.envoy(&hub, "a");
    let mut resources = web("one", &[("one", one)]);
    for number in 0..20 {
        let name = format!("new-{number}");
        let addresses = if number % 2 == 0 { vec![one] } else { vec![] };
        resources.extend(Tenant::new("a").cluster(&name, &addresses).resources());
        hub.push(resources.clone());
        assert_eq!(has(&envoy, &name), if number % 2 == 0 { 1 } else { 0 });
    }
    hub.assert_no_stall();
}

#[test]
fn a_cluster_that_changes_and_not_its_endpoints_is_warm_at_once() {
    let mut world = World::new("xds-rewarm");
    let one = world.backend("one");
    let hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", one)]));
    let envoy = world.envoy(&hub, "a");
    let load = world.load();
    for seconds in 2..12 {
        let mut changed = xds::cluster("one");
        changed.connect_timeout = Some(kubelb_xds::pb::google::protobuf::Duration { seconds, nanos: 0 });
        hub.push(web_with(&changed, one));
        assert_eq!(has(&envoy, "one"), 1);
    }
    load.until_more(100).unwrap();
    load.finish().unwrap().all_good().unwrap();
    hub.assert_no_stall();
}

fn web_with(cluster: &xds::Cluster, address: std::net::SocketAddr) -> Vec<Resource> {
    Tenant::new("a")
        .http("web", listen(), "web")
        .routes("web", &[("*", "one")])
        .with(cluster, &[(ResourceType::Endpoints, "one")])
        .with(&xds::endpoints("one", &[address]), &[])
        .resources()
}

#[test]
fn secrets_of_listeners_and_of_clusters_are_there_when_they_are_asked_for() {
    let mut world = World::new("xds-secrets");
    let one = world.backend("one");
    let hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", one)]));
    let envoy = world.envoy(&hub, "a");
    for number in 0..5_u16 {
        let cert = rcgen::generate_simple_self_signed(vec!["web".to_owned()]).unwrap();
        let (pem, key) = (cert.cert.pem(), cert.signing_key.serialize_pem());
        let name = format!("tls-{number}");
        let upstream = xds::cluster_with_tls(&name, &name);
        let mut resources = web("one", &[("one", one)]);
        resources.extend(
            Tenant::new("a")
                .secret(&name, &pem, &key)
                .https(&name, port(9000 + number), &name, &name)
                .routes(&name, &[("*", &name)])
                .with(
                    &upstream,
                    &[(ResourceType::Endpoints, &name), (ResourceType::Secret, &name)],
                )
                .with(&xds::endpoints(&name, &[one]), &[])
                .resources(),
        );
        hub.push(resources);
        // An acknowledged listener may still wait for its certificate; this one serves.
        envoy.until_listener(Duration::from_secs(1), &name).unwrap();
        assert_eq!(has(&envoy, &name), 1);
    }
    hub.assert_no_stall();
}

/// Endpoints of a cluster that Envoy serves.
fn has(envoy: &Envoy<'_>, cluster: &str) -> usize {
    envoy
        .until_cluster(Duration::from_secs(1), cluster)
        .unwrap()
        .endpoints
        .len()
}
