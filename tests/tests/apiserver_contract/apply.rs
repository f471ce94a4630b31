//! Server-side apply: who owns what, and what happens when two want the same.

use serde_json::{Value, json};

use super::client::{blamed, owners, revision};
use super::world::{THINGS, World, thing};

fn s(spec: Value) -> Value {
    thing(json!({"name": "s"}), spec)
}

fn owner(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), operation.to_owned(), fields)
}

#[tokio::test]
async fn fields_belong_to_who_applied_them() {
    let world = World::start().await;
    world.define_things().await;
    let by = |manager: &str, more: &str| format!("{THINGS}/s?fieldManager={manager}{more}");
    let made = world
        .admin
        .apply(&by("one", "&force=false"), s(json!({"port": 1, "list": ["a"]})))
        .await
        .ok(201);
    assert_eq!(made["spec"], json!({"list": ["a"], "mode": "a", "port": 1}));
    let fields = json!({"f:spec": {"f:list": {"v:\"a\"": {}}, "f:port": {}}});
    assert_eq!(owners(&made), [owner("one", "Apply", fields)]);

    let status = world
        .admin
        .apply(&by("two", ""), s(json!({"port": 2})))
        .await
        .fails(409, "Conflict");
    assert_eq!(
        status["message"],
        r#"Apply failed with 1 conflict: conflict with "one": .spec.port"#
    );
    assert_eq!(
        blamed(&status),
        [(".spec.port".to_owned(), "FieldManagerConflict".to_owned())]
    );

    let forced = world
        .admin
        .apply(&by("two", "&force=true"), s(json!({"port": 2})))
        .await
        .ok(200);
    let port = || json!({"f:spec": {"f:port": {}}});
    let list = json!({"f:spec": {"f:list": {"v:\"a\"": {}}}});
    assert_eq!(
        owners(&forced),
        [owner("one", "Apply", list), owner("two", "Apply", port())]
    );
    assert_eq!(
        (&forced["spec"]["port"], &forced["metadata"]["generation"]),
        (&json!(2), &json!(2))
    );
    let again = world
        .admin
        .apply(&by("two", "&force=true"), s(json!({"port": 2})))
        .await
        .ok(200);
    assert_eq!(revision(&again), revision(&forced), "nothing changed");

    // What its only owner no longer applies goes; a value that two agree on is shared.
    let dropped = world
        .admin
        .apply(&by("one", "&force=true"), s(json!({"port": 2})))
        .await
        .ok(200);
    assert_eq!(dropped["spec"], json!({"mode": "a", "port": 2}));
    assert_eq!(
        owners(&dropped),
        [owner("one", "Apply", port()), owner("two", "Apply", port())]
    );

    let status = json!({"apiVersion": "rec.example.com/v1", "kind": "Thing", "metadata": {"name": "s"}, "status": {"ready": true}});
    let path = format!("{THINGS}/s/status?fieldManager=st&force=true");
    let with_status = world.admin.apply(&path, status).await.ok(200);
    assert_eq!(with_status["status"], json!({"ready": true}));
    assert_eq!(
        owners(&with_status)[1],
        owner("st", "Apply status", json!({"f:status": {"f:ready": {}}}))
    );
    assert_eq!(with_status["metadata"]["generation"], 3);
}

#[tokio::test]
async fn an_apply_says_who_and_nothing_about_others() {
    let world = World::start().await;
    world.define_things().await;
    let status = world
        .admin
        .apply(&format!("{THINGS}/s"), s(json!({"port": 2})))
        .await
        .fails(422, "Invalid");
    let wanted = r#"PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#;
    assert_eq!(status["message"], wanted);
    let mut with_owners = s(json!({"port": 2}));
    with_owners["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let status = world
        .admin
        .apply(&format!("{THINGS}/s?fieldManager=one"), with_owners)
        .await
        .fails(400, "BadRequest");
    assert_eq!(status["message"], "metadata.managedFields must be nil");
}

#[tokio::test]
async fn what_is_twice_in_a_list_is_refused() {
    let world = World::start().await;
    let nodes = "/api/v1/nodes/n/status?fieldManager=one";
    let address = |address: &str| json!({"type": "InternalIP", "address": address});
    let status = json!({"addresses": [address("10.0.0.1"), address("10.0.0.2")]});
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    world.admin.post("/api/v1/nodes", node.clone()).await.ok(201);
    node["status"] = status;
    let said = world.admin.apply(nodes, node.clone()).await.fails(500, "");
    assert_eq!(
        said["message"],
        r#"failed to create typed patch object (/n; /v1, Kind=Node): .status.addresses: duplicate entries for key [type="InternalIP"]"#
    );
    // Other ways of writing do not mind, and neither does an apply of something else.
    world.admin.merge("/api/v1/nodes/n/status", node).await.ok(200);
    let labelled = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}}});
    world
        .admin
        .apply("/api/v1/nodes/n?fieldManager=one", labelled)
        .await
        .ok(200);

    let container = |name: &str, env: Value| json!({"name": name, "image": "i", "env": env});
    let twice = json!([{"name": "x", "value": "1"}, {"name": "x", "value": "2"}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        container("a", twice), container("b", json!([])), container("b", json!([])),
    ]}});
    let path = "/api/v1/namespaces/rec/pods/p?fieldManager=one";
    let said = world.admin.apply(path, pod).await.fails(500, "");
    let lines: Vec<&str> = said["message"].as_str().unwrap().lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            r#"  .spec.containers[name="a"].env: duplicate entries for key [name="x"]"#,
            r#"  .spec.containers: duplicate entries for key [name="b"]"#,
        ]
    );

    world.define_things().await;
    let said = world
        .admin
        .apply(
            &format!("{THINGS}/s?fieldManager=one"),
            s(json!({"port": 1, "list": ["a", "a"]})),
        )
        .await
        .fails(500, "");
    assert_eq!(
        said["message"],
        r#"failed to create typed patch object (/s; rec.example.com/v1, Kind=Thing): .spec.list: duplicate entries for key [="a"]"#
    );
}

#[tokio::test]
async fn ports_of_a_service_are_owned_by_number_and_protocol() {
    let world = World::start().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ssa"},
        "spec": {"type": "NodePort", "ports": [
            {"name": "a", "port": 80, "protocol": "TCP"},
            {"name": "b", "port": 80, "protocol": "UDP"},
        ]},
    });
    let path = "/api/v1/namespaces/rec/services/ssa?fieldManager=one";
    let made = world.admin.apply(path, service).await.ok(201);
    let item = || json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}});
    let ports = json!({r#"k:{"port":80,"protocol":"TCP"}"#: item(), r#"k:{"port":80,"protocol":"UDP"}"#: item()});
    assert_eq!(
        owners(&made),
        [owner(
            "one",
            "Apply",
            json!({"f:spec": {"f:ports": ports, "f:type": {}}})
        )]
    );
    let ports = &made["spec"]["ports"];
    assert_eq!(
        ports[0]["nodePort"], ports[1]["nodePort"],
        "one number for both protocols"
    );
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
}
