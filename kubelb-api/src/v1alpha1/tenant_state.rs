//! TenantState: what a tenant may know of its own limits and of the management cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Nothing: a TenantState is only read.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "TenantState",
    namespaced,
    status = "TenantStateStatus",
    category = "kubelb",
    derive = "PartialEq",
    derive = "Default",
    doc = "What a tenant may know of its limits and of the management cluster. Read only.",
    printcolumn = r#"{"name": "Edition", "type": "string", "jsonPath": ".status.version.edition"}"#,
    printcolumn = r#"{"name": "Version", "type": "string", "jsonPath": ".status.version.gitVersion"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantStateSpec {}

/// What the manager tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStateStatus {
    /// Which manager it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// When this was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<Time>,
    /// What the tenant should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Layer 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerState>,
}

/// Layer 4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerState {
    /// No load balancers for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
}

/// Which build of the manager runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Version of the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_version: Option<String>,
    /// Commit that it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// When it was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_date: Option<String>,
    /// Which product it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edition: Option<String>,
}
