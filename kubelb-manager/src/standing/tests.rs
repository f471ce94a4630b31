mod layer7;

use std::net::SocketAddr;
use std::sync::Weak;
use std::time::SystemTime;

use kubelb_xds::ResourceType;
use kubelb_xds::contract::reports::{ListenerReport, Report as Wire, Standing, UnhealthyBackend};
use kubelb_xds::reports::Limits;
use serde_json::json;

use super::*;
use crate::hub::Hub;
use crate::identity::Identity;
use crate::object::decode;
use crate::relay::{Digests, Heard, Outgoing, PACE, Teller, digest};
use crate::source::manifest;
use crate::status::Health;
use crate::xds::server::clock;
use crate::xds::server::registry::{PeerRejection, Protocol};

const OBJECTS: &str = "
apiVersion: kubelb.k8c.io/v1alpha1
kind: Tenant
metadata: {name: x}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Addresses
metadata: {name: default, namespace: tenant-x}
spec: {addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}, {ip: 10.0.0.3}]}
";

/// What is served for objects called so, all on one address.
fn hub(names: &[&str]) -> Hub {
    let mut hub = Hub::new("kubelb");
    for entry in manifest::read(OBJECTS, |_| {}).entries {
        hub.apply(entry.seen);
    }
    for (port, name) in (80..).zip(names) {
        let object = json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
            "metadata": {"name": name, "namespace": "tenant-x"},
            "spec": {
                "endpoints": [{"addressesReference": {"name": "default"}, "ports": [{"port": 30_080}]}],
                "ports": [{"port": port}], "type": "LoadBalancer",
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
        });
        hub.apply(Ok(decode(object).unwrap()));
    }
    hub.settle(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        "2026-01-01T00:00:00Z".parse().unwrap(),
    ));
    hub
}

fn name(object: &str) -> ObjectName {
    ObjectName::new("tenant-x", object)
}

fn listener(object: &str, port: u16) -> String {
    format!("tenant-x/{object}/203.0.113.1/{port}-tcp")
}

fn agent(node: &str, snapshot: &Arc<Snapshot>) -> Peer {
    Peer {
        identity: Identity {
            subject: format!("spiffe://kubelb/agent/{node}"),
            scope: Scope::Agent,
            node: Some(node.to_owned()),
            expires: SystemTime::UNIX_EPOCH,
        },
        connection: 0,
        address: SocketAddr::from(([127, 0, 0, 1], 1)),
        protocol: Protocol::Delta,
        node: String::new(),
        since: SystemTime::UNIX_EPOCH,
        types: BTreeSet::new(),
        snapshot: Arc::downgrade(snapshot),
        synced: true,
        behind: Behind::Names(Arc::default()),
        rejections: Arc::default(),
    }
}

fn told(listeners: &[(&str, Standing)]) -> (Presence, Arc<Received>) {
    let mut received = Received::new(Limits::default());
    let report = Wire {
        instance: 1,
        sequence: 1,
        full: true,
        listeners: listeners
            .iter()
            .map(|(name, standing)| ListenerReport {
                name: (*name).to_owned(),
                standing: Some(standing.clone()),
                traffic: None,
            })
            .collect(),
        ..Wire::default()
    };
    received.take(report).unwrap();
    (Presence::Heard, received.into())
}

/// Of three backends, these do not answer and so many have no result yet.
fn standing(unhealthy: &[u8], pending: u32) -> Standing {
    let many = u32::try_from(unhealthy.len()).unwrap();
    Standing {
        healthy: 3 - many - pending,
        pending,
        unhealthy: unhealthy
            .iter()
            .map(|last| UnhealthyBackend {
                address: format!("10.0.0.{last}"),
                port: 30_080,
                since: 1,
            })
            .collect(),
        ..Standing::default()
    }
}

fn health(healthy: usize, checked: usize, disputed: usize) -> Option<Health> {
    Some(Health {
        healthy,
        checked,
        disputed,
    })
}

