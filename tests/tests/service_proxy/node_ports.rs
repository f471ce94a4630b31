//! Node ports, from a machine outside the cluster.

use serde_json::json;

use super::talk::{Tcp, Udp, ask, soon, soon_nobody};
use super::world::{DRAINING, READY, UNREADY, World, at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_for_every_endpoint_and_hides_the_client() {
    let world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    world.endpoints("s", &[(0, READY), (1, READY)]).await;
    let client = &world.client.namespace;
    for node in [1, 2] {
        for address in world.node(node).addresses() {
            for transport in [Tcp, Udp] {
                let to = at(address, given.node_port);
                soon(client, transport, to, |_| true);
                let mut servers: Vec<String> = (0..4)
                    .map(|_| {
                        let answer = ask(client, transport, to).unwrap();
                        let other = answer.server != format!("pod{node}");
                        // The way back leads through the node that was asked.
                        let seen = world.cluster.nodes()[node - 1].host.address(address);
                        if other {
                            assert_eq!(answer.client, seen, "{transport:?} {to}");
                        }
                        assert_ne!(answer.client, world.client.address(address), "{transport:?} {to}");
                        answer.server
                    })
                    .collect();
                servers.sort();
                assert_eq!(servers, ["pod1", "pod1", "pod2", "pod2"], "{transport:?} {to}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_local_policy_only_nodes_with_endpoints_answer_and_the_client_is_seen() {
    let world = World::start().await;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let given = world.service("s", spec).await;
    world.endpoints("s", &[(0, READY)]).await;
    let client = &world.client.namespace;
    for transport in [Tcp, Udp] {
        for address in world.node(1).addresses() {
            let answer = soon(client, transport, at(address, given.node_port), |_| true);
            assert_eq!(answer.client, world.client.address(address));
        }
        for address in world.node(2).addresses() {
            soon_nobody(client, transport, at(address, given.node_port), false);
            // From inside the cluster the policy does not hold.
            let to = at(address, given.node_port);
            assert_eq!(soon(&world.pods[1].namespace, transport, to, |_| true).server, "pod1");
            assert_eq!(soon(&world.node(2).namespace, transport, to, |_| true).server, "pod1");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_end_are_the_last_resort_and_with_none_the_client_is_refused() {
    let world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    let client = &world.client.namespace;
    let ports = [
        at(world.node(1).v4.into(), given.node_port),
        at(world.node(2).v6.into(), given.node_port),
    ];
    for (endpoints, server) in [
        (vec![], None),
        (vec![(0, READY), (1, DRAINING)], Some("pod1")),
        (vec![(0, UNREADY), (1, DRAINING)], Some("pod2")),
        (vec![(0, UNREADY), (1, UNREADY)], None),
    ] {
        world.endpoints("s", &endpoints).await;
        for to in ports {
            for transport in [Tcp, Udp] {
                match server {
                    Some(server) => drop(soon(client, transport, to, |answer| answer.server == server)),
                    None => soon_nobody(client, transport, to, true),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_client_that_goes_on_sending_moves_when_its_endpoint_goes() {
    let world = World::start().await;
    let given = world.service("s", json!({"type": "NodePort"})).await;
    world.endpoints("s", &[(0, READY)]).await;
    let client = &world.client.namespace;
    for address in world.node(1).addresses() {
        let to = at(address, given.node_port);
        world.endpoints("s", &[(0, READY)]).await;
        soon(client, Udp, to, |answer| answer.server == "pod1");
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.run(|| std::net::UdpSocket::bind(any)).unwrap().unwrap();
        let again = || super::talk::ask_again(&socket, to, std::time::Duration::from_millis(100));
        assert_eq!(again().unwrap().server, "pod1");
        world.endpoints("s", &[(1, READY)]).await;
        let moved = kubelb_tests::wait::until(std::time::Duration::from_secs(10), || {
            let answer = again()?;
            anyhow::ensure!(answer.server == "pod2", "{answer:?}");
            Ok(())
        });
        moved.unwrap();
    }
}
