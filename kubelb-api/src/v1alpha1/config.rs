//! Config: what holds for all tenants.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AnnotationSettings, CertificatesSettings, DnsSettings, EnvoyProxy, GatewayApiSettings, IngressSettings,
    LoadBalancerSettings, Version,
};
use crate::schema;

/// What holds where a Tenant says nothing else.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "Config",
    namespaced,
    status = "ConfigStatus",
    category = "kubelb",
    derive = "PartialEq",
    derive = "Default",
    doc = "What holds for all tenants. The one that counts is named default, in the manager's namespace.",
    printcolumn = r#"{"name": "Edition", "type": "string", "jsonPath": ".status.version.edition"}"#,
    printcolumn = r#"{"name": "Version", "type": "string", "jsonPath": ".status.version.gitVersion"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// Annotations that go along.
    #[serde(flatten)]
    pub annotations: AnnotationSettings,
    /// How Envoys run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_proxy: Option<EnvoyProxy>,
    /// Layer 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSettings>,
    /// Gateway API.
    #[serde(rename = "gatewayAPI", skip_serializing_if = "Option::is_none")]
    pub gateway_api: Option<GatewayApiSettings>,
    /// Hostnames of LoadBalancers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSettings>,
    /// Certificates for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesSettings>,
    /// Addresses that kubelb gives out. With none, each LoadBalancer gets its address from a Service of type LoadBalancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub address_pools: Vec<AddressPool>,
    /// Networks that no tenant's endpoint may be in: those of the management cluster. Loopback and link-local never may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::networks")]
    pub denied_ranges: Vec<String>,
}

/// Addresses that kubelb gives out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPool {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// IPv4 and IPv6 ranges, each a network (203.0.113.0/24) or its first and last address (203.0.113.10-203.0.113.20). Every address
    /// of a range is given out.
    #[schemars(schema_with = "schema::address_ranges")]
    pub ranges: Vec<String>,
    /// Names of the tenants that get addresses from it. All do, when left out or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(min = 1, max = 56)))]
    pub tenants: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// Which manager it is that reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
