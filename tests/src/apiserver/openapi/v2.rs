//! Version 2 of OpenAPI, made from what version 3 says, as JSON and in protobuf (the message `Document` of gnostic's
//! OpenAPIv2.proto).

use serde_json::{Map, Value, json};

use super::super::object::text;
use super::super::protobuf::Writer;
use super::super::resource::{Registry, Resource};
use super::super::schema::Definitions;
use super::pages::Page;
use super::paths::{Describer, Paths};
use super::{all_pages, schemas};

/// Content type of the form in protobuf.
pub(crate) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Methods, with their numbers in the message of a path.
const METHODS: [(&str, u64); 7] = [
    ("get", 2),
    ("put", 3),
    ("post", 4),
    ("delete", 5),
    ("options", 6),
    ("head", 7),
    ("patch", 8),
];

/// All that is served.
pub(crate) fn json(registry: &Registry, definitions: &Definitions) -> Value {
    let resources: Vec<&Resource> = registry.all().map(AsRef::as_ref).collect();
    let mut paths = Paths::new();
    for (_, page) in all_pages(registry) {
        page.describe(&mut paths);
    }
    for group in registry.groups() {
        for version in registry.versions(group) {
            if registry.of(group, &version).any(|resource| resource.is_builtin()) {
                Page::resources(group, &version).describe(&mut paths);
            }
        }
    }
    for resource in &resources {
        Describer::new(definitions, resource).describe(&mut paths);
    }
    let paths = Value::Object(paths);
    let schemas = Value::Object(schemas(&resources, definitions, &paths));
    let here = |value: &Value| -> Value {
        let text = value.to_string().replace("#/components/schemas/", "#/definitions/");
        serde_json::from_str(&text).unwrap_or_default()
    };
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::super::VERSION},
        "paths": older(&here(&paths)),
        "definitions": here(&schemas),
    })
}

/// Paths as version 2 writes them: content types beside the schema, the body among the parameters.
fn older(paths: &Value) -> Value {
    let mut all = Map::new();
    for (path, item) in paths.as_object().into_iter().flatten() {
        let mut written = Map::new();
        for (method, operation) in item.as_object().into_iter().flatten() {
            let operation = if method == "parameters" {
                older_parameters(operation, None)
            } else {
                older_operation(operation)
            };
            written.insert(method.clone(), operation);
        }
        all.insert(path.clone(), Value::Object(written));
    }
    Value::Object(all)
}

fn types(content: Option<&Value>) -> Vec<Value> {
    let content = content.and_then(Value::as_object);
    content.into_iter().flatten().map(|(kind, _)| json!(kind)).collect()
}

fn schema(content: Option<&Value>) -> Option<&Value> {
    let content = content.and_then(Value::as_object)?;
    content.values().next()?.get("schema")
}

fn older_operation(operation: &Value) -> Value {
    let mut written = operation.as_object().cloned().unwrap_or_default();
    let body = written.remove("requestBody");
    let sent = body.as_ref().and_then(|body| body.get("content"));
    let consumes = types(sent);
    let consumes = if consumes.is_empty() {
        vec![json!("*/*")]
    } else {
        consumes
    };
    let mut produces = Vec::new();
    if let Some(Value::Object(responses)) = written.get_mut("responses") {
        for response in responses.values_mut().filter_map(Value::as_object_mut) {
            let content = response.remove("content");
            if produces.is_empty() {
                produces = types(content.as_ref());
            }
            if let Some(schema) = schema(content.as_ref()) {
                response.insert("schema".to_owned(), schema.clone());
            }
        }
    }
    let parameters = older_parameters(written.get("parameters").unwrap_or(&Value::Null), body.as_ref());
    written.insert("parameters".to_owned(), parameters);
    written.insert("consumes".to_owned(), Value::Array(consumes));
    written.insert("produces".to_owned(), Value::Array(produces));
    written.insert("schemes".to_owned(), json!(["https"]));
    Value::Object(written)
}

fn older_parameters(parameters: &Value, body: Option<&Value>) -> Value {
    let mut all = Vec::new();
    if let Some(body) = body {
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema(body.get("content"))});
        if let (Some(required), Some(map)) = (body.get("required"), parameter.as_object_mut()) {
            map.insert("required".to_owned(), required.clone());
        }
        all.push(parameter);
    }
    for parameter in parameters.as_array().into_iter().flatten() {
        let mut parameter = parameter.as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
        all.push(Value::Object(parameter));
    }
    Value::Array(all)
}

