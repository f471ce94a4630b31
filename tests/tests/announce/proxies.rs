//! An Envoy and several managers: what it has taken of one is told by another, and one that is killed takes nothing with it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kube::core::CustomResourceExt as _;
use kubelb_api::v1alpha1::{Config, Route};
use kubelb_tests::envoy::{self, Envoy};
use kubelb_tests::lan::{self, FIRST_FREE, Host};
use kubelb_tests::traffic::{HttpLoad, Kind, Server, http_get};
use kubelb_tests::wait;
use serde_json::{Value, json};

use crate::site::{NAMESPACE, Site, TENANT};

const GATEWAY: &str = "gateway";
const ROUTE: &str = "route";
const NODE_PORTS: [(&str, u16); 2] = [("one", 30_801), ("two", 30_802)];

fn vip() -> SocketAddr {
    SocketAddr::new(lan::v4(FIRST_FREE + 1).into(), 80)
}

/// A Route for an object of the tenant.
fn route(kind: &str, spec: &Value, services: &[Value]) -> Value {
    let resource = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"namespace": "default", "name": kind.to_ascii_lowercase(), "generation": 1}, "spec": spec,
    });
    json!({
        "endpoints": [{"addressesReference": {"name": "default"}}],
        "source": {"kubernetes": {"resource": resource, "services": services}},
    })
}

/// Everything to one backend.
fn all_to(backend: &str) -> Value {
    let services = NODE_PORTS.map(|(name, port)| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
            "spec": {"ports": [{"port": 8080, "nodePort": port}]},
        })
    });
    let spec = json!({
        "parentRefs": [{"name": GATEWAY}],
        "rules": [{"backendRefs": [{"name": backend, "port": 8080}]}],
    });
    route("HTTPRoute", &spec, &services)
}

/// The tenant's Gateway, its servers, and the machine of its Envoy, which has the address.
struct Web {
    host: Host,
    _servers: [Server; 2],
}

impl Web {
    fn new(site: &Site) -> Self {
        let servers = NODE_PORTS.map(|(name, port)| Server::start(site.servers(), Kind::Http, name, port).unwrap());
        let host = site.machine("proxy");
        let address = format!("{}/32", vip().ip());
        host.namespace.ip(&["address", "add", &address, "dev", "lo"]).unwrap();
        let [v4, v6] = crate::world::vips();
        let ranges = json!([format!("{v4}/32"), address, format!("{v6}/128")]);
        let pools = json!({"addressPools": [{"name": "lan", "ranges": ranges}]});
        site.change(&Config::api_resource(), NAMESPACE, "default", &pools);
        let gateway = json!({
            "gatewayClassName": "kubelb", "addresses": [{"type": "IPAddress", "value": vip().ip()}],
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        });
        let route_resource = Route::api_resource();
        site.create(&route_resource, TENANT, GATEWAY, &route("Gateway", &gateway, &[]));
        site.create(&route_resource, TENANT, ROUTE, &all_to("one"));
        Self {
            host,
            _servers: servers,
        }
    }

    /// An Envoy that finds no manager but this one; later, the other one too.
    fn envoy_at(&self, site: &Site, node: usize) -> Envoy<'_> {
        let other = format!("{}/32", site.address(1 - node));
        let at = |what: &str| self.host.namespace.ip(&["route", what, "unreachable", &other]).unwrap();
        at("add");
        let managers = [0, 1].map(|node| site.address(node));
        let bootstrap = site.bootstrap(&["--fleet", "x"], &managers);
        let envoy = Envoy::start(&self.host.namespace, envoy::Setup::default(), &bootstrap).unwrap();
        self.until_answered_by(site, "one");
        at("del");
        envoy
    }

    /// Waits until this backend answers; when it did.
    fn until_answered_by(&self, site: &Site, backend: &str) -> Instant {
        site.wait(|| {
            let (status, body) = http_get(&self.host.namespace, vip(), "/")?;
            ensure!(status == 200 && body.contains(backend), "{status}: {body}");
            Ok(wait::now())
        })
    }

    fn load(&self) -> HttpLoad {
        HttpLoad::start(&self.host.namespace, vip(), "web", 2).unwrap()
    }
}

/// What both objects are told of being served: whether, and why.
fn said(site: &Site) -> anyhow::Result<[(String, String); 2]> {
    let of = |name| {
        let condition = site.condition(&Route::api_resource(), name, "Programmed")?;
        anyhow::Ok((condition.status, condition.reason))
    };
    Ok([of(GATEWAY)?, of(ROUTE)?])
}

fn served() -> [(String, String); 2] {
    [(); 2].map(|()| ("True".to_owned(), "Programmed".to_owned()))
}

/// Waits until the route as it is now is served, by its status.
fn until_served(site: &Site, generation: i64) {
    site.wait(|| {
        let condition = site.condition(&Route::api_resource(), ROUTE, "Programmed")?;
        let found = (condition.observed_generation, condition.status.as_str());
        ensure!(found == (Some(generation), "True"), "{found:?}: {}", condition.message);
        let all = said(site)?;
        ensure!(all == served(), "{all:?}");
        Ok(())
    });
}

#[test]
fn an_envoy_whose_manager_is_killed_goes_on_and_is_told_of_by_another() {
    let mut site = Site::new();
    site.start_manager(0);
    site.until_led_by(0, 0);
    site.start_manager(1);
    site.until_led_by(0, 1);
    let web = Web::new(&site);
    let _envoy = web.envoy_at(&site, 1);
    // The first manager leads, and knows by the second alone.
    until_served(&site, 1);
    let peers = ["relay_peers", "relay_streams"].map(|figure| site.figure(0, &format!("kubelb_manager_{figure}")));
    assert_eq!(peers.map(Result::unwrap), [1, 1]);
    let load = web.load();
    let change = |site: &Site, backend: &str| {
        site.change(&Route::api_resource(), TENANT, ROUTE, &all_to(backend));
    };
    change(&site, "two");
    web.until_answered_by(&site, "two");
    until_served(&site, 2);

    // The Envoy's manager, which does not lead; then the one that it has found, which does.
    let mut generation = 2;
    for (killed, backend) in [(1, "one"), (0, "two")] {
        load.until_more(20).unwrap();
        let start = wait::now();
        site.kill_manager(killed);
        change(&site, backend);
        generation += 1;
        let taken = web.until_answered_by(&site, backend).duration_since(start);
        eprintln!("the manager of an Envoy was killed: a change is served after {taken:?}");
        // Longer than a leader waits for whom it has not heard. That the Envoy is slow may be said, not that there is none.
        let mut reasons = BTreeSet::new();
        let until = start + Duration::from_secs(7);
        while wait::now() < until {
            reasons.extend(said(&site).unwrap().map(|(_, reason)| reason));
            wait::pause(Duration::from_millis(100));
        }
        reasons.remove("Pending");
        assert_eq!(reasons, ["Programmed".to_owned()].into());
        until_served(&site, generation);
        site.until_led_by(1 - killed, 0);
        if killed == 1 {
            site.start_manager(1);
            site.until_led_by(0, 1);
        }
    }
    let tally = load.finish().unwrap();
    tally.all_good().unwrap();
    assert!(tally.answers.len() >= 2, "{tally:?}");
}
