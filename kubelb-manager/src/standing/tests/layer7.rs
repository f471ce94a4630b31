//! Layer 7: what Envoys here and at other managers have taken of it, and for how long that may lack.

use kubelb_xds::contract::relay::RelayedView;

use super::*;
use crate::relay;

const GATEWAY: &str = "
apiVersion: kubelb.k8c.io/v1alpha1
kind: Tenant
metadata: {name: x}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Config
metadata: {name: default, namespace: kubelb}
spec: {addressPools: [{name: all, ranges: [203.0.113.1/32]}]}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Route
metadata: {name: gateway, namespace: tenant-x}
spec:
  endpoints: []
  source:
    kubernetes:
      resource:
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: gateway, namespace: default}
        spec:
          gatewayClassName: kubelb
          listeners:
          - {name: a, port: 80, protocol: HTTP}
          - {name: b, port: 81, protocol: HTTP}
";
/// The tables of the two ports.
const TABLES: [&str; 2] = ["http/x/203.0.113.1/80", "http/x/203.0.113.1/81"];

/// With a route for this path at the second port.
fn hub(path: &str) -> Hub {
    let mut hub = Hub::new("kubelb");
    for entry in manifest::read(GATEWAY, |_| {}).entries {
        hub.apply(entry.seen);
    }
    let spec = json!({
        "parentRefs": [{"name": "gateway", "sectionName": "b"}],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": path}}]}],
    });
    let resource = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec,
    });
    let object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route",
        "metadata": {"name": "web", "namespace": "tenant-x"},
        "spec": {"endpoints": [], "source": {"kubernetes": {"resource": resource}}},
    });
    hub.apply(Ok(decode(object).unwrap()));
    let time = "2026-01-01T00:00:00Z".parse().unwrap();
    hub.settle(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    hub
}

fn tenant() -> TenantName {
    TenantName::from_namespace("tenant-x").unwrap()
}

fn digests(hub: &Hub) -> Digests {
    let mut digests = Digests::new();
    relay::layer7::follow(&mut digests, hub.snapshot(), &tenant());
    digests
}

fn envoy(name: &str, snapshot: &Arc<Snapshot>) -> Peer {
    let mut peer = agent(name, snapshot);
    peer.identity.node = None;
    peer.identity.scope = Scope::Fleet(Tenants::Only([Arc::from("x")].into()));
    name.clone_into(&mut peer.node);
    peer
}

