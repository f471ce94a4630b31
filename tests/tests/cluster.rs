//! Whole clusters: what a user deploys answers from another machine of the network.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what its tests share"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kubelb_tests::cluster::{Cluster, Plan};
use kubelb_tests::lan::{Host, Lan};
use kubelb_tests::netns::Namespace;
use kubelb_tests::{tool, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

const ECHO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: app}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: echo
        image: echo-server
        args: [--listen, http=8080, udp=9000]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: app}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 90, targetPort: 9000, protocol: UDP}
";

struct World {
    cluster: Cluster,
    client: Host,
    manifest: PathBuf,
    _directory: tempfile::TempDir,
    _lan: Lan,
}

impl World {
    async fn start() -> Self {
        let lan = Lan::new().unwrap();
        let start = wait::now();
        let cluster = Cluster::start(&lan, &Plan::new("c")).await.unwrap();
        eprintln!("up in {:?}", wait::now() - start);
        let client = lan.host("client").unwrap();
        let directory = tempfile::TempDir::new().unwrap();
        let manifest = directory.path().join("echo.yaml");
        std::fs::write(&manifest, ECHO).unwrap();
        Self {
            cluster,
            client,
            manifest,
            _directory: directory,
            _lan: lan,
        }
    }

    async fn deploy(&self) {
        self.says(&["apply", "-f", self.manifest.to_str().unwrap()]).await;
        self.says(&["-n", "app", "rollout", "status", "deployment/echo", "--timeout=60s"])
            .await;
    }

    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.cluster.kubectl(arguments).await.unwrap();
        let (text, errors) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "kubectl {}: {text}{errors}",
            arguments.join(" ")
        );
        text
    }

    async fn node_port(&self, port: &str) -> u16 {
        let path = format!("jsonpath={{.spec.ports[?(@.name==\"{port}\")].nodePort}}");
        let text = self.says(&["-n", "app", "get", "service", "echo", "-o", &path]).await;
        text.parse().unwrap()
    }

    fn address(&self, node: usize, like: IpAddr) -> IpAddr {
        self.cluster.nodes().get(node).unwrap().host.address(like)
    }
}

/// A body of the echo server over HTTP.
fn get(from: &Namespace, to: SocketAddr) -> anyhow::Result<Value> {
    from.run(|| {
        let patience = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        anyhow::ensure!(text.starts_with("HTTP/1.1 200"), "{text:?}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        Ok(serde_json::from_str(body)?)
    })?
}

fn ask_udp(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    })?
}

fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or_default()
}

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
    assert!(asked > 100, "{asked} requests");
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
