//! Addresses: the nodes of a tenant, named once for all of its LoadBalancers and Routes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EndpointAddress;
use crate::schema;

/// A list of addresses.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "Addresses",
    plural = "addresses",
    namespaced,
    status = "AddressesStatus",
    category = "kubelb",
    derive = "PartialEq",
    doc = "The nodes of a tenant, to which its LoadBalancers and Routes refer.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AddressesSpec {
    /// The addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16_384))]
    pub addresses: Vec<EndpointAddress>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressesStatus {
    /// Accepted; false names the addresses that are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
