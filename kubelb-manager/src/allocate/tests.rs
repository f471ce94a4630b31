use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::object::{Object, decode};

const NAMESPACE: &str = "kubelb";

fn store(pools: serde_json::Value, load_balancers: &[serde_json::Value]) -> Store {
    let mut store = Store::default();
    let mut put = |value| store.apply(Ok(decode(value).unwrap()));
    put(json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config",
        "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"addressPools": pools}}));
    for name in ["x", "y"] {
        put(json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}}));
    }
    for value in load_balancers {
        put(value.clone());
    }
    store
}

/// A LoadBalancer of a tenant; `more` is merged over its spec, `annotations` are its own.
fn wants_one(tenant: &str, name: &str, more: &serde_json::Value, annotations: &serde_json::Value) -> serde_json::Value {
    let mut spec = json!({"endpoints": [], "type": "LoadBalancer", "ports": [{"port": 80}]});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
        "metadata": {"name": name, "namespace": format!("tenant-{tenant}"), "uid": format!("uid-{name}"), "annotations": annotations},
        "spec": spec})
}

fn plain(tenant: &str, name: &str) -> serde_json::Value {
    wants_one(tenant, name, &json!({}), &json!({}))
}

/// Carries a plan out, as those who own the claims would.
fn carry_out(store: &mut Store, plan: &Plan) {
    for name in &plan.delete {
        store.delete(&ObjectKey::new(Kind::AddressClaim, "", &name.to_string()));
    }
    for claim in &plan.write {
        store.apply(Ok(Object::AddressClaim(claim.clone().into())));
    }
}

/// Plans until nothing is left to do, and says who has what.
fn settle(store: &mut Store) -> (Vec<String>, Vec<String>) {
    let first = plan(store, NAMESPACE, Given::Held);
    carry_out(store, &first);
    let second = plan(store, NAMESPACE, Given::Held);
    assert!(
        second.delete.is_empty() && second.write.is_empty(),
        "not settled: {second:?}"
    );
    assert_eq!(first.problems, second.problems);
    let held = store.address_claims().values().map(|claim| {
        let names: Vec<&str> = claim.spec.holders.iter().map(|holder| holder.name.as_str()).collect();
        format!("{} {}", claim.spec.address, names.join(","))
    });
    let problems = first.problems.iter().map(ToString::to_string).collect();
    (held.collect(), problems)
}

#[test]
fn the_first_free_address_of_a_pool_that_the_tenant_may_use() {
    let pools = json!([
        {"name": "of-y", "ranges": ["203.0.113.0/30"], "tenants": ["y"]},
        {"name": "of-all", "ranges": ["198.51.100.7-198.51.100.8"]},
    ]);
    let mut store = store(
        pools,
        &[plain("x", "a"), plain("x", "b"), plain("x", "c"), plain("y", "d")],
    );
    let (held, problems) = settle(&mut store);
    assert_eq!(held, ["198.51.100.7 a", "198.51.100.8 b", "203.0.113.0 d"]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("tenant-x/c") && problems[0].contains("given out"),
        "{problems:?}"
    );
    store.delete(&ObjectKey::new(Kind::LoadBalancer, "tenant-x", "a"));
    // What is freed is given out by the next plan: claims are deleted before they are made anew.
    let freeing = plan(&store, NAMESPACE, Given::Held);
    assert_eq!(freeing.delete.len(), 1);
    carry_out(&mut store, &freeing);
    assert_eq!(
        settle(&mut store).0,
        ["198.51.100.7 c", "198.51.100.8 b", "203.0.113.0 d"]
    );
}

