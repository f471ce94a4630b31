//! A cluster with a deployment that says who answers, and how to ask it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use kubelb_tests::cluster::{Cluster, Plan};
use kubelb_tests::lan::{Host, Lan};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use serde_json::Value;

/// How long anything may take.
pub(crate) const SOON: Duration = Duration::from_secs(60);

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
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - name: echo
        image: echo-server
        args: [--listen, http=8080, udp=9000]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
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

/// A cluster, and a machine outside it on the same network.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) client: Host,
    manifest: PathBuf,
    _directory: tempfile::TempDir,
    _lan: Lan,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(&Plan::new("c")).await
    }

    pub(crate) async fn with(plan: &Plan) -> Self {
        let lan = Lan::new().unwrap();
        let start = wait::now();
        let cluster = Cluster::start(&lan, plan).await.unwrap();
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

    /// Two replicas of the echo server, ready.
    pub(crate) async fn deploy(&self) {
        self.says(&["apply", "-f", self.manifest.to_str().unwrap()]).await;
        self.says(&["-n", "app", "rollout", "status", "deployment/echo", "--timeout=60s"])
            .await;
    }

    /// What kubectl says when it succeeds.
    pub(crate) async fn says(&self, arguments: &[&str]) -> String {
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

    pub(crate) async fn node_port(&self, port: &str) -> u16 {
        let path = format!("jsonpath={{.spec.ports[?(@.name==\"{port}\")].nodePort}}");
        let text = self.says(&["-n", "app", "get", "service", "echo", "-o", &path]).await;
        text.parse().unwrap()
    }

    pub(crate) fn address(&self, node: usize, like: IpAddr) -> IpAddr {
        self.cluster.nodes().get(node).unwrap().host.address(like)
    }
}

/// A body of the echo server over HTTP.
pub(crate) fn get(from: &Namespace, to: SocketAddr) -> anyhow::Result<Value> {
    from.run(|| {
        let patience = Duration::from_secs(10);
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

pub(crate) fn ask_udp(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    })?
}

/// A field of the echo server's body.
pub(crate) fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or_default()
}
