//! What holds for all objects: the answer depends on the objects and on nothing else, and a broken object hurts nobody but itself.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kubelb_manager::ir::{self, Builder};
use kubelb_manager::object::{Kind, ObjectKey, Unreadable, decode};
use kubelb_manager::store::{Seen, Store};
use kubelb_manager::xds;
use kubelb_xds::{Owner, ResourceType, Snapshot, Version};
use proptest::prelude::*;
use serde_json::{Value, json};

const NAMESPACE: &str = "kubelb";
const TENANTS: [&str; 3] = ["x", "y", "z"];

fn seen(value: Value) -> Seen {
    match decode(value) {
        Ok(object) => Ok(object),
        Err(Unreadable::Malformed(malformed)) => Err(malformed),
        Err(error) => panic!("{error}"),
    }
}

fn object(kind: &str, namespace: &str, name: &str, more: &Value) -> Value {
    let mut object = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (field, value) in more.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn tenant(name: &str) -> Value {
    object("Tenant", "", name, &json!({}))
}

fn addresses(tenant: &str, ips: &[String]) -> Value {
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    object(
        "Addresses",
        &format!("tenant-{tenant}"),
        "default",
        &json!({"spec": {"addresses": addresses}}),
    )
}

fn load_balancer(tenant: &str, name: &str, vip: &str, port: u16, annotation: &str) -> Value {
    let mut object = object(
        "LoadBalancer",
        &format!("tenant-{tenant}"),
        name,
        &json!({
            "spec": {
                "endpoints": [{"addressesReference": {"name": "default"}, "ports": [{"port": 30_000}]}],
                "ports": [{"port": port}], "type": "LoadBalancer",
            },
            "status": {"loadBalancer": {"ingress": [{"ip": vip}]}},
        }),
    );
    object["metadata"]["annotations"] = json!({"kubelb.k8c.io/proxy-protocol": annotation});
    object
}

/// A Gateway of a tenant, or one of its routes.
fn route(tenant: &str, number: u8, port: u16, service: &str, host: &str) -> Value {
    let (kind, name, spec) = if number == 0 {
        let listeners = json!([{"name": "a", "port": port, "protocol": "HTTP"}, {"name": "b", "port": 1, "protocol": "HTTP", "hostname": "*.example.com"}]);
        ("Gateway", "gw".to_owned(), json!({"listeners": listeners}))
    } else {
        let rules = json!([{"backendRefs": [{"name": service, "port": 80}, {"name": "gone", "port": 80}]}]);
        let spec = json!({"parentRefs": [{"name": "gw"}], "hostnames": [host], "rules": rules});
        ("HTTPRoute", format!("route-{number}"), spec)
    };
    let service = json!({"metadata": {"namespace": "n", "name": service}, "spec": {"ports": [{"port": 80, "nodePort": 30_000 + i32::from(port)}]}});
    let resource = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"namespace": "n", "name": name}, "spec": spec});
    let source = json!({"kubernetes": {"resource": resource, "services": [service]}});
    let spec = json!({"endpoints": [{"addressesReference": {"name": "default"}}], "source": source});
    object(
        "Route",
        &format!("tenant-{tenant}"),
        &format!("route-{number}"),
        &json!({"spec": spec}),
    )
}

/// All that is served, by type and name: version and owner.
fn resources(snapshot: &Snapshot) -> BTreeMap<(ResourceType, String), (Version, Owner)> {
    let all = ResourceType::ALL
        .into_iter()
        .flat_map(|kind| snapshot.table(kind).values().cloned().collect::<Vec<_>>());
    all.map(|resource| {
        let key = (resource.kind(), resource.name().to_string());
        (key, (resource.version(), resource.owner().clone()))
    })
    .collect()
}

