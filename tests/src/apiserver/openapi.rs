//! OpenAPI: version 3 by group (what kubectl explains, checks and patches by), version 2 as a whole (what older tools
//! read, in protobuf).
//!
//! Of the paths only what clients look at is described: which kind is where, and that unknown fields are checked.

use std::collections::BTreeSet;

use ring::digest;
use serde_json::{Map, Value, json};

use super::protobuf::Writer;
use super::resource::{Registry, Resource, group_version};
use super::schema::{Definitions, reference, referred};

/// Content type of version 2 in protobuf.
pub(crate) const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const ALWAYS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];

/// `api/v1`, `apis/apps/v1`: how the index calls a group and version.
fn place(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", group_version(group, version))
}

/// Changes when the document of a group and version does.
pub(crate) fn hash(registry: &Registry, group: &str, version: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(place(group, version).as_bytes());
    for resource in registry.of(group, version) {
        context.update(resource.plural.as_bytes());
        if let Some(custom) = &resource.custom {
            context.update(custom.schema.to_string().as_bytes());
        }
    }
    let hash = context.finish();
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `/openapi/v3`.
pub(crate) fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for group in registry.groups() {
        for version in registry.versions(group) {
            let place = place(group, &version);
            let url = format!("/openapi/v3/{place}?hash={}", hash(registry, group, &version));
            paths.insert(place, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/apis/<group>/<version>`; `None` when nothing is served there.
pub(crate) fn document(registry: &Registry, definitions: &Definitions, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<&Resource> = registry.of(group, version).map(AsRef::as_ref).collect();
    if resources.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for resource in &resources {
        add_paths(&mut paths, resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": paths,
        "components": {"schemas": schemas(&resources, definitions)},
    }))
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let prefix = format!("/{}", place(&resource.group, &resource.version));
    let collection = if resource.namespaced {
        format!("{prefix}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{prefix}/{}", resource.plural)
    };
    let object = format!("{collection}/{{name}}");
    let about = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let operations = |verbs: &[(&str, &str, &str)]| -> Value {
        let served = verbs.iter().filter(|(verb, ..)| resource.verbs.contains(verb));
        let operations: Map<String, Value> = served
            .map(|(verb, method, action)| ((*method).to_owned(), operation(resource, verb, action, &about)))
            .collect();
        Value::Object(operations)
    };
    let of_collection = [
        ("list", "get", "list"),
        ("create", "post", "post"),
        ("deletecollection", "delete", "deletecollection"),
    ];
    let of_object = [
        ("get", "get", "get"),
        ("update", "put", "put"),
        ("patch", "patch", "patch"),
        ("delete", "delete", "delete"),
    ];
    paths.insert(collection, operations(&of_collection));
    if resource.verbs.contains(&"get") {
        if resource.has_status() {
            paths.insert(
                format!("{object}/status"),
                operations(of_object.get(..3).unwrap_or_default()),
            );
        }
        paths.insert(object, operations(&of_object));
    }
}

fn operation(resource: &Resource, verb: &str, action: &str, about: &Value) -> Value {
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "list" => &[
            "labelSelector",
            "fieldSelector",
            "limit",
            "continue",
            "resourceVersion",
            "watch",
        ],
        _ => &[],
    };
    let parameters: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let shown =
        json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{}", resource.definition)}}});
    json!({
        "operationId": format!("{verb}_{}_{}", resource.plural, resource.version),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": shown}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": about,
    })
}

/// The types of `resources` and all that they refer to.
fn schemas(resources: &[&Resource], definitions: &Definitions) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut wanted: Vec<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    for resource in resources {
        let mut schema = match &resource.custom {
            Some(custom) => custom.schema.clone(),
            None => definitions.get(&resource.definition).cloned().unwrap_or_default(),
        };
        let about = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
        super::object::as_map(&mut schema).insert("x-kubernetes-group-version-kind".to_owned(), about);
        collect(&schema, &mut wanted);
        schemas.insert(resource.definition.clone(), schema);
        if resource.verbs.contains(&"list") {
            schemas.insert(format!("{}List", resource.definition), list_schema(resource));
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if schemas.contains_key(&name) || !seen.insert(name.clone()) {
            continue;
        }
        if let Some(schema) = definitions.get(&name) {
            collect(schema, &mut wanted);
            schemas.insert(name, schema.clone());
        }
    }
    schemas
}

fn list_schema(resource: &Resource) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": reference(&resource.definition)},
        },
        "x-kubernetes-group-version-kind": [
            {"group": resource.group, "version": resource.version, "kind": resource.list_kind},
        ],
    })
}

fn collect(node: &Value, names: &mut Vec<String>) {
    match node {
        Value::Object(map) => {
            names.extend(referred(node).map(str::to_owned));
            map.values().for_each(|child| collect(child, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Version 2 as JSON: all types.
pub(crate) fn v2(registry: &Registry, definitions: &Definitions) -> Value {
    let resources: Vec<&Resource> = registry.all().map(AsRef::as_ref).collect();
    let schemas = Value::Object(schemas(&resources, definitions));
    let text = schemas.to_string().replace("#/components/schemas/", "#/definitions/");
    let definitions: Value = serde_json::from_str(&text).unwrap_or_default();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": {},
        "definitions": definitions,
    })
}

/// Version 2 in protobuf (the message `Document` of gnostic's OpenAPIv2.proto).
pub(crate) fn v2_protobuf(registry: &Registry, definitions: &Definitions) -> Vec<u8> {
    let document = v2(registry, definitions);
    let mut writer = Writer::default();
    writer.text(1, "2.0");
    writer.message(2, |info| {
        info.text(1, "Kubernetes").text(2, super::VERSION);
    });
    writer.message(8, |_paths| {});
    writer.message(9, |all| {
        for (name, schema) in document
            .get("definitions")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            all.message(1, |named| {
                named.text(1, name).message(2, |inner| write_schema(inner, schema));
            });
        }
    });
    writer.finish()
}

fn write_schema(writer: &mut Writer, schema: &Value) {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    let direct = text("$ref");
    let wrapped = schema
        .pointer("/allOf/0/$ref")
        .and_then(Value::as_str)
        .unwrap_or_default();
    writer.text(1, if direct.is_empty() { wrapped } else { direct });
    writer.text(2, text("format"));
    writer.text(4, text("description"));
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        writer.text(19, name.as_str().unwrap_or_default());
    }
    if let Some(more) = schema.get("additionalProperties").filter(|more| more.is_object()) {
        writer.message(21, |item| {
            item.message(1, |inner| write_schema(inner, more));
        });
    }
    if !text("type").is_empty() {
        writer.message(22, |kind| {
            kind.text(1, text("type"));
        });
    }
    if let Some(items) = schema.get("items") {
        writer.message(23, |item| {
            item.message(1, |inner| write_schema(inner, items));
        });
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        writer.message(25, |all| {
            for (name, property) in properties {
                all.message(1, |named| {
                    named.text(1, name).message(2, |inner| write_schema(inner, property));
                });
            }
        });
    }
    for (key, value) in schema.as_object().into_iter().flatten() {
        if key.starts_with("x-kubernetes-") {
            writer.message(31, |named| {
                // The value is YAML, which JSON is.
                named.text(1, key).message(2, |any| {
                    any.text(2, &value.to_string());
                });
            });
        }
    }
}
