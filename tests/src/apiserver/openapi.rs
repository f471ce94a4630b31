//! OpenAPI: version 3 by group (what kubectl explains, checks and patches by), version 2 as a whole (what older tools
//! read, in protobuf).

mod pages;
mod parameters;
mod paths;
mod v2;
mod wording;

use std::collections::BTreeSet;

use ring::digest;
use serde_json::{Map, Value, json};

use super::object::as_map;
use super::resource::{Registry, Resource, group_version};
use super::schema::{Definitions, referred};
use pages::Page;
use paths::{Describer, Paths};

pub(crate) use v2::{PROTOBUF as PROTOBUF_V2, json as v2, protobuf as v2_protobuf};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// `api/v1`, `apis/apps/v1`: how the index calls a group and version.
fn place(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", group_version(group, version))
}

/// Hexadecimal, of what a document is made from.
fn hash_of(place: &str, resources: &[&Resource]) -> String {
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(place.as_bytes());
    for resource in resources {
        context.update(resource.plural.as_bytes());
        if let Some(custom) = &resource.custom {
            context.update(custom.schema.to_string().as_bytes());
        }
    }
    let hash = context.finish();
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Changes when the document of a place does.
pub(crate) fn hash(registry: &Registry, place: &str) -> String {
    let (group, version) = match place.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return hash_of(place, &[]),
    };
    let resources: Vec<&Resource> = registry.of(group, version).map(AsRef::as_ref).collect();
    hash_of(place, &resources)
}

/// Changes when anything that is served does.
pub(crate) fn hash_of_all(registry: &Registry) -> String {
    let resources: Vec<&Resource> = registry.all().map(AsRef::as_ref).collect();
    hash_of("", &resources)
}

/// Documents that are no group's version, by their place.
fn all_pages(registry: &Registry) -> Vec<(String, Page)> {
    let builtin = |group: &&String| {
        let mut resources = registry.all().filter(|resource| resource.group == **group);
        !group.is_empty() && resources.any(|resource| resource.is_builtin())
    };
    let groups = registry.groups().iter().filter(builtin).map(|group| Page::group(group));
    let all = [Page::core(), Page::groups()].into_iter().chain(Page::others());
    all.chain(groups)
        .map(|page| (page.path.trim_matches('/').to_owned(), page))
        .collect()
}

