//! What clients may send, or fail to read, without harm to others.

use std::time::Duration;

use kubelb_tests::apiserver::{ApiServer, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Client;
use super::world::{NAMESPACE, World};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let world = World::start().await;
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let headers = [("content-type", "application/json")];
    let body = |size: usize| {
        let data = json!({"k": "x".repeat(size)});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": data}).to_string()
    };
    let reply = world.admin.send("POST", &maps, &headers, body(4 << 20)).await;
    let status = reply.fails(413, "RequestEntityTooLarge");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("Request entity too large")
    );
    world.admin.send("POST", &maps, &headers, body(900 << 10)).await.ok(201);
}

#[tokio::test]
async fn nonsense_kills_no_server() {
    let world = World::start().await;
    let seed = fastrand::u64(..);
    // Shown when the test fails.
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let token = world.admin.token();
    let body = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
        "spec": {"type": "NodePort", "ports": [{"name": "p", "port": 80, "nodePort": 31000}]},
    });
    let body = body.to_string();
    let sane = |method: &str, path: &str, kind: &str, body: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/{kind}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let requests = [
        sane("POST", &services, "json", &body),
        sane("POST", &services, "vnd.kubernetes.protobuf", &format!("k8s\0{body}")),
        sane(
            "PATCH",
            &format!("{services}/s?fieldManager=f"),
            "apply-patch+yaml",
            &body,
        ),
        sane("PATCH", &format!("{services}/s"), "strategic-merge-patch+json", &body),
        sane(
            "PATCH",
            &format!("{services}/s"),
            "json-patch+json",
            r#"[{"op":"add","path":"/a/-","value":1}]"#,
        ),
        sane(
            "GET",
            &format!("{services}?labelSelector=a+in+(b)&limit=1&continue=abc"),
            "json",
            "",
        ),
        sane("GET", "/api/v1/namespaces/x/pods/p/exec?command=a", "json", ""),
        sane(
            "DELETE",
            &format!("{services}/s"),
            "json",
            r#"{"preconditions":{"uid":"u"}}"#,
        ),
    ];
    for round in 0..400 {
        let mut bytes = requests[round % requests.len()].clone().into_bytes();
        for _ in 0..random.usize(1..12) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        if round % 16 == 0 {
            // Not even TLS.
            let mut plain = TcpStream::connect(world.admin.address()).await.unwrap();
            plain.write_all(&bytes).await.unwrap();
        } else {
            let mut stream = world.admin.connect().await;
            // The server may have heard enough before the end.
            stream.write_all(&bytes).await.unwrap_or(());
            stream.shutdown().await.unwrap_or(());
            let mut answer = Vec::new();
            let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            assert!(
                read.is_ok(),
                "no end of the answer to {}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
    assert_eq!(world.admin.get("/readyz").await.status, 200);
    world.admin.config_map(NAMESPACE, "after", json!({})).await;
}

#[tokio::test]
async fn a_watcher_that_never_reads_is_cut_off_and_holds_no_one_up() {
    let data = TempDir::new().unwrap();
    let server = ApiServer::start(Config {
        stalled_after: Duration::from_millis(500),
        ..Config::new(data.path())
    })
    .await
    .unwrap();
    let admin = Client::new(&server.address().to_string(), server.ca(), Some(server.token()));
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut stalled = admin.connect().await;
    let ask = format!(
        "GET {maps}?watch=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        server.token()
    );
    stalled.write_all(ask.as_bytes()).await.unwrap();
    let mut live = admin.watch(maps, "").await;
    let headers = [("content-type", "application/json")];
    // More than the sockets between take.
    for number in 0..24 {
        let large = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{number}")},
            "data": {"k": "x".repeat(900 << 10)},
        });
        admin.send("POST", maps, &headers, large.to_string()).await.ok(201);
        assert_eq!(live.event().await.1["metadata"]["name"], format!("m{number}"));
    }
    // The connection has an end, long before the watch would have had one.
    let mut got = vec![0; 1 << 16];
    let drained = async {
        let mut total = 0;
        while let Ok(read @ 1..) = stalled.read(&mut got).await {
            total += read;
        }
        total
    };
    let total = timeout(PATIENCE, drained).await.unwrap();
    assert!(total < 20 << 20, "{total} bytes were kept for one who does not read");
}
