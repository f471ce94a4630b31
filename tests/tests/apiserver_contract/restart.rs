//! What the testbed's own server promises beyond a real one's answers: it survives being killed, and slow watchers are
//! told. (A real server keeps its state in etcd, which is not what is tested here.)

use kubelb_tests::apiserver::Config;
use kubelb_tests::control_plane::{ControlPlane, Host, Software};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::client::{Client, revision};
use super::world::{NAMESPACE, client_of, config, own};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

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

/// Writes ever higher numbers into an object until the server is gone, and says each that was answered.
async fn count_up(client: Client, number: usize, from: u32, say: UnboundedSender<(usize, u32)>) {
    for n in from.. {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}")},
            "data": {"n": n.to_string(), "text": "x".repeat(2000)},
        });
        let path = format!("{MAPS}/c{number}?fieldManager=f&force=true");
        let reply = client.apply(&path, object).await;
        assert!(matches!(reply.status, 200 | 201), "{}", reply.body);
        say.send((number, n)).unwrap();
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_snapshot_loses_nothing_that_was_answered() {
    let data = TempDir::new().unwrap();
    // A snapshot every few changes: most kills meet one.
    let mut server = ControlPlane::new(
        Config {
            compact_at: 20_000,
            ..config(data.path())
        },
        Software::Own,
    );
    // What each client was last told to be stored.
    let mut answered = [0_u32; 4];
    for round in 0..6 {
        server.start(Host::Here).unwrap();
        let client = client_of(&server);
        for (number, answered) in answered.iter().enumerate().filter(|_| round > 0) {
            let kept = client.get(&format!("{MAPS}/c{number}")).await.ok(200);
            let stored: u32 = kept["data"]["n"].as_str().unwrap().parse().unwrap();
            assert!(stored >= *answered, "c{number}: {stored} stored, {answered} answered");
        }
        let (say, mut hear) = unbounded_channel();
        let writers: Vec<_> = answered
            .iter()
            .enumerate()
            .map(|(number, last)| tokio::spawn(count_up(client.clone(), number, last + 1, say.clone())))
            .collect();
        for _ in 0..40 + fastrand::usize(..40) {
            let (number, n) = hear.recv().await.unwrap();
            answered[number] = n;
        }
        server.kill().unwrap();
        for writer in writers {
            // Its connection broke, which is how it ends.
            writer.abort();
            drop(writer.await);
        }
        while let Ok((number, n)) = hear.try_recv() {
            answered[number] = n;
        }
    }
    let size = data.path().join("journal.jsonl").metadata().unwrap().len();
    assert!(size < 400_000, "{size} bytes: it was not replaced by snapshots");
}
