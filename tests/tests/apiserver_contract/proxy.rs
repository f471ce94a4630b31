//! Requests that lead on to a node's kubelet.

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kubelb_tests::apiserver::ApiServer;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::client::Client;
use super::kubelet::Kubelet;
use super::world::{NAMESPACE, TENANT, World, own};

const POD: &str = "/api/v1/namespaces/rec/pods/p";
const WEBSOCKET: [(&str, &str); 5] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
];

/// A node whose kubelet is the stand-in, and a Pod on it.
async fn on_a_node(admin: &Client, containers: &[&str]) -> Kubelet {
    let kubelet = Kubelet::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.post("/api/v1/nodes", node).await.ok(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
    }});
    admin.merge("/api/v1/nodes/n1/status", status).await.ok(200);
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({"name": name, "image": "busybox"}))
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": containers},
    });
    admin
        .post(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), pod)
        .await
        .ok(201);
    kubelet
}

/// The own server alone: a real one looks into the bytes of a stream, which the stand-in does not speak.
async fn own_world() -> (TempDir, ApiServer, Client) {
    let directory = TempDir::new().unwrap();
    let (server, admin) = own(directory.path(), None, 4096).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    admin.post("/api/v1/namespaces", namespace).await.ok(201);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    admin
        .post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), account)
        .await
        .ok(201);
    (directory, server, admin)
}

#[tokio::test]
async fn logs_come_from_the_kubelet_with_all_that_was_asked() {
    let world = World::start().await;
    let _kubelet = on_a_node(&world.admin, &["c"]).await;
    let asked = "follow=false&previous=true&sinceSeconds=5&timestamps=true&tailLines=3&limitBytes=100";
    let reply = world.admin.get(&format!("{POD}/log?{asked}")).await;
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "text/plain"));
    let text = String::from_utf8(reply.bytes.to_vec()).unwrap();
    let (path, query) = text.split_once('?').unwrap();
    assert_eq!(path, "/containerLogs/rec/p/c");
    let mut query: Vec<&str> = query.split('&').collect();
    query.sort_unstable();
    let wanted = [
        "limitBytes=100",
        "previous=true",
        "sinceSeconds=5",
        "tailLines=3",
        "timestamps=true",
    ];
    assert_eq!(query, wanted);
}

#[tokio::test]
async fn whose_logs_must_be_clear() {
    let world = World::start().await;
    let _kubelet = on_a_node(&world.admin, &["a", "waiting"]).await;
    let log = |query: &str| format!("{POD}/log{query}");
    let status = world.admin.get(&log("")).await.fails(400, "BadRequest");
    let wanted = "a container name must be specified for pod p, choose one of: [a waiting]";
    assert_eq!(status["message"], wanted);
    let status = world.admin.get(&log("?container=z")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "container z is not valid for pod p");
    let status = world
        .admin
        .get(&log("?container=waiting"))
        .await
        .fails(400, "BadRequest");
    let wanted = "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating";
    assert_eq!(status["message"], wanted);
    let status = world
        .admin
        .get(&log("?container=a&tailLines=-1"))
        .await
        .fails(422, "Invalid");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("tailLines: Invalid value: -1")
    );
    let none = world.admin.get("/api/v1/namespaces/rec/pods/none/log").await;
    none.fails(404, "NotFound");
}

#[tokio::test]
async fn logs_are_followed_as_they_come_until_the_client_goes() {
    let world = World::start().await;
    let mut kubelet = on_a_node(&world.admin, &["c"]).await;
    let followed = world
        .admin
        .raw("GET", &format!("{POD}/log?follow=true"), &[], Bytes::new())
        .await;
    let mut body = followed.into_body();
    for line in ["first\n", "second\n"] {
        kubelet.lines.send(Bytes::from(line)).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), line);
    }
    drop(body);
    // The kubelet notices when it has something to say.
    let lines = kubelet.lines.clone();
    let ended = tokio::select! {
        ended = kubelet.ended.recv() => ended,
        () = async { while lines.send(Bytes::from_static(b"more\n")).await.is_ok() {} } => kubelet.ended.recv().await,
    };
    assert_eq!(ended, Some("logs"));
}

