//! Managers on an API server: what people and CCMs write there, and what is then served, claimed and told.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

mod broken;
mod delegated;
mod hostile;
mod kubelb;
mod node;
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubelb_api::v1alpha1::{
    AddressClaim, AddressClaimSpec, Addresses, Holder, LoadBalancer, Tenant, VirtualAddressOwner,
};
use kubelb_tests::bare::until;
use kubelb_tests::control_plane::Host;
use kubelb_tests::controllers;
use node::Node;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;
use world::{NAMESPACE, TENANT, World, condition, ingress, listeners};

const POOL: &str = "203.0.113.10-203.0.113.19";

#[tokio::test]
async fn an_object_gets_an_address_is_served_and_told_so() {
    let world = World::start(POOL).await;
    let mut manager = world.manage("a", &[]).await;
    world.create_load_balancer("web", |_| {}).await;
    manager
        .serves("the listener", |names| {
            names == [format!("{TENANT}/web/203.0.113.10/80-tcp")]
        })
        .await;
    let claim = world.claims().get("v4-203-0-113-10").await.unwrap();
    assert_eq!(claim.spec.tenant, "primary");
    assert_eq!(claim.spec.holders[0].name, "web");
    let told = until(&world.load_balancers(), "web", "its status", |object| {
        ingress(object) == ["203.0.113.10"]
    })
    .await;
    let assigned = condition(told.as_ref(), "AddressAssigned").unwrap();
    assert_eq!(assigned.0, "True", "{assigned:?}");
    let generation = told.as_ref().unwrap().metadata.generation;
    let status = told.as_ref().unwrap().status.as_ref().unwrap();
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == generation)
    );

    world
        .load_balancers()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    manager.serves("nothing", <[String]>::is_empty).await;
    until(&world.claims(), "v4-203-0-113-10", "the claim is over", |claim| {
        claim.is_none()
    })
    .await;
    manager.stop().await;
}

#[tokio::test]
async fn nothing_is_said_twice_and_what_others_write_into_a_status_is_put_right() {
    let world = World::start(POOL).await;
    let manager = world.manage("a", &[]).await;
    world.create_load_balancer("web", |_| {}).await;
    let api = world.load_balancers();
    let told = until(&api, "web", "its status", |object| ingress(object) == ["203.0.113.10"])
        .await
        .unwrap();
    world
        .patch_status(
            "web",
            json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.66", "ipMode": "VIP"}]}}),
        )
        .await;
    let again = until(&api, "web", "put right", |object| ingress(object) == ["203.0.113.10"])
        .await
        .unwrap();
    let versions = [&told, &again].map(|object| object.metadata.resource_version.clone().unwrap());
    // The foreign write and one of the manager's own.
    let conditions = [&told, &again].map(|object| object.status.as_ref().unwrap().conditions.clone());
    assert_eq!(conditions[0], conditions[1]);
    assert_ne!(versions[0], versions[1]);
    // A change of something else is one more version and no write of the status.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let labelled = api.patch("web", &PatchParams::default(), &patch).await.unwrap();
    world.create_load_balancer("other", |_| {}).await;
    until(&api, "other", "told, after whatever was to be told before", |object| {
        !ingress(object).is_empty()
    })
    .await;
    let last = api.get("web").await.unwrap();
    assert_eq!(last.metadata.resource_version, labelled.metadata.resource_version);
    manager.stop().await;
}

#[tokio::test]
async fn an_address_that_only_a_status_claims_is_not_served() {
    let world = World::start(POOL).await;
    for (name, address) in [("adopted", "203.0.113.15"), ("stray", "192.0.2.1")] {
        world.create_load_balancer(name, |_| {}).await;
        world
            .patch_status(name, json!({"loadBalancer": {"ingress": [{"ip": address}]}}))
            .await;
    }
    let mut manager = world.manage("a", &[]).await;
    let wanted = [
        format!("{TENANT}/adopted/203.0.113.15/80-tcp"),
        format!("{TENANT}/stray/203.0.113.10/80-tcp"),
    ];
    manager
        .serves("adopted where a pool has it", |names| names == wanted)
        .await;
    until(&world.load_balancers(), "stray", "told another", |object| {
        ingress(object) == ["203.0.113.10"]
    })
    .await;
    manager.stop().await;
}

