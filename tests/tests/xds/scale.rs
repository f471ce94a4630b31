//! One change among very many resources, with the real Envoy: nothing that it takes may take a second.

use std::net::SocketAddr;
use std::time::Duration;

use kubelb_tests::envoy::Envoy;
use kubelb_tests::traffic::http_get;
use kubelb_tests::wait;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};

use crate::hub::Hub;
use crate::world::{SOON, World, listen, port, web};

const MUST: Duration = Duration::from_secs(1);
/// For all of them at once, on a machine that does something else.
const LOADED: Duration = Duration::from_secs(180);

/// Publishes and waits until all have it; how long that took.
fn change(hub: &Hub<'_>, what: &str, resources: Vec<Resource>) -> Duration {
    let start = wait::now();
    hub.publish(resources);
    hub.until_synced();
    let took = start.elapsed();
    eprintln!("{what}: {took:?}");
    took
}

fn allocated(envoy: &Envoy<'_>) -> u64 {
    let memory: serde_json::Value = serde_json::from_str(&envoy.get("/memory").unwrap()).unwrap();
    memory["allocated"].as_str().unwrap().parse().unwrap()
}

fn with_many(address: SocketAddr, clusters: u16) -> Vec<Resource> {
    let mut resources = web("one", &[("one", address)]);
    let add = |tenant: Tenant, number| tenant.cluster(&format!("cluster-{number}"), &[port(9)]);
    resources.extend((0..clusters).fold(Tenant::new("a"), add).resources());
    resources
}

#[test]
fn a_cluster_more_than_5000() {
    const MANY: u16 = 5_000;
    let mut world = World::new("xds-5000-cds");
    let one = world.backend("one");
    let hub = Hub::start(&world.namespace, world.state(), with_many(one, 0));
    let envoy = world.envoy(&hub, "a");
    let load = world.load();
    let before = allocated(&envoy);
    hub.publish(with_many(one, MANY));
    hub.until_synced_within(LOADED);
    let each = (allocated(&envoy) - before) / u64::from(MANY);
    eprintln!("{each} bytes of Envoy's memory for each cluster");
    assert!(each < 40 * 1024, "{each} bytes for each cluster");
    for round in 1..=5 {
        let took = change(&hub, "a cluster more", with_many(one, MANY + round));
        assert!(took < MUST, "{took:?}");
    }
    let took = change(&hub, "five clusters less", with_many(one, MANY));
    assert!(took < MUST, "{took:?}");
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn a_host_more_than_5000_in_one_route_configuration() {
    let mut world = World::new("xds-5000-rds");
    let one = world.backend("one");
    let with = |hosts: u16| {
        let names: Vec<String> = (0..hosts).map(|number| format!("host-{number}.example")).collect();
        let mut hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "one")).collect();
        hosts.push(("*", "one"));
        Tenant::new("a")
            .http("web", listen(), "web")
            .routes("web", &hosts)
            .cluster("one", &[one])
            .resources()
    };
    let hub = Hub::start(&world.namespace, world.state(), with(5_000));
    let envoy = world.envoy(&hub, "a");
    envoy.until_listener(SOON, "web").unwrap();
    let load = world.load();
    for round in 1..=5 {
        let took = change(&hub, "a host more", with(5_000 + round));
        assert!(took < MUST, "{took:?}");
    }
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn a_chain_more_than_200_in_one_listener() {
    let mut world = World::new("xds-200-chains");
    let one = world.backend("one");
    let made = rcgen::generate_simple_self_signed(vec!["host".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let with = |chains: usize| {
        let chains: Vec<(String, String, String)> = (0..chains)
            .map(|number| {
                (
                    format!("host-{number}.example"),
                    format!("routes-{number}"),
                    format!("secret-{number}"),
                )
            })
            .collect();
        let needs: Vec<(ResourceType, &str)> = chains
            .iter()
            .flat_map(|(_, routes, secret)| {
                [
                    (ResourceType::Route, routes.as_str()),
                    (ResourceType::Secret, secret.as_str()),
                ]
            })
            .collect();
        let listener = xds::chained_listener("chains", port(8443), &chains);
        let tenant = Tenant::new("a").with(&listener, &needs);
        let add = |tenant: Tenant, (_, routes, secret): &(String, String, String)| {
            tenant.routes(routes, &[("*", "one")]).secret(secret, &pem, &key)
        };
        let mut resources = web("one", &[("one", one)]);
        resources.extend(chains.iter().fold(tenant, add).resources());
        resources
    };
    let hub = Hub::start(&world.namespace, world.state(), with(200));
    let envoy = world.envoy_at(&hub.bootstrap("a", &[hub.address()]));
    hub.until_synced_within(LOADED);
    envoy.until_listener(SOON, "chains").unwrap();
    let load = world.load();
    for round in 1..=5 {
        let took = change(&hub, "a chain more", with(200 + round));
        assert!(took < MUST, "{took:?}");
    }
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn a_listener_more_than_1000() {
    let mut world = World::new("xds-1000-lds");
    let one = world.backend("one");
    // Each has an address of its own.
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([127, 1, high, low], 8080))
    };
    let with = |listeners: u16| {
        let tenant = Tenant::new("a").routes("many", &[("*", "one")]);
        let add = |tenant: Tenant, number| tenant.http(&format!("listener-{number}"), address(number), "many");
        let mut resources = web("one", &[("one", one)]);
        resources.extend((0..listeners).fold(tenant, add).resources());
        resources
    };
    let hub = Hub::start(&world.namespace, world.state(), with(1_000));
    let envoy = world.envoy_at(&hub.bootstrap("a", &[hub.address()]));
    hub.until_synced_within(LOADED);
    envoy.until_serving(SOON).unwrap();
    let load = world.load();
    for round in 0..5 {
        let took = change(&hub, "a listener more", with(1_001 + round));
        assert!(took < MUST, "{took:?}");
        let new = address(1_000 + round);
        let (_, took) = wait::until(SOON, || http_get(&world.namespace, new, "/")).unwrap();
        assert!(took < MUST, "{took:?}");
    }
    load.finish().unwrap().all_good().unwrap();
}