#[tokio::test]
async fn streams_are_passed_on_byte_for_byte_both_ways() {
    let (_directory, _server, admin) = own_world().await;
    let mut kubelet = on_a_node(&admin, &["c"]).await;
    for protocol in ["websocket", "SPDY/3.1"] {
        let mut headers = WEBSOCKET.to_vec();
        headers[1].1 = protocol;
        let asked = format!("{POD}/exec?command=cat&stdin=true&stdout=true");
        let method = if protocol == "websocket" { "GET" } else { "POST" };
        let reply = admin.raw(method, &asked, &headers, Bytes::new()).await;
        assert_eq!(
            (reply.status().as_u16(), &reply.headers()["upgrade"]),
            (101, &protocol.parse().unwrap())
        );
        let stream = TokioIo::new(hyper::upgrade::on(reply).await.unwrap());
        let (hear, mut say) = tokio::io::split(stream);
        let mut hear = BufReader::new(hear);
        let mut first = String::new();
        hear.read_line(&mut first).await.unwrap();
        assert_eq!(
            first, "/exec/rec/p/c?command=cat&input=1&output=1 false\n",
            "the token is not for kubelets"
        );
        // More than all buffers on the way hold, so that both directions must move.
        let sent: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut heard = vec![0; sent.len()];
        // The last of what is written may wait inside TLS until it is flushed.
        let speak = async {
            say.write_all(&sent).await?;
            say.flush().await
        };
        let (said, echoed) = tokio::join!(speak, hear.read_exact(&mut heard));
        said.unwrap();
        echoed.unwrap();
        assert!(sent == heard);
        drop((say, hear));
        assert_eq!(kubelet.ended.recv().await, Some("stream"), "the client is gone");
    }
}

#[tokio::test]
async fn a_kubelet_that_is_gone_is_said_so() {
    let (_directory, _server, admin) = own_world().await;
    drop(on_a_node(&admin, &["c"]).await);
    let status = admin.get(&format!("{POD}/log")).await.fails(500, "");
    assert!(
        status["message"].as_str().unwrap().contains("/containerLogs/rec/p/c"),
        "{status}"
    );
    let reply = admin
        .send("GET", &format!("{POD}/exec?command=ls&stdout=true"), &WEBSOCKET, "")
        .await;
    let status = reply.fails(500, "");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("error dialing backend: ")
    );
    let plain = admin
        .post(&format!("{POD}/exec?command=ls&stdout=true"), json!({}))
        .await;
    assert_eq!(plain.fails(400, "BadRequest")["message"], "Upgrade request required");
}

#[tokio::test]
async fn whoever_runs_commands_must_be_allowed_to_create_them() {
    let (_directory, _server, admin) = own_world().await;
    let _kubelet = on_a_node(&admin, &["c"]).await;
    let group = "rbac.authorization.k8s.io";
    let path = format!("/apis/{group}/v1/namespaces/{NAMESPACE}");
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": "look"},
        "rules": [{"apiGroups": [""], "resources": ["pods/log", "pods/exec"], "verbs": ["get"]}],
    });
    admin.post(&format!("{path}/roles"), role).await.ok(201);
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": "look"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "look"},
        "subjects": [{"kind": "User", "name": TENANT, "apiGroup": group}],
    });
    admin.post(&format!("{path}/rolebindings"), binding).await.ok(201);
    let tenant = admin.with_token(Some(super::world::TENANT_TOKEN));
    assert_eq!(tenant.get(&format!("{POD}/log")).await.status, 200);
    let exec = format!("{POD}/exec?command=ls&stdout=true");
    for method in ["GET", "POST"] {
        let status = tenant.send(method, &exec, &WEBSOCKET, "").await.fails(403, "Forbidden");
        let wanted = r#"User "tenant-a" cannot create resource "pods/exec" in API group "" in the namespace "rec""#;
        assert!(status["message"].as_str().unwrap().ends_with(wanted), "{status}");
    }
}

#[tokio::test]
async fn http_leads_on_to_a_node() {
    let (_directory, _server, admin) = own_world().await;
    let _kubelet = on_a_node(&admin, &["c"]).await;
    let reply = admin.get("/api/v1/nodes/n1/proxy/metrics/cadvisor?a=b").await;
    assert_eq!((reply.status, &reply.bytes[..]), (200, &b"/metrics/cadvisor?a=b"[..]));
    let moved = admin.get("/api/v1/nodes/n1/proxy").await;
    assert_eq!(moved.status, 301);
}
