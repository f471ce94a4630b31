//! What the testbed's own server promises beyond a real one's answers: it survives being killed, and slow watchers are
//! told. (A real server keeps its state in etcd, which is not what is tested here.)

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::client::{Client, revision};
use super::world::{NAMESPACE, own};

struct Process {
    child: Child,
    address: String,
    client: Client,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    fn start(data: &TempDir, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_apiserver"))
            .arg("--data")
            .arg(data.path())
            .args(["--listen", listen])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let kubeconfig = std::fs::read_to_string(line.trim()).unwrap();
        let after = |key: &str| {
            let (_, rest) = kubeconfig.split_once(key).unwrap();
            rest.lines().next().unwrap().trim().to_owned()
        };
        let address = after("server: https://");
        let ca = std::fs::read_to_string(data.path().join("ca.crt")).unwrap();
        Self {
            client: Client::new(&address, &ca, Some(&after("token: "))),
            child,
            address,
        }
    }
}

#[tokio::test]
async fn after_sigkill_a_watch_goes_on_with_no_event_lost_or_twice() {
    let data = TempDir::new().unwrap();
    let first = Process::start(&data, "127.0.0.1:0");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    first.client.post("/api/v1/namespaces", namespace).await.ok(201);
    let seen = first.client.config_map(NAMESPACE, "seen", json!({})).await;
    let missed = first.client.config_map(NAMESPACE, "missed", json!({})).await;
    let (address, client) = (first.address.clone(), first.client.clone());
    // Drop sends SIGKILL: everything that was answered for is on the disk.
    drop(first);
    let _second = Process::start(&data, &address);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    assert_eq!(client.get(&format!("{path}/missed")).await.ok(200), missed);
    let mut watch = client
        .watch(&path, &format!("resourceVersion={}&timeoutSeconds=20", revision(&seen)))
        .await;
    let after = client.config_map(NAMESPACE, "after", json!({})).await;
    assert_eq!(watch.event().await, ("ADDED".to_owned(), missed));
    assert_eq!(watch.event().await, ("ADDED".to_owned(), after));
}

#[tokio::test]
async fn a_watcher_that_comes_too_late_is_told_to_list_again() {
    let data = TempDir::new().unwrap();
    let (_server, client) = own(data.path(), None, 8).await;
    let first = client.config_map("default", "c0", json!({})).await;
    for number in 1..=9 {
        client.config_map("default", &format!("c{number}"), json!({})).await;
    }
    let path = "/api/v1/namespaces/default/configmaps";
    let mut watch = client
        .watch(path, &format!("resourceVersion={}", revision(&first)))
        .await;
    let (kind, status) = watch.event().await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    let list = client.get(path).await.ok(200);
    let mut watch = client
        .watch(path, &format!("resourceVersion={}", revision(&list)))
        .await;
    let next = client.config_map("default", "next", json!({})).await;
    assert_eq!(watch.event().await, ("ADDED".to_owned(), next));
}
