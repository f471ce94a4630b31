use serde_json::json;

use super::*;
use crate::object::decode;
use crate::source::manifest;

const OBJECTS: &str = "
apiVersion: kubelb.k8c.io/v1alpha1
kind: Config
metadata: {name: default, namespace: kubelb}
spec: {addressPools: [{name: a, ranges: [203.0.113.0/31]}]}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Tenant
metadata: {name: x}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Addresses
metadata: {name: default, namespace: tenant-x}
spec: {addresses: [{ip: 10.0.0.1}]}
";

fn load_balancer(name: &str, port: u16) -> Seen {
    Ok(decode(json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
        "metadata": {"name": name, "namespace": "tenant-x"},
        "spec": {
            "endpoints": [{"addressesReference": {"name": "default"}, "ports": [{"port": 30_080}]}],
            "ports": [{"port": port}], "type": "LoadBalancer",
        },
    }))
    .unwrap())
}

fn hub() -> Hub {
    hub_after(Settled::default())
}

/// One that starts with what another wrote.
fn hub_after(written: Settled) -> Hub {
    let mut hub = Hub::new("kubelb");
    let statuses = written.statuses.into_iter();
    hub.restore(
        written.claims,
        Vec::new(),
        statuses.map(|patch| (patch.object, patch.status)).collect(),
    );
    for entry in manifest::read(OBJECTS, |_| {}).entries {
        hub.apply(entry.seen);
    }
    hub
}

fn at(text: &str) -> Time {
    Time(text.parse().unwrap())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::LoadBalancer, "tenant-x", name)
}

#[test]
fn an_object_gets_an_address_and_is_told_so_once() {
    let mut hub = hub();
    hub.apply(load_balancer("a", 80));
    let first = hub.settle(&at("2026-01-01T00:00:00Z"));
    assert_eq!(first.claims.len(), 1);
    let told = first.statuses.iter().find(|patch| patch.object == key("a")).unwrap();
    assert_eq!(told.status["loadBalancer"]["ingress"][0]["ip"], "203.0.113.0");
    assert_eq!(hub.ir().load_balancer(&key("a").name).unwrap().listeners.len(), 1);
    assert_eq!(hub.settle(&at("2026-01-02T00:00:00Z")), Settled::default());
    // As a source without statuses says it again.
    assert!(!hub.apply(load_balancer("a", 80)));
    hub.apply(load_balancer("a", 81));
    let second = hub.settle(&at("2026-01-03T00:00:00Z"));
    assert_eq!((second.claims.len(), second.statuses.len()), (0, 0), "{second:?}");
}

#[test]
fn what_was_written_survives_the_process() {
    let mut first = hub();
    first.apply(load_balancer("b", 80));
    let written = first.settle(&at("2026-01-01T00:00:00Z"));
    let mut second = hub_after(written);
    second.apply(load_balancer("a", 80));
    second.apply(load_balancer("b", 80));
    let settled = second.settle(&at("2026-02-01T00:00:00Z"));
    assert_eq!(settled.claims[0].spec.address, "203.0.113.1", "b keeps its own");
    let told: Vec<&ObjectKey> = settled.statuses.iter().map(|patch| &patch.object).collect();
    assert_eq!(told, [&key("a")], "b is as it was");
}

#[test]
fn what_is_given_back_is_given_out() {
    let mut hub = hub();
    for name in ["a", "b", "c"] {
        hub.apply(load_balancer(name, 80));
    }
    let full = hub.settle(&at("2026-01-01T00:00:00Z"));
    assert_eq!(full.claims.len(), 2);
    assert_eq!(hub.problems_of(&key("c"))[0].reason.as_str(), "PoolExhausted");
    hub.delete(&key("a"));
    let settled = hub.settle(&at("2026-01-01T00:00:01Z"));
    assert_eq!(settled.claims_over, BTreeSet::new(), "it is written over");
    assert_eq!(settled.claims[0].spec.holders[0].name, "c");
    assert_eq!(settled.gone, BTreeSet::from([key("a")]));
    assert!(hub.problems_of(&key("c")).is_empty());
    assert_eq!(hub.snapshot().check_references(), Ok(()));
}

#[test]
fn reports_change_conditions() {
    let mut hub = hub();
    hub.apply(load_balancer("a", 80));
    hub.settle(&at("2026-01-01T00:00:00Z"));
    let report = Report {
        programmed: 1,
        ..Report::default()
    };
    let reports = Reports {
        agents: 1,
        load_balancers: BTreeMap::from([(key("a").name, report)]),
        ..Reports::default()
    };
    let about = BTreeSet::from([key("a").name]);
    let patches = hub.report(reports.clone(), &about, &at("2026-01-01T00:00:01Z"));
    let conditions = patches[0].status["conditions"].as_array().unwrap();
    let programmed = conditions
        .iter()
        .find(|condition| condition["type"] == "Programmed")
        .unwrap();
    assert_eq!(
        (&programmed["status"], &programmed["reason"]),
        (&json!("True"), &json!("Programmed"))
    );
    assert!(hub.report(reports, &about, &at("2026-01-01T00:00:02Z")).is_empty());
}