#[tokio::test]
async fn of_two_who_want_an_address_at_once_one_has_it() {
    let world = World::start("203.0.113.10-203.0.113.29").await;
    let mut manager = world.manage("a", &[]).await;
    // Somebody else claims each address at the moment at which the manager would give it out.
    for number in 10..20 {
        let address = format!("203.0.113.{number}");
        let theirs = AddressClaim::new(
            &format!("v4-203-0-113-{number}"),
            AddressClaimSpec {
                address,
                tenant: "other".to_owned(),
                holders: vec![Holder {
                    kind: "Gateway".to_owned(),
                    namespace: "tenant-other".to_owned(),
                    name: "g".to_owned(),
                    uid: "1".to_owned(),
                }],
            },
        );
        let (claims, parameters) = (world.claims(), PostParams::default());
        let name = format!("web-{number}");
        let (claimed, _) = tokio::join!(
            claims.create(&parameters, &theirs),
            world.create_load_balancer(&name, |_| {})
        );
        match claimed {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
    let names = listeners(&*manager.serves("all", |names| names.len() == 10).await);
    for claim in world.claims().list(&ListParams::default()).await.unwrap() {
        let served = names
            .iter()
            .filter(|name| name.contains(&format!("/{}/", claim.spec.address)));
        let wanted = usize::from(claim.spec.tenant == "primary");
        assert_eq!(served.count(), wanted, "{}: {names:?}", claim.spec.address);
    }
    manager.stop().await;
}

#[tokio::test]
async fn one_that_cannot_be_read_costs_itself_only() {
    let world = World::start(POOL).await;
    world.create_load_balancer("good", |_| {}).await;
    world
        .create_load_balancer("bad", |value| value["spec"]["ports"][0]["port"] = json!(80))
        .await;
    let mut manager = world.manage("a", &[]).await;
    manager.serves("both", |names| names.len() == 2).await;
    // One that the schema lets through, and nobody can serve.
    let patch = Patch::Merge(
        json!({"spec": {"endpoints": [{"addressesReference": {"name": "nowhere"}, "ports": [{"port": 1}]}]}}),
    );
    world
        .load_balancers()
        .patch("bad", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let told = until(&world.load_balancers(), "bad", "told why", |object| {
        condition(object, "ResolvedRefs").is_some_and(|(status, ..)| status == "False")
    })
    .await;
    let (_, reason, message) = condition(told.as_ref(), "ResolvedRefs").unwrap();
    assert_eq!(reason, "RefNotFound");
    assert!(
        message.contains("spec.endpoints[0].addressesReference.name"),
        "{message}"
    );
    let good = world.load_balancers().get("good").await.unwrap();
    assert_eq!(condition(Some(&good), "ResolvedRefs").unwrap().0, "True");
    manager.stop().await;
}

#[tokio::test]
async fn all_serve_and_one_writes_whoever_is_killed() {
    let world = World::start(POOL).await;
    let mut first = world.manage("first", &[]).await;
    world.create_load_balancer("web", |_| {}).await;
    let served = first.serves("the listener", |names| names.len() == 1).await;
    let leases: Api<Lease> = Api::namespaced(world.client(), NAMESPACE);
    let holder = |lease: Option<&Lease>| lease?.spec.as_ref()?.holder_identity.clone();
    let mut second = world.manage("second", &[]).await;
    let same = second.serves("the same", |names| names.len() == 1).await;
    let versions = [&served, &same].map(|snapshot| format!("{:?}", snapshot.table(kubelb_xds::ResourceType::Listener)));
    assert_eq!(versions[0], versions[1]);
    let lease = leases.get("19f32e7b.kubelb.k8c.io").await.unwrap();
    assert_eq!(holder(Some(&lease)).as_deref(), Some("first"));

    first.kill();
    until(&leases, "19f32e7b.kubelb.k8c.io", "the other leads", |lease| {
        holder(lease).as_deref() == Some("second")
    })
    .await;
    world.create_load_balancer("next", |_| {}).await;
    let names = listeners(&*second.serves("both", |names| names.len() == 2).await);
    assert_eq!(
        names,
        [
            format!("{TENANT}/next/203.0.113.11/80-tcp"),
            format!("{TENANT}/web/203.0.113.10/80-tcp"),
        ]
    );
    until(&world.load_balancers(), "next", "told", |object| {
        ingress(object) == ["203.0.113.11"]
    })
    .await;
    second.stop().await;
    let given_back = leases.get("19f32e7b.kubelb.k8c.io").await.unwrap();
    assert_eq!(holder(Some(&given_back)).as_deref(), Some(""));
}

#[tokio::test]
async fn an_api_server_that_is_away_takes_nothing_away() {
    let mut world = World::start(POOL).await;
    let mut manager = world.manage("a", &[]).await;
    world.create_load_balancer("web", |_| {}).await;
    manager.serves("the listener", |names| names.len() == 1).await;
    until(&world.load_balancers(), "web", "told", |object| {
        !ingress(object).is_empty()
    })
    .await;
    world.cluster.server.kill().unwrap();
    assert_eq!(listeners(manager.snapshots.borrow().as_ref().unwrap()).len(), 1);
    world.cluster.server.start(Host::Here).unwrap();
    world.create_load_balancer("next", |_| {}).await;
    let names = listeners(&*manager.serves("both", |names| names.len() == 2).await);
    assert!(
        names.contains(&format!("{TENANT}/web/203.0.113.10/80-tcp")),
        "{names:?}"
    );
    until(&world.load_balancers(), "next", "told", |object| {
        ingress(object) == ["203.0.113.11"]
    })
    .await;
    manager.stop().await;
}

#[tokio::test]
async fn all_managers_have_one_authority_and_peers_are_told_what_to_trust() {
    let world = World::start(POOL).await;
    let flags = ["--listen-xds=127.0.0.1:0"];
    let (first, second) = tokio::join!(world.manage("first", &flags), world.manage("second", &flags));
    let secrets: Api<Secret> = Api::namespaced(world.client(), NAMESPACE);
    let secret = secrets.get("kubelb-xds-ca").await.unwrap();
    let text = String::from_utf8(secret.data.unwrap()["xds-ca.pem"].0.clone()).unwrap();
    let bundles: Api<ConfigMap> = Api::namespaced(world.client(), NAMESPACE);
    let bundle = until(&bundles, "kubelb-xds-ca", "the bundle", |bundle| bundle.is_some())
        .await
        .unwrap();
    let trusted = &bundle.data.unwrap()["ca.crt"];
    assert!(text.starts_with(trusted.as_str()), "the certificate of the Secret");
    assert!(!trusted.contains("PRIVATE"));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_address_is_announced_by_one_node_and_moves_only_when_that_is_lost() {
    let world = World::start(POOL).await;
    let directory = tempfile::tempdir().unwrap();
    let listen = free_address();
    let state = directory.path().display().to_string();
    let flags = [format!("--listen-xds={listen}"), format!("--state-dir={state}")];
    let flags = flags.each_ref().map(String::as_str);
    let manager = world.manage("first", &flags).await;
    world.create_load_balancer("web", |_| {}).await;
    let mut nodes = ["a", "b"].map(|name| Some(Node::start(name, &[listen], directory.path())));
    let owners: Api<VirtualAddressOwner> = Api::all(world.client());
    let name = "v4-203-0-113-10";
    let owner = until(&owners, name, "somebody", |owner| owner.is_some()).await.unwrap();
    let index = usize::from(owner.spec.node == "b");
    let others = ["b", "a"][index];

    // A restart of the agent, and one of the manager, move nothing.
    let node = nodes[index].take();
    drop(node);
    let moved = async { until(&owners, name, "", |now| now.is_some_and(|now| now.spec != owner.spec)).await };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), moved).await.is_err(),
        "a restart moves nothing"
    );
    nodes[index] = Some(Node::start(&owner.spec.node, &[listen], directory.path()));
    manager.stop().await;
    let manager = world.manage("second", &flags).await;
    let moved = async { until(&owners, name, "", |now| now.is_some_and(|now| now.spec != owner.spec)).await };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), moved).await.is_err(),
        "nor does another manager"
    );

    // One that is silent is lost.
    let frozen = nodes[index].as_ref().unwrap().freeze();
    let began = tokio::time::Instant::now();
    let taken = until(&owners, name, "another", |now| {
        now.is_some_and(|now| now.spec.node == others)
    })
    .await
    .unwrap();
    eprintln!("another node announces it after {:?}", began.elapsed());
    assert!(taken.spec.epoch > owner.spec.epoch);
    drop(frozen);
    let moved = async { until(&owners, name, "", |now| now.is_some_and(|now| now.spec != taken.spec)).await };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), moved).await.is_err(),
        "it does not move back"
    );

    world
        .load_balancers()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    until(&owners, name, "nobody", |owner| owner.is_none()).await;
    manager.stop().await;
}

