//! Creating and reading.

use serde_json::json;

use super::client::{blamed, owners};
use super::world::World;

const CONFIG_MAPS: &str = "/api/v1/namespaces/rec/configmaps";

#[tokio::test]
async fn namespaces_exist_before_what_is_in_them() {
    let world = World::start_empty().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "rec"}});
    let made = world.admin.post("/api/v1/namespaces", namespace.clone()).await.ok(201);
    assert_eq!(
        made["metadata"]["labels"],
        json!({"kubernetes.io/metadata.name": "rec"})
    );
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let status = world
        .admin
        .post("/api/v1/namespaces", namespace)
        .await
        .fails(409, "AlreadyExists");
    assert_eq!(status["message"], r#"namespaces "rec" already exists"#);

    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
    let status = world
        .admin
        .post("/api/v1/namespaces/none/services", service)
        .await
        .fails(404, "NotFound");
    assert_eq!(status["message"], r#"namespaces "none" not found"#);
    assert_eq!(status["details"], json!({"name": "none", "kind": "namespaces"}));
}

#[tokio::test]
async fn an_object_gets_its_identity_and_its_first_owner() {
    let world = World::start().await;
    let made = world
        .admin
        .config_map("rec", "a", json!({"app": "a", "tier": "x"}))
        .await;
    let metadata = &made["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["namespace"]),
        (&json!("a"), &json!("rec"))
    );
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(metadata.get("generation").is_none());
    let fields = json!({
        "f:data": {".": {}, "f:k": {}},
        "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:tier": {}}},
    });
    assert_eq!(owners(&made), [("unknown".to_owned(), "Update".to_owned(), fields)]);
    assert_eq!(world.admin.get(&format!("{CONFIG_MAPS}/a")).await.ok(200), made);

    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}});
    let made = world.admin.post(CONFIG_MAPS, generated).await.ok(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == "gen-".len() + 5, "{name}");
    assert_eq!(owners(&made)[0].2, json!({"f:metadata": {"f:generateName": {}}}));
}

#[tokio::test]
async fn what_is_no_object_is_refused_with_the_reason() {
    let world = World::start().await;
    let named = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let status = world.admin.post(CONFIG_MAPS, named("A_B")).await.fails(422, "Invalid");
    assert_eq!(
        blamed(&status),
        [("metadata.name".to_owned(), "FieldValueInvalid".to_owned())]
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with(r#"ConfigMap "A_B" is invalid: metadata.name: Invalid value"#)
    );
    assert_eq!(
        (&status["details"]["kind"], &status["details"]["name"]),
        (&json!("ConfigMap"), &json!("A_B"))
    );

    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let status = world.admin.post(CONFIG_MAPS, nameless).await.fails(422, "Invalid");
    let wanted = r#"ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required"#;
    assert_eq!(status["message"], wanted);
    assert_eq!(
        blamed(&status),
        [("metadata.name".to_owned(), "FieldValueRequired".to_owned())]
    );

    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "q"}});
    let status = world.admin.post(CONFIG_MAPS, other).await.fails(400, "BadRequest");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with(r#"Secret in version "v1" cannot be handled as a ConfigMap"#)
    );

    let reply = world
        .admin
        .send("POST", CONFIG_MAPS, &[("content-type", "application/json")], "{nope")
        .await;
    let wanted = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: \
                  invalid character 'n' looking for beginning of object key string ({nope)";
    assert_eq!(reply.fails(400, "BadRequest")["message"], wanted);

    let with_revision =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rv", "resourceVersion": "5"}});
    let status = world.admin.post(CONFIG_MAPS, with_revision).await.fails(500, "");
    assert_eq!(
        status["message"],
        "resourceVersion should not be set on objects to be created"
    );
}

