//! One broken object of each kind, in several ways: what peers of all others are sent stays the same to the byte, its owner is told which field it
//! is, and a fix cures it.
//!
//! The definitions let everything through, as those of another version might, so that the manager has to look for itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceValidation, JSONSchemaProps,
};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kubelb_api::v1alpha1::Tenant;
use kubelb_manager::object::{Kind, ObjectKey};
use kubelb_manager::source::cluster::api_of;
use kubelb_tests::bare::{PATIENCE, until};
use kubelb_tests::wait;
use kubelb_xds::client;
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kubelb_xds::server::{Config, Output, Session, Variant};
use kubelb_xds::{ResourceType, Scope, Snapshot, Tenants};
use prost::Message as _;
use serde_json::{Value, json};

use crate::world::{Manager, NAMESPACE, World};

/// The tenant that breaks things.
const TENANT: &str = "tenant-broken";
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Definitions of the same kinds that check nothing.
fn loose() -> Vec<CustomResourceDefinition> {
    let mut all = kubelb_api::crds::all();
    for definition in &mut all {
        for version in &mut definition.spec.versions {
            version.schema = Some(CustomResourceValidation {
                open_api_v3_schema: Some(JSONSchemaProps {
                    type_: Some("object".to_owned()),
                    x_kubernetes_preserve_unknown_fields: Some(true),
                    ..JSONSchemaProps::default()
                }),
            });
        }
    }
    all
}

/// What peers get over ADS, by their sessions: type and name of each resource, and its bytes.
pub(crate) type Received = BTreeMap<(String, String), Vec<u8>>;

pub(crate) fn received(snapshot: &Arc<Snapshot>) -> Received {
    let mut all = Received::new();
    for (peer, scope) in [("agent", Scope::Agent), ("fleet", Scope::Fleet(Tenants::All))] {
        let mut server = Session::new(Variant::Delta, scope, Config::default(), wait::now());
        let mut client = client::Session::new(Node::default());
        for kind in [
            ResourceType::Cluster,
            ResourceType::Listener,
            ResourceType::VirtualAddress,
        ] {
            drop(client.subscribe(kind, ["*".to_owned()]));
        }
        let mut queue = VecDeque::new();
        let take = |output: Output, queue: &mut VecDeque<_>| queue.extend(output.responses);
        take(server.on_snapshot(Arc::clone(snapshot), wait::now()), &mut queue);
        for request in client.connect() {
            take(server.on_delta_request(request, wait::now()), &mut queue);
        }
        while let Some(response) = queue.pop_front() {
            let response = DeltaDiscoveryResponse::decode(response.to_bytes()).unwrap();
            for resource in &response.resources {
                let key = (format!("{peer} {}", response.type_url), resource.name.clone());
                all.insert(key, resource.encode_to_vec());
            }
            let clusters: Vec<String> = response
                .resources
                .iter()
                .filter(|_| response.type_url == ResourceType::Cluster.type_url())
                .map(|resource| resource.name.clone())
                .collect();
            let outcome = client.on_response(response, |_, _, _| Ok(()));
            let wanted = client.subscribe(ResourceType::Endpoints, clusters);
            for request in std::iter::once(outcome.reply).chain(wanted) {
                take(server.on_delta_request(request, wait::now()), &mut queue);
            }
        }
    }
    all
}

/// Where it is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// In the message of a condition.
    Condition,
    /// In a condition of another object.
    ConditionOf(Kind, &'static str),
    /// In an Event.
    Event,
    /// Nowhere: nothing is wrong with it.
    Nowhere,
}

/// A way to break an object.
struct Case {
    kind: Kind,
    name: &'static str,
    patch: Value,
    /// What of the snapshot may change: names that begin like this.
    own: &'static str,
    told: Told,
    /// In the message.
    words: &'static str,
}

fn case(kind: Kind, name: &'static str, patch: Value, own: &'static str, told: Told, words: &'static str) -> Case {
    Case {
        kind,
        name,
        patch,
        own,
        told,
        words,
    }
}

