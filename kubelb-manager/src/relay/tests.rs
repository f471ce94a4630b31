use std::time::Duration;

use kubelb_xds::contract::relay::{Relayed, RelayedNode, RelayedPeer};
use kubelb_xds::contract::reports::UnhealthyBackend;
use kubelb_xds::telling::Pace;

use super::*;
use crate::standing::View;
use crate::xds::server::clock;

fn peer(number: u64) -> (u64, OutgoingPeer) {
    let standing = Standing {
        pending: 1,
        unhealthy: vec![UnhealthyBackend {
            address: "10.0.0.1".to_owned(),
            port: 80,
            since: 7,
        }],
        ..Standing::default()
    };
    let view = RelayedView {
        name: format!("node n{number}"),
        node: format!("n{number}"),
        agent: true,
        reports: true,
        ..RelayedView::default()
    };
    let standings = (0..3).map(|listener| (format!("x/web/192.0.2.{number}/{listener}-tcp"), standing.clone()));
    let standings = Some(standings.collect());
    (number, OutgoingPeer { view, standings })
}

fn outgoing(peers: u64, objects: u64) -> Outgoing {
    let digests = (1..=objects).map(|number| (ObjectName::new("x", &format!("o{number}")), number));
    Outgoing {
        peers: (1..=peers).map(peer).collect(),
        digests: Arc::new(digests.collect()),
    }
}

/// Passes on what there is to tell now; how many messages that were.
fn pass(teller: &mut Teller, heard: &mut Heard, now: &mut Instant) -> (usize, Changes) {
    let mut count = 0;
    let mut all = Changes::default();
    while let Some(message) = teller.on_timeout(*now) {
        let changes = heard.take(message, *now).unwrap();
        all.everything |= changes.everything;
        all.objects.extend(changes.objects);
        all.listeners.extend(changes.listeners);
        count += 1;
        *now += PACE.spacing;
    }
    (count, all)
}

#[test]
fn everything_is_told_in_parts_then_only_what_differs() {
    let mut now = clock();
    let pace = Pace {
        message_bytes: 256,
        ..PACE
    };
    let mut teller = Teller::new(pace);
    let mut heard = Heard::new(Limits::default());
    teller.connect(now);
    let (count, _) = pass(&mut teller, &mut heard, &mut now);
    assert_eq!((count, heard.is_complete()), (1, false), "nothing is known yet");

    let mut told = outgoing(4, 30);
    teller.set(&told, now);
    now += pace.spacing;
    let (count, changes) = pass(&mut teller, &mut heard, &mut now);
    assert!(count > 3, "{count}");
    assert!(heard.is_complete() && changes.everything);
    assert_eq!(heard.peers(), 4);
    let views = heard.views(&told.digests);
    assert_eq!(
        views.iter().filter_map(View::node).collect::<Vec<_>>(),
        ["n1", "n2", "n3", "n4"]
    );

    now += Duration::from_secs(1);
    let (count, changes) = pass(&mut teller, &mut heard, &mut now);
    assert_eq!((count, changes), (1, Changes::default()), "a heartbeat");
    let standings = told.peers.get_mut(&1).unwrap().standings.as_mut().unwrap();
    let listener = standings.first_entry().unwrap().remove_entry().0;
    Arc::make_mut(&mut told.digests).insert(ObjectName::new("x", "o1"), 99);
    told.peers.get_mut(&2).unwrap().view.behind = vec!["x/o2".to_owned()];
    teller.set(&told, now);
    let (_, changes) = pass(&mut teller, &mut heard, &mut now);
    assert!(!changes.everything);
    assert_eq!(
        changes.objects,
        ["o1", "o2"].map(|name| ObjectName::new("x", name)).into()
    );
    assert_eq!(changes.listeners, [Arc::from(listener)].into());

    told.peers.remove(&3);
    teller.set(&told, now);
    let (_, changes) = pass(&mut teller, &mut heard, &mut now);
    assert!(changes.everything && heard.peers() == 3);

    // Whoever leads next knows nothing.
    let mut heard = Heard::new(Limits::default());
    teller.disconnect();
    assert_eq!(teller.poll_timeout(), None);
    teller.connect(now);
    pass(&mut teller, &mut heard, &mut now);
    assert!(heard.is_complete() && heard.peers() == 3);
    assert_eq!(heard.views(&told.digests).len(), 3);
}

#[test]
fn nodes_are_told_with_their_age_and_forgotten() {
    let mut now = clock() + Duration::from_secs(100);
    let mut teller = Teller::new(PACE);
    let mut heard = Heard::new(Limits::default());
    let gone = now - Duration::from_secs(30);
    let nodes = [
        ("a".to_owned(), (NodePresence::Closed, gone)),
        ("b".to_owned(), (NodePresence::Heard, gone)),
    ];
    teller.set_nodes(nodes.into());
    teller.set(&Outgoing::default(), now);
    teller.connect(now);
    pass(&mut teller, &mut heard, &mut now);
    let (presence, since) = heard.nodes()["a"];
    assert_eq!(presence, NodePresence::Closed);
    assert!(since >= gone && since < gone + Duration::from_secs(1));
    teller.set_nodes([("b".to_owned(), (NodePresence::Silent, now))].into());
    now += PACE.spacing;
    pass(&mut teller, &mut heard, &mut now);
    assert_eq!(heard.nodes().keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(heard.nodes()["b"].0, NodePresence::Silent);
}

#[test]
fn what_cannot_be_followed_or_is_too_much_ends_the_stream() {
    let now = clock();
    let limits = Limits {
        peers: 1,
        nodes: 1,
        ..Limits::default()
    };
    let message = |sequence| Relayed {
        sequence,
        full: true,
        ..Relayed::default()
    };
    let view = |id| RelayedPeer {
        id,
        view: Some(peer(id).1.view),
        report: None,
    };
    let node = |name: &str| RelayedNode {
        name: name.to_owned(),
        presence: NodePresence::Heard.into(),
        age: 0,
    };
    let refused = |message: Relayed| Heard::new(limits).take(message, now).unwrap_err().reason();
    assert_eq!(refused(message(2)), "sequence");
    let not_full = Relayed {
        full: false,
        ..message(1)
    };
    assert_eq!(refused(not_full), "not_full");
    let peers = Relayed {
        peers: vec![view(1), view(2)],
        ..message(1)
    };
    assert_eq!(refused(peers), "too_many");
    let nodes = Relayed {
        nodes: vec![node("a"), node("b")],
        ..message(1)
    };
    assert_eq!(refused(nodes), "too_many");
    let nameless = Relayed {
        nodes: vec![node("")],
        ..message(1)
    };
    assert_eq!(refused(nameless), "name");
    let report = RelayedPeer {
        view: None,
        report: Some(kubelb_xds::contract::reports::Report::default()),
        ..view(1)
    };
    let stranger = Relayed {
        peers: vec![report],
        ..message(1)
    };
    assert_eq!(refused(stranger), "peer");
}
