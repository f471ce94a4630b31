//! What is served, and how it is described.

use serde_json::{Value, json};

use super::client::Client;
use super::world::World;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn versions_and_groups_are_listed() {
    let world = World::start_empty().await;
    let version = world.admin.get("/version").await.ok(200);
    assert_eq!(version["major"], "1");
    assert!(version["minor"].as_str().unwrap().parse::<u32>().unwrap() >= 30);
    assert!(version["gitVersion"].as_str().unwrap().starts_with('v'));
    // Works with what the version before it wrote.
    let before = version["minor"].as_str().unwrap().parse::<u32>().unwrap() - 1;
    assert_eq!(version["minCompatibilityMinor"], before.to_string());

    let core = world.admin.get("/api").await.ok(200);
    assert_eq!(core["kind"], "APIVersions");
    assert_eq!(core["versions"], json!(["v1"]));

    let groups = world.admin.get("/apis").await.ok(200);
    assert_eq!(groups["kind"], "APIGroupList");
    for wanted in [
        "apps",
        "networking.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "rbac.authorization.k8s.io",
    ] {
        let group = groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .find(|group| group["name"] == wanted)
            .unwrap();
        assert_eq!(group["preferredVersion"]["groupVersion"], format!("{wanted}/v1"));
    }
    let groups = groups["groups"].as_array().unwrap();
    let scaling = groups.iter().find(|group| group["name"] == "autoscaling").unwrap();
    let versions: Vec<&Value> = scaling["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["version"])
        .collect();
    assert_eq!(
        (versions, &scaling["preferredVersion"]["version"]),
        (vec![&json!("v2"), &json!("v1")], &json!("v2"))
    );
}

fn resource<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is listed"))
}

#[tokio::test]
async fn resources_say_their_kind_verbs_and_short_names() {
    let world = World::start_empty().await;
    let core = world.admin.get("/api/v1").await.ok(200);
    assert_eq!(
        (&core["kind"], &core["groupVersion"]),
        (&json!("APIResourceList"), &json!("v1"))
    );
    let services = resource(&core, "services");
    assert_eq!(
        (&services["kind"], &services["namespaced"]),
        (&json!("Service"), &json!(true))
    );
    assert_eq!(services["shortNames"], json!(["svc"]));
    let verbs = json!([
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch"
    ]);
    assert_eq!(services["verbs"], verbs);
    assert_eq!(
        resource(&core, "services/status")["verbs"],
        json!(["get", "patch", "update"])
    );
    assert_eq!(resource(&core, "namespaces")["namespaced"], false);
    let components = resource(&core, "componentstatuses");
    assert_eq!(components["verbs"], json!(["get", "list"]));
    assert!(components.get("storageVersionHash").is_none());
    assert_eq!(resource(&core, "pods/resize")["kind"], "Pod");
    let listed = world.admin.get("/api/v1/componentstatuses").await.ok(200);
    assert_eq!(listed["kind"], "ComponentStatusList");
    let token = resource(&core, "serviceaccounts/token");
    assert_eq!(
        (&token["group"], &token["kind"]),
        (&json!("authentication.k8s.io"), &json!("TokenRequest"))
    );

    let networking = world.admin.get("/apis/networking.k8s.io/v1").await.ok(200);
    assert_eq!(resource(&networking, "ingresses")["shortNames"], json!(["ing"]));
    assert_eq!(resource(&networking, "ingressclasses")["namespaced"], false);
    let coordination = world.admin.get("/apis/coordination.k8s.io/v1").await.ok(200);
    assert_eq!(resource(&coordination, "leases")["kind"], "Lease");
}

async fn aggregated(client: &Client, path: &str) -> Value {
    let reply = client.get_as(path, AGGREGATED).await;
    assert_eq!(reply.content_type, AGGREGATED);
    reply.ok(200)
}

#[tokio::test]
async fn everything_is_told_at_once_to_who_asks_for_that() {
    let world = World::start_empty().await;
    let groups = aggregated(&world.admin, "/apis").await;
    assert_eq!(groups["apiVersion"], "apidiscovery.k8s.io/v2");
    let items = groups["items"].as_array().unwrap();
    let apps = items.iter().find(|group| group["metadata"]["name"] == "apps").unwrap();
    assert_eq!(apps["versions"][0]["freshness"], "Current");
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let deployments = resources
        .iter()
        .find(|resource| resource["resource"] == "deployments")
        .unwrap();
    assert_eq!(deployments["scope"], "Namespaced");
    assert_eq!(deployments["singularResource"], "deployment");
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    // Its own group and version are not repeated.
    assert_eq!(deployments["responseKind"], kind("", "", "Deployment"));
    assert_eq!(
        deployments["subresources"][0]["responseKind"],
        kind("autoscaling", "v1", "Scale")
    );
    assert_eq!(deployments["categories"], json!(["all"]));
    let below: Vec<&Value> = deployments["subresources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sub| &sub["subresource"])
        .collect();
    assert_eq!(below, [&json!("scale"), &json!("status")]);

    let core = aggregated(&world.admin, "/api").await;
    assert_eq!(core["items"].as_array().unwrap().len(), 1);
    assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
}

#[tokio::test]
async fn kinds_are_described_for_tools() {
    let world = World::start().await;
    world.define_things().await;
    let index = world.admin.get("/openapi/v3").await.ok(200);
    let url = |place: &str| index["paths"][place]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url("api/v1").starts_with("/openapi/v3/api/v1?hash="));
    assert!(url("apis/apps/v1").starts_with("/openapi/v3/apis/apps/v1?hash="));

    let reply = world.admin.get(&url("api/v1")).await;
    assert!(!reply.etag.is_empty());
    let core = reply.ok(200);
    let path = &core["paths"]["/api/v1/namespaces/{namespace}/services/{name}"];
    let about = json!({"group": "", "version": "v1", "kind": "Service"});
    assert_eq!(path["patch"]["x-kubernetes-group-version-kind"], about);
    let parameters = path["patch"]["parameters"].as_array().unwrap();
    assert!(
        parameters
            .iter()
            .any(|parameter| parameter["name"] == "fieldValidation")
    );
    let ports = &core["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));

    let custom = custom_document(&world.admin).await;
    let schema = &custom["components"]["schemas"]["com.example.rec.v1.Thing"];
    assert_eq!(schema["properties"]["spec"]["properties"]["mode"]["default"], "a");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Thing");
    assert!(
        schema["properties"]["metadata"]
            .to_string()
            .contains("meta.v1.ObjectMeta")
    );

    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let old = world.admin.get_as("/openapi/v2", accept).await;
    assert_eq!(old.status, 200);
    assert_eq!(
        old.content_type,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert!(old.bytes.len() > 100_000);
}

/// A real server takes a moment to describe a new kind.
pub(super) async fn custom_document(client: &Client) -> Value {
    let mut again = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..300 {
        let reply = client.get("/openapi/v3/apis/rec.example.com/v1").await;
        if reply.status == 200 {
            return reply.body;
        }
        again.tick().await;
    }
    panic!("the kind is described in time");
}
