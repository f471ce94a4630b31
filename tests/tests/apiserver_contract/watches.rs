//! Watches: from a revision, with selectors, with bookmarks, and too late.

use serde_json::json;

use super::client::{Stream, revision};
use super::world::{THINGS, World};

async fn next(stream: &mut Stream) -> (String, String) {
    let (kind, object) = stream.event().await;
    (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_goes_on_from_its_revision_and_ends_with_a_bookmark() {
    let world = World::start().await;
    world.define_things().await;
    let made = world.thing(json!({"name": "s"}), json!({"port": 1})).await;
    let query = format!(
        "resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds=6",
        revision(&made)
    );
    let mut watch = world.admin.watch(THINGS, &query).await;
    world
        .admin
        .merge(&format!("{THINGS}/s"), json!({"spec": {"port": 3}}))
        .await
        .ok(200);
    world.thing(json!({"name": "w"}), json!({"port": 5})).await;
    world.admin.delete(&format!("{THINGS}/w")).await.ok(200);

    let (kind, object) = watch.event().await;
    assert_eq!((kind.as_str(), &object["spec"]["port"]), ("MODIFIED", &json!(3)));
    let (kind, added) = watch.event().await;
    assert_eq!((kind.as_str(), &added["kind"]), ("ADDED", &json!("Thing")));
    let (kind, deleted) = watch.event().await;
    assert_eq!((kind.as_str(), &deleted["spec"]["port"]), ("DELETED", &json!(5)));
    assert_ne!(
        revision(&deleted),
        revision(&added),
        "the end has a revision of its own"
    );
    let (kind, mark) = watch.event().await;
    assert_eq!((kind.as_str(), &mark["kind"]), ("BOOKMARK", &json!("Thing")));
    assert!(revision(&mark).parse::<u64>().unwrap() >= revision(&deleted).parse::<u64>().unwrap());
}

#[tokio::test]
async fn an_object_that_stops_matching_is_gone_and_comes_back() {
    let world = World::start().await;
    world.define_things().await;
    let first = world.thing(json!({"name": "other"}), json!({"port": 1})).await;
    let query = format!(
        "labelSelector=w%3D1&resourceVersion={}&timeoutSeconds=20",
        revision(&first)
    );
    let mut watch = world.admin.watch(THINGS, &query).await;
    world
        .thing(json!({"name": "l", "labels": {"w": "1"}}), json!({"port": 5}))
        .await;
    assert_eq!(next(&mut watch).await, event("ADDED", "l"));
    world
        .admin
        .merge(&format!("{THINGS}/l"), json!({"metadata": {"labels": {"w": null}}}))
        .await
        .ok(200);
    let (kind, last) = watch.event().await;
    assert_eq!(
        (kind.as_str(), &last["metadata"]["labels"]["w"]),
        ("DELETED", &json!("1"))
    );
    world
        .admin
        .merge(&format!("{THINGS}/l"), json!({"metadata": {"labels": {"w": "1"}}}))
        .await
        .ok(200);
    assert_eq!(next(&mut watch).await, event("ADDED", "l"));
}

#[tokio::test]
async fn without_a_revision_a_watch_begins_with_what_exists() {
    let world = World::start().await;
    world.define_things().await;
    for name in ["b", "a"] {
        world.thing(json!({"name": name}), json!({"port": 1})).await;
    }
    let mut watch = world.admin.watch(THINGS, "timeoutSeconds=1").await;
    assert_eq!(next(&mut watch).await, event("ADDED", "a"));
    assert_eq!(next(&mut watch).await, event("ADDED", "b"));
    assert!(watch.next().await.is_none(), "it ends by itself");
}

#[tokio::test]
async fn a_revision_that_is_gone_or_none_is_told() {
    let world = World::start().await;
    world.define_things().await;
    let mut watch = world.admin.watch(THINGS, "resourceVersion=1&timeoutSeconds=2").await;
    let (kind, status) = watch.event().await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(status["reason"], "Expired");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version: 1 (")
    );
    assert!(watch.next().await.is_none());

    let status = world
        .admin
        .get(&format!("{THINGS}?watch=true&resourceVersion=abc"))
        .await
        .fails(500, "");
    let wanted = r#"resourceVersion: Invalid value: "abc": strconv.ParseUint: parsing "abc": invalid syntax"#;
    assert_eq!(status["message"], wanted);
}

#[tokio::test]
async fn a_watch_ends_with_the_definition_of_its_kind() {
    let world = World::start().await;
    world.define_things().await;
    world.thing(json!({"name": "t"}), json!({"port": 80})).await;
    let mut watch = world.admin.watch(THINGS, "").await;
    assert_eq!(watch.event().await.0, "ADDED");
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.rec.example.com";
    world.admin.delete(definition).await.ok(200);
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "DELETED", "{event}");
    }
}
