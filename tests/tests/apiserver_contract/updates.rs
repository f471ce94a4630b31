//! Updates and patches of a ConfigMap: conflicts, no change, every patch type.

use serde_json::{Value, json};

use super::client::{owners, revision};
use super::world::World;

const A: &str = "/api/v1/namespaces/rec/configmaps/a";

async fn with_a() -> (World, Value) {
    let world = World::start().await;
    let made = world.admin.config_map("rec", "a", json!({"app": "a"})).await;
    (world, made)
}

fn changed(object: &Value, value: &str) -> Value {
    let mut object = object.clone();
    object["data"] = json!({"k": value});
    object
}

#[tokio::test]
async fn an_update_moves_the_revision_once_and_an_old_one_is_a_conflict() {
    let (world, made) = with_a().await;
    let updated = world.admin.put(A, &changed(&made, "v2")).await.ok(200);
    assert_eq!(updated["data"], json!({"k": "v2"}));
    assert_ne!(revision(&updated), revision(&made));
    assert_eq!(updated["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(owners(&updated).len(), 1);

    let status = world.admin.put(A, &changed(&made, "v3")).await.fails(409, "Conflict");
    let wanted = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
                  changes to the latest version and try again";
    assert_eq!(status["message"], wanted);
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));

    let mut without = changed(&made, "v2");
    without["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let same = world.admin.put(A, &without).await.ok(200);
    assert_eq!(revision(&same), revision(&updated), "nothing changed");
    let same = world.admin.put(A, &updated).await.ok(200);
    assert_eq!(revision(&same), revision(&updated), "nothing changed");

    without["metadata"]["name"] = json!("zz");
    let status = world.admin.put(A, &without).await.fails(400, "BadRequest");
    assert_eq!(
        status["message"],
        "the name of the object (zz) does not match the name on the URL (a)"
    );
}

#[tokio::test]
async fn patches_change_what_they_name_or_nothing() {
    let (world, made) = with_a().await;
    let merged = world
        .admin
        .merge(A, json!({"data": {"k": null, "n": "1"}}))
        .await
        .ok(200);
    assert_eq!(merged["data"], json!({"n": "1"}));
    assert_eq!(owners(&merged)[0].2["f:data"], json!({".": {}, "f:n": {}}));
    assert_ne!(revision(&merged), revision(&made));

    let steps = json!([
        {"op": "add", "path": "/data/j", "value": "2"},
        {"op": "test", "path": "/data/n", "value": "1"},
    ]);
    let patched = world.admin.patch(A, "json-patch+json", steps).await.ok(200);
    assert_eq!(patched["data"], json!({"j": "2", "n": "1"}));

    for steps in [
        json!([{"op": "test", "path": "/data/n", "value": "7"}]),
        json!([{"op": "remove", "path": "/data/none"}]),
    ] {
        let status = world
            .admin
            .patch(A, "json-patch+json", steps)
            .await
            .fails(422, "Invalid");
        assert_eq!(
            status["message"],
            "the server rejected our request due to an error in our request"
        );
    }
    let status = world
        .admin
        .patch(A, "json", json!({}))
        .await
        .fails(415, "UnsupportedMediaType");
    assert_eq!(status["message"], "415: Unsupported Media Type");
    let missing = "/api/v1/namespaces/rec/configmaps/none";
    world
        .admin
        .merge(missing, json!({"data": {}}))
        .await
        .fails(404, "NotFound");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"q": "1"}});
    let status = world.admin.merge(A, stale).await.fails(409, "Conflict");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("the object has been modified")
    );
    assert_eq!(world.admin.get(A).await.ok(200), patched);
}
