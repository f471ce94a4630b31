//! What the definitions of this project's kinds accept and refuse, asked of a server: one list for the types, the schemas and this.

use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::discovery::pinned_kind;
use kube::{Client, Error};
use serde_json::{Value, json};

use super::running::Running;

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/kubelb-manager/files/crds");
/// Objects, and a part of what the server says when it refuses one. With `old`, the object replaces that one.
const CASES: &str = include_str!("../../../kubelb-api/tests/data/validation.json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_is_accepted_or_refused_with_its_reason() {
    let running = Running::start();
    running.says(&format!("apply --server-side -f {DEFINITIONS}"));
    running.says("wait --for=condition=Established --timeout=60s crd --all");
    let client = running.kube().await;
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() >= 73);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(said) = check(&client, case).await {
            wrong.push(format!("{}, {}: {said}", case["object"]["kind"], case["name"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

async fn check(client: &Client, case: &Value) -> Result<(), String> {
    let kind = case["object"]["kind"].as_str().unwrap();
    let kind = GroupVersionKind::gvk("kubelb.k8c.io", "v1alpha1", kind);
    let (resource, capabilities) = pinned_kind(client, &kind).await.unwrap();
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Cluster {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::default_namespaced_with(client.clone(), &resource)
    };
    let object = |value: &Value| serde_json::from_value::<DynamicObject>(value.clone()).unwrap();
    let wanted = object(&case["object"]);
    let name = wanted.metadata.name.clone().unwrap();
    let answer = if case["old"].is_null() {
        api.create(&PostParams::default(), &wanted).await
    } else {
        let old = api.create(&PostParams::default(), &object(&case["old"])).await;
        let mut replacement = wanted;
        replacement.metadata.resource_version = old
            .map_err(|error| format!("the old one: {error}"))?
            .metadata
            .resource_version;
        api.replace(&name, &PostParams::default(), &replacement).await
    };
    // Gone before the next case, which may have the same name.
    drop(api.delete(&name, &DeleteParams::default()).await);
    match (answer, case["error"].as_str()) {
        (Ok(_), None) => Ok(()),
        (Ok(created), Some(error)) => Err(format!("accepted, not refused with {error:?}: {}", json!(created))),
        (Err(Error::Api(status)), Some(error)) if status.code == 422 && status.message.contains(error) => Ok(()),
        (Err(said), expected) => Err(format!("expected {expected:?}, got {said}")),
    }
}
