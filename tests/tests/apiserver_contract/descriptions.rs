//! What is said of resources: columns of Tables, and the documents of OpenAPI.

use serde_json::{Value, json};

use super::client::Client;
use super::discovery::custom_document;
use super::world::World;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Name, type, priority and description of the columns of a Table.
async fn columns(client: &Client, path: &str) -> Vec<(String, String, i64, String)> {
    let table = client.get_as(path, TABLE).await.ok(200);
    let text = |column: &Value, key: &str| column[key].as_str().unwrap().to_owned();
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    columns
        .map(|column| {
            let priority = column["priority"].as_i64().unwrap();
            (
                text(column, "name"),
                text(column, "type"),
                priority,
                text(column, "description"),
            )
        })
        .collect()
}

fn described<'a>(document: &'a Value, kind: &str, field: &str) -> &'a str {
    let property = &document["components"]["schemas"][kind]["properties"][field];
    let text = property["description"].as_str().unwrap();
    text.split("\n\nPossible enum values").next().unwrap()
}

#[tokio::test]
async fn columns_say_which_field_they_show() {
    let world = World::start().await;
    world.define_things().await;
    let core = world.admin.get("/openapi/v3/api/v1").await.ok(200);
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let (name, created) = (
        described(&core, meta, "name"),
        described(&core, meta, "creationTimestamp"),
    );
    let column =
        |title: &str, priority: i64, text: &str| (title.to_owned(), "string".to_owned(), priority, text.to_owned());

    let data = described(&core, "io.k8s.api.core.v1.ConfigMap", "data");
    let wanted = [
        column("Name", 0, name),
        column("Data", 0, data),
        column("Age", 0, created),
    ];
    assert_eq!(columns(&world.admin, "/api/v1/namespaces/rec/configmaps").await, wanted);

    let spec = |field: &str| described(&core, "io.k8s.api.core.v1.ServiceSpec", field);
    let wanted = [
        column("Name", 0, name),
        column("Type", 0, spec("type")),
        column("Cluster-IP", 0, spec("clusterIP")),
        column("External-IP", 0, spec("externalIPs")),
        column("Port(s)", 0, spec("ports")),
        column("Age", 0, created),
        column("Selector", 1, spec("selector")),
    ];
    assert_eq!(
        columns(&world.admin, "/api/v1/namespaces/default/services").await,
        wanted
    );

    let things = columns(&world.admin, super::world::THINGS).await;
    assert_eq!(things[0], column("Name", 0, name));
    let accounts = columns(&world.admin, "/api/v1/namespaces/rec/serviceaccounts").await;
    assert_eq!(accounts, [column("Name", 0, name), column("Age", 0, created)]);
}

#[tokio::test]
async fn wide_tables_have_the_columns_that_people_know() {
    let world = World::start().await;
    let names = async |path: &str, priority: i64| -> Vec<String> {
        let columns = columns(&world.admin, path).await.into_iter();
        columns
            .filter(|column| column.2 == priority)
            .map(|column| column.0)
            .collect()
    };
    let pods = names("/api/v1/pods", 1).await;
    assert_eq!(pods, ["IP", "Node", "Nominated Node", "Readiness Gates"]);
    let nodes = names("/api/v1/nodes", 1).await;
    let wanted = [
        "Internal-IP",
        "External-IP",
        "OS-Image",
        "Kernel-Version",
        "Container-Runtime",
    ];
    assert_eq!(nodes, wanted);
    let jobs = names("/apis/batch/v1/jobs", 0).await;
    assert_eq!(jobs, ["Name", "Status", "Completions", "Duration", "Age"]);
    let events = names("/api/v1/events", 1).await;
    assert_eq!(events, ["Subobject", "Source", "First Seen", "Count", "Name"]);
}

#[tokio::test]
async fn every_place_of_the_index_has_a_document() {
    let world = World::start_empty().await;
    let index = world.admin.get("/openapi/v3").await.ok(200);
    for place in [
        ".well-known/openid-configuration",
        "api",
        "apis",
        "apis/apps",
        "apis/autoscaling/v1",
        "apis/autoscaling/v2",
        "openid/v1/jwks",
        "version",
    ] {
        let url = index["paths"][place]["serverRelativeURL"].as_str().unwrap();
        let document = world.admin.get(url).await.ok(200);
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.contains_key(&format!("/{place}/")), "{place}");
    }
    for served in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(world.admin.get(served).await.status, 200, "{served}");
    }
}