/// Something that happens to the objects.
#[derive(Clone, Debug)]
enum Step {
    Apply(Value),
    Delete(ObjectKey),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tenant_name = prop::sample::select(TENANTS.to_vec());
    let ip = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "127.0.0.1", "node.example.com"]);
    let vip = prop::sample::select(vec!["203.0.113.1", "203.0.113.2", "2001:db8::1"]);
    let annotation = prop::sample::select(vec!["v2", ""]);
    let lb = (tenant_name.clone(), 0..3_u8, vip.clone(), 1..3_u16, annotation)
        .prop_map(|(tenant, number, vip, port, word)| load_balancer(tenant, &format!("lb-{number}"), vip, port, word));
    let nodes = (tenant_name.clone(), prop::collection::vec(ip, 0..4)).prop_map(|(tenant, ips)| {
        let ips: Vec<String> = ips.into_iter().map(str::to_owned).collect();
        addresses(tenant, &ips)
    });
    let broken = (tenant_name.clone(), 0..3_u8).prop_map(|(tenant, number)| {
        let mut object = load_balancer(tenant, &format!("lb-{number}"), "203.0.113.1", 1, "");
        object["spec"]["ports"] = json!("none");
        object
    });
    let claim = (tenant_name.clone(), 0..3_u8, vip).prop_map(|(tenant, number, vip)| {
        let name = kubelb_api::names::AddressName::new(vip.parse().unwrap()).to_string();
        let holder = |kind: &str, name: String| json!({"kind": kind, "namespace": format!("tenant-{tenant}"), "name": name, "uid": ""});
        let holders = [holder("LoadBalancer", format!("lb-{number}")), holder("Route", "route-0".to_owned())];
        let holders = holders.get(usize::from(number.min(1))..).unwrap();
        object("AddressClaim", "", &name, &json!({"spec": {"address": vip, "tenant": tenant, "holders": holders}}))
    });
    let owner = (prop::sample::select(vec!["v4-203-0-113-1", "v4-203-0-113-2"]), 1..3_u8).prop_map(|(name, epoch)| {
        object(
            "VirtualAddressOwner",
            "",
            name,
            &json!({"spec": {"node": "n", "epoch": epoch}}),
        )
    });
    let config = any::<bool>().prop_map(|deny| {
        let denied = if deny { json!(["10.0.0.2/32"]) } else { json!([]) };
        object(
            "Config",
            NAMESPACE,
            "default",
            &json!({"spec": {"deniedRanges": denied}}),
        )
    });
    let some_tenant = (tenant_name, any::<bool>()).prop_map(|(name, disable)| {
        object(
            "Tenant",
            "",
            name,
            &json!({"spec": {"loadBalancer": {"disable": disable}}}),
        )
    });
    let service = prop::sample::select(vec!["s", "t"]);
    let host = prop::sample::select(vec!["a.example.com", "*.example.com", "b"]);
    let routes = (prop::sample::select(TENANTS.to_vec()), 0..3_u8, 1..3_u16, service, host)
        .prop_map(|(tenant, number, port, service, host)| route(tenant, number, port, service, host));
    let any_object = prop_oneof![5 => lb, 6 => routes, 3 => nodes, 1 => broken, 2 => claim, 1 => owner, 1 => config, 2 => some_tenant];
    let step = (any_object, 0..5_u8).prop_map(|(object, dice)| {
        let key = match seen(object.clone()) {
            Ok(read) => read.key(),
            Err(malformed) => malformed.key,
        };
        if dice == 0 {
            Step::Delete(key)
        } else {
            Step::Apply(object)
        }
    });
    prop::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// What follows the changes comes to what is built at once.
    #[test]
    fn following_is_building(steps in steps(), burst in 1..4_usize) {
        let mut store = Store::default();
        let mut builder = Builder::new(NAMESPACE);
        let mut snapshot = Snapshot::default();
        for steps in steps.chunks(burst) {
            for step in steps {
                match step.clone() {
                    Step::Apply(object) => store.apply(seen(object)),
                    Step::Delete(key) => store.delete(&key),
                };
            }
            let before = builder.ir().clone();
            let changed = store.take_changed();
            let update = builder.update(&store, &changed);
            snapshot = xds::follow(&snapshot, &before, builder.ir(), &update);
            let (ir, problems) = ir::build(&store, NAMESPACE);
            prop_assert_eq!(builder.ir(), &ir);
            prop_assert_eq!(builder.problems().cloned().collect::<Vec<_>>(), problems);
            prop_assert_eq!(resources(&snapshot), resources(&xds::translate(&ir)));
            prop_assert_eq!(snapshot.check_references(), Ok(()));
        }
    }

    /// Objects of different keys may come in any order.
    #[test]
    fn the_order_of_objects_does_not_matter(steps in steps(), seed in any::<u64>()) {
        let mut by_key: BTreeMap<ObjectKey, Value> = BTreeMap::new();
        for step in steps {
            if let Step::Apply(object) = step
                && let Ok(read) = seen(object.clone())
            {
                by_key.insert(read.key(), object);
            }
        }
        let mut objects: Vec<Value> = by_key.into_values().collect();
        let build = |objects: &[Value]| {
            let mut store = Store::default();
            for object in objects {
                store.apply(seen(object.clone()));
            }
            ir::build(&store, NAMESPACE)
        };
        let first = build(&objects);
        let by = usize::try_from(seed % 97).unwrap() % objects.len().max(1);
        objects.rotate_left(by);
        objects.reverse();
        prop_assert_eq!(first, build(&objects));
    }
}