#[test]
fn an_object_is_served_by_those_who_took_this_version_of_its_resources() {
    let hub = hub(&["a", "b"]);
    let snapshot = Arc::new(hub.snapshot().clone());
    let view = |peer: &Peer| View::new(peer, None, &snapshot).unwrap();
    let done = agent("n1", &snapshot);
    let mut late = agent("n2", &snapshot);
    late.behind = Some([(ResourceType::Listener, listener("a", 80).into())].into()).into();
    let mut new = agent("n3", &snapshot);
    new.behind = Behind::Everything;
    let mut old = agent("n4", &snapshot);
    old.snapshot = Weak::new();
    let mut refusing = agent("n5", &snapshot);
    let rejection = PeerRejection {
        version: "1".to_owned(),
        reason: "no".to_owned(),
    };
    refusing.rejections = Arc::new([((ResourceType::Cluster, "tenant-x/b/81-tcp/v4".into()), rejection)].into());
    let mut fleet = agent("n6", &snapshot);
    fleet.identity.scope = Scope::Fleet(Tenants::All);
    let views: Vec<View> = [&done, &late, &new, &old, &refusing, &fleet].map(view).into();
    let a = report(hub.ir().load_balancer(&name("a")).unwrap(), &views);
    assert_eq!((a.programmed, a.pending, a.rejected.len()), (2, 3, 0), "{a:?}");
    let b = report(hub.ir().load_balancer(&name("b")).unwrap(), &views);
    assert_eq!((b.programmed, b.pending), (2, 2), "{b:?}");
    assert_eq!(b.rejected, ["node n5: Cluster tenant-x/b/81-tcp/v4: no"]);
}

#[test]
fn what_an_agent_took_and_does_not_forward_is_said() {
    let hub = hub(&["a"]);
    let snapshot = Arc::new(hub.snapshot().clone());
    let mut full = standing(&[], 0);
    full.problem = "no room".to_owned();
    let told = told(&[(&listener("a", 80), full)]);
    let views: Vec<View> = ["n1", "n2"]
        .map(|node| View::new(&agent(node, &snapshot), Some(&told), &snapshot).unwrap())
        .into();
    let report = report(hub.ir().load_balancer(&name("a")).unwrap(), &views);
    assert_eq!(report.programmed, 0);
    assert_eq!(report.failed, ["node n1 and 1 others: no room"]);
    let silent = (Presence::Silent, told.1);
    assert!(
        View::new(&agent("n1", &snapshot), Some(&silent), &snapshot).is_none(),
        "it is not there"
    );
}

#[test]
fn a_backend_is_healthy_unless_most_say_otherwise() {
    let hub = hub(&["a"]);
    let snapshot = Arc::new(hub.snapshot().clone());
    let of = |agents: &[Standing]| {
        let views: Vec<View> = agents
            .iter()
            .map(|standing| {
                let told = told(&[(&listener("a", 80), standing.clone())]);
                View::new(&agent("n", &snapshot), Some(&told), &snapshot).unwrap()
            })
            .collect();
        report(hub.ir().load_balancer(&name("a")).unwrap(), &views).health
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[standing(&[], 0)]), health(3, 3, 0));
    assert_eq!(of(&[standing(&[1], 0)]), health(2, 3, 0));
    assert_eq!(of(&[standing(&[1, 2, 3], 0)]), health(0, 3, 0));
    assert_eq!(
        of(&[standing(&[1], 0), standing(&[], 0)]),
        health(3, 3, 1),
        "half is not most"
    );
    assert_eq!(
        of(&[standing(&[1], 0), standing(&[1, 2], 0), standing(&[], 0)]),
        health(2, 3, 2)
    );
    assert_eq!(
        of(&[standing(&[], 1), standing(&[2], 0)]),
        health(2, 3, 0),
        "who does not know yet does not count"
    );
    assert_eq!(of(&[standing(&[1], 1)]), health(1, 2, 0), "nobody knows all");
    assert_eq!(of(&[standing(&[], 3)]), None);
    let foreign = standing(&[9], 0);
    assert_eq!(of(&[foreign]), health(3, 3, 0), "no backend of the object");
}

