//! What managers tell each other: who may, when one listens, and what ends it.

use std::time::{Duration, Instant};

use kubelb_manager::identity::SpiffeId;
use kubelb_manager::owners::Standing;
use kubelb_manager::relay::Digests;
use kubelb_manager::relay::sighting;
use kubelb_manager::xds::server::Count;
use kubelb_tests::wait;
use kubelb_xds::contract::relay::{NodePresence, Relayed, RelayedNode, RelayedPeer, RelayedView};
use tonic::Code;

use crate::hub::{Hub, now};
use crate::peer::{Credential, DeltaPeer, Reporting, tell_as_manager};
use crate::trust::{HOUR, certificate, hub_with_tokens, shown, token};
use crate::world::{SOON, World};

fn message(sequence: u64) -> Relayed {
    Relayed {
        sequence,
        full: sequence == 1,
        ..Relayed::default()
    }
}

#[test]
fn nobody_but_a_manager_tells_a_manager_of_peers_and_a_manager_is_no_peer() {
    let world = World::new("xds-relay-trust");
    let hub = hub_with_tokens(&world);
    hub.server().relays().lead(true);
    let agent = hub.issue(&SpiffeId::agent("node-1").unwrap(), HOUR);
    let (one, all) = (certificate(&hub, "a"), certificate(&hub, "*"));
    // A tenant's CCM, and the token that Envoys of a tenant have.
    let tokens = ["tenant-a-ccm", "envoy-a"].map(|account| token(account, now() + HOUR));
    let credentials = [
        Credential::default(),
        shown(&agent),
        shown(&one),
        shown(&all),
        Credential {
            certificate: None,
            token: Some(&tokens[0]),
        },
        Credential {
            certificate: None,
            token: Some(&tokens[1]),
        },
    ];
    for (tried, credential) in (1..).zip(&credentials) {
        let refused = tell_as_manager(&hub, credential).err().expect("it was listened to");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert_eq!(hub.count(Count::Refused, "no_manager"), tried);
    }
    hub.assert_logged("relay refused");

    let manager = hub.issue(&SpiffeId::manager("other"), HOUR);
    let refused = DeltaPeer::open(&hub, &shown(&manager)).err().expect("it was served");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let reporting = Reporting::open(&hub, &shown(&manager));
    assert_eq!(reporting.end().code(), Code::PermissionDenied);
    assert_eq!(hub.count(Count::Refused, "manager"), 2);
    assert_eq!(hub.total(Count::Responses), 0);
}

#[test]
fn only_the_leader_listens_and_what_it_was_told_counts_while_the_teller_lives() {
    let world = World::new("xds-relay");
    let hub = Hub::start(&world.namespace, world.state(), Vec::new());
    let manager = hub.issue(&SpiffeId::manager("other"), HOUR);
    let refused = tell_as_manager(&hub, &shown(&manager)).err().expect("it does not lead");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(hub.count(Count::Refused, "not_leading"), 1);

    let relays = hub.server().relays();
    relays.lead(true);
    let relaying = tell_as_manager(&hub, &shown(&manager)).unwrap();
    let view = RelayedView {
        name: "node n".to_owned(),
        node: "n".to_owned(),
        agent: true,
        ..RelayedView::default()
    };
    relaying.send(Relayed {
        peers: vec![RelayedPeer {
            id: 7,
            view: Some(view),
            report: None,
        }],
        nodes: vec![RelayedNode {
            name: "n".to_owned(),
            presence: NodePresence::Heard.into(),
            age: 0,
        }],
        ..message(1)
    });
    let standing = |at: Instant| {
        let nodes = sighting::nodes(relays.sightings(at), None, &[].into(), at);
        nodes.get("n").copied()
    };
    wait::until(SOON, || {
        let now = wait::now();
        let views = relays.views(&Digests::new(), &[], now).len();
        anyhow::ensure!((views, standing(now)) == (1, Some(Standing::Here)), "{views}");
        Ok(())
    })
    .unwrap();
    let figures = hub.server().render_metrics();
    for line in ["kubelb_manager_relay_streams 1", "kubelb_manager_relay_peers 1"] {
        assert!(figures.contains(line), "{figures}");
    }
    // It says nothing for a while: it may be gone, then those that it heard are on their way, then they are lost.
    let heard = wait::now();
    assert_eq!(standing(heard + Duration::from_millis(2_500)), Some(Standing::Away));
    assert_eq!(standing(heard + Duration::from_secs(4)), None);

    relaying.send(message(3));
    assert_eq!(relaying.end().code(), Code::Aborted, "a message is missing");
    let figures = hub.server().render_metrics();
    assert!(
        figures.contains("kubelb_manager_relay_faults_total{reason=\"sequence\"} 1"),
        "{figures}"
    );
    let relaying = tell_as_manager(&hub, &shown(&manager)).unwrap();
    relays.lead(false);
    assert_eq!(relaying.end().code(), Code::FailedPrecondition);
    assert!(relays.views(&Digests::new(), &[], wait::now()).is_empty());
}
