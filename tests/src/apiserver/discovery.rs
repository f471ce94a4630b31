//! What is served, told to clients: by group and version, and all at once (aggregated).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde_json::{Map, Value, json};

use super::object::as_map;
use super::resource::{Registry, Resource, Subresource, group_version};

/// Content type of aggregated discovery; the version is the newest that clients know.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether a client wants it all at once.
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|part| {
        part.contains("as=APIGroupDiscoveryList") && part.split(';').any(|parameter| parameter.trim() == "v=v2")
    })
}

/// `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub(crate) fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = named_groups(registry).map(|group| group_of(registry, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn named_groups(registry: &Registry) -> impl Iterator<Item = &str> {
    registry
        .groups()
        .iter()
        .map(String::as_str)
        .filter(|group| !group.is_empty())
}

fn group_of(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = registry
        .versions(group)
        .iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis/<group>`; `None` when there is no such group.
pub(crate) fn group(registry: &Registry, group: &str) -> Option<Value> {
    named_groups(registry).find(|name| *name == group)?;
    let mut found = group_of(registry, group);
    if let Some(map) = found.as_object_mut() {
        map.insert("kind".to_owned(), Value::from("APIGroup"));
        map.insert("apiVersion".to_owned(), Value::from("v1"));
    }
    Some(found)
}

/// `/api/v1`, `/apis/<group>/<version>`; `None` when nothing is served there.
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in registry.of(group, version) {
        list.push(resource_of(resource));
        list.extend(resource.subresources.iter().map(|sub| subresource_of(resource, sub)));
    }
    (!list.is_empty()).then(|| {
        let mut found = json!({
            "kind": "APIResourceList",
            "groupVersion": group_version(group, version),
            "resources": list,
        });
        // The list of the core has never had it.
        if !group.is_empty() {
            as_map(&mut found).insert("apiVersion".to_owned(), Value::from("v1"));
        }
        found
    })
}

fn resource_of(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    // What is not stored has no version in which it is.
    if resource.verbs.contains(&"watch")
        && let Some(map) = entry.as_object_mut()
    {
        let version = if resource.is("autoscaling", "horizontalpodautoscalers") {
            "v2"
        } else {
            &*resource.version
        };
        let about = format!("{}/{version}/{}", resource.group, resource.kind);
        let hash = digest::digest(&digest::SHA256, about.as_bytes());
        let short: Vec<u8> = hash.as_ref().iter().take(8).copied().collect();
        map.insert("storageVersionHash".to_owned(), Value::from(STANDARD.encode(short)));
    }
    entry
}

fn add_names(entry: &mut Value, resource: &Resource) {
    if let Some(map) = entry.as_object_mut() {
        for (key, names) in [
            ("shortNames", &resource.short_names),
            ("categories", &resource.categories),
        ] {
            if !names.is_empty() {
                map.insert(key.to_owned(), json!(names));
            }
        }
    }
}

fn subresource_of(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (&sub.group, &sub.version) != (&resource.group, &resource.version)
        && let Some(map) = entry.as_object_mut()
    {
        map.insert("group".to_owned(), Value::from(sub.group.as_str()));
        map.insert("version".to_owned(), Value::from(sub.version.as_str()));
    }
    entry
}

/// Everything of the core (`/api`) or of the named groups (`/apis`).
pub(crate) fn aggregated(registry: &Registry, core: bool) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|group| group.is_empty() == core)
        .map(|group| {
            let mut metadata = Map::new();
            if !group.is_empty() {
                metadata.insert("name".to_owned(), Value::from(group.as_str()));
            }
            let versions: Vec<Value> = registry
                .versions(group)
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = registry
                        .of(group, version)
                        .map(|resource| aggregated_resource(resource))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// A built-in resource does not repeat that a kind is of its own group and version.
fn response_kind(resource: &Resource, group: &str, version: &str, kind: &str) -> Value {
    if resource.is_builtin() && (group, version) == (resource.group.as_str(), resource.version.as_str()) {
        json!({"group": "", "version": "", "kind": kind})
    } else {
        json!({"group": group, "version": version, "kind": kind})
    }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response_kind(resource, &resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    if !resource.subresources.is_empty()
        && let Some(map) = entry.as_object_mut()
    {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": response_kind(resource, &sub.group, &sub.version, &sub.kind),
                    "verbs": sub.verbs,
                })
            })
            .collect();
        map.insert("subresources".to_owned(), Value::Array(subresources));
    }
    entry
}
