//! Addresses that load balancers and administrators bring to the nodes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use serde_json::{Value, json};

use super::talk::{Tcp, Udp, ask, soon, soon_nobody};
use super::world::{READY, UNREADY, World, at};

/// Sends what the client has for `address` to a node, as whoever announces it would.
fn route(world: &World, address: IpAddr, node: usize) {
    let via = world.node(node).address(address).to_string();
    let client = &world.client.namespace;
    client
        .ip(&["route", "replace", &address.to_string(), "via", &via])
        .unwrap();
}

fn addresses() -> [IpAddr; 2] {
    ["203.0.113.10", "2001:db8::10"].map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancers_address_is_forwarded_for_its_source_ranges_only() {
    let world = World::start().await;
    let mut ranges = vec!["192.168.77.0/24", "fd77::/64"];
    let spec = |ranges: &[&str]| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
    let given = world.service("s", spec(&ranges)).await;
    world.endpoints("s", &[(0, READY), (1, READY)]).await;
    world.ingress("s", &addresses()).await;
    let client = &world.client.namespace;
    for address in addresses() {
        route(&world, address, 1);
        for transport in [Tcp, Udp] {
            soon(client, transport, at(address, 80), |_| true);
        }
    }
    ranges = vec!["10.9.0.0/16", "fd99::/16"];
    world.service("s", spec(&ranges)).await;
    for address in addresses() {
        for transport in [Tcp, Udp] {
            soon_nobody(client, transport, at(address, 80), false);
        }
        // They are the load balancer's, not the nodes'.
        let node = world.node(1).address(address);
        ask(client, Tcp, at(node, given.node_port)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_addresses_are_forwarded() {
    let world = World::start().await;
    world.service("s", json!({"externalIPs": addresses()})).await;
    world.endpoints("s", &[(1, READY)]).await;
    for address in addresses() {
        route(&world, address, 1);
        for transport in [Tcp, Udp] {
            soon(&world.client.namespace, transport, at(address, 80), |_| true);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancers_are_told_which_nodes_have_endpoints() {
    let world = World::start().await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let given = world.service("s", spec).await;
    for (endpoints, wanted) in [
        (vec![(0, READY)], [(200, 1), (503, 0)]),
        (vec![(0, UNREADY), (1, READY)], [(503, 0), (200, 1)]),
        (vec![], [(503, 0), (503, 0)]),
    ] {
        world.endpoints("s", &endpoints).await;
        for (node, (status, local)) in [1, 2].into_iter().zip(wanted) {
            for address in world.node(node).addresses() {
                let to = at(address, given.health_check_port);
                let look = || {
                    let answer = health(&world.client.namespace, to)?;
                    let expected = json!({
                        "service": {"namespace": "default", "name": "s"},
                        "localEndpoints": local,
                        "serviceProxyHealthy": true,
                    });
                    anyhow::ensure!(answer == (status, expected), "{answer:?}");
                    Ok(())
                };
                wait::until(Duration::from_secs(10), look).unwrap();
            }
        }
    }
}

fn health(from: &Namespace, to: SocketAddr) -> anyhow::Result<(u16, Value)> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default().parse()?;
        Ok((status, serde_json::from_str(body)?))
    })?
}
