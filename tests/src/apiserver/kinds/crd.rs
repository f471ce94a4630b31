//! CustomResourceDefinitions: checked, established at once, turned into resources, and cleaned up after.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::cel::Rules;
use super::super::managed;
use super::super::object::{as_map, default_to, field_mut, finalizers, is_deleting, items, name, set_meta, text};
use super::super::resource::builtin::{scale, status};
use super::super::resource::{Column, Custom, Resource, custom_verbs};
use super::super::schema::{Shape, complete};
use super::super::server::Txn;
use super::super::status::Cause;
use super::super::store::Stored;

/// Where definitions are kept.
pub(crate) const TABLE: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Held by a definition whose objects are not all gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) fn group_and_plural(definition: &Value) -> (&str, &str) {
    (text(definition, "/spec/group"), text(definition, "/spec/names/plural"))
}

pub(super) fn default(object: &mut Value) {
    let spec = field_mut(object, "spec");
    default_to(spec, "conversion", json!({"strategy": "None"}));
    let names = as_map(spec.entry("names").or_insert(Value::Null));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    default_to(names, "singular", kind.to_lowercase());
    default_to(names, "listKind", format!("{kind}List"));
}

pub(super) fn new(object: &mut Value) {
    let stored: Vec<&str> = items(object, "/spec/versions")
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .map(|version| text(version, "/name"))
        .collect();
    let status = json!({
        "conditions": null,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": stored,
    });
    as_map(object).insert("status".to_owned(), status);
}

pub(super) fn check(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let (group, plural) = group_and_plural(object);
    if name(object) != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &json!(name(object)), why));
    }
    if text(object, "/spec/names/kind").is_empty() {
        causes.push(Cause::required("spec.names.kind", ""));
    }
    let scope = text(object, "/spec/scope");
    if !matches!(scope, "Namespaced" | "Cluster") {
        let known = ["Cluster", "Namespaced"].map(Value::from);
        causes.push(Cause::unsupported("spec.scope", &json!(scope), &known));
    }
    let versions = items(object, "/spec/versions");
    let storage = |version: &&Value| version.get("storage") == Some(&Value::Bool(true));
    if versions.iter().filter(storage).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &json!(versions.len()), why));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            Some(schema) => check_schema(schema, &path, causes),
            None => causes.push(Cause::required(path, "schemas are required")),
        }
    }
    if let Some(old) = old {
        for key in ["group", "scope"] {
            let at = format!("/spec/{key}");
            if old.pointer(&at) != object.pointer(&at) {
                let shown = object.pointer(&at).cloned().unwrap_or_default();
                causes.push(Cause::invalid(format!("spec.{key}"), &shown, "field is immutable"));
            }
        }
    }
}

fn check_schema(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if schema.get("type") != Some(&json!("object")) {
        let shown = schema.get("type").cloned().unwrap_or_default();
        causes.push(Cause::invalid(
            format!("{path}.type"),
            &shown,
            "must be object at the root",
        ));
    }
    check_structure(schema, path, causes);
    if let Err(failed) = Rules::compile(schema) {
        for (at, error) in failed {
            let rule = json!(error.to_string());
            causes.push(Cause::invalid(format!("{path}{at}"), &rule, &error.to_string()));
        }
    }
}

/// The rules of a structural schema that would make objects ambiguous when broken.
fn check_structure(node: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(map) = node.as_object() else {
        return;
    };
    if map.contains_key("$ref") {
        causes.push(Cause::forbidden(format!("{path}.$ref"), "$ref is not supported"));
    }
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let free = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
    if !map.contains_key("type") && !free {
        let why = "must not be empty for specified object fields";
        causes.push(Cause::required(format!("{path}.type"), why));
    }
    if map.contains_key("properties") && map.contains_key("additionalProperties") {
        let why = "additionalProperties and properties are mutual exclusive";
        causes.push(Cause::forbidden(format!("{path}.additionalProperties"), why));
    }
    if map.get("type") == Some(&json!("array")) && !map.contains_key("items") {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
        && let Err(error) = regex::Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &json!(pattern), &why));
    }
    for (name, child) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check_structure(child, &format!("{path}.properties[{name}]"), causes);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get(key).filter(|child| child.is_object()) {
            check_structure(child, &format!("{path}.{key}"), causes);
        }
    }
}

/// Accepts the names and establishes the definition, and ends one whose objects are gone.
pub(super) fn establish(resource: &Resource, object: &Value, txn: &mut Txn<'_>) {
    let accepted = object.pointer("/status/acceptedNames");
    if txn.dry_run || accepted == object.pointer("/spec/names") || is_deleting(object) {
        return;
    }
    let mut next = object.clone();
    let now = txn.timestamp();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
    let names = object.pointer("/spec/names").cloned().unwrap_or_default();
    let conditions = json!([
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition(
            "Established",
            "InitialNamesAccepted",
            "the initial names have been accepted"
        ),
    ]);
    let status = field_mut(&mut next, "status");
    status.insert("acceptedNames".to_owned(), names);
    status.insert("conditions".to_owned(), conditions);
    let writer = managed::Writer {
        manager: "kube-apiserver",
        api_version: "apiextensions.k8s.io/v1",
        subresource: "status",
        now: &now,
        has_status: true,
    };
    let shape = Shape::of(txn.definitions(), resource);
    managed::record(object, &mut next, shape, writer);
    txn.put(resource, next);
}