#[tokio::test]
async fn agents_of_all_managers_count_and_one_that_is_silent_anywhere_is_lost() {
    let world = World::start(POOL).await;
    let directory = tempfile::tempdir().unwrap();
    let state = format!("--state-dir={}", directory.path().display());
    let listen = [free_address(), free_address()];
    let flags = listen.map(|address| [format!("--listen-xds={address}"), state.clone()]);
    let flags = flags.each_ref().map(|flags| flags.each_ref().map(String::as_str));
    let leader = world.manage("first", &flags[0]).await;
    world.create_load_balancer("web", |_| {}).await;
    until(&world.load_balancers(), "web", "told by the leader", |object| {
        !ingress(object).is_empty()
    })
    .await;
    let other = world.manage("second", &flags[1]).await;
    // It has to be the other one's word by which the leader knows.
    let b = Node::start("b", &listen[1..], directory.path());
    let owners: Api<VirtualAddressOwner> = Api::all(world.client());
    let name = "v4-203-0-113-10";
    let owner = until(&owners, name, "somebody", |owner| owner.is_some()).await.unwrap();
    assert_eq!(owner.spec.node, "b");
    let _a = Node::start("a", &listen[..1], directory.path());
    let message = |object: Option<&LoadBalancer>| condition(object, "Programmed").map(|(_, _, message)| message);
    until(&world.load_balancers(), "web", "both are counted", |object| {
        message(object).is_some_and(|message| message == "2 data planes serve it")
    })
    .await;

    let frozen = b.freeze();
    let began = tokio::time::Instant::now();
    let taken = until(&owners, name, "another", |now| {
        now.is_some_and(|now| now.spec.node == "a")
    })
    .await
    .unwrap();
    eprintln!(
        "silent to another manager, lost to the leader after {:?}",
        began.elapsed()
    );
    assert!(taken.spec.epoch > owner.spec.epoch);
    until(&world.load_balancers(), "web", "one is counted", |object| {
        message(object).is_some_and(|message| message == "1 data planes serve it")
    })
    .await;
    drop(frozen);
    until(&world.load_balancers(), "web", "it is heard again", |object| {
        message(object).is_some_and(|message| message == "2 data planes serve it")
    })
    .await;
    drop(b);
    other.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn a_new_tenant_is_registered_and_served_by_its_own_credential() {
    let world = World::start(POOL).await;
    let server = &world.cluster.server;
    let options = controllers::Options {
        api_ca: server.ca().unwrap().to_owned(),
        ..controllers::Options::default()
    };
    let _controllers = AbortOnDropHandle::new(tokio::spawn(controllers::run(
        world.client(),
        options,
        std::future::pending(),
    )));
    let url = format!("--api-server-url=https://{}", server.address());
    let mut manager = world.manage("a", &[&url]).await;
    world
        .create::<Tenant>(json!({"metadata": {"name": "second"}, "spec": {}}))
        .await;
    let secrets: Api<Secret> = Api::namespaced(world.client(), "tenant-second");
    let secret = until(&secrets, "kubelb-ccm-kubeconfig", "the credential", |secret| {
        secret.is_some()
    })
    .await
    .unwrap();
    let text = String::from_utf8(secret.data.unwrap()["kubelb"].0.clone()).unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let tenant = kube::Client::try_from(config).unwrap();
    let addresses: Api<Addresses> = Api::namespaced(tenant.clone(), "tenant-second");
    let spec = json!({"metadata": {"name": "default"}, "spec": {"addresses": [{"ip": "10.0.0.2"}]}});
    let object = object("Addresses", spec);
    addresses.create(&PostParams::default(), &object).await.unwrap();
    let load_balancers: Api<LoadBalancer> = Api::namespaced(tenant, "tenant-second");
    let spec = json!({"metadata": {"name": "web"}, "spec": {
        "type": "LoadBalancer", "ports": [{"port": 80}],
        "endpoints": [{"addressesReference": {"name": "default"}, "ports": [{"port": 30080}]}],
    }});
    load_balancers
        .create(&PostParams::default(), &self::object("LoadBalancer", spec))
        .await
        .unwrap();
    manager
        .serves("the listener", |names| {
            names == ["tenant-second/web/203.0.113.10/80-tcp"]
        })
        .await;
    until(&load_balancers, "web", "told", |object| {
        ingress(object) == ["203.0.113.10"]
    })
    .await;

    let tenants: Api<Tenant> = Api::all(world.client());
    tenants.delete("second", &DeleteParams::default()).await.unwrap();
    manager.serves("nothing", <[String]>::is_empty).await;
    until(&tenants, "second", "nothing is left", |tenant| tenant.is_none()).await;
    until(&world.claims(), "v4-203-0-113-10", "the claim is over", |claim| {
        claim.is_none()
    })
    .await;
    manager.stop().await;
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, mut value: serde_json::Value) -> K {
    value["apiVersion"] = json!("kubelb.k8c.io/v1alpha1");
    value["kind"] = json!(kind);
    serde_json::from_value(value).unwrap()
}

/// Free a moment ago, which has to do for one that is named beforehand.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