/// The same in protobuf.
pub(crate) fn protobuf(registry: &Registry, definitions: &Definitions) -> Vec<u8> {
    let document = json(registry, definitions);
    let map = |key: &str| document.get(key).and_then(Value::as_object).into_iter().flatten();
    let mut writer = Writer::default();
    writer.text(1, "2.0");
    writer.message(2, |info| {
        info.text(1, "Kubernetes").text(2, super::super::VERSION);
    });
    writer.message(8, |paths| {
        for (path, item) in map("paths") {
            paths.message(2, |named| {
                named.text(1, path).message(2, |inner| write_path(inner, item));
            });
        }
    });
    writer.message(9, |all| {
        for (name, schema) in map("definitions") {
            all.message(1, |named| {
                named.text(1, name).message(2, |inner| write_schema(inner, schema));
            });
        }
    });
    writer.finish()
}

fn strings<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn write_path(writer: &mut Writer, item: &Value) {
    for (method, number) in METHODS {
        if let Some(operation) = item.get(method) {
            writer.message(number, |inner| write_operation(inner, operation));
        }
    }
    write_parameters(writer, 9, item.get("parameters"));
}

fn write_operation(writer: &mut Writer, operation: &Value) {
    for tag in strings(operation, "tags") {
        writer.text(1, tag);
    }
    writer.text(3, text(operation, "/description"));
    writer.text(5, text(operation, "/operationId"));
    for (key, number) in [("produces", 6), ("consumes", 7)] {
        for kind in strings(operation, key) {
            writer.text(number, kind);
        }
    }
    write_parameters(writer, 8, operation.get("parameters"));
    writer.message(9, |responses| {
        let codes = operation.get("responses").and_then(Value::as_object);
        for (code, response) in codes.into_iter().flatten() {
            responses.message(1, |named| {
                named.text(1, code).message(2, |value| {
                    value.message(1, |inner| {
                        inner.text(1, text(response, "/description"));
                        if let Some(schema) = response.get("schema") {
                            inner.message(2, |item| {
                                item.message(1, |inner| write_schema(inner, schema));
                            });
                        }
                    });
                });
            });
        }
    });
    for scheme in strings(operation, "schemes") {
        writer.text(10, scheme);
    }
    write_extensions(writer, 13, operation);
}

fn write_parameters(writer: &mut Writer, number: u64, parameters: Option<&Value>) {
    for parameter in parameters.and_then(Value::as_array).into_iter().flatten() {
        writer.message(number, |item| {
            item.message(1, |either| match text(parameter, "/in") {
                "body" => {
                    either.message(1, |body| {
                        body.text(1, text(parameter, "/description"));
                        body.text(2, "body").text(3, "body");
                        write_true(body, 4, parameter, "required");
                        body.message(5, |schema| {
                            write_schema(schema, parameter.get("schema").unwrap_or(&Value::Null));
                        });
                    });
                }
                place => {
                    // Of a query, which may be empty, the numbers from the fifth on are one higher.
                    let (kind, more) = if place == "path" { (4, 0) } else { (3, 1) };
                    either.message(2, |other| {
                        other.message(kind, |inner| {
                            write_true(inner, 1, parameter, "required");
                            inner.text(2, place).text(3, text(parameter, "/description"));
                            inner.text(4, text(parameter, "/name"));
                            inner.text(5 + more, text(parameter, "/type"));
                            write_true(inner, 19 + more, parameter, "uniqueItems");
                        });
                    });
                }
            });
        });
    }
}

fn write_true(writer: &mut Writer, number: u64, value: &Value, key: &str) {
    if value.get(key) == Some(&Value::Bool(true)) {
        writer.flag(number);
    }
}

fn write_extensions(writer: &mut Writer, number: u64, value: &Value) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key.starts_with("x-kubernetes-") {
            writer.message(number, |named| {
                // The value is YAML, which JSON is.
                named.text(1, key).message(2, |any| {
                    any.text(2, &value.to_string());
                });
            });
        }
    }
}

fn write_schema(writer: &mut Writer, schema: &Value) {
    let direct = text(schema, "/$ref");
    let wrapped = text(schema, "/allOf/0/$ref");
    writer.text(1, if direct.is_empty() { wrapped } else { direct });
    writer.text(2, text(schema, "/format"));
    writer.text(4, text(schema, "/description"));
    for name in strings(schema, "required") {
        writer.text(19, name);
    }
    if let Some(more) = schema.get("additionalProperties").filter(|more| more.is_object()) {
        writer.message(21, |item| {
            item.message(1, |inner| write_schema(inner, more));
        });
    }
    if !text(schema, "/type").is_empty() {
        writer.message(22, |kind| {
            kind.text(1, text(schema, "/type"));
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
    write_extensions(writer, 31, schema);
}
