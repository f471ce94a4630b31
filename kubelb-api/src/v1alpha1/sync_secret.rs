//! SyncSecret: a tenant's Secret on its way to the management cluster. Its fields are at the top, as a Secret's are.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, ObjectMeta};
use kube::{CustomResource, CustomResourceExt, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::crds::roots;
use crate::{API_VERSION, schema};

/// A tenant's Secret.
#[derive(Resource, Clone, Debug, Default, PartialEq, Deserialize)]
#[resource(inherit = SyncSecretWithSpec)]
pub struct SyncSecret {
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What the Secret has.
    #[serde(flatten)]
    pub content: SyncSecretContent,
    /// What became of it.
    pub status: Option<SyncSecretStatus>,
}

/// What a Secret has.
// Deriving wants a spec. The definition that it makes has these fields below `spec`; `SyncSecret::crd` moves them to the top.
#[derive(CustomResource, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "SyncSecret",
    root = "SyncSecretWithSpec",
    plural = "syncsecrets",
    namespaced,
    status = "SyncSecretStatus",
    category = "kubelb",
    doc = "A tenant's Secret on its way to the management cluster.",
    printcolumn = r#"{"name": "Type", "type": "string", "jsonPath": ".type"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SyncSecretContent {
    /// The content cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    /// Values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::bytes_by_key")]
    pub data: BTreeMap<String, ByteString>,
    /// Values as they are; they win over data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, String>,
    /// Type of the Secret.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncSecretStatus {
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<SyncSecretPhase>,
    /// Synced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// How far a SyncSecret is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SyncSecretPhase {
    /// Not done yet.
    #[default]
    Pending,
    /// The Secret is there.
    Synced,
    /// The condition says why.
    Failed,
    /// The Secret is being removed.
    Terminating,
}

/// Keys only: what is secret does not get into logs.
impl fmt::Debug for SyncSecretContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSecretContent")
            .field("immutable", &self.immutable)
            .field("data", &self.data.keys())
            .field("string_data", &self.string_data.keys())
            .field("type_", &self.type_)
            .finish()
    }
}

impl Serialize for SyncSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: &'a ObjectMeta,
            #[serde(flatten)]
            content: &'a SyncSecretContent,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: Option<&'a SyncSecretStatus>,
        }
        Wire {
            api_version: API_VERSION,
            kind: "SyncSecret",
            metadata: &self.metadata,
            content: &self.content,
            status: self.status.as_ref(),
        }
        .serialize(serializer)
    }
}

impl CustomResourceExt for SyncSecret {
    fn crd() -> CustomResourceDefinition {
        let mut crd = SyncSecretWithSpec::crd();
        roots(&mut crd).for_each(move_spec_to_the_top);
        crd
    }

    fn crd_name() -> &'static str {
        SyncSecretWithSpec::crd_name()
    }

    fn api_resource() -> ApiResource {
        SyncSecretWithSpec::api_resource()
    }

    fn shortnames() -> &'static [&'static str] {
        SyncSecretWithSpec::shortnames()
    }
}

fn move_spec_to_the_top(root: &mut JSONSchemaProps) {
    let Some(properties) = root.properties.as_mut() else {
        return;
    };
    if let Some(spec) = properties.remove("spec") {
        properties.extend(spec.properties.unwrap_or_default());
    }
    // Nothing of a Secret is required.
    root.required = None;
}
