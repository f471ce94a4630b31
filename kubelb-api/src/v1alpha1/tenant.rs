//! Tenant: a cluster whose Services are exposed, and what it may do.

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AnnotationSettings, CertificatesSettings, DnsSettings, GatewayApiSettings, IngressSettings, LoadBalancerSettings,
};
use crate::schema;

/// What differs from the Config for this tenant.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "Tenant",
    status = "TenantStatus",
    category = "kubelb",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster whose Services are exposed. Its objects are in the namespace tenant-<name>.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 56")
        .message("the name must make a namespace with tenant- before it: a-z, 0-9 and '-', 56 characters at most"),
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Annotations that go along.
    #[serde(flatten)]
    pub annotations: AnnotationSettings,
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
    /// The tenant's Envoys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_proxy: Option<TenantEnvoyProxy>,
    /// Networks that the tenant's endpoints may be in. All are that the Config does not deny, when left out or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::networks")]
    pub allowed_ranges: Vec<String>,
}

/// What differs for one tenant's Envoys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantEnvoyProxy {
    /// How many there are. Not used where each node has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub replicas: Option<i32>,
    /// What each needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far its registration is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<TenantPhase>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// How far the registration of a tenant is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenantPhase {
    /// Not done yet.
    #[default]
    Pending,
    /// Its CCM can work.
    Ready,
    /// The condition says why.
    Failed,
    /// Its objects are being removed.
    Terminating,
}
