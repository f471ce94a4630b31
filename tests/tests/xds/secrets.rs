//! Certificates that are missing, come late, or are asked for by a handshake.

use std::net::SocketAddr;
use std::time::Duration;

use kubelb_manager::xds::server::Count;
use kubelb_tests::netns::Namespace;
use kubelb_tests::traffic::{self, Trust};
use kubelb_tests::wait;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::hub::{Hub, Setup};
use crate::peer::{Credential, DeltaPeer};
use crate::world::{SOON, World, listen, port, web};

/// What nothing may take longer than.
const AT_ONCE: Duration = Duration::from_secs(1);

struct Certificate {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
}

fn certificate(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    Certificate {
        pem: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// The status of an answer over TLS, from who can show just this certificate for `name`.
fn https_get(
    namespace: &Namespace,
    to: SocketAddr,
    name: &str,
    shown: &CertificateDer<'static>,
) -> anyhow::Result<u16> {
    traffic::https_get(namespace, to, name, &Trust::only(shown)?)
}

#[test]
fn a_cluster_whose_secret_is_missing_is_not_sent_and_keeps_nobody_waiting() {
    let mut world = World::new("xds-no-secret");
    let (one, two) = (world.backend("one"), world.backend("two"));
    let base = |cluster: &str, address| web(cluster, &[(cluster, address)]);
    let secured = || {
        let needs = [(ResourceType::Endpoints, "secured"), (ResourceType::Secret, "secured")];
        Tenant::new("a")
            .with(&xds::cluster_with_tls("secured", "secured"), &needs)
            .with(&xds::endpoints("secured", &[one]), &[])
            .resources()
    };
    let hub = Hub::start(&world.namespace, world.state(), base("first", one));
    let envoy = world.envoy(&hub, "a");
    let is_absent = || {
        envoy
            .clusters()
            .unwrap()
            .iter()
            .all(|cluster| cluster.name != "secured")
    };
    let load = world.load();
    load.until_more(20).unwrap();

    // Beside it, a change that others wait for.
    let mut resources = base("second", two);
    resources.extend(secured());
    hub.publish_incomplete(resources.clone());
    hub.until_synced();
    envoy.until_cluster(AT_ONCE, "second").unwrap();
    assert!(is_absent());
    load.until_more(20).unwrap();
    hub.assert_no_stall();

    // Now it can be used.
    let made = certificate("secured");
    resources.extend(Tenant::new("a").secret("secured", &made.pem, &made.key).resources());
    hub.push(resources);
    envoy.until_cluster(AT_ONCE, "secured").unwrap();
    // Its secret is gone: it goes, and nobody waits for that either.
    let mut resources = base("third", one);
    resources.extend(secured());
    hub.publish_incomplete(resources);
    hub.until_synced();
    envoy.until_cluster(AT_ONCE, "third").unwrap();
    assert!(is_absent());
    load.until_more(20).unwrap();
    load.finish().unwrap().all_good().unwrap();
    hub.assert_no_stall();
}

#[test]
fn a_listener_whose_certificate_is_missing_is_not_sent_and_serves_as_soon_as_it_is_there() {
    let mut world = World::new("xds-no-cert");
    let one = world.backend("one");
    let secured = || {
        Tenant::new("a")
            .https("secured", port(8443), "secured", "secured")
            .routes("secured", &[("*", "one")])
            .resources()
    };
    let mut resources = web("one", &[("one", one)]);
    resources.extend(secured());
    // It is missing from the beginning, when a listener that is not warm keeps all of Envoy from being ready.
    let hub = Hub::with(&world.namespace, world.state(), resources.clone(), Setup::default());
    let envoy = world.envoy(&hub, "a");
    envoy.until_listener(AT_ONCE, "web").unwrap();
    assert!(
        envoy
            .listeners()
            .unwrap()
            .iter()
            .all(|listener| listener.name != "secured")
    );
    let load = world.load();
    load.until_more(20).unwrap();

    let made = certificate("web");
    let secret = |made: &Certificate| Tenant::new("a").secret("secured", &made.pem, &made.key).resources();
    resources.extend(secret(&made));
    hub.publish(resources.clone());
    let (status, took) = wait::until(SOON, || https_get(&world.namespace, port(8443), "web", &made.der)).unwrap();
    assert_eq!(status, 200);
    assert!(took < AT_ONCE, "{took:?}");

    // Another certificate takes its place, on the same listener.
    let next = certificate("web");
    resources.pop();
    resources.extend(secret(&next));
    hub.push(resources);
    assert_eq!(https_get(&world.namespace, port(8443), "web", &next.der).unwrap(), 200);
    load.finish().unwrap().all_good().unwrap();
    hub.assert_no_stall();
}

#[test]
fn an_acknowledged_listener_counts_when_its_certificate_and_routes_are_acknowledged_too() {
    let world = World::new("xds-programmed");
    let made = certificate("web");
    let resources = Tenant::new("a")
        .secret("secret", &made.pem, &made.key)
        .https("web", listen(), "routes", "secret")
        .routes("routes", &[("*", "one")])
        .cluster("one", &[port(9)])
        .resources();
    let hub = Hub::start(&world.namespace, world.state(), resources);
    let issued = hub.issue(&kubelb_manager::identity::SpiffeId::fleet("a").unwrap(), SOON * 60);
    let credential = Credential {
        certificate: Some(&issued),
        token: None,
    };
    let mut peer = DeltaPeer::open(&hub, &credential).unwrap();
    let mut take = |kind: ResourceType, names: &[&str]| {
        peer.ask(kind, names);
        let response = peer.next().unwrap();
        assert_eq!(response.resources.len(), 1, "{kind}");
        peer.ack(&response);
        let acked = || {
            let acks = hub.count(Count::Acks, kind.label());
            anyhow::ensure!(acks == 1, "not acknowledged");
            Ok(())
        };
        wait::until(SOON, acked).unwrap();
    };
    take(ResourceType::Cluster, &[]);
    take(ResourceType::Endpoints, &["one"]);
    take(ResourceType::Listener, &[]);
    assert!(!hub.is_synced(), "without certificate and routes");
    take(ResourceType::Secret, &["secret"]);
    assert!(!hub.is_synced(), "without routes");
    take(ResourceType::Route, &["routes"]);
    hub.until_synced();
}

#[test]
fn a_certificate_that_a_handshake_asks_for_comes_and_an_unknown_name_fails_at_once() {
    let mut world = World::new("xds-on-demand");
    let one = world.backend("one");
    let known = certificate("known.example");
    let base = || -> Vec<Resource> {
        let listener = xds::on_demand_listener("on-demand", port(8443), "routes");
        Tenant::new("a")
            .with(&listener, &[(ResourceType::Route, "routes")])
            .routes("routes", &[("*", "one")])
            .cluster("one", &[one])
            .secret("known.example", &known.pem, &known.key)
            .resources()
    };
    let hub = Hub::start(&world.namespace, world.state(), base());
    let envoy = world.envoy(&hub, "a");
    envoy.until_listener(SOON, "on-demand").unwrap();
    let ask = |name: &str, made: &Certificate| {
        let start = wait::now();
        let answer = https_get(&world.namespace, port(8443), name, &made.der);
        (answer, start.elapsed())
    };
    let (answer, took) = ask("known.example", &known);
    assert_eq!(answer.unwrap(), 200);
    assert!(took < AT_ONCE, "{took:?}");

    let late = certificate("late.example");
    for _ in 0..3 {
        let (answer, took) = ask("late.example", &late);
        answer.unwrap_err();
        assert!(took < AT_ONCE, "a handshake for an unknown name hangs: {took:?}");
    }
    let mut resources = base();
    resources.extend(
        Tenant::new("a")
            .secret("late.example", &late.pem, &late.key)
            .resources(),
    );
    hub.push(resources);
    let (status, took) = wait::until(SOON, || ask("late.example", &late).0).unwrap();
    assert_eq!(status, 200);
    assert!(took < AT_ONCE, "{took:?}");
    // The tenant's own name, and still not another's.
    let (answer, _) = ask("known.example", &known);
    assert_eq!(answer.unwrap(), 200);
    hub.assert_no_stall();
}