fn names(parameters: &Value) -> Vec<&str> {
    let parameters = parameters.as_array().unwrap().iter();
    parameters
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn operations_say_what_they_take_and_answer() {
    let world = World::start_empty().await;
    let core = world.admin.get("/openapi/v3/api/v1").await.ok(200);
    let service = &core["paths"]["/api/v1/namespaces/{namespace}/services/{name}"];
    assert_eq!(names(&service["parameters"]), ["name", "namespace", "pretty"]);
    assert_eq!(service["get"]["operationId"], "readCoreV1NamespacedService");
    assert_eq!(
        names(&service["put"]["parameters"]),
        ["dryRun", "fieldManager", "fieldValidation"]
    );
    let patches = service["patch"]["requestBody"]["content"].as_object().unwrap();
    assert!(patches.contains_key("application/strategic-merge-patch+json"));
    let deleted = &service["delete"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(deleted["$ref"], "#/components/schemas/io.k8s.api.core.v1.Service");

    let proxy = &core["paths"]["/api/v1/namespaces/{namespace}/services/{name}/proxy/{path}"];
    assert_eq!(
        proxy["head"]["operationId"],
        "connectCoreV1HeadNamespacedServiceProxyWithPath"
    );
    assert_eq!(
        proxy["head"]["x-kubernetes-group-version-kind"]["kind"],
        "ServiceProxyOptions"
    );
    let everywhere = &core["paths"]["/api/v1/services"];
    assert_eq!(everywhere["get"]["operationId"], "listCoreV1ServiceForAllNamespaces");
    assert_eq!(names(&everywhere["parameters"]).len(), 12);
    let watch = &core["paths"]["/api/v1/watch/namespaces/{namespace}/services"];
    assert_eq!(watch["get"]["x-kubernetes-action"], "watchlist");
    for kind in [
        "policy.v1.Eviction",
        "authentication.v1.TokenRequest",
        "autoscaling.v1.Scale",
    ] {
        let schema = &core["components"]["schemas"][format!("io.k8s.api.{kind}")];
        assert_eq!(schema["type"], "object", "{kind}");
    }
    let owner = &core["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference"];
    assert_eq!(owner["properties"]["kind"]["default"], "");

    let old = world.admin.get("/openapi/v2").await;
    assert!(!old.etag.is_empty());
    let old = old.ok(200);
    let create = &old["paths"]["/api/v1/namespaces/{namespace}/configmaps"]["post"];
    let body = create["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["in"] == "body")
        .unwrap();
    assert_eq!(body["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.ConfigMap");
    assert_eq!(create["operationId"], "createCoreV1NamespacedConfigMap");
}

#[tokio::test]
async fn a_custom_kind_is_described_like_one_that_is_built_in() {
    let world = World::start().await;
    world.define_things().await;
    let document = custom_document(&world.admin).await;
    let things = &document["paths"]["/apis/rec.example.com/v1/namespaces/{namespace}/things"];
    assert_eq!(things["get"]["operationId"], "listRecExampleComV1NamespacedThing");
    assert_eq!(things["get"]["description"], "list objects of kind Thing");
    assert_eq!(things["post"]["tags"], json!(["recExampleCom_v1"]));
    let thing = &document["paths"]["/apis/rec.example.com/v1/namespaces/{namespace}/things/{name}"];
    let patches = thing["patch"]["requestBody"]["content"].as_object().unwrap();
    assert!(!patches.contains_key("application/strategic-merge-patch+json"));
    let schemas = &document["components"]["schemas"];
    let list = &schemas["com.example.rec.v1.ThingList"];
    assert_eq!(list["description"], "ThingList is a list of Thing");
    assert_eq!(
        list["properties"]["items"]["items"]["$ref"],
        "#/components/schemas/com.example.rec.v1.Thing"
    );
    let thing = &schemas["com.example.rec.v1.Thing"]["properties"];
    assert!(
        thing["metadata"]["description"]
            .as_str()
            .unwrap()
            .starts_with("Standard object's metadata")
    );
}