fn cases() -> Vec<Case> {
    let spec = |spec: Value| json!({"spec": spec});
    let web = |patch, words| {
        case(
            Kind::LoadBalancer,
            "web",
            patch,
            "tenant-broken/web/",
            Told::Condition,
            words,
        )
    };
    let nodes = |patch, words| {
        case(
            Kind::Addresses,
            "default",
            patch,
            "tenant-broken/",
            Told::Condition,
            words,
        )
    };
    let many: Vec<Value> = (1..2_000).map(|port| json!({"port": port})).collect();
    let crowd: Vec<Value> = (0..20_000)
        .map(|node| json!({"ip": format!("10.{}.{}.1", node / 250, node % 250)}))
        .collect();
    vec![
        web(spec(json!({"ports": [{"port": "http"}]})), "spec.ports[0].port"),
        web(spec(json!({"ports": [{"port": 70_000}]})), "spec.ports[0].port"),
        web(
            spec(json!({"ports": [{"port": 5_000_000_000_i64}]})),
            "spec.ports[0].port",
        ),
        web(spec(json!({"ports": many})), "spec.ports[1]"),
        web(spec(json!({"endpoints": []})), "spec.ports[0]"),
        web(
            spec(json!({"endpoints": [{"ports": [{"port": 1}], "addressesReference": {"name": "x".repeat(100_000)}}]})),
            "spec.endpoints[0].addressesReference",
        ),
        web(spec(json!({"algorithm": "Sorcery"})), "spec.algorithm"),
        web(json!({"spec": "nonsense"}), "spec"),
        case(
            Kind::LoadBalancer,
            "web",
            spec(json!({"sorcery": {"deep": [1, 2, 3]}})),
            "",
            Told::Nowhere,
            "",
        ),
        nodes(spec(json!({"addresses": "10.0.0.1"})), "spec.addresses"),
        nodes(
            spec(json!({"addresses": [{"ip": "300.0.0.1"}, {"ip": "10.0.0.1"}]})),
            "spec.addresses[0].ip",
        ),
        nodes(
            spec(json!({"addresses": [{"ip": "10.0.0.1", "weight": -1}]})),
            "spec.addresses[0].weight",
        ),
        nodes(spec(json!({"addresses": crowd})), "spec.addresses"),
        case(
            Kind::Tenant,
            "broken",
            spec(json!({"loadBalancer": {"disable": "perhaps"}})),
            "tenant-broken/",
            Told::Event,
            "spec.loadBalancer.disable",
        ),
        case(
            Kind::Tenant,
            "broken",
            spec(json!({"allowedRanges": ["everything"]})),
            "tenant-broken/",
            Told::ConditionOf(Kind::Addresses, "default"),
            "allowedRanges",
        ),
        case(
            Kind::Config,
            "default",
            spec(json!({"addressPools": "all"})),
            "",
            Told::Condition,
            "spec.addressPools",
        ),
        case(
            Kind::Config,
            "default",
            spec(json!({"deniedRanges": ["all"]})),
            "",
            Told::Condition,
            "spec.deniedRanges[0]",
        ),
        case(
            Kind::AddressClaim,
            "v4-203-0-113-12",
            spec(json!({"holders": 7})),
            "tenant-broken/web/",
            Told::Event,
            "spec.holders",
        ),
    ]
}

/// Objects that are broken from the beginning.
fn stillborn() -> Vec<Case> {
    let object = |kind: &str, name: &str, content: Value| {
        let mut object = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": kind, "metadata": {"name": name}});
        object
            .as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        object
    };
    vec![
        case(
            Kind::LoadBalancer,
            "never",
            object(
                "LoadBalancer",
                "never",
                json!({"spec": {"endpoints": [], "ports": {"port": 80}}}),
            ),
            "",
            Told::Event,
            "spec.ports",
        ),
        case(
            Kind::Tenant,
            "nobody",
            object("Tenant", "nobody", json!({"spec": {"allowedRanges": 3}})),
            "",
            Told::Event,
            "spec.allowedRanges",
        ),
        case(
            Kind::SyncSecret,
            "secret",
            object("SyncSecret", "secret", json!({"stringData": ["a"]})),
            "",
            Told::Event,
            "",
        ),
        case(
            Kind::VirtualAddressOwner,
            "v4-203-0-113-12",
            object(
                "VirtualAddressOwner",
                "v4-203-0-113-12",
                json!({"spec": {"node": 5, "epoch": 1}}),
            ),
            "",
            Told::Event,
            "spec.node",
        ),
    ]
}

