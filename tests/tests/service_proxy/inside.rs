//! The cluster's own addresses, from pods and nodes.

use serde_json::json;

use super::talk::{Tcp, Udp, ask, soon, soon_nobody};
use super::world::{READY, World, at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_and_nodes_reach_a_service_and_are_seen() {
    let world = World::start().await;
    let given = world.service("s", json!({})).await;
    world.endpoints("s", &[(1, READY)]).await;
    assert_eq!(given.addresses.len(), 2);
    for address in given.addresses {
        for transport in [Tcp, Udp] {
            let to = at(address, 80);
            let pod = &world.pods[0];
            let answer = soon(&pod.namespace, transport, to, |_| true);
            assert_eq!(answer.client, pod.address(address), "a pod's address is its own");
            soon(&world.node(1).namespace, transport, to, |answer| {
                answer.client == world.node(1).address(address)
            });
            soon(&world.node(2).namespace, transport, to, |_| true);
            // The endpoint itself, which must not see its own address as the client's.
            let itself = &world.pods[1];
            let answer = soon(&itself.namespace, transport, to, |_| true);
            assert_eq!(answer.server, itself.name);
            assert_ne!(answer.client, itself.address(address));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_take_turns_and_a_service_without_any_refuses() {
    let world = World::start().await;
    let given = world.service("s", json!({})).await;
    let from = &world.pods[0].namespace;
    for address in &given.addresses {
        for transport in [Tcp, Udp] {
            soon_nobody(from, transport, at(*address, 80), true);
        }
    }
    world.endpoints("s", &[(0, READY), (1, READY)]).await;
    for address in &given.addresses {
        let to = at(*address, 80);
        soon(from, Tcp, to, |_| true);
        let servers: Vec<String> = (0..6).map(|_| ask(from, Tcp, to).unwrap().server).collect();
        let first = servers.iter().filter(|server| *server == "pod1").count();
        assert_eq!(first, 3, "{servers:?}");
    }
    world.delete_service("s").await;
    for address in &given.addresses {
        soon_nobody(from, Tcp, at(*address, 80), false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_local_policy_a_node_uses_its_own_endpoints_only() {
    let world = World::start().await;
    let given = world.service("s", json!({"internalTrafficPolicy": "Local"})).await;
    world.endpoints("s", &[(0, READY), (1, READY)]).await;
    for address in &given.addresses {
        for pod in &world.pods {
            let to = at(*address, 80);
            soon(&pod.namespace, Tcp, to, |_| true);
            for _ in 0..4 {
                assert_eq!(ask(&pod.namespace, Tcp, to).unwrap().server, pod.name);
            }
        }
    }
    world.endpoints("s", &[(1, READY)]).await;
    soon_nobody(&world.pods[0].namespace, Tcp, at(given.addresses[0], 80), false);
    soon(&world.pods[1].namespace, Tcp, at(given.addresses[0], 80), |_| true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stays_with_its_endpoint_also_when_other_endpoints_come_and_go() {
    let world = World::start().await;
    let given = world.service("s", json!({"sessionAffinity": "ClientIP"})).await;
    world.endpoints("s", &[(0, READY), (1, READY)]).await;
    for address in &given.addresses {
        let to = at(*address, 80);
        let from = &world.node(1).namespace;
        let first = soon(from, Tcp, to, |_| true).server;
        for _ in 0..5 {
            assert_eq!(ask(from, Tcp, to).unwrap().server, first);
        }
        let own = usize::from(first == "pod2");
        world.endpoints("s", &[(own, READY)]).await;
        assert_eq!(ask(from, Tcp, to).unwrap().server, first);
        world.endpoints("s", &[(0, READY), (1, READY)]).await;
        // Everybody else's turn: another Service's change is written in between.
        world.service("other", json!({})).await;
        for _ in 0..5 {
            assert_eq!(ask(from, Tcp, to).unwrap().server, first);
        }
        world.endpoints("s", &[(1 - own, READY)]).await;
        // The other address too: each family has a slice of its own, and who asks there next must not meet the endpoints from before.
        for address in &given.addresses {
            soon(from, Tcp, at(*address, 80), |answer| answer.server != first);
        }
        world.endpoints("s", &[(0, READY), (1, READY)]).await;
    }
}
