//! What the server serves: one [`Resource`] per group, version and plural, built in or from a
//! CustomResourceDefinition. Data only; what a resource does is decided elsewhere by what is said here.

pub(crate) mod builtin;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::cel::Rules;
use super::schema::Definitions;
use super::table;

const READ_WRITE: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The same in the order in which custom resources have them.
const CUSTOM_READ_WRITE: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// A path below an object.
#[derive(Clone, Debug)]
pub(crate) struct Subresource {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) verbs: Vec<&'static str>,
}

/// A column that a CustomResourceDefinition asks for.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// What only resources of CustomResourceDefinitions have.
#[derive(Debug)]
pub(crate) struct Custom {
    /// The whole structural schema, with `metadata` as a reference to the built-in type.
    pub(crate) schema: Value,
    pub(crate) rules: Rules,
    pub(crate) columns: Vec<Column>,
    /// Paths of `selectableFields`, without the first dot.
    pub(crate) selectable: Vec<String>,
}

/// One resource in one version.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<&'static str>,
    pub(crate) subresources: Vec<Subresource>,
    /// `metadata.generation` counts changes of the specification.
    pub(crate) generation: bool,
    /// Name of the type among the definitions; for a custom resource, what OpenAPI calls it.
    pub(crate) definition: String,
    pub(crate) custom: Option<Arc<Custom>>,
    /// What a Table says of its columns; filled in when the resource is registered.
    pub(crate) columns: Vec<Value>,
    /// There is nothing to watch from before this revision: the resource was not served.
    pub(crate) since: u64,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `configmaps`, `things.rec.example.com`: also the name of its table in the store.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Where its objects are kept: Events of both groups are the same objects.
    pub(crate) fn table(&self) -> String {
        if self.group == "events.k8s.io" {
            self.plural.clone()
        } else {
            self.qualified()
        }
    }

    /// Name of the type in which its objects are kept.
    pub(crate) fn stored_definition(&self) -> &str {
        match (self.group.as_str(), self.version.as_str()) {
            ("events.k8s.io", _) => "io.k8s.api.core.v1.Event",
            ("autoscaling", "v1") => "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
            _ => &self.definition,
        }
    }

    /// Objects are kept in another form than this resource shows.
    pub(crate) fn is_view(&self) -> bool {
        self.stored_definition() != self.definition
    }

    /// `ConfigMap`, `Thing.rec.example.com`.
    pub(crate) fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn is_builtin(&self) -> bool {
        self.custom.is_none()
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether objects look the same in both.
    pub(crate) fn same_schema(&self, other: &Self) -> bool {
        match (&self.custom, &other.custom) {
            (Some(one), Some(other)) => one.schema == other.schema,
            (one, other) => one.is_none() == other.is_none(),
        }
    }

    /// The `details` of a Status about an object of this resource.
    pub(crate) fn details(&self, name: Option<&str>) -> Value {
        details(name, &self.group, &self.plural)
    }

    /// The same with the kind, as validation errors have it.
    pub(crate) fn kind_details(&self, name: &str, more: &[(&str, Value)]) -> Value {
        let mut details = details(Some(name), &self.group, &self.kind);
        if let Some(map) = details.as_object_mut() {
            map.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        }
        details
    }
}

/// `details` of a Status; empty parts are left out.
pub(crate) fn details(name: Option<&str>, group: &str, kind: &str) -> Value {
    let parts = [("name", name.unwrap_or_default()), ("group", group), ("kind", kind)];
    let map: Map<String, Value> = parts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect();
    Value::Object(map)
}

/// `v1`, `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// All that is served, in the order that discovery shows it.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    definitions: Arc<Definitions>,
    groups: Vec<String>,
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in resources.
    pub(crate) fn builtin(definitions: Arc<Definitions>) -> Self {
        let mut registry = Self {
            definitions,
            groups: Vec::new(),
            resources: BTreeMap::new(),
        };
        for resource in builtin::resources() {
            registry.insert(resource);
        }
        registry
    }

    pub(crate) fn insert(&mut self, mut resource: Resource) {
        resource.columns = table::columns(&resource, &self.definitions);
        if !self.groups.contains(&resource.group) {
            self.groups.push(resource.group.clone());
        }
        let key = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.resources.insert(key, Arc::new(resource));
    }

    /// Takes out all versions of a custom resource.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources
            .retain(|_, resource| resource.is_builtin() || !resource.is(group, plural));
        let left: Vec<String> = self.resources.keys().map(|(group, _, _)| group.clone()).collect();
        self.groups.retain(|group| left.contains(group));
    }

    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Any version of it.
    pub(crate) fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.values().find(|resource| resource.is(group, plural))
    }

    /// By kind, as an object names it.
    pub(crate) fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources
            .values()
            .find(|resource| resource.group == group && resource.version == version && resource.kind == kind)
    }

    pub(crate) fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Versions of a group, the preferred one first: stable before beta before alpha, higher before lower.
    pub(crate) fn versions(&self, group: &str) -> Vec<String> {
        let mut versions: Vec<String> = Vec::new();
        for (of, version, _) in self.resources.keys() {
            if of == group && !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        versions
    }

    /// Of one group and version, by plural.
    pub(crate) fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources
            .range((group.to_owned(), version.to_owned(), String::new())..)
            .take_while(move |((of, in_version, _), _)| of == group && in_version == version)
            .map(|(_, resource)| resource)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}

/// Larger is preferred: (stability, major, minor).
fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let number = |text: &str| text.parse().unwrap_or(0);
    if let Some((major, minor)) = rest.split_once("alpha") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("beta") {
        (2, number(major), number(minor))
    } else {
        (3, number(rest), 0)
    }
}

/// Verbs of a resource that is stored.
pub(crate) fn stored_verbs() -> Vec<&'static str> {
    READ_WRITE.to_vec()
}

/// Verbs of a custom resource.
pub(crate) fn custom_verbs() -> Vec<&'static str> {
    CUSTOM_READ_WRITE.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_are_preferred_and_higher_ones() {
        let mut versions = vec!["v1beta1", "v2", "v1alpha3", "v1", "v1beta2", "odd"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha3", "odd"]);
    }

    #[test]
    fn names_carry_the_group_unless_it_is_the_core() {
        let registry = Registry::builtin(Arc::new(Definitions::builtin()));
        let deployments = registry.get("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.qualified(), "deployments.apps");
        assert_eq!(deployments.qualified_kind(), "Deployment.apps");
        assert_eq!(registry.get("", "v1", "pods").unwrap().qualified(), "pods");
        assert_eq!(registry.groups().first().map(String::as_str), Some(""));
    }
}
