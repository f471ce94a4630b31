//! Deployments, Services and namespaces, as those see them who use them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kubelb_tests::cluster::{Cluster, Plan};
use kubelb_tests::lan::Lan;
use kubelb_tests::{tool, wait};

use crate::world::{SOON, World, ask_udp, get, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_answers_on_every_nodes_port_and_inside_by_address_and_name() {
    let world = World::start().await;
    world.deploy().await;
    let (http, udp) = (world.node_port("http").await, world.node_port("udp").await);
    let client = &world.client.namespace;
    for node in [0, 1] {
        for like in world.client.addresses() {
            let address = world.address(node, like);
            let mut pods: Vec<String> = Vec::new();
            for _ in 0..4 {
                let body = wait::until(SOON, || get(client, SocketAddr::new(address, http)))
                    .unwrap()
                    .0;
                assert_ne!(text(&body, "client"), world.client.address(like).to_string());
                pods.push(text(&body, "pod").to_owned());
            }
            pods.sort();
            pods.dedup();
            assert_eq!(pods.len(), 2, "both replicas have their turns: {pods:?}");
            let heard = wait::until(SOON, || ask_udp(client, SocketAddr::new(address, udp)))
                .unwrap()
                .0;
            assert!(heard.contains("echo-"), "{heard}");
        }
    }

    // The client's own address is seen where the policy says so, on the nodes that have a Pod.
    let local = r#"{"spec": {"externalTrafficPolicy": "Local"}}"#;
    world
        .says(&["-n", "app", "patch", "service", "echo", "-p", local])
        .await;
    for node in [0, 1] {
        for like in world.client.addresses() {
            let to = SocketAddr::new(world.address(node, like), http);
            let seen = wait::until(SOON, || {
                let body = get(client, to)?;
                anyhow::ensure!(
                    text(&body, "client") == world.client.address(like).to_string(),
                    "{body}"
                );
                Ok(())
            });
            seen.unwrap_or_else(|error| panic!("node {node}, {like}: {error:#}"));
        }
    }

    let pod = world.says(&["-n", "app", "get", "pods", "-o", "name"]).await;
    let pod = pod.lines().next().unwrap();
    let address = [
        "-n",
        "app",
        "get",
        "service",
        "echo",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ];
    let address = world.says(&address).await;
    for target in [address.as_str(), "echo", "echo.app", "echo.app.svc.cluster.local"] {
        let url = format!("http://{target}/");
        let said = world
            .says(&["-n", "app", "exec", pod, "--", "curl", "-sS", "-m", "5", &url])
            .await;
        assert!(said.contains("\"hostname\""), "{target}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_pods_come_and_go() {
    let world = World::start().await;
    world.deploy().await;
    let http = world.node_port("http").await;
    let stop = Arc::new(AtomicBool::new(false));
    let to = SocketAddr::new(world.address(0, world.client.v4.into()), http);
    let load = {
        let stop = Arc::clone(&stop);
        let name = world.client.namespace.clone();
        std::thread::spawn(move || {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                get(&name, to).map_err(|error| format!("request {asked}: {error:#}"))?;
                asked += 1;
                wait::pause(Duration::from_millis(10));
            }
            Ok::<u32, String>(asked)
        })
    };
    let rolled = ["-n", "app", "rollout", "status", "deployment/echo", "--timeout=60s"];
    for replicas in ["--replicas=4", "--replicas=1", "--replicas=2"] {
        world.says(&["-n", "app", "scale", "deployment/echo", replicas]).await;
        world.says(&rolled).await;
    }
    world
        .says(&["-n", "app", "rollout", "restart", "deployment/echo"])
        .await;
    world.says(&rolled).await;
    stop.store(true, Ordering::Relaxed);
    let asked = load.join().expect("the load does not panic").unwrap();
    assert!(asked > 20, "{asked} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_leaves_nothing() {
    let world = World::start().await;
    world.deploy().await;
    let http = world.node_port("http").await;
    let to = SocketAddr::new(world.address(0, world.client.v4.into()), http);
    wait::until(SOON, || get(&world.client.namespace, to)).unwrap();
    world.says(&["delete", "namespace", "app", "--timeout=60s"]).await;
    wait::until(SOON, || {
        anyhow::ensure!(get(&world.client.namespace, to).is_err(), "it still answers");
        for node in world.cluster.nodes() {
            let rules = tool::output(node.host.namespace.command("nft").args(["list", "ruleset"]))?;
            anyhow::ensure!(!rules.contains("/app/"), "{rules}");
            let links = tool::output(
                node.host
                    .namespace
                    .command("ip")
                    .args(["-brief", "link", "show", "type", "veth"]),
            )?;
            // The way to the network is all that is left.
            anyhow::ensure!(links.lines().count() == 1, "{links}");
        }
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_clusters_share_one_network() {
    let lan = Lan::new().unwrap();
    let mut clusters = Vec::new();
    for (number, name) in ["mgmt", "one", "two"].into_iter().enumerate() {
        let plan = Plan {
            number: u8::try_from(number).unwrap(),
            nodes: 1,
            ..Plan::new(name)
        };
        clusters.push(Cluster::start(&lan, &plan).await.unwrap());
    }
    for cluster in &clusters {
        let output = cluster.kubectl(&["get", "nodes", "-o", "name"]).await.unwrap();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(listed.trim(), format!("node/{}", cluster.nodes().first().unwrap().name));
    }
}
