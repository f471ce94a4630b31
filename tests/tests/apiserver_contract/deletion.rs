//! Deletion: finalizers, preconditions, collections.

use serde_json::json;

use super::client::{blamed, revision};
use super::world::{THINGS, World};

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    let world = World::start().await;
    world.define_things().await;
    let made = world
        .thing(
            json!({"name": "t", "finalizers": ["rec.example.com/f"]}),
            json!({"port": 80}),
        )
        .await;
    let path = format!("{THINGS}/t");
    let leaving = world.admin.delete(&path).await.ok(200);
    assert!(leaving["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(leaving["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(leaving["metadata"]["generation"], 2);
    assert_ne!(revision(&leaving), revision(&made));
    assert_eq!(world.admin.get(&path).await.ok(200), leaving);

    let more = json!({"metadata": {"finalizers": ["rec.example.com/f", "rec.example.com/g"]}});
    let status = world.admin.merge(&path, more).await.fails(422, "Invalid");
    assert_eq!(
        blamed(&status),
        [("metadata.finalizers".to_owned(), "FieldValueForbidden".to_owned())]
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with(r#"found new finalizers []string{"rec.example.com/g"}"#)
    );
    let causes = status["details"]["causes"].as_array().unwrap();
    assert!(
        causes.len() == 2 && causes[0] == causes[1],
        "metadata is looked at twice: {causes:?}"
    );
    assert_eq!(
        world.admin.delete(&path).await.ok(200),
        leaving,
        "asking again changes nothing"
    );

    let last = world
        .admin
        .merge(&path, json!({"metadata": {"finalizers": []}}))
        .await
        .ok(200);
    assert!(last["metadata"].get("finalizers").is_none());
    let status = world.admin.get(&path).await.fails(404, "NotFound");
    assert_eq!(status["message"], r#"things.rec.example.com "t" not found"#);
    assert_eq!(
        status["details"],
        json!({"name": "t", "group": "rec.example.com", "kind": "things"})
    );
}

#[tokio::test]
async fn deletion_has_preconditions_and_says_what_went() {
    let world = World::start().await;
    world.define_things().await;
    let status = world
        .admin
        .delete(&format!("{THINGS}/none"))
        .await
        .fails(404, "NotFound");
    assert_eq!(status["message"], r#"things.rec.example.com "none" not found"#);

    let made = world.thing(json!({"name": "s"}), json!({"port": 1})).await;
    let path = format!("{THINGS}/s");
    let wrong = json!({
        "apiVersion": "v1", "kind": "DeleteOptions",
        "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"},
    });
    let reply = world
        .admin
        .send(
            "DELETE",
            &path,
            &[("content-type", "application/json")],
            wrong.to_string(),
        )
        .await;
    let status = reply.fails(409, "Conflict");
    let begins = "Operation cannot be fulfilled on Thing.rec.example.com \"s\": the UID in the precondition \
                  (00000000-0000-0000-0000-000000000000) does not match the UID in record (";
    assert!(status["message"].as_str().unwrap().starts_with(begins));
    assert_eq!(status["details"]["kind"], "Thing");

    let gone = world.admin.delete(&path).await.ok(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    let details = json!({"name": "s", "group": "rec.example.com", "kind": "things", "uid": made["metadata"]["uid"]});
    assert_eq!(gone["details"], details);

    let map = world.admin.config_map("rec", "a", json!({})).await;
    let gone = world.admin.delete("/api/v1/namespaces/rec/configmaps/a").await.ok(200);
    let details = json!({"name": "a", "kind": "configmaps", "uid": map["metadata"]["uid"]});
    assert_eq!((&gone["status"], &gone["details"]), (&json!("Success"), &details));
}

#[tokio::test]
async fn a_collection_goes_as_far_as_it_is_selected() {
    let world = World::start().await;
    world.define_things().await;
    world
        .thing(json!({"name": "l", "labels": {"w": "1"}}), json!({"port": 5}))
        .await;
    world.thing(json!({"name": "m"}), json!({"port": 5})).await;
    let gone = world
        .admin
        .delete(&format!("{THINGS}?labelSelector=w%3D1"))
        .await
        .ok(200);
    assert_eq!(gone["kind"], "ThingList");
    assert_eq!(gone["items"].as_array().unwrap().len(), 1);
    assert_eq!(gone["items"][0]["metadata"]["name"], "l");
    let left = world.admin.get(THINGS).await.ok(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
