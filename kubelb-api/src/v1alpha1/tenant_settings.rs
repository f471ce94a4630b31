//! What may be set for all tenants in the Config, and for one in its Tenant. The Tenant wins, field by field.

use k8s_openapi::api::core::v1::ObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Layer 4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerSettings {
    /// loadBalancerClass of the Services made in the management cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// No load balancers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
}

/// Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressSettings {
    /// Class in the management cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// No Ingresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
}

/// Gateway API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayApiSettings {
    /// GatewayClass in the management cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Gateway that serves the hostnames of LoadBalancers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_reference")]
    pub default_gateway: Option<ObjectReference>,
    /// No Gateways and routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<bool>,
}

/// Hostnames of LoadBalancers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsSettings {
    /// Domain below which hostnames are generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub wildcard_domain: Option<String>,
    /// Whether spec.hostname of a LoadBalancer is honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_explicit_hostnames: Option<bool>,
    /// Whether external-dns is asked for records by annotations.
    #[serde(rename = "useDNSAnnotations", skip_serializing_if = "Option::is_none")]
    pub use_dns_annotations: Option<bool>,
    /// Whether cert-manager is asked for certificates by annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_certificate_annotations: Option<bool>,
}

/// Certificates for hostnames of LoadBalancers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesSettings {
    /// The ClusterIssuer that cert-manager uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_cluster_issuer: Option<String>,
}