/// An Envoy of another manager, which serves what `there` does.
fn relayed(view: &View, there: &Hub, here: &Hub) -> Vec<View> {
    let outgoing = Outgoing {
        peers: [(7, view.to_outgoing())].into(),
        digests: Arc::new(digests(there)),
    };
    let now = clock();
    let (mut teller, mut heard) = (Teller::new(PACE), Heard::new(relay::Limits::default()));
    teller.set(&outgoing, now);
    teller.connect(now);
    heard.take(teller.on_timeout(now).unwrap(), now).unwrap();
    heard.views(&digests(here))
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn look(board: &mut Board, hub: &Hub, views: &[View], changed: &[&str], now: Instant) -> crate::status::HttpReport {
    let changed = changed.iter().filter_map(|name| name.split_once('/'));
    let changed = changed.map(|(first, rest)| ObjectName::new(first, rest)).collect();
    let (reports, about) = board.look(hub.ir(), views, &Concerned::default(), &changed, now);
    assert!(about.is_empty(), "no LoadBalancer: {about:?}");
    reports.http[&tenant()].clone()
}

#[test]
fn layer_7_of_another_manager_s_envoy_counts_where_both_serve_the_same() {
    let (here, there) = (hub("/a"), hub("/b"));
    assert_eq!(digests(&here), digests(&hub("/a")));
    assert_eq!(digests(&here).len(), 2, "{:?}", digests(&here));
    let snapshot = Arc::new(there.snapshot().clone());
    let mut peer = envoy("e", &snapshot);
    let of = |peer: &Peer, there: &Hub| {
        let view = View::new(peer, None, &snapshot).unwrap();
        look(
            &mut Board::new(clock()),
            &here,
            &relayed(&view, there, &here),
            &[],
            clock(),
        )
    };
    assert_eq!(of(&peer, &here), crate::status::HttpReport::default());
    let other = of(&peer, &there);
    assert!(!other.everything_pending && other.overdue.is_empty(), "{other:?}");
    assert_eq!(other.pending, names(&TABLES[1..]), "its routes are others there");

    let behind = [
        (ResourceType::Route, TABLES[0].into()),
        (ResourceType::Endpoints, "http/x/default/web/80-tcp".into()),
    ];
    peer.behind = Some(behind.into()).into();
    assert_eq!(of(&peer, &here).pending, names(&TABLES[..1]));
    peer.behind = Behind::Everything;
    let new = of(&peer, &here);
    assert!(new.everything_pending && new.awaited, "{new:?}");

    peer.behind = Behind::Names(Arc::default());
    let rejection = PeerRejection {
        version: "1".to_owned(),
        reason: "no ".repeat(1_000),
    };
    peer.rejections = Arc::new([((ResourceType::Listener, TABLES[1].into()), rejection)].into());
    let refused = of(&peer, &here);
    let text = &refused.rejected[TABLES[1]];
    assert!(
        text.starts_with("e: Listener http/x/203.0.113.1/81: no no ") && text.len() < 1_100,
        "{text}"
    );
    assert!(refused.pending.is_empty());
    // It is no LoadBalancer's, whoever tells of it.
    let told = RelayedView {
        behind: vec![TABLES[0].to_owned()],
        ..RelayedView::default()
    };
    assert!(matches!(&View::relayed(&told).behind, BehindObjects::Objects(objects) if objects.is_empty()));
}

/// With two routes at the second port, each to a Service of its own.
fn hub_with_services() -> Hub {
    let mut hub = hub("/none");
    for (name, port) in [("one", 30_001), ("two", 30_002)] {
        let rules = json!([{"matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
            "backendRefs": [{"name": name, "port": 8080}]}]);
        let resource = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"parentRefs": [{"name": "gateway", "sectionName": "b"}], "rules": rules},
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"port": 8080, "nodePort": port}]},
        });
        let object = json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route",
            "metadata": {"name": name, "namespace": "tenant-x"},
            "spec": {
                "endpoints": [{"addresses": [{"ip": "10.0.0.1"}]}],
                "source": {"kubernetes": {"resource": resource, "services": [service]}},
            },
        });
        hub.apply(Ok(decode(object).unwrap()));
    }
    hub
}

/// What is told of each Route: status, reason and message of whether its parent serves it.
fn told_of_routes(hub: &mut Hub, board: &mut Board, views: &[View], now: Instant) -> BTreeMap<String, [String; 3]> {
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap());
    let (reports, about) = board.look(hub.ir(), views, &Concerned::default(), &BTreeSet::new(), now);
    let patches = hub.report(reports, &about, &time).into_iter();
    let routes = patches.filter_map(|patch| {
        let parent = patch.status.pointer("/resources/route/status/parents/0")?.clone();
        let conditions = parent["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|one| one["type"] == "Programmed").unwrap();
        let texts = ["status", "reason", "message"].map(|field| found[field].as_str().unwrap().to_owned());
        Some((patch.object.name.name.to_string(), texts))
    });
    routes.collect()
}

#[test]
fn a_cluster_that_an_envoy_refuses_is_told_of_the_routes_that_lead_to_it() {
    const CLUSTER: &str = "http/x/default/one/8080-http1";
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap());
    for is_relayed in [false, true] {
        let mut hub = hub_with_services();
        hub.settle(&time);
        let snapshot = Arc::new(hub.snapshot().clone());
        for kind in [ResourceType::Cluster, ResourceType::Endpoints] {
            assert!(snapshot.get(kind, CLUSTER).is_some(), "{kind}");
        }
        let mut peer = envoy("e", &snapshot);
        let views = |peer: &Peer, hub: &Hub| {
            let view = View::new(peer, None, &snapshot).unwrap();
            if is_relayed {
                relayed(&view, hub, hub)
            } else {
                vec![view]
            }
        };
        let mut board = Board::new(clock());
        let now = clock();
        let served = views(&peer, &hub);
        let told = told_of_routes(&mut hub, &mut board, &served, now);
        assert!(told.values().all(|condition| condition[0] == "True"), "{told:?}");
        assert!(told.contains_key("one") && told.contains_key("two"), "{told:?}");

        let rejection = |reason: &str| PeerRejection {
            version: "1".to_owned(),
            reason: reason.to_owned(),
        };
        let rejections = [
            ((ResourceType::Cluster, CLUSTER.into()), rejection("no such thing")),
            ((ResourceType::Endpoints, CLUSTER.into()), rejection("too heavy")),
        ];
        peer.rejections = Arc::new(rejections.into());
        let refused = views(&peer, &hub);
        let told = told_of_routes(&mut hub, &mut board, &refused, now);
        assert_eq!(told.keys().collect::<Vec<_>>(), ["one"], "nothing else changes");
        let [status, reason, message] = &told["one"];
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Invalid"));
        for text in ["no such thing", "too heavy", CLUSTER] {
            assert!(message.contains(text), "{message}");
        }
        assert!(told_of_routes(&mut hub, &mut board, &refused, now).is_empty(), "once");

        peer.rejections = Arc::default();
        let fixed = views(&peer, &hub);
        let told = told_of_routes(&mut hub, &mut board, &fixed, now);
        assert_eq!(told.keys().collect::<Vec<_>>(), ["one"]);
        assert_eq!(told["one"][0], "True", "{told:?}");
    }
}

