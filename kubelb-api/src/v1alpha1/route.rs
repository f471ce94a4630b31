//! Route: a tenant's Ingress, Gateway or Gateway API route, on layer 7.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LoadBalancerEndpoints;
use crate::raw_object::{RawFields, RawObject};
use crate::schema;

/// What a tenant wants to be routed, and where its traffic goes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "Route",
    namespaced,
    status = "RouteStatus",
    category = "kubelb",
    derive = "PartialEq",
    doc = "A tenant's Ingress, Gateway or route, served on layer 7.",
    printcolumn = r#"{"name": "OriginName", "type": "string", "jsonPath": ".metadata.labels.kubelb\\.k8c\\.io/origin-name"}"#,
    printcolumn = r#"{"name": "OriginNamespace", "type": "string", "jsonPath": ".metadata.labels.kubelb\\.k8c\\.io/origin-ns"}"#,
    printcolumn = r#"{"name": "OriginResource", "type": "string", "jsonPath": ".metadata.labels.kubelb\\.k8c\\.io/origin-resource-kind"}"#,
    printcolumn = r#"{"name": "Programmed", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// Where traffic goes: the nodes of the tenant.
    #[schemars(length(min = 1, max = 16))]
    pub endpoints: Vec<LoadBalancerEndpoints>,
    /// What is to be routed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<RouteSource>,
}

/// What is to be routed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSource {
    /// Objects of the tenant cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSource>,
}

/// Objects of the tenant cluster, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesSource {
    /// The Ingress, Gateway, HTTPRoute, GRPCRoute, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<RawObject>,
    /// The Services that it refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::services")]
    pub services: Vec<RawObject>,
    /// Labels of the object's namespace, by which listeners choose whose routes they take.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_labels: BTreeMap<String, String>,
    /// References of the object that may not be followed, such as those to another namespace that no ReferenceGrant allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub refused: Vec<RefusedReference>,
}

/// A reference that may not be followed, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedReference {
    /// Group of what is referred to; empty for the core API.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Its kind, such as Service.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace in the tenant.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Why, as conditions of Gateway API have it: RefNotPermitted, BackendNotFound, …
    #[schemars(length(min = 1, max = 63))]
    pub reason: String,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// What became of each of its objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesStatus>,
    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What became of the objects of a Route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesStatus {
    /// Where the objects come from: `kubernetes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The Services, by `namespace/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, RouteServiceStatus>,
    /// The Ingress, Gateway or route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<ResourceState>,
}

/// What became of one Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteServiceStatus {
    /// What is told of every object.
    #[serde(flatten)]
    pub state: ResourceState,
    /// Its ports in the management cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::service_ports")]
    pub ports: Vec<ServicePort>,
}

/// What became of one object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceState {
    /// Group and version of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name in the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace in the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name in the management cluster, where it has a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_name: Option<String>,
    /// Its status, as it belongs into the tenant's object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub status: Option<RawFields>,
    /// ResourceAppliedSuccessfully.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