/// Begins to delete the objects of a definition that is being deleted. `true` when none is left.
pub(crate) fn delete_objects(definition: &Value, txn: &mut Txn<'_>) -> bool {
    let (group, plural) = group_and_plural(definition);
    let registry = txn.registry();
    let Some(resource) = registry.any_version(group, plural).cloned() else {
        return true;
    };
    let objects: Vec<Arc<Stored>> = txn
        .store
        .list(&resource.table(), None)
        .map(|(_, object)| Arc::clone(object))
        .collect();
    let mut left = false;
    for object in objects {
        if finalizers(&object).is_empty() {
            txn.remove(&resource, &object);
        } else {
            left = true;
            if !is_deleting(&object) {
                let mut object = Value::clone(&object);
                set_meta(&mut object, "deletionTimestamp", txn.timestamp());
                set_meta(&mut object, "deletionGracePeriodSeconds", 0);
                txn.put(&resource, object);
            }
        }
    }
    !left
}

/// When the last object of a definition that is being deleted is gone, so is the definition.
pub(crate) fn object_gone(resource: &Resource, txn: &mut Txn<'_>) {
    if resource.is_builtin() || txn.store.list(&resource.table(), None).next().is_some() {
        return;
    }
    let registry = txn.registry();
    let definition = txn.store.get(TABLE, "", &resource.qualified()).cloned();
    let definitions = registry.get("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    if let (Some(definition), Some(definitions)) = (definition, definitions)
        && is_deleting(&definition)
        && finalizers(&definition) == [CLEANUP]
    {
        txn.remove(definitions, &definition);
    }
}

/// The resources of a definition, one for each served version.
pub(crate) fn resources(definition: &Value) -> Vec<Resource> {
    items(definition, "/spec/versions")
        .iter()
        .filter(|version| version.get("served") == Some(&Value::Bool(true)))
        .filter_map(|version| resource(definition, version))
        .collect()
}

fn resource(definition: &Value, version: &Value) -> Option<Resource> {
    let at = |key: &str| text(definition, &format!("/spec/{key}")).to_owned();
    let list = |key: &str| -> Vec<String> {
        items(definition, &format!("/spec/names/{key}"))
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let (group, kind, named) = (at("group"), at("names/kind"), text(version, "/name").to_owned());
    let schema = complete(version.pointer("/schema/openAPIV3Schema")?);
    let mut subresources = Vec::new();
    if version.pointer("/subresources/scale").is_some() {
        subresources.push(scale());
    }
    if version.pointer("/subresources/status").is_some() {
        subresources.push(status(&group, &named, &kind));
    }
    let reversed: Vec<&str> = group.split('.').rev().collect();
    Some(Resource {
        plural: at("names/plural"),
        singular: at("names/singular"),
        list_kind: at("names/listKind"),
        short_names: list("shortNames"),
        categories: list("categories"),
        namespaced: at("scope") == "Namespaced",
        verbs: custom_verbs(),
        subresources,
        generation: true,
        definition: format!("{}.{named}.{kind}", reversed.join(".")),
        custom: Some(Arc::new(Custom {
            // A definition is only stored when its rules compile.
            rules: Rules::compile(&schema).ok()?,
            schema,
            columns: columns(version),
            selectable: items(version, "/selectableFields")
                .iter()
                .map(|field| text(field, "/jsonPath").trim_start_matches('.').to_owned())
                .collect(),
        })),
        group,
        kind,
        version: named,
        columns: Vec::new(),
        since: 0,
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let defined = items(version, "/additionalPrinterColumns");
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let age = [age];
    let columns = if defined.is_empty() { &age[..] } else { defined };
    columns
        .iter()
        .map(|column| Column {
            name: text(column, "/name").to_owned(),
            kind: text(column, "/type").to_owned(),
            format: text(column, "/format").to_owned(),
            description: text(column, "/description").to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: text(column, "/jsonPath").to_owned(),
        })
        .collect()
}

/// What `spec.subresources.scale` of a version names, as JSON pointers: replicas in spec and status, label selector.
pub(crate) fn scale_paths(definition: &Value, version: &str) -> Option<Map<String, Value>> {
    let version = items(definition, "/spec/versions")
        .iter()
        .find(|one| text(one, "/name") == version)?;
    version.pointer("/subresources/scale")?.as_object().cloned()
}