#[test]
fn what_follows_the_configuration_says_what_is_another_one() {
    let mut digests = digests(&hub("/a"));
    let unrelated = ObjectName::new("tenant-x", "web");
    digests.insert(unrelated.clone(), 1);
    let mut follow = |hub: &Hub| {
        let changed = relay::layer7::follow(&mut digests, hub.snapshot(), &tenant());
        (
            changed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            digests.len(),
        )
    };
    assert_eq!(follow(&hub("/a")), (Vec::new(), 3));
    assert_eq!(follow(&hub("/b")), (vec![TABLES[1].to_owned()], 3));
    assert_eq!(
        follow(&Hub::new("kubelb")),
        (TABLES.map(str::to_owned).to_vec(), 1),
        "nothing is served any more"
    );
}

#[test]
fn an_envoy_has_time_for_each_version_and_not_for_ever() {
    let hub = hub("/a");
    let snapshot = Arc::new(hub.snapshot().clone());
    let mut peer = envoy("e", &snapshot);
    peer.behind = Some([(ResourceType::Route, TABLES[0].into())].into()).into();
    let views = [View::new(&peer, None, &snapshot).unwrap()];
    let start = clock();
    let mut board = Board::new(start);
    let later = |seconds| start + Duration::from_secs(seconds);
    assert!(look(&mut board, &hub, &views, &[], start).overdue.is_empty());
    assert_eq!(board.poll_timeout(), Some(start + ANSWER_TIME));
    assert!(
        look(&mut board, &hub, &views, &TABLES[..1], later(1))
            .overdue
            .is_empty()
    );
    assert!(look(&mut board, &hub, &views, &[], later(2)).overdue.is_empty());
    let overdue = look(&mut board, &hub, &views, &TABLES[1..], later(3)).overdue;
    assert_eq!(overdue, names(&TABLES[..1]), "another one's version says nothing");
    // It has answered; then there is a new version every second.
    peer.behind = Behind::Names(Arc::default());
    let answered = [View::new(&peer, None, &snapshot).unwrap()];
    assert!(look(&mut board, &hub, &answered, &[], later(4)).overdue.is_empty());
    let mut said = (5..100).map(|second| {
        let report = look(&mut board, &hub, &views, &TABLES[..1], later(second));
        (second, !report.overdue.is_empty())
    });
    assert_eq!(said.find(|(_, is_said)| *is_said), Some((35, true)));
}

#[test]
fn a_peer_that_is_one_configuration_behind_lacks_what_changed() {
    let mut before = super::hub(&["a", "b"]);
    let peer = agent("n1", &Arc::new(before.snapshot().clone()));
    let older = Arc::new(before.snapshot().clone());
    let peer = Peer {
        snapshot: Arc::downgrade(&older),
        ..peer
    };
    let object = ObjectName::new("tenant-x", "a");
    before.delete(&crate::object::ObjectKey {
        kind: crate::object::Kind::LoadBalancer,
        name: object.clone(),
    });
    let time = "2026-01-01T00:00:01Z".parse().unwrap();
    before.settle(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    let newer = Arc::new(before.snapshot().clone());
    let behind = |view: View| match view.behind {
        BehindObjects::Everything => None,
        BehindObjects::Objects(objects) => Some(objects),
    };
    let view = View::new(&peer, None, &newer).unwrap();
    assert_eq!(behind(view), Some([object].into()));
    let other = Arc::new(super::hub(&["a", "b"]).snapshot().clone());
    assert_eq!(behind(View::new(&peer, None, &other).unwrap()), None);
}