#[test]
fn an_address_that_is_asked_for() {
    let pools = json!([{"name": "a", "ranges": ["203.0.113.0/24", "2001:db8::/64"], "tenants": ["x"]}]);
    let ip = |ip: &str| json!({"loadBalancerIP": ip});
    let both = json!({"kubelb.k8c.io/load-balancer-ips": "203.0.113.9, 2001:db8::9"});
    let none = json!({});
    let objects = [
        wants_one("x", "a", &ip("203.0.113.5"), &none),
        wants_one("x", "b", &ip("203.0.113.5"), &none),
        wants_one("x", "c", &ip("198.51.100.1"), &none),
        wants_one("x", "d", &none, &both),
        wants_one("y", "e", &ip("203.0.113.6"), &none),
    ];
    let mut store = store(pools, &objects);
    let (held, problems) = settle(&mut store);
    assert_eq!(held, ["203.0.113.5 a", "203.0.113.9 d", "2001:db8::9 d"]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems[0].contains("tenant-x/b: spec.loadBalancerIP: 203.0.113.5 is in use"),
        "{problems:?}"
    );
    // A change of mind gets the new one, then gives the old one back.
    store.apply(Ok(decode(wants_one("x", "a", &ip("203.0.113.7"), &none)).unwrap()));
    let change = plan(&store, NAMESPACE, Given::Held);
    carry_out(&mut store, &change);
    assert_eq!(
        settle(&mut store).0,
        ["203.0.113.5 b", "203.0.113.7 a", "203.0.113.9 d", "2001:db8::9 d"]
    );
    // One that cannot be had leaves what there is.
    store.apply(Ok(decode(wants_one("x", "a", &ip("203.0.113.5"), &none)).unwrap()));
    assert_eq!(settle(&mut store).0[1], "203.0.113.7 a");
}

#[test]
fn families() {
    let pools = json!([{"name": "a", "ranges": ["203.0.113.0/24", "2001:db8::/64"]}]);
    let cases = [
        (json!({}), vec!["203.0.113.0 a"]),
        (json!({"ipFamilies": ["IPv6"]}), vec!["2001:db8:: a"]),
        (
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            vec!["203.0.113.0 a", "2001:db8:: a"],
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            vec!["203.0.113.0 a", "2001:db8:: a"],
        ),
    ];
    for (spec, wanted) in cases {
        let mut store = store(pools.clone(), &[wants_one("x", "a", &spec, &json!({}))]);
        assert_eq!(
            settle(&mut store),
            (wanted.iter().map(ToString::to_string).collect(), Vec::new()),
            "{spec}"
        );
    }
    let only_v4 = json!([{"name": "a", "ranges": ["203.0.113.0/24"]}]);
    for (policy, problems) in [("PreferDualStack", 0), ("RequireDualStack", 1)] {
        let wanted = wants_one("x", "a", &json!({"ipFamilyPolicy": policy}), &json!({}));
        let (held, found) = settle(&mut store(only_v4.clone(), &[wanted]));
        assert_eq!((held.len(), found.len()), (1, problems), "{policy}: {found:?}");
    }
}

#[test]
fn an_address_is_shared_inside_a_tenant_when_ports_differ() {
    let pools = json!([{"name": "a", "ranges": ["203.0.113.0/24"]}]);
    let word = json!({"kubelb.k8c.io/allow-shared-ip": "dns"});
    let port = |port: i32, protocol: &str| json!({"ports": [{"port": port, "protocol": protocol}]});
    let objects = [
        wants_one("x", "a", &port(53, "TCP"), &word),
        wants_one("x", "b", &port(53, "UDP"), &word),
        wants_one("x", "c", &port(53, "TCP"), &word),
        wants_one("x", "d", &port(54, "TCP"), &json!({})),
        wants_one("y", "e", &port(55, "TCP"), &word),
    ];
    let (held, problems) = settle(&mut store(pools, &objects));
    assert_eq!(
        held,
        ["203.0.113.0 a,b", "203.0.113.1 c", "203.0.113.2 d", "203.0.113.3 e"]
    );
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn an_address_given_otherwise_is_left_alone_and_not_given_out() {
    let pools = json!([{"name": "a", "ranges": ["203.0.113.0/24"]}]);
    let with_status = |name: &str, ip: &str| {
        let mut object = plain("x", name);
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
        object
    };
    let objects = [
        with_status("z", "203.0.113.0"),
        with_status("elsewhere", "192.0.2.1"),
        plain("x", "a"),
    ];
    let (held, _) = settle(&mut store(pools, &objects));
    assert_eq!(
        held,
        ["203.0.113.0 z", "203.0.113.1 a"],
        "what is in a pool gets its claim"
    );
}

fn gateway(name: &str, addresses: &serde_json::Value) -> serde_json::Value {
    let resource = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": "kubelb", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}], "addresses": addresses}});
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route",
        "metadata": {"name": name, "namespace": "tenant-x", "uid": format!("uid-{name}")},
        "spec": {"endpoints": [], "source": {"kubernetes": {"resource": resource}}}})
}

