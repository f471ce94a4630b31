//! Custom resources: definitions, defaults, pruning, checks, status and generation.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, blamed, owners};
use super::world::{THINGS, World, thing, thing_definition};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Waits until a definition that was just created is served.
pub(crate) async fn until_served(client: &Client) {
    let mut again = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..300 {
        let definition = client
            .get(&format!("{DEFINITIONS}/things.rec.example.com"))
            .await
            .ok(200);
        let conditions = definition["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let established = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
        if conditions.iter().any(established) && client.get(THINGS).await.status == 200 {
            return;
        }
        again.tick().await;
    }
    panic!("the definition is established in time");
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_definition_is_completed_and_established() {
    let world = World::start().await;
    let made = world
        .admin
        .post(DEFINITIONS, thing_definition("things.rec.example.com"))
        .await
        .ok(201);
    assert_eq!(made["spec"]["names"]["listKind"], "ThingList");
    assert_eq!(made["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["metadata"]["generation"], 1);

    let status = world
        .admin
        .post(DEFINITIONS, thing_definition("bad.rec.example.com"))
        .await
        .fails(422, "Invalid");
    let wanted = r#"CustomResourceDefinition.apiextensions.k8s.io "bad.rec.example.com" is invalid: metadata.name: Invalid value: "bad.rec.example.com": must be spec.names.plural+"."+spec.group"#;
    assert_eq!(message(&status), wanted);

    until_served(&world.admin).await;
    let served = world
        .admin
        .get(&format!("{DEFINITIONS}/things.rec.example.com"))
        .await
        .ok(200);
    assert_eq!(served["status"]["acceptedNames"], served["spec"]["names"]);
    let managers: Vec<String> = owners(&served)
        .into_iter()
        .map(|(manager, operation, _)| format!("{manager} {operation}"))
        .collect();
    assert_eq!(managers, ["kube-apiserver Update status", "unknown Update"]);

    let list = world.admin.get("/apis/rec.example.com/v1").await.ok(200);
    assert_eq!(list["groupVersion"], "rec.example.com/v1");
    assert_eq!(list["resources"][0]["shortNames"], json!(["th"]));
    assert_eq!(list["resources"][1]["name"], "things/status");
}

#[tokio::test]
async fn an_object_is_pruned_defaulted_and_has_no_status_yet() {
    let world = World::start().await;
    world.define_things().await;
    let mut object = thing(
        json!({"name": "t", "finalizers": ["rec.example.com/f"]}),
        json!({"port": 80, "unknown": 1}),
    );
    object["status"] = json!({"ready": true});
    let reply = world.admin.post(THINGS, object).await;
    assert_eq!(reply.warning, r#"299 - "unknown field \"spec.unknown\"""#);
    let made = reply.ok(201);
    assert_eq!(made["spec"], json!({"mode": "a", "port": 80}));
    assert!(made.get("status").is_none());
    assert_eq!(made["metadata"]["generation"], 1);
    let fields = json!({
        "f:metadata": {"f:finalizers": {".": {}, "v:\"rec.example.com/f\"": {}}},
        "f:spec": {".": {}, "f:mode": {}, "f:port": {}},
    });
    assert_eq!(owners(&made)[0].2, fields);

    let unknown = || thing(json!({"name": "t2"}), json!({"port": 80, "unknown": 1}));
    let status = world
        .admin
        .post(&format!("{THINGS}?fieldValidation=Strict"), unknown())
        .await
        .fails(400, "BadRequest");
    assert!(message(&status).ends_with(r#"strict decoding error: unknown field "spec.unknown""#));
    let reply = world
        .admin
        .post(&format!("{THINGS}?fieldValidation=Warn&dryRun=All"), unknown())
        .await;
    assert!(reply.warning.contains("spec.unknown"));
    assert!(reply.ok(201)["metadata"].get("resourceVersion").is_none());
}

#[tokio::test]
async fn what_the_schema_and_its_rules_forbid_is_refused_by_field() {
    let world = World::start().await;
    world.define_things().await;
    // A schema that does not hold leaves the rules unchecked, and the answer says so.
    let unchecked = ("<nil>".to_owned(), "FieldValueInvalid".to_owned());
    let cause = |field: &str, reason: &str| (field.to_owned(), reason.to_owned());
    for (spec, wanted, says) in [
        (
            json!({}),
            vec![unchecked.clone(), cause("spec.port", "FieldValueRequired")],
            "spec.port: Required value",
        ),
        (
            json!({"port": 70000, "mode": "c"}),
            vec![
                unchecked.clone(),
                cause("spec.mode", "FieldValueNotSupported"),
                cause("spec.port", "FieldValueInvalid"),
            ],
            "spec.port: Invalid value: 70000: spec.port in body should be less than or equal to 65535",
        ),
        (
            json!({"port": 666}),
            vec![cause("spec", "FieldValueInvalid")],
            r#"Thing.rec.example.com "t3" is invalid: spec: Invalid value: port 666 is taken"#,
        ),
        (
            json!({"port": "x"}),
            vec![unchecked.clone(), cause("spec.port", "FieldValueTypeInvalid")],
            r#"spec.port: Invalid value: "string": spec.port in body must be of type integer: "string""#,
        ),
        (
            json!({"port": 1, "list": ["a", "a"]}),
            vec![cause("spec.list[1]", "FieldValueDuplicate")],
            r#"Thing.rec.example.com "t3" is invalid: spec.list[1]: Duplicate value: "a""#,
        ),
    ] {
        let status = world
            .admin
            .post(THINGS, thing(json!({"name": "t3"}), spec))
            .await
            .fails(422, "Invalid");
        assert_eq!(blamed(&status), wanted);
        assert!(message(&status).contains(says), "{status}");
        assert_eq!(status["details"]["group"], "rec.example.com");
    }
}

#[tokio::test]
async fn generation_counts_changes_of_the_specification() {
    let world = World::start().await;
    world.define_things().await;
    world.thing(json!({"name": "t"}), json!({"port": 80})).await;
    let path = format!("{THINGS}/t");
    let body = json!({"spec": {"port": 9}, "status": {"ready": true}});
    let status = world.admin.merge(&format!("{path}/status"), body).await.ok(200);
    assert_eq!(
        (&status["spec"]["port"], &status["status"]["ready"]),
        (&json!(80), &json!(true))
    );
    assert_eq!(status["metadata"]["generation"], 1);
    let spec = world.admin.merge(&path, json!({"spec": {"port": 81}})).await.ok(200);
    assert_eq!(spec["metadata"]["generation"], 2);
    let labels = world
        .admin
        .merge(&path, json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .ok(200);
    assert_eq!(labels["metadata"]["generation"], 2);
    assert_eq!(owners(&labels).len(), 2);

    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = world.admin.get_as(THINGS, accept).await.ok(200);
    let names: Vec<&Value> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(names, [&json!("Name"), &json!("Port")]);
    assert_eq!(table["rows"][0]["cells"], json!(["t", 81]));

    let reply = world
        .admin
        .patch(&path, "strategic-merge-patch+json", json!({"spec": {"port": 81}}))
        .await;
    let status = reply.fails(415, "UnsupportedMediaType");
    assert!(
        message(&status)
            .ends_with("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")
    );
}
