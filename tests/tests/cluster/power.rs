//! A machine that loses its power: what a user of the Service notices of it, and what the cluster makes of it.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use kubelb_tests::cluster::Plan;
use kubelb_tests::wait;

use crate::world::{SOON, World, get, text};

/// Requests that must all be answered.
const MANY: usize = 50;

impl World {
    /// Names of the Pods on a node, those that are being deleted apart.
    async fn pods_on(&self, node: &str) -> (Vec<String>, Vec<String>) {
        let selector = format!("--field-selector=spec.nodeName={node}");
        let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{'\\n'}{end}";
        let listed = self.says(&["-n", "app", "get", "pods", &selector, "-o", path]).await;
        let (mut live, mut leaving) = (Vec::new(), Vec::new());
        for line in listed.lines() {
            match line.trim().split_once(' ') {
                Some((name, _time)) => leaving.push(name.to_owned()),
                None => live.push(line.trim().to_owned()),
            }
        }
        (live, leaving)
    }

    /// Nodes of the endpoints that are ready.
    async fn ready_endpoints(&self) -> Vec<String> {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
        let listed = self.says(&["-n", "app", "get", "endpointslices", "-o", path]).await;
        listed.split_whitespace().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_power_is_noticed_and_its_pods_run_on_the_other() {
    let mut world = World::with(&Plan {
        kubelet_arguments: ["--lease-seconds", "1"].map(str::to_owned).into(),
        controllers_arguments: ["--node-grace", "10"].map(str::to_owned).into(),
        ..Plan::new("c")
    })
    .await;
    world.deploy().await;
    let port = world.node_port("http").await;
    let [one, two] = [0, 1].map(|node| world.cluster.nodes().get(node).unwrap().name.clone());
    let to: Vec<SocketAddr> = world
        .client
        .addresses()
        .map(|like: IpAddr| SocketAddr::new(world.address(0, like), port))
        .into();
    let (lost, _) = world.pods_on(&two).await;
    assert_eq!((world.pods_on(&one).await.0.len(), lost.len()), (1, 1), "one on each");

    world.cluster.power_off(&two).unwrap();
    // Nobody knows yet, so some requests go where nobody is; others are answered.
    for to in &to {
        wait::until(SOON, || get(&world.client.namespace, *to)).unwrap();
    }
    let node = format!("node/{two}");
    world
        .says(&["wait", "--for=condition=Ready=Unknown", &node, "--timeout=60s"])
        .await;
    for to in &to {
        // The rules of the node that is left follow at once, but in a process of their own.
        let mut answered = 0;
        wait::until(SOON, || {
            let body = get(&world.client.namespace, *to).inspect_err(|_| answered = 0)?;
            answered += 1;
            ensure!(answered >= MANY, "{answered} of {MANY} in a row: {body}");
            Ok(())
        })
        .unwrap();
    }
    let ready = world.ready_endpoints().await;
    assert!(!ready.is_empty() && ready.iter().all(|node| *node == one), "{ready:?}");

    // The Pod that is lost is given up, and another runs in its place.
    let path = "--for=jsonpath={.status.availableReplicas}=2";
    world
        .says(&["-n", "app", "wait", "deployment/echo", path, "--timeout=60s"])
        .await;
    let (live, _) = world.pods_on(&one).await;
    assert_eq!(live.len(), 2);
    for to in &to {
        let mut answering: Vec<String> = Vec::new();
        for _ in 0..MANY {
            let body = get(&world.client.namespace, *to).unwrap();
            answering.push(text(&body, "pod").to_owned());
        }
        assert!(answering.iter().all(|pod| live.contains(pod)), "{answering:?}");
    }
    // Nobody is there to say that it has ended, until the administrator says that the node will not come back.
    assert_eq!(world.pods_on(&two).await, (Vec::new(), lost.clone()));
    world.says(&["delete", &node]).await;
    let pod = format!("pod/{}", lost.first().unwrap());
    world
        .says(&["-n", "app", "wait", "--for=delete", &pod, "--timeout=60s"])
        .await;
}