#[tokio::test]
async fn what_is_no_json_is_refused_with_the_place() {
    let world = World::start().await;
    let made = world.admin.config_map("rec", "c", json!({})).await;
    let path = format!("{CONFIG_MAPS}/c");
    for (text, why, shown) in [
        (r#"{"a":1"#, "unexpected end of JSON input", r#"{"a":1"#),
        (r#"{"a"1}"#, "invalid character '1' after object key", r#"{"a"1}"#),
        (
            r#"{"a":1 "b"}"#,
            "invalid character '\"' after object key:value pair",
            r#"{"a":1 "b"}"#,
        ),
        ("[1 2]", "invalid character '2' after array element", "5b3120325d"),
        (
            r#"{"a":1}x"#,
            "invalid character 'x' after top-level value",
            r#"{"a":1}x"#,
        ),
        ("", "unexpected end of JSON input", "<empty>"),
    ] {
        let json = [("content-type", "application/json")];
        let said = world
            .admin
            .send("POST", CONFIG_MAPS, &json, text)
            .await
            .fails(400, "BadRequest");
        let said = said["message"].as_str().unwrap();
        assert!(said.ends_with(&format!("json parse error: {why} ({shown})")), "{said}");
        let patch = [("content-type", "application/merge-patch+json")];
        let said = world
            .admin
            .send("PATCH", &path, &patch, text)
            .await
            .fails(400, "BadRequest");
        assert_eq!(said["message"], format!("error decoding patch: {why}"));
    }
    assert_eq!(world.admin.get(&path).await.ok(200), made);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let world = World::start().await;
    let status = world
        .admin
        .get(&format!("{CONFIG_MAPS}/none"))
        .await
        .fails(404, "NotFound");
    assert_eq!(status["message"], r#"configmaps "none" not found"#);
    let status = world
        .admin
        .get("/api/v1/namespaces/rec/widgets/none")
        .await
        .fails(404, "NotFound");
    assert_eq!(status["message"], "the server could not find the requested resource");
    assert_eq!(status["details"], json!({}));
}

#[tokio::test]
async fn a_dry_run_answers_and_keeps_nothing() {
    let world = World::start().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dry"}});
    let made = world
        .admin
        .post(&format!("{CONFIG_MAPS}?dryRun=All"), object)
        .await
        .ok(201);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"].get("resourceVersion").is_none());
    assert!(made["metadata"].get("managedFields").is_none());
    world
        .admin
        .get(&format!("{CONFIG_MAPS}/dry"))
        .await
        .fails(404, "NotFound");
}

#[tokio::test]
async fn events_and_leases_are_kept_as_they_are() {
    let world = World::start().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-"}, "reason": "R", "message": "m",
        "type": "Warning", "involvedObject": {"kind": "Service", "namespace": "rec", "name": "svc"},
    });
    let made = world.admin.post("/api/v1/namespaces/rec/events", event).await.ok(201);
    for key in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        assert!(made.as_object().unwrap().contains_key(key), "{key} is shown");
    }
    assert_eq!((&made["source"], &made["reportingComponent"]), (&json!({}), &json!("")));
    let fields = json!({
        "f:involvedObject": {}, "f:message": {}, "f:metadata": {"f:generateName": {}}, "f:reason": {}, "f:type": {},
    });
    assert_eq!(owners(&made)[0].2, fields);
    let name = made["metadata"]["name"].as_str().unwrap();
    let same = world
        .admin
        .get(&format!("/apis/events.k8s.io/v1/namespaces/rec/events/{name}"))
        .await
        .ok(200);
    assert_eq!(
        (&same["note"], &same["regarding"]["name"]),
        (&json!("m"), &json!("svc"))
    );

    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    });
    let made = world
        .admin
        .post("/apis/coordination.k8s.io/v1/namespaces/rec/leases", lease)
        .await
        .ok(201);
    assert_eq!(made["spec"], json!({"holderIdentity": "a", "leaseDurationSeconds": 15}));
    assert_eq!(
        owners(&made)[0].2,
        json!({"f:spec": {"f:holderIdentity": {}, "f:leaseDurationSeconds": {}}})
    );
}
