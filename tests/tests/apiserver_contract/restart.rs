//! What the testbed's own server promises beyond a real one's answers: it survives being killed, and slow watchers are
//! told. (A real server keeps its state in etcd, which is not what is tested here.)

use kubelb_tests::control_plane::{ControlPlane, Host, Software};
use serde_json::json;
use tempfile::TempDir;

use super::client::revision;
use super::world::{NAMESPACE, client_of, config, own};

#[tokio::test]
async fn after_sigkill_a_watch_goes_on_with_no_event_lost_or_twice() {
    let data = TempDir::new().unwrap();
    let mut server = ControlPlane::new(config(data.path()), Software::Own);
    server.start(Host::Here).unwrap();
    let client = client_of(&server);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    client.post("/api/v1/namespaces", namespace).await.ok(201);
    let seen = client.config_map(NAMESPACE, "seen", json!({})).await;
    let missed = client.config_map(NAMESPACE, "missed", json!({})).await;
    // Everything that was answered for is on the disk.
    server.kill().unwrap();
    server.start(Host::Here).unwrap();
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
