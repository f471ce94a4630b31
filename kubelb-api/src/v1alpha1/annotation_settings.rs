//! Which annotations of a tenant's objects go along to the management cluster.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Part of Config and Tenant. Denied ones never go along; else all do, or those that are listed. A Tenant's settings replace those of the
/// Config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnotationSettings {
    /// Keys that go along, with `*` for any text, and the values that may: a list with commas, or nothing for any value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub propagated_annotations: BTreeMap<String, String>,
    /// All go along that are not denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagate_all_annotations: Option<bool>,
    /// Keys that never go along, with `*` for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_annotations: Vec<String>,
    /// Annotations that are added where they are missing, by kind in small letters (`service`, `ingress`, `gateway`, `httproute`, …), or
    /// under `all`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub default_annotations: BTreeMap<String, BTreeMap<String, String>>,
}
