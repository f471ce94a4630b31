//! Proxies that die, end and come back, and the API server doing so.

use std::time::Duration;

use kubelb_tests::{tool, wait};
use serde_json::json;

use super::talk::{Tcp, ask, soon};
use super::world::{READY, World, at};

const PROXY: &str = "service-proxy/p-node1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_leaves_its_rules_and_takes_them_up_again() {
    let mut world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    world.endpoints("s", &[(0, READY)]).await;
    let to = at(world.node(1).v4.into(), given.node_port);
    soon(&world.client.namespace, Tcp, to, |answer| answer.server == "pod1");
    world.cluster.kill(PROXY).unwrap();
    ask(&world.client.namespace, Tcp, to).unwrap();
    world.endpoints("s", &[(1, READY)]).await;
    world.cluster.start_again(PROXY).unwrap();
    soon(&world.client.namespace, Tcp, to, |answer| answer.server == "pod2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_asked_to_end_takes_its_rules_and_addresses_away() {
    let mut world = World::start().await;
    let tables = |world: &World| tool::output(world.node(1).namespace.command("nft").args(["list", "tables"])).unwrap();
    let addresses = |world: &World| {
        tool::output(
            world
                .node(1)
                .namespace
                .command("ip")
                .args(["address", "show", "dev", "lo"]),
        )
        .unwrap()
    };
    wait::until(Duration::from_secs(10), || {
        anyhow::ensure!(tables(&world).contains("kubelb-service-proxy"), "no table yet");
        Ok(())
    })
    .unwrap();
    assert!(addresses(&world).contains("10.96.0.10"));
    world.cluster.stop(PROXY).unwrap();
    assert!(!tables(&world).contains("kubelb-service-proxy"));
    assert!(!addresses(&world).contains("10.96.0.10"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_api_server_is_away_everything_goes_on_and_changes_follow_when_it_is_back() {
    let mut world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    world.endpoints("s", &[(0, READY)]).await;
    let to = at(world.node(1).v4.into(), given.node_port);
    soon(&world.client.namespace, Tcp, to, |answer| answer.server == "pod1");
    world.cluster.kill("apiserver").unwrap();
    for _ in 0..20 {
        ask(&world.client.namespace, Tcp, to).unwrap();
    }
    world.cluster.start_again("apiserver").unwrap();
    ask(&world.client.namespace, Tcp, to).unwrap();
    world.endpoints("s", &[(1, READY)]).await;
    soon(&world.client.namespace, Tcp, to, |answer| answer.server == "pod2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_endpoints_is_followed_quickly() {
    let world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    world.endpoints("s", &[(0, READY)]).await;
    let to = at(world.node(1).v4.into(), given.node_port);
    soon(&world.client.namespace, Tcp, to, |_| true);
    let mut times = Vec::new();
    for turn in 0..10 {
        let pod = (turn + 1) % 2;
        let start = wait::now();
        world.endpoints("s", &[(pod, READY)]).await;
        let wanted = world.pods[pod].name.clone();
        soon(&world.client.namespace, Tcp, to, |answer| answer.server == wanted);
        times.push(wait::now() - start);
    }
    times.sort();
    // From the request that changes two slices to the first answer; a machine that runs other tests may be late at times.
    assert!(times[times.len() / 2] < Duration::from_millis(250), "{times:?}");
    eprintln!("from the change to the first answer: {times:?}");
}