struct Bench {
    world: World,
    manager: Manager,
}

impl Bench {
    async fn start() -> Self {
        let world = World::with("203.0.113.10-203.0.113.19", loose()).await;
        world.create_tenant("broken").await;
        // One after the other, so that it is known who has which address.
        let manager = world.manage("a", &[]).await;
        let mut bench = Self { world, manager };
        for (count, (namespace, name)) in [
            ("tenant-primary", "web"),
            ("tenant-primary", "other"),
            (TENANT, "web"),
            (TENANT, "other"),
        ]
        .into_iter()
        .enumerate()
        {
            bench
                .world
                .create_load_balancer(name, |value| value["metadata"]["namespace"] = json!(namespace))
                .await;
            bench.manager.serves("each", |names| names.len() == count + 1).await;
        }
        bench
    }

    fn api(&self, case: &Case) -> Api<DynamicObject> {
        self.api_of(case.kind, case.name)
    }

    fn api_of(&self, kind: Kind, name: &str) -> Api<DynamicObject> {
        let namespace = if kind == Kind::Config {
            NAMESPACE
        } else if kind.is_namespaced() {
            TENANT
        } else {
            ""
        };
        api_of(&self.world.client(), &ObjectKey::new(kind, namespace, name))
    }

    fn now(&self) -> Received {
        received(self.manager.snapshots.borrow().as_ref().unwrap())
    }

    /// What is said somewhere about an object.
    async fn said(&self, case: &Case) -> Vec<String> {
        let conditions = async |kind, name: &str| {
            let object = self.api_of(kind, name).get_opt(name).await.unwrap();
            let conditions = object.and_then(|object| object.data.pointer("/status/conditions").cloned());
            let conditions = conditions.and_then(|conditions| conditions.as_array().cloned());
            let messages = conditions.into_iter().flatten();
            messages
                .filter_map(|condition| condition["message"].as_str().map(str::to_owned))
                .collect()
        };
        match case.told {
            Told::Condition => conditions(case.kind, case.name).await,
            Told::ConditionOf(kind, name) => conditions(kind, name).await,
            Told::Event => {
                let events: Api<Event> = Api::all(self.world.client());
                let list = events.list(&ListParams::default()).await.unwrap();
                let about = |event: &Event| {
                    event.regarding.as_ref().is_some_and(|regarding| {
                        regarding.kind.as_deref() == Some(case.kind.as_str())
                            && regarding.name.as_deref() == Some(case.name)
                    })
                };
                let notes = list.items.into_iter().filter(about);
                notes.filter_map(|event| event.note).collect()
            }
            Told::Nowhere => Vec::new(),
        }
    }

    async fn until_told(&self, case: &Case) {
        if matches!(case.told, Told::Nowhere) {
            return self.fence().await;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let said = self.said(case).await;
            if said.iter().any(|message| message.contains(case.words)) {
                return;
            }
            let what = format!("{:?} {}: {said:?} does not say {}", case.kind, case.name, case.words);
            assert!(tokio::time::Instant::now() < deadline, "{what}");
            looks.tick().await;
        }
    }

    /// Everything that was written before is taken in: another object, written now, is served; and then taken away again.
    async fn fence(&self) {
        let mut snapshots = self.manager.snapshots.clone();
        let has = |wanted: bool| {
            move |snapshot: &Option<Arc<Snapshot>>| {
                let names = crate::world::listeners(snapshot.as_ref().unwrap());
                names.iter().any(|name| name.starts_with("tenant-primary/fence/")) == wanted
            }
        };
        self.world.create_load_balancer("fence", |_| {}).await;
        let seen = snapshots.wait_for(has(true));
        tokio::time::timeout(PATIENCE, async { drop(seen.await.unwrap()) })
            .await
            .expect("the fence is served");
        let load_balancers = self.world.load_balancers();
        load_balancers.delete("fence", &DeleteParams::default()).await.unwrap();
        let gone = snapshots.wait_for(has(false));
        tokio::time::timeout(PATIENCE, async { drop(gone.await.unwrap()) })
            .await
            .expect("the fence is gone");
    }