/// `/openapi/v3`.
pub(crate) fn index(registry: &Registry) -> Value {
    let mut places: Vec<String> = all_pages(registry).into_iter().map(|(place, _)| place).collect();
    for group in registry.groups() {
        places.extend(registry.versions(group).iter().map(|version| place(group, version)));
    }
    let paths: Map<String, Value> = places
        .into_iter()
        .map(|place| {
            let url = format!("/openapi/v3/{place}?hash={}", hash(registry, &place));
            (place, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/<place>`; `None` when nothing is served there.
pub(crate) fn document(registry: &Registry, definitions: &Definitions, at: &str) -> Option<Value> {
    let mut paths = Paths::new();
    let (group, version) = match at.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => {
            let (_, page) = all_pages(registry).into_iter().find(|(place, _)| place == at)?;
            page.describe(&mut paths);
            return Some(whole(paths, &[], definitions, true));
        }
    };
    let resources: Vec<&Resource> = registry.of(group, version).map(AsRef::as_ref).collect();
    let builtin = resources.first()?.is_builtin();
    for resource in &resources {
        Describer::new(definitions, resource).describe(&mut paths);
    }
    if builtin {
        Page::resources(group, version).describe(&mut paths);
    }
    Some(whole(paths, &resources, definitions, builtin))
}

fn whole(paths: Paths, resources: &[&Resource], definitions: &Definitions, builtin: bool) -> Value {
    let info = if builtin {
        json!({"title": "Kubernetes", "version": super::VERSION})
    } else {
        json!({"title": "Kubernetes CRD Swagger", "version": "v0.1.0"})
    };
    let paths = Value::Object(paths);
    let schemas = schemas(resources, definitions, &paths);
    json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}})
}

/// The types of `resources`, those that `paths` speak of, and all that they refer to.
fn schemas(resources: &[&Resource], definitions: &Definitions, paths: &Value) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut wanted = Vec::new();
    collect(paths, &mut wanted);
    for resource in resources {
        let mut schema = match &resource.custom {
            Some(custom) => describe_custom(&custom.schema, definitions),
            None => definitions.published(&resource.definition).unwrap_or_default(),
        };
        let about = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
        as_map(&mut schema).insert("x-kubernetes-group-version-kind".to_owned(), about);
        collect(&schema, &mut wanted);
        schemas.insert(resource.definition.clone(), schema);
        if resource.verbs.contains(&"list") {
            let list = list_schema(resource, definitions);
            collect(&list, &mut wanted);
            schemas.insert(format!("{}List", resource.definition), list);
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if schemas.contains_key(&name) || !seen.insert(name.clone()) {
            continue;
        }
        if let Some(mut schema) = definitions.published(&name) {
            if let Some(kind) = kind_of_all(&name, resources) {
                as_map(&mut schema).insert("x-kubernetes-group-version-kind".to_owned(), kind);
            }
            collect(&schema, &mut wanted);
            schemas.insert(name, schema);
        }
    }
    schemas
}

/// Groups of which a real server knows options of a deletion, served or not, with their versions: how it describes them
/// where a custom resource is deleted.
const KNOWN: &[(&str, &[&str])] = &[
    ("", &["v1"]),
    ("admissionregistration.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("apps", &["v1", "v1beta1", "v1beta2"]),
    ("authentication.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("authorization.k8s.io", &["v1", "v1beta1"]),
    ("autoscaling", &["v1", "v2"]),
    ("batch", &["v1", "v1beta1"]),
    ("certificates.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("coordination.k8s.io", &["v1", "v1alpha2", "v1beta1"]),
    ("discovery.k8s.io", &["v1", "v1beta1"]),
    ("events.k8s.io", &["v1", "v1beta1"]),
    ("extensions", &["v1beta1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1", "v1beta1", "v1beta2", "v1beta3"]),
    ("internal.apiserver.k8s.io", &["v1alpha1"]),
    ("networking.k8s.io", &["v1", "v1beta1"]),
    ("node.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("policy", &["v1", "v1beta1"]),
    ("rbac.authorization.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("resource.k8s.io", &["v1", "v1alpha3", "v1beta1", "v1beta2"]),
    ("scheduling.k8s.io", &["v1", "v1alpha2", "v1beta1"]),
    ("storage.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("storagemigration.k8s.io", &["v1beta1"]),
];

/// Kinds that belong to no resource.
fn kind_of_all(name: &str, resources: &[&Resource]) -> Option<Value> {
    match name.strip_prefix(META)?.trim_start_matches('.') {
        "Status" => Some(json!([{"group": "", "version": "v1", "kind": "Status"}])),
        kind @ "DeleteOptions" if resources.first().is_some_and(|first| !first.is_builtin()) => {
            let about = |group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
            let of = |(group, versions): &(&str, &[&str])| -> Vec<Value> {
                versions.iter().map(|version| about(group, version)).collect()
            };
            Some(KNOWN.iter().flat_map(of).collect())
        }
        kind @ ("DeleteOptions" | "WatchEvent") => {
            let (group, version) = resources
                .first()
                .map_or(("", "v1"), |first| (&*first.group, &*first.version));
            Some(json!([{"group": group, "version": version, "kind": kind}]))
        }
        kind @ ("APIGroup" | "APIGroupList" | "APIResourceList" | "APIVersions") => {
            Some(json!([{"group": "", "version": "v1", "kind": kind}]))
        }
        _ => None,
    }
}

/// A custom resource with what is said of the fields that every object has.
fn describe_custom(schema: &Value, definitions: &Definitions) -> Value {
    let mut schema = schema.clone();
    let service = "io.k8s.api.core.v1.Service";
    for field in ["apiVersion", "kind", "metadata"] {
        let text = definitions.described(service, field).unwrap_or_default();
        if let Some(property) = schema.pointer_mut(&format!("/properties/{field}")) {
            as_map(property).insert("description".to_owned(), Value::from(text));
        }
    }
    schema
}

fn list_schema(resource: &Resource, definitions: &Definitions) -> Value {
    let status = format!("{META}.Status");
    let of = |field: &str| definitions.described(&status, field).unwrap_or_default().to_owned();
    let conventions = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": of("apiVersion"), "type": "string"},
            "kind": {"description": of("kind"), "type": "string"},
            "metadata": {
                "description": of("metadata"),
                "allOf": [{"$ref": format!("#/components/schemas/{META}.ListMeta")}],
            },
            "items": {
                "description": format!("List of {}. More info: {conventions}", resource.plural),
                "type": "array",
                "items": {"$ref": format!("#/components/schemas/{}", resource.definition)},
            },
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
