//! Lists: selectors, pages, Tables.

use serde_json::{Value, json};

use super::client::revision;
use super::world::World;

const CONFIG_MAPS: &str = "/api/v1/namespaces/rec/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// ConfigMaps `a` (app=a, tier=x) and `b` (app=b), nothing else.
async fn two() -> World {
    let world = World::start().await;
    world
        .admin
        .config_map("rec", "a", json!({"app": "a", "tier": "x"}))
        .await;
    world.admin.config_map("rec", "b", json!({"app": "b"})).await;
    world
}

async fn names(world: &World, query: &str) -> Vec<String> {
    let list = world.admin.get(&format!("{CONFIG_MAPS}?{query}")).await.ok(200);
    assert_eq!(list["kind"], "ConfigMapList");
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn selectors_choose() {
    let world = two().await;
    assert_eq!(names(&world, "labelSelector=app%3Da").await, ["a"]);
    assert_eq!(names(&world, "labelSelector=app+in+(a,b),tier!=y").await, ["a", "b"]);
    assert_eq!(names(&world, "fieldSelector=metadata.name%3Da").await, ["a"]);
    assert_eq!(names(&world, "resourceVersion=0&labelSelector=app%3Da").await, ["a"]);
    let list = world
        .admin
        .get(&format!("{CONFIG_MAPS}?labelSelector=app%3Da"))
        .await
        .ok(200);
    assert!(!revision(&list).is_empty());
    assert!(
        list["items"][0].get("kind").is_none(),
        "items of built-in kinds do not repeat it"
    );

    let status = world
        .admin
        .get(&format!("{CONFIG_MAPS}?labelSelector=%21%21"))
        .await
        .fails(400, "BadRequest");
    assert_eq!(
        status["message"],
        "unable to parse requirement: found '!', expected: identifier"
    );
    let status = world
        .admin
        .get(&format!("{CONFIG_MAPS}?fieldSelector=spec.x%3Da"))
        .await
        .fails(400, "BadRequest");
    let wanted = r#""spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#;
    assert_eq!(status["message"], wanted);
}

#[tokio::test]
async fn pages_show_one_moment() {
    let world = two().await;
    let first = world.admin.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 1);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // What comes and goes between the pages does not show.
    world.admin.config_map("rec", "c", json!({})).await;
    world.admin.delete(&format!("{CONFIG_MAPS}/b")).await.ok(200);
    let second = world
        .admin
        .get(&format!("{CONFIG_MAPS}?limit=1&continue={token}"))
        .await
        .ok(200);
    assert_eq!(second["items"][0]["metadata"]["name"], "b");
    assert!(second["metadata"].get("continue").is_none_or(|token| token == ""));
    assert_eq!(revision(&second), revision(&first));

    let status = world
        .admin
        .get(&format!("{CONFIG_MAPS}?limit=1&continue=zzz"))
        .await
        .fails(400, "BadRequest");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid continue token: continue key is not valid: invalid character '")
    );
}

#[tokio::test]
async fn a_revision_of_the_future_is_waited_for_by_the_client() {
    let world = two().await;
    let reply = world
        .admin
        .get(&format!("{CONFIG_MAPS}?resourceVersion=99999999"))
        .await;
    assert_eq!(reply.retry_after, "1");
    let status = reply.fails(504, "Timeout");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("Timeout: Too large resource version: 99999999, current: ")
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
}

fn columns(table: &Value) -> Vec<(&str, i64)> {
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let columns = table["columnDefinitions"].as_array().unwrap();
    columns
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["priority"].as_i64().unwrap()))
        .collect()
}

#[tokio::test]
async fn tables_show_what_people_look_for() {
    let world = two().await;
    let table = world
        .admin
        .get_as(&format!("{CONFIG_MAPS}?labelSelector=app%3Da"), TABLE)
        .await
        .ok(200);
    assert_eq!(columns(&table), [("Name", 0), ("Data", 0), ("Age", 0)]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1]), (&json!("a"), &json!(1)));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "a");

    let table = world
        .admin
        .get_as("/api/v1/namespaces/default/services", TABLE)
        .await
        .ok(200);
    let wanted = [
        ("Name", 0),
        ("Type", 0),
        ("Cluster-IP", 0),
        ("External-IP", 0),
        ("Port(s)", 0),
        ("Age", 0),
        ("Selector", 1),
    ];
    assert_eq!(columns(&table), wanted);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    let shown: Vec<&str> = cells.iter().map(|cell| cell.as_str().unwrap()).collect();
    assert_eq!(
        shown[..5],
        ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]
    );
    assert_eq!(shown[6], "<none>");
}

#[tokio::test]
async fn metadata_can_be_had_alone() {
    let world = two().await;
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let list = world
        .admin
        .get_as(&format!("{CONFIG_MAPS}?labelSelector=app%3Da"), accept)
        .await
        .ok(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(list["items"][0]["metadata"]["labels"]["app"], "a");
    assert!(list["items"][0].get("data").is_none());
}