    async fn until_same(&self, base: &Received, what: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let differing = differing(base, &self.now(), "");
            if differing.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {differing:?}");
            looks.tick().await;
        }
    }
}

/// What differs, but for names that begin with `own` (none do with an empty one).
fn differing(a: &Received, b: &Received, own: &str) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let is_own = |name: &str| !own.is_empty() && name.starts_with(own);
    keys.into_iter()
        .filter(|key| !is_own(&key.1) && a.get(*key) != b.get(*key))
        .map(|(kind, name)| format!("{kind} {name}"))
        .collect()
}

#[tokio::test]
async fn a_broken_object_costs_itself_only_is_told_so_and_can_be_cured() {
    let bench = Bench::start().await;
    let base = bench.now();
    assert!(base.len() > 12, "{:?}", base.keys());
    for case in cases() {
        let what = format!("{:?} {} {}", case.kind, case.name, case.words);
        let api = bench.api(&case);
        let whole = api.get(case.name).await.unwrap();
        api.patch(case.name, &PatchParams::default(), &Patch::Merge(&case.patch))
            .await
            .unwrap();
        bench.until_told(&case).await;
        let differing = differing(&base, &bench.now(), case.own);
        assert!(differing.is_empty(), "{what}: {differing:?}");

        let mut cured = whole;
        cured.metadata.managed_fields = None;
        loop {
            cured.metadata.resource_version = api.get(case.name).await.unwrap().metadata.resource_version;
            match api.replace(case.name, &PostParams::default(), &cured).await {
                // A status that is written in between makes it an old version.
                Err(kube::Error::Api(answer)) if answer.code == 409 => {}
                answer => break drop(answer.unwrap()),
            }
        }
        bench.until_same(&base, &what).await;
        if matches!(case.told, Told::Condition | Told::ConditionOf(..)) {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            let mut looks = tokio::time::interval(LOOK);
            while bench.said(&case).await.iter().any(|said| said.contains(case.words)) {
                assert!(tokio::time::Instant::now() < deadline, "{what}: still told");
                looks.tick().await;
            }
        }
    }
    bench.manager.stop().await;
}

#[tokio::test]
async fn one_that_was_never_whole_costs_nothing_and_is_told_in_an_event() {
    let bench = Bench::start().await;
    let base = bench.now();
    for case in stillborn() {
        let api = bench.api(&case);
        let object: DynamicObject = serde_json::from_value(case.patch.clone()).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        bench.until_told(&case).await;
        let differing = differing(&base, &bench.now(), case.own);
        assert!(differing.is_empty(), "{:?} {}: {differing:?}", case.kind, case.name);
    }
    // A tenant that comes afterwards is looked at and served all the same.
    bench.world.create_tenant("late").await;
    let tenants: Api<Tenant> = Api::all(bench.world.client());
    until(&tenants, "late", "the controllers have looked at it", |tenant| {
        tenant.is_some_and(|tenant| {
            tenant
                .status
                .as_ref()
                .is_some_and(|status| !status.conditions.is_empty())
        })
    })
    .await;
    let late = json!("tenant-late");
    bench
        .world
        .create_load_balancer("web", |value| value["metadata"]["namespace"] = late)
        .await;
    let mut snapshots = bench.manager.snapshots.clone();
    let is_served = |snapshot: &Option<Arc<Snapshot>>| {
        let names = crate::world::listeners(snapshot.as_ref().unwrap());
        names.iter().any(|name| name.starts_with("tenant-late/web/"))
    };
    let served = async { drop(snapshots.wait_for(is_served).await.unwrap()) };
    tokio::time::timeout(PATIENCE, served).await.expect("served");
    bench.manager.stop().await;
}