#[test]
fn a_gateway_keeps_its_address_until_it_can_have_the_one_that_it_asks_for() {
    let pools = json!([{"name": "a", "ranges": ["203.0.113.0/30", "2001:db8::/126"]}]);
    let mut store = store(pools, &[gateway("g", &json!([]))]);
    assert_eq!(settle(&mut store).0, ["203.0.113.0 g"]);
    store.apply(Ok(decode(plain("y", "other")).unwrap()));
    assert_eq!(settle(&mut store).0, ["203.0.113.0 g", "203.0.113.1 other"]);
    let asks = |store: &mut Store, addresses: serde_json::Value| {
        store.apply(Ok(decode(gateway("g", &addresses)).unwrap()));
        settle(store)
    };
    for (value, why) in [
        ("192.0.2.9", "192.0.2.9 is in no address pool that the tenant may use"),
        ("203.0.113.1", "203.0.113.1 belongs to another tenant"),
        (
            "2001:db9::1",
            "2001:db9::1 is in no address pool that the tenant may use",
        ),
        ("here", "\"here\" is not an IP address"),
    ] {
        let (held, problems) = asks(&mut store, json!([{"type": "IPAddress", "value": value}]));
        assert_eq!(held, ["203.0.113.0 g", "203.0.113.1 other"], "{value}");
        assert!(problems.len() == 1 && problems[0].contains(why), "{problems:?}");
        assert!(problems[0].contains("spec.addresses[0].value"), "{problems:?}");
    }
    let name = json!([{"type": "Hostname", "value": "a.example"}]);
    let (held, problems) = asks(&mut store, name.clone());
    assert_eq!((held.len(), problems.len()), (2, 0), "{held:?}");
    store.apply(Ok(decode(gateway("h", &name)).unwrap()));
    assert_eq!(settle(&mut store).0.len(), 2, "what asks for no address gets none");
    let (held, problems) = asks(&mut store, json!([{"value": "2001:db8::1"}]));
    assert_eq!(held, ["203.0.113.1 other", "2001:db8::1 g"]);
    assert_eq!(problems, Vec::<String>::new());
    let (held, problems) = asks(&mut store, json!([{"value": "2001:db8::2"}, {"value": "192.0.2.9"}]));
    assert_eq!(held, ["203.0.113.1 other", "2001:db8::2 g"]);
    assert!(
        problems.len() == 1 && problems[0].contains("spec.addresses[1].value"),
        "{problems:?}"
    );
}

#[test]
fn ten_thousand_are_planned_at_once() {
    let objects: Vec<_> = (0..10_000).map(|number| plain("x", &format!("lb-{number}"))).collect();
    let mut store = store(json!([{"name": "a", "ranges": ["10.0.0.0/16"]}]), &objects);
    assert_eq!(settle(&mut store).0.len(), 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nobody_loses_an_address_to_another(steps in prop::collection::vec((0_usize..12, any::<bool>()), 1..60)) {
        let mut store = store(json!([{"name": "a", "ranges": ["203.0.113.0/29"]}]), &[]);
        let mut before: BTreeMap<String, String> = BTreeMap::new();
        for (number, add) in steps {
            let name = format!("lb-{number}");
            if add {
                store.apply(Ok(decode(plain("x", &name)).unwrap()));
            } else {
                store.delete(&ObjectKey::new(Kind::LoadBalancer, "tenant-x", &name));
                before.remove(&name);
            }
            let planned = plan(&store, NAMESPACE, Given::Held);
            prop_assert_eq!(&planned, &plan(&store, NAMESPACE, Given::Held));
            carry_out(&mut store, &planned);
            let now: BTreeMap<String, String> = store
                .address_claims()
                .values()
                .map(|claim| (claim.spec.holders[0].name.clone(), claim.spec.address.clone()))
                .collect();
            for (name, address) in &before {
                prop_assert_eq!(now.get(name), Some(address));
            }
            before = now;
        }
    }
}
