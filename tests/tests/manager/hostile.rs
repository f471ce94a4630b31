//! What a tenant may write and must not get: endpoints that are not its own, addresses of others. Each is refused, and said where it can be read.

use std::fmt::Debug;

use kube::api::{Api, Patch, PatchParams};
use kubelb_api::v1alpha1::{Addresses, Config};
use kubelb_tests::bare::until;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::broken::received;
use crate::world::{NAMESPACE, TENANT, World, condition, ingress};

const POOL: &str = "203.0.113.10-203.0.113.12";

/// The management cluster's API server, nodes, Pods and Services, and an address that another tenant was given.
const DENIED: [&str; 4] = ["192.0.2.0/28", "10.244.0.0/16", "10.96.0.0/12", "fd00:96::/64"];

const REFUSED: [&str; 16] = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "169.254.169.254",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "192.0.2.1",
    "10.244.3.4",
    "10.96.0.1",
    "64:ff9b::a60:1",
    "fd00:96::1",
    "203.0.113.10",
];

async fn deny(world: &World, tenants: Value) {
    let configs: Api<Config> = Api::namespaced(world.client(), NAMESPACE);
    let spec = json!({"spec": {"deniedRanges": DENIED, "addressPools": tenants}});
    configs
        .patch("default", &PatchParams::default(), &Patch::Merge(spec))
        .await
        .unwrap();
}

/// Whether the API server takes a change; if not, it names the field.
async fn is_taken<K>(api: &Api<K>, name: &str, patch: &Value, field: &str) -> bool
where
    K: Clone + Debug + DeserializeOwned,
{
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 422 => {
            assert!(status.message.contains(field), "{}", status.message);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn endpoints_that_are_not_the_tenants_get_no_traffic_and_are_named() {
    let world = World::start(POOL).await;
    deny(&world, json!([{"name": "lan", "ranges": [POOL]}])).await;
    world.create_tenant("victim").await;
    let mut manager = world.manage("a", &[]).await;
    world
        .create_load_balancer("web", |value| value["metadata"]["namespace"] = json!("tenant-victim"))
        .await;
    manager.serves("the victim", |names| names.len() == 1).await;
    world.create_load_balancer("web", |_| {}).await;
    manager.serves("both", |names| names.len() == 2).await;

    let addresses: Api<Addresses> = Api::namespaced(world.client(), TENANT);
    let load_balancers = world.load_balancers();
    for address in REFUSED {
        let list = json!([{"ip": address}, {"ip": "10.0.0.7"}]);
        let patch = json!({"spec": {"addresses": list}});
        if is_taken(&addresses, "default", &patch, "spec.addresses[0]").await {
            until(&addresses, "default", address, |object| {
                let conditions = object.and_then(|object| Some(&object.status.as_ref()?.conditions));
                conditions
                    .into_iter()
                    .flatten()
                    .any(|known| known.message.contains("spec.addresses[0].ip") && known.message.contains(address))
            })
            .await;
        }
        // The same in an object of its own.
        let endpoints = json!([{"addresses": list, "ports": [{"name": "http", "port": 30080}]}]);
        let patch = json!({"spec": {"endpoints": endpoints}});
        if is_taken(&load_balancers, "web", &patch, "spec.endpoints[0].addresses[0]").await {
            until(&load_balancers, "web", address, |object| {
                condition(object, "Accepted").is_some_and(|(.., message)| {
                    message.contains("spec.endpoints[0].addresses[0].ip") && message.contains(address)
                })
            })
            .await;
        }
        let snapshot = manager.snapshots.borrow().clone().unwrap();
        let all = received(&snapshot);
        let endpoints: Vec<_> = all
            .iter()
            .filter(|((kind, name), _)| kind.ends_with("ClusterLoadAssignment") && name.starts_with(TENANT))
            .collect();
        assert!(!endpoints.is_empty(), "what is allowed is served");
        for (key, bytes) in endpoints {
            let is_there = bytes.windows(address.len()).any(|window| window == address.as_bytes());
            assert!(!is_there, "{key:?} has {address}");
        }
    }
    manager.stop().await;
}

#[tokio::test]
async fn addresses_of_others_are_not_to_be_had() {
    let world = World::start(POOL).await;
    let pools = json!([
        {"name": "lan", "ranges": ["203.0.113.10-203.0.113.11"]},
        {"name": "victims", "ranges": ["203.0.113.12/32"], "tenants": ["victim"]},
    ]);
    deny(&world, pools).await;
    world.create_tenant("victim").await;
    let mut manager = world.manage("a", &[]).await;
    world
        .create_load_balancer("web", |value| value["metadata"]["namespace"] = json!("tenant-victim"))
        .await;
    let victim = manager.serves("the victim", |names| names.len() == 1).await;
    let held = crate::world::listeners(&victim)[0]
        .split('/')
        .nth(2)
        .unwrap()
        .to_owned();

    // The one that somebody has, one of a pool of others, and one of nobody's.
    for (name, wanted) in [
        ("taken", held.as_str()),
        ("foreign", "203.0.113.12"),
        ("stray", "198.51.100.1"),
    ] {
        if wanted == "203.0.113.12" && held == wanted {
            continue;
        }
        world
            .create_load_balancer(name, |value| value["spec"]["loadBalancerIP"] = json!(wanted))
            .await;
        let told = until(&world.load_balancers(), name, "refused", |object| {
            condition(object, "AddressAssigned").is_some_and(|(status, ..)| status == "False")
        })
        .await;
        let (.., message) = condition(told.as_ref(), "AddressAssigned").unwrap();
        assert!(message.contains(wanted), "{name}: {message}");
        assert_eq!(ingress(told.as_ref()), Vec::<String>::new());
    }
    // All that is served at the victim's address is the victim's.
    let snapshot = manager.snapshots.borrow().clone().unwrap();
    for listener in crate::world::listeners(&snapshot) {
        let is_victims = listener.starts_with("tenant-victim/");
        assert_eq!(listener.contains(&format!("/{held}/")), is_victims, "{listener}");
    }
    manager.stop().await;
}
