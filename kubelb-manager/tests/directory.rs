//! A manager over a directory of manifests, as one runs it on a machine without an API server.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kubelb_manager::args::{ElectionArgs, RunArgs, Source};
use kubelb_manager::controllers::args::ControllersArgs;
use kubelb_manager::run::start;
use kubelb_runtime::telemetry::LogFormat;
use kubelb_xds::{ResourceType, Snapshot};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
const LISTENER_A: &str = "tenant-x/a/203.0.113.0/80-tcp";

const BASE: &str = "
apiVersion: kubelb.k8c.io/v1alpha1
kind: Config
metadata: {name: default, namespace: kubelb}
spec: {addressPools: [{name: public, ranges: [203.0.113.0/24]}]}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Tenant
metadata: {name: x}
---
apiVersion: kubelb.k8c.io/v1alpha1
kind: Addresses
metadata: {name: default, namespace: tenant-x}
spec: {addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}
";

fn load_balancer(name: &str, port: &str) -> String {
    format!(
        "apiVersion: kubelb.k8c.io/v1alpha1
kind: LoadBalancer
metadata: {{name: {name}, namespace: tenant-x}}
spec:
  type: LoadBalancer
  endpoints:
  - addressesReference: {{name: default}}
    ports: [{{port: 30080}}]
  ports:
  - port: {port}
"
    )
}

struct Manager {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Manager {
    async fn start(manifests: &Path, state: &Path, admin_address: Option<SocketAddr>) -> Self {
        let args = RunArgs {
            xds: kubelb_manager::serve::XdsArgs::default(),
            source: Source::Directory(manifests.to_owned()),
            announce: true,
            election: ElectionArgs::default(),
            controllers: ControllersArgs::default(),
            state_dir: Some(state.to_owned()),
            namespace: "kubelb".to_owned(),
            admin_address,
            log_format: LogFormat::Text,
        };
        let shutdown = CancellationToken::new();
        let (snapshots, ended) = start(args, shutdown.clone()).await.unwrap();
        Self {
            snapshots,
            shutdown,
            task: tokio::spawn(ended),
        }
    }

    /// Waits for a snapshot that has just these listeners.
    async fn listeners(&mut self, wanted: &[&str]) {
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot
                .table(ResourceType::Listener)
                .keys()
                .map(ToString::to_string)
                .collect()
        };
        let has =
            |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|snapshot| names(snapshot) == wanted);
        let waited = tokio::time::timeout(PATIENCE, self.snapshots.wait_for(has))
            .await
            .is_ok();
        let last = self.snapshots.borrow().clone();
        assert!(waited, "no {wanted:?}, but {:?}", last.map(|snapshot| names(&snapshot)));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn directories() -> (TempDir, TempDir) {
    let manifests = tempfile::tempdir().unwrap();
    fs::write(manifests.path().join("base.yaml"), BASE).unwrap();
    fs::write(manifests.path().join("a.yaml"), load_balancer("a", "80")).unwrap();
    (manifests, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn files_are_followed() {
    let (manifests, state) = directories();
    let mut manager = Manager::start(manifests.path(), state.path(), None).await;
    manager.listeners(&[LISTENER_A]).await;
    fs::write(manifests.path().join("b.yaml"), load_balancer("b", "81")).unwrap();
    manager.listeners(&[LISTENER_A, "tenant-x/b/203.0.113.1/81-tcp"]).await;
    // One bad object, and one bad file, cost nothing of what was there.
    let bad = format!("{}---\n{}", load_balancer("b", "none"), load_balancer("c", "82"));
    fs::write(manifests.path().join("b.yaml"), bad).unwrap();
    let three = [
        LISTENER_A,
        "tenant-x/b/203.0.113.1/81-tcp",
        "tenant-x/c/203.0.113.2/82-tcp",
    ];
    manager.listeners(&three).await;
    fs::write(manifests.path().join("a.yaml"), "kind: [").unwrap();
    fs::write(manifests.path().join("d.yaml"), load_balancer("d", "83")).unwrap();
    manager
        .listeners(&[three.as_slice(), &["tenant-x/d/203.0.113.3/83-tcp"]].concat())
        .await;
    for file in ["a.yaml", "b.yaml", "d.yaml"] {
        fs::remove_file(manifests.path().join(file)).unwrap();
    }
    manager.listeners(&[]).await;
    assert_eq!(fs::read_dir(state.path().join("claims")).unwrap().count(), 0);
    manager.stop().await;
}

#[tokio::test]
async fn addresses_and_statuses_outlive_the_process() {
    let (manifests, state) = directories();
    fs::write(manifests.path().join("b.yaml"), load_balancer("b", "81")).unwrap();
    let mut manager = Manager::start(manifests.path(), state.path(), None).await;
    let both = [LISTENER_A, "tenant-x/b/203.0.113.1/81-tcp"];
    manager.listeners(&both).await;
    // Statuses are written behind what is served, and all of them before it ends.
    manager.stop().await;
    let status = state.path().join("status/LoadBalancer.tenant-x.b.yaml");
    let before = fs::read_to_string(&status).unwrap();
    assert!(
        before.contains("203.0.113.1") && before.contains("NoNodeAgent"),
        "{before}"
    );
    // Who comes first by name takes nothing away from who was there.
    fs::write(manifests.path().join("0.yaml"), load_balancer("0a", "79")).unwrap();
    let mut manager = Manager::start(manifests.path(), state.path(), None).await;
    manager
        .listeners(&["tenant-x/0a/203.0.113.2/79-tcp", both[0], both[1]])
        .await;
    manager.stop().await;
    assert_eq!(fs::read_to_string(&status).unwrap(), before);
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_admin_server_shows_the_configuration() {
    let (manifests, state) = directories();
    fs::write(manifests.path().join("bad.yaml"), load_balancer("bad", "0")).unwrap();
    // The port is free for as long as nobody else takes it, which a wrong answer would show.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut manager = Manager::start(manifests.path(), state.path(), Some(address)).await;
    manager.listeners(&[LISTENER_A]).await;
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(address, "/metrics").await;
    for line in [
        "kubelb_manager_objects{kind=\"LoadBalancer\"} 2",
        "kubelb_manager_problems{reason=\"InvalidPort\"} 1",
        "kubelb_manager_tenants 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let snapshot = get(address, "/snapshot").await;
    assert!(
        snapshot.contains(LISTENER_A) && snapshot.contains("spec.ports[0].port"),
        "{snapshot}"
    );
    assert!(get(address, "/status").await.contains("\"ready\": true"));
    manager.stop().await;
}