#[test]
fn a_broken_object_of_each_kind_leaves_other_tenants_as_they_are() {
    let mut store = Store::default();
    for (index, name) in TENANTS.into_iter().enumerate() {
        store.apply(seen(tenant(name)));
        store.apply(seen(addresses(name, &["10.0.0.1".to_owned(), "fd00::1".to_owned()])));
        let mut web = load_balancer(name, "web", &format!("203.0.113.{index}"), 80, "");
        // Who comes later takes nothing from those who were there.
        web["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        store.apply(seen(web));
    }
    let others = |store: &Store| {
        let (ir, _) = ir::build(store, NAMESPACE);
        let mut resources = resources(&xds::translate(&ir));
        resources.retain(|_, (_, owner)| *owner != Owner::tenant("x"));
        resources
    };
    let before = others(&store);
    assert!(before.len() >= 8);
    let mut loopback = addresses("x", &["127.0.0.1".to_owned(), "203.0.113.1".to_owned()]);
    loopback["metadata"]["name"] = "other".into();
    let mut no_ports = load_balancer("x", "web", "203.0.113.0", 80, "");
    no_ports["spec"]["ports"] = json!([{"port": 0}, {"port": -1}, {"port": 70_000}]);
    let mut not_a_list = load_balancer("x", "web", "203.0.113.0", 80, "");
    not_a_list["spec"]["endpoints"] = json!("all");
    let broken = [
        not_a_list,
        no_ports,
        load_balancer("x", "thief", "203.0.113.1", 80, ""),
        load_balancer("x", "thief-of-another-port", "203.0.113.1", 81, ""),
        load_balancer("x", "nowhere", "everywhere", 80, ""),
        loopback,
        object(
            "Addresses",
            "tenant-x",
            "default",
            &json!({"spec": {"addresses": [{"ip": 1}]}}),
        ),
        object(
            "Addresses",
            "tenant-x",
            "default",
            &json!({"spec": {"addresses": [{}]}}),
        ),
        object("SyncSecret", "tenant-x", "s", &json!({"data": {"a": 1}})),
        object("Route", "tenant-x", "r", &json!({"spec": {"endpoints": "all"}})),
        object("Route", "tenant-x", "r", &json!({"spec": {"endpoints": []}})),
        object("Tenant", "", "x", &json!({"spec": {"allowedRanges": "all"}})),
        object("Tenant", "", "x", &json!({"spec": {"allowedRanges": ["everything"]}})),
    ];
    for object in broken {
        store.apply(seen(object.clone()));
        assert_eq!(others(&store), before, "{object}");
        let (_, problems) = ir::build(&store, NAMESPACE);
        assert!(!problems.is_empty(), "{object}");
        assert!(
            problems
                .iter()
                .all(|problem| *problem.object.name.namespace != *"tenant-y"),
            "{problems:?}"
        );
    }
    store.delete(&ObjectKey::new(Kind::Tenant, "", "x"));
    assert_eq!(others(&store), before);
}

/// Bounds are loose, for machines are busy and this is not built for speed; figures are printed.
#[test]
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn ten_thousand_objects_are_followed_one_by_one() {
    let mut store = Store::default();
    let mut objects = Vec::new();
    for number in 0..10_000_u32 {
        let tenant_name = format!("t-{}", number % 100);
        if number < 100 {
            objects.push(tenant(&tenant_name));
        }
        let vip = std::net::Ipv4Addr::from(0xC000_0000 + number).to_string();
        let mut object = load_balancer(&tenant_name, &format!("lb-{number}"), &vip, 80, "");
        let ips: Vec<Value> = (0..10)
            .map(|host| json!({"ip": format!("10.{}.{}.{host}", number / 250, number % 250)}))
            .collect();
        object["spec"]["endpoints"] = json!([{"addresses": ips, "ports": [{"port": 30_000}]}]);
        objects.push(object);
    }
    let mut one = objects[5_000].clone();
    let decoded: Vec<Seen> = objects.into_iter().map(seen).collect();
    let start = Instant::now();
    let mut builder = Builder::new(NAMESPACE);
    for object in decoded {
        store.apply(object);
    }
    let changed = store.take_changed();
    builder.update(&store, &changed);
    let built = start.elapsed();
    let snapshot = xds::translate(builder.ir());
    let cold = start.elapsed();
    assert_eq!(snapshot.table(ResourceType::Listener).len(), 10_000);
    one["spec"]["endpoints"][0]["addresses"][3]["ip"] = "10.255.0.1".into();
    let one = seen(one);
    let start = Instant::now();
    let before = builder.ir().clone();
    store.apply(one);
    let changed = store.take_changed();
    let update = builder.update(&store, &changed);
    let next = xds::follow(&snapshot, &before, builder.ir(), &update);
    let change = start.elapsed();
    let differing: usize = ResourceType::ALL
        .into_iter()
        .map(|kind| {
            let (old, new) = (snapshot.table(kind), next.table(kind));
            new.iter()
                .filter(|(name, resource)| !old.get(*name).is_some_and(|old| old.is_same(resource)))
                .count()
        })
        .sum();
    assert_eq!(differing, 1, "one endpoint is one resource");
    eprintln!("IR {built:?}, with resources {cold:?}; one change {change:?}");
    assert!(
        cold < Duration::from_secs(60) && change < Duration::from_secs(1),
        "{cold:?}, {change:?}"
    );
}
