//! Rules of `apiextensions.k8s.io/v1` for schemas, by which an API server refuses a definition.
//!
//! Source: "Extend the Kubernetes API with CustomResourceDefinitions", sections on structural schemas, defaulting and merge strategies.

use serde_json::Value;

use crate::assert_none;
use crate::definition::{Node, all, words};

/// Keywords with a meaning; others are forbidden, or unknown and dropped.
const KEYWORDS: &[&str] = &[
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// Formats that an API server knows; with another it answers a warning.
const FORMATS: &[&str] = &["byte", "date-time", "int32", "int64"];

#[test]
fn schemas_are_structural() {
    let mut violations = Vec::new();
    for definition in all() {
        for node in definition.nodes() {
            let mut note = |what: String| violations.push(format!("{} {}: {what}", definition.kind, node.path));
            keywords(&node, &mut note);
            types(&node, &mut note);
            lists(&node, &mut note);
            defaults(&node, &mut note);
            metadata(&node, &mut note);
        }
    }
    assert_none("structural schemas", &violations);
}

#[test]
fn every_field_is_explained() {
    let mut violations = Vec::new();
    for definition in all() {
        for node in definition.nodes() {
            let name = node.path.rsplit('.').next().unwrap();
            let is_field = !name.contains(['[', '{']) && name != "metadata";
            if is_field && node.schema["description"].as_str().is_none_or(str::is_empty) {
                violations.push(format!("{} {}", definition.kind, node.path));
            }
        }
    }
    assert_none("kubectl explain has something to say", &violations);
}

#[test]
fn every_kind_has_conditions_with_a_generation() {
    for definition in all() {
        let conditions = &definition.root()["properties"]["status"]["properties"]["conditions"];
        assert_eq!(
            conditions["x-kubernetes-list-map-keys"][0], "type",
            "{}",
            definition.kind
        );
        let generation = &conditions["items"]["properties"]["observedGeneration"];
        assert_eq!(generation["format"], "int64", "{}", definition.kind);
    }
}

#[test]
fn a_kind_that_may_lack_a_spec_gets_an_empty_one() {
    for definition in all() {
        let root = definition.root();
        let has_default = root["properties"]["spec"].get("default").is_some();
        let required = words(root, "required").contains(&"spec");
        match definition.kind.as_str() {
            "Config" | "Tenant" | "TenantState" => assert!(has_default && !required, "{}", definition.kind),
            "SyncSecret" => assert!(root["properties"].get("spec").is_none() && !required),
            kind => assert!(required && !has_default, "{kind}"),
        }
    }
}

/// An API server drops unknown fields level by level.
#[test]
fn nothing_of_an_embedded_object_is_dropped() {
    let mut violations = Vec::new();
    let mut embedded = 0;
    for definition in all() {
        for node in definition.nodes() {
            let keeps = |schema: &Value| schema["x-kubernetes-preserve-unknown-fields"] == true;
            let is_embedded = |schema: &Value| schema["x-kubernetes-embedded-resource"] == true;
            let inside = node.above.iter().any(|above| is_embedded(above));
            embedded += usize::from(is_embedded(node.schema));
            if inside && node.schema["properties"].is_object() && !keeps(node.schema) {
                violations.push(format!("{} {}", definition.kind, node.path));
            }
        }
    }
    assert_eq!(embedded, 2, "the resource of a Route, and its Services");
    assert_none("unknown fields are kept at every level", &violations);
}

fn keywords(node: &Node<'_>, note: &mut impl FnMut(String)) {
    for keyword in node.schema.as_object().unwrap().keys() {
        if !KEYWORDS.contains(&keyword.as_str()) {
            note(format!("{keyword} is not for definitions"));
        }
    }
    if node.schema.get("properties").is_some() && node.schema.get("additionalProperties").is_some() {
        note("properties and additionalProperties exclude each other".to_owned());
    }
    if node.schema["additionalProperties"].is_boolean() {
        note("additionalProperties must be a schema".to_owned());
    }
}

fn types(node: &Node<'_>, note: &mut impl FnMut(String)) {
    let schema = node.schema;
    let either = schema["x-kubernetes-int-or-string"] == true;
    let type_ = schema["type"].as_str();
    // The one form in which a type may stand inside of anyOf.
    let branches = serde_json::json!([{"type": "integer"}, {"type": "string"}]);
    if either != (schema["anyOf"] == branches) || (!either && schema.get("anyOf").is_some()) {
        note("anyOf is for int-or-string".to_owned());
    }
    match type_ {
        None if either => {}
        Some("array") if !schema["items"].is_object() => note("a list needs one schema for its items".to_owned()),
        Some("array" | "object" | "string" | "integer" | "boolean") if !either => {}
        _ => note(format!("type {type_:?}")),
    }
    if let Some(format) = schema["format"].as_str()
        && !FORMATS.contains(&format)
    {
        note(format!("unknown format {format}"));
    }
    let properties = schema["properties"].as_object();
    for field in words(schema, "required") {
        if properties.is_none_or(|properties| !properties.contains_key(field)) {
            note(format!("{field} is required and not there"));
        }
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        if !fits(value, schema) {
            note(format!("{value} is no {type_:?}"));
        }
    }
    if schema["x-kubernetes-embedded-resource"] == true
        && (type_ != Some("object") || schema["x-kubernetes-preserve-unknown-fields"] != true)
    {
        note("an embedded object is an object that keeps every field".to_owned());
    }
}

fn lists(node: &Node<'_>, note: &mut impl FnMut(String)) {
    let schema = node.schema;
    let keys = words(schema, "x-kubernetes-list-map-keys");
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            let required = words(&schema["items"], "required");
            for key in &keys {
                let property = &schema["items"]["properties"][key];
                if property["type"]
                    .as_str()
                    .is_none_or(|type_| type_ == "object" || type_ == "array")
                {
                    note(format!("key {key} is not a single value"));
                }
                if !required.contains(key) && property.get("default").is_none() {
                    note(format!("key {key} may be missing"));
                }
            }
            if keys.is_empty() {
                note("a list that is a map needs keys".to_owned());
            }
        }
        Some("atomic" | "set") | None if keys.is_empty() => {}
        other => note(format!("list type {other:?} with keys {keys:?}")),
    }
    if schema.get("x-kubernetes-list-type").is_some() && schema["type"] != "array" {
        note("a list type is for lists".to_owned());
    }
    if schema.get("x-kubernetes-map-type").is_some() && schema["type"] != "object" {
        note("a map type is for maps".to_owned());
    }
}

fn defaults(node: &Node<'_>, note: &mut impl FnMut(String)) {
    if let Some(default) = node.schema.get("default")
        && !fits(default, node.schema)
    {
        note(format!("default {default} does not fit"));
    }
}

fn metadata(node: &Node<'_>, note: &mut impl FnMut(String)) {
    let is_object = node.path.is_empty() || node.schema["x-kubernetes-embedded-resource"] == true;
    let metadata = &node.schema["properties"]["metadata"];
    if is_object && !metadata.is_null() && *metadata != serde_json::json!({"type": "object"}) {
        note("an API server checks metadata by itself".to_owned());
    }
}

fn fits(value: &Value, schema: &Value) -> bool {
    let type_ = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        _ => false,
    };
    type_ && schema["enum"].as_array().is_none_or(|values| values.contains(value))
}