#[test]
fn what_is_said_of_layer_7_stays_while_the_leader_changes() {
    let mut hub = hub();
    let resource = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "gateway", "namespace": "default"},
        "spec": {"gatewayClassName": "kubelb", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]},
    });
    let object = json!({
        "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route",
        "metadata": {"name": "gateway", "namespace": "tenant-x"},
        "spec": {"endpoints": [], "source": {"kubernetes": {"resource": resource}}},
    });
    hub.apply(Ok(decode(object).unwrap()));
    hub.settle(&at("2026-01-01T00:00:00Z"));
    let mut seconds = 1..;
    let mut told = |hub: &mut Hub, reports: Reports| {
        let now = at(&format!("2026-01-01T00:00:{:02}Z", seconds.next().unwrap()));
        let patches = hub.report(reports, &BTreeSet::new(), &now);
        patches.first().map(|patch| {
            let conditions = patch.status["conditions"].as_array().unwrap();
            let programmed = conditions.iter().find(|one| one["type"] == "Programmed").unwrap();
            programmed["reason"].as_str().unwrap().to_owned()
        })
    };
    let tenant = TenantName::from_namespace("tenant-x").unwrap();
    let served = |http: HttpReport| Reports {
        fleets: [tenant.clone()].into(),
        http: [(tenant.clone(), http)].into(),
        ..Reports::default()
    };
    assert_eq!(told(&mut hub, served(HttpReport::default())).unwrap(), "Programmed");

    // It begins to lead. Nobody is known yet, then one that has just come, then what it has taken.
    hub.lead(false);
    hub.lead(true);
    hub.await_peers();
    assert_eq!(hub.settle(&at("2026-01-01T00:00:10Z")).statuses, []);
    let nobody = Reports {
        awaits: true,
        ..Reports::default()
    };
    assert_eq!(told(&mut hub, nobody), None);
    let new = HttpReport {
        everything_pending: true,
        awaited: true,
        ..HttpReport::default()
    };
    assert_eq!(told(&mut hub, served(new)), None);
    let names = || BTreeSet::from(["http/x/203.0.113.0/80".into()]);
    let pending = HttpReport {
        pending: names(),
        ..HttpReport::default()
    };
    assert_eq!(told(&mut hub, served(pending.clone())), None);
    let overdue = HttpReport {
        overdue: names(),
        ..pending
    };
    assert_eq!(told(&mut hub, served(overdue)).unwrap(), "Pending");
    assert_eq!(told(&mut hub, served(HttpReport::default())).unwrap(), "Programmed");
    assert_eq!(told(&mut hub, Reports::default()).unwrap(), "NoEnvoyFleet");
}

#[test]
fn a_gateway_that_asks_for_what_it_cannot_have_is_told_so_and_served_where_it_is() {
    let gateway = |addresses: Value| -> Seen {
        let resource = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "default"},
            "spec": {"gatewayClassName": "kubelb", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}], "addresses": addresses},
        });
        Ok(decode(json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route", "metadata": {"name": "g", "namespace": "tenant-x"},
            "spec": {"endpoints": [], "source": {"kubernetes": {"resource": resource}}},
        }))
        .unwrap())
    };
    let mut hub = hub();
    hub.apply(gateway(json!([])));
    hub.settle(&at("2026-01-01T00:00:00Z"));
    let reports = Reports {
        fleets: [TenantName::from_namespace("tenant-x").unwrap()].into(),
        http: [(TenantName::from_namespace("tenant-x").unwrap(), HttpReport::default())].into(),
        ..Reports::default()
    };
    let told = |hub: &mut Hub, addresses: Value| {
        hub.apply(gateway(addresses));
        let settled = hub.settle(&at("2026-01-02T00:00:00Z"));
        let more = hub.report(reports.clone(), &BTreeSet::new(), &at("2026-01-02T00:00:00Z"));
        let mut patches = settled.statuses.into_iter().chain(more);
        let last = patches.rfind(|patch| patch.object.kind == Kind::Route).unwrap();
        let own = last.status["resources"]["route"]["status"].clone();
        let of = |name: &str| {
            let all = own["conditions"].as_array().unwrap();
            let found = all.iter().find(|one| one["type"] == name).unwrap();
            ["status", "reason", "message"].map(|field| found[field].as_str().unwrap().to_owned())
        };
        (of("Accepted"), of("Programmed"), own["addresses"].clone())
    };
    let (_, programmed, addresses) = told(&mut hub, json!([{"value": "203.0.113.0"}]));
    assert_eq!(programmed[0], "True", "{programmed:?}");
    let before = hub.snapshot().clone();
    assert_eq!(addresses, json!([{"type": "IPAddress", "value": "203.0.113.0"}]));

    let (accepted, programmed, kept) = told(&mut hub, json!([{"type": "IPAddress", "value": "192.0.2.9"}]));
    assert_eq!((accepted[0].as_str(), &kept), ("True", &addresses));
    assert_eq!(programmed[..2], ["False", "AddressNotUsable"]);
    assert_eq!(
        programmed[2],
        "spec.addresses[0].value: 192.0.2.9 is in no address pool that the tenant may use; ask for another address, or for none to get one of a pool; \
         until then it is served at 203.0.113.0"
    );
    let (accepted, programmed, kept) = told(&mut hub, json!([{"type": "Hostname", "value": "a.example"}]));
    assert_eq!(accepted[..2], ["False", "UnsupportedAddress"]);
    assert!(
        accepted[2].contains("\"a.example\" is of type \"Hostname\""),
        "{accepted:?}"
    );
    assert_eq!(
        (programmed[..2].join(" "), &kept),
        ("False Invalid".to_owned(), &addresses)
    );
    let names = |snapshot: &Snapshot| {
        let kinds = kubelb_xds::ResourceType::ALL.into_iter();
        let all = kinds.flat_map(|kind| {
            snapshot
                .table(kind)
                .iter()
                .map(move |(name, one)| (kind, name.clone(), one.version()))
        });
        all.collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(hub.snapshot()), "traffic goes on");
    let (_, programmed, _) = told(&mut hub, json!([{"value": "203.0.113.0"}]));
    assert_eq!(programmed[0], "True", "{programmed:?}");
}