#[test]
fn a_board_tells_what_changed_and_is_patient() {
    let hub = hub(&["a", "b"]);
    let snapshot = Arc::new(hub.snapshot().clone());
    let start = clock();
    let mut board = Board::new(start);
    let all = Concerned {
        everything: true,
        ..Concerned::default()
    };
    let nothing = Concerned::default();
    let none = BTreeSet::new();
    let (reports, about) = board.look(hub.ir(), &[], &all, &none, start);
    assert!(reports.awaits && about.len() == 2);
    assert_eq!(board.poll_timeout(), Some(start + PATIENCE));
    let (reports, about) = board.look(hub.ir(), &[], &nothing, &none, start + PATIENCE);
    assert!(
        !reports.awaits && about.len() == 2,
        "now it is said that nobody is there"
    );
    assert_eq!(board.poll_timeout(), None);

    let mut peer = agent("n1", &snapshot);
    let view = |peer: &Peer| [View::new(peer, None, &snapshot).unwrap()];
    let now = start + PATIENCE * 2;
    let (reports, _) = board.look(hub.ir(), &view(&peer), &all, &none, now);
    assert_eq!((reports.agents, reports.load_balancers[&name("a")].programmed), (1, 1));
    let (_, about) = board.look(hub.ir(), &view(&peer), &nothing, &none, now);
    assert_eq!(about, none, "nothing is new");

    peer.behind = Some([(ResourceType::Listener, listener("a", 80).into())].into()).into();
    let concerned = Concerned {
        everything: false,
        names: [listener("a", 80).into(), "203.0.113.1".into()].into(),
        ..Concerned::default()
    };
    let (reports, about) = board.look(hub.ir(), &view(&peer), &concerned, &none, now);
    assert_eq!(about, [name("a")].into());
    assert!(
        reports.load_balancers[&name("a")].awaited,
        "it may answer at any moment"
    );
    assert_eq!(board.poll_timeout(), Some(now + ANSWER_TIME));
    let (reports, about) = board.look(hub.ir(), &view(&peer), &nothing, &none, now + ANSWER_TIME);
    assert_eq!(about, [name("a")].into());
    assert!(!reports.load_balancers[&name("a")].awaited, "it has not answered");
    assert_eq!(board.poll_timeout(), None, "that is said once");

    let gone = now + ANSWER_TIME * 2;
    let (reports, _) = board.look(hub.ir(), &[], &all, &none, gone);
    assert!(reports.awaits && reports.agents == 0, "it may be a restart");
    assert_eq!(board.poll_timeout(), Some(gone + PATIENCE));
}

#[test]
fn peers_of_another_manager_count_where_it_serves_the_same() {
    let here = hub(&["a", "b"]);
    let there = hub(&["b", "a"]);
    let digests = |hub: &Hub| -> Digests {
        let all = ["a", "b"].into_iter();
        all.filter_map(|object| Some((name(object), digest(hub.snapshot(), &name(object))?)))
            .collect()
    };
    assert_eq!(digests(&here), digests(&hub(&["a", "b"])));
    assert_eq!(digest(here.snapshot(), &name("")), None);
    let snapshot = Arc::new(there.snapshot().clone());
    let mut peer = agent("n2", &snapshot);
    let reason = || PeerRejection {
        version: "1".to_owned(),
        reason: "no".to_owned(),
    };
    let told = told(&[(&listener("b", 80), standing(&[1], 0))]);
    let relayed = |peer: &Peer, there: &Hub| {
        let view = View::new(peer, Some(&told), &snapshot).unwrap();
        let outgoing = Outgoing {
            peers: [(7, view.to_outgoing())].into(),
            digests: Arc::new(digests(there)),
        };
        let now = clock();
        let (mut teller, mut heard) = (Teller::new(PACE), Heard::new(crate::relay::Limits::default()));
        teller.set(&outgoing, now);
        teller.connect(now);
        heard.take(teller.on_timeout(now).unwrap(), now).unwrap();
        heard.views(&digests(&here))
    };
    let of = |views: &[View], object: &str| report(here.ir().load_balancer(&name(object)).unwrap(), views);
    let same = relayed(&peer, &here);
    assert_eq!((of(&same, "a").programmed, of(&same, "b").programmed), (1, 1));
    let other = relayed(&peer, &there);
    assert_eq!(
        (of(&other, "a").programmed, of(&other, "a").pending),
        (0, 1),
        "its port is another one there"
    );

    peer.behind = Some([(ResourceType::Listener, listener("a", 80).into())].into()).into();
    peer.rejections = Arc::new([((ResourceType::Listener, listener("b", 81).into()), reason())].into());
    let views = relayed(&peer, &here);
    assert_eq!(of(&views, "a").pending, 1);
    let refused = of(&views, "b");
    assert!(refused.rejected[0].starts_with("node n2: "), "{refused:?}");
    // It tells of an agent what that has told.
    let listener = listener("a", 80);
    let wrong = [(listener.as_str(), standing(&[1], 0))];
    let view = View::new(&agent("n2", &snapshot), Some(&self::told(&wrong)), &snapshot).unwrap();
    let standings = view.to_outgoing().standings.unwrap();
    assert_eq!(standings[&listener].unhealthy.len(), 1);
}
