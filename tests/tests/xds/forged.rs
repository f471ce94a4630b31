//! Peers that call themselves what they have not proved to be: refused, in the log, and counted; under a name that is nobody's, served as what they are.

use kubelb_manager::identity::SpiffeId;
use kubelb_manager::xds::server::Count;
use kubelb_tests::wait;
use kubelb_xds::ResourceType;
use tonic::{Code, Status};

use crate::hub::{Hub, now};
use crate::log;
use crate::peer::{Credential, DeltaPeer, SotwPeer};
use crate::trust::{HOUR, OF_B, certificate, hub_with_tokens, shown, token, two_tenants};
use crate::world::{SOON, World};

const REASON: &str = "node_id";

#[test]
fn an_envoy_with_a_forged_node_id_is_refused_and_gets_nothing() {
    let world = World::new("xds-forged");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "a");
    let forged = "fleet/a_forged-by-an-envoy";
    let envoy = world.envoy_at(&hub.bootstrap_with(forged, &issued, &[hub.address()]));
    // It comes back, and nothing has changed.
    wait::until(SOON, || {
        let refused = hub.count(Count::Refused, REASON);
        anyhow::ensure!(refused >= 2, "{}", hub.server().render_metrics());
        Ok(())
    })
    .unwrap();
    log::find(&["WARN", "spiffe://kubelb/fleet/a", forged, "reason=\"node_id\""]).unwrap();
    assert_eq!(hub.total(Count::Responses), 0);
    let dump = envoy.config_dump().unwrap();
    let dynamic: Vec<String> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|part| !part["@type"].as_str().unwrap().contains("Bootstrap"))
        .map(ToString::to_string)
        .collect();
    for (_, name) in OF_B {
        assert!(!dynamic.concat().contains(name), "{name} is in {dynamic:?}");
    }
    assert!(!dynamic.concat().contains("a-cluster"));
    let peers = hub.server().registry().peers();
    assert!(peers.iter().all(|peer| peer.node.is_empty()), "{peers:?}");
}

#[test]
fn who_claims_what_the_credential_is_not_for_is_refused_in_either_form() {
    let world = World::new("xds-claims");
    let hub = hub_with_tokens(&world);
    let fleet = certificate(&hub, "a");
    let agent = hub.issue(&SpiffeId::agent("node-1").unwrap(), HOUR);
    let bearer = token("envoy-a", now() + HOUR);
    let token = Credential {
        certificate: None,
        token: Some(&bearer),
    };
    let mut tried = 0;
    for (credential, claimed) in [
        (shown(&fleet), "fleet/_all"),
        (shown(&fleet), "fleet/b"),
        (shown(&fleet), "fleet/a_b"),
        (shown(&fleet), "agent/node-1"),
        (shown(&agent), "agent/node-2"),
        (shown(&agent), "fleet/a"),
        (token, "fleet/b"),
        (token, "agent/node-1"),
    ] {
        let mut assert_refused = |status: Status| {
            tried += 1;
            assert_eq!(status.code(), Code::PermissionDenied, "{claimed}: {status}");
            assert!(status.message().contains(claimed), "{status}");
            assert_eq!(hub.count(Count::Refused, REASON), tried, "{claimed}");
            hub.assert_logged(&format!("node={claimed:?} reason={REASON:?}"));
        };
        let mut peer = DeltaPeer::open(&hub, &credential).unwrap();
        peer.ask_as(claimed, ResourceType::Cluster, &[]);
        assert_refused(peer.next().expect_err("it was served"));
        let mut peer = SotwPeer::open(&hub, &credential).unwrap();
        peer.ask_as(claimed, ResourceType::Cluster, &[]);
        assert_refused(peer.next().expect_err("it was served"));
    }
    assert_eq!(hub.total(Count::Responses), 0);

    // Nor in the middle of a stream.
    let mut peer = DeltaPeer::open(&hub, &shown(&fleet)).unwrap();
    peer.ask_as("fleet/a", ResourceType::Cluster, &[]);
    let response = peer.next().unwrap();
    peer.ack(&response);
    peer.ask_as("fleet/_all", ResourceType::Listener, &[]);
    let status = peer.next().expect_err("it was served");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(hub.count(Count::Refused, REASON), tried + 1);
}

#[test]
fn a_name_that_is_nobodys_is_a_name() {
    let world = World::new("xds-names");
    let hub = Hub::start(&world.namespace, world.state(), two_tenants());
    let issued = certificate(&hub, "a");
    for name in ["fleet/a", "fleet/a/pod-7", "envoy-7f9c", ""] {
        let mut peer = DeltaPeer::open(&hub, &shown(&issued)).unwrap();
        peer.ask_as(name, ResourceType::Cluster, &[]);
        let response = peer.next().unwrap();
        assert_eq!(response.resources[0].name, "a-cluster");
        assert_eq!(response.resources.len(), 1);
        let peers = hub.server().registry().peers();
        assert!(peers.iter().any(|peer| peer.node == name), "{name}: {peers:?}");
    }
    assert_eq!(hub.total(Count::Refused), 0);
}
