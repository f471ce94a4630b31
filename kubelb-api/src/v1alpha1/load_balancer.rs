//! LoadBalancer: a tenant's Service on layer 4.

use k8s_openapi::api::core::v1::LoadBalancerStatus as CoreLoadBalancerStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Algorithm, HealthCheck, LoadBalancerEndpoints, OnUnhealthy, Persistence, Protocol, Timeouts};
use crate::schema;

/// What a tenant wants to be reachable, and where its traffic goes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubelb.k8c.io",
    version = "v1alpha1",
    kind = "LoadBalancer",
    namespaced,
    status = "LoadBalancerStatus",
    shortname = "lb",
    category = "kubelb",
    derive = "PartialEq",
    doc = "A tenant's Service, served on layer 4.",
    printcolumn = r#"{"name": "OriginName", "type": "string", "jsonPath": ".metadata.labels.kubelb\\.k8c\\.io/origin-name"}"#,
    printcolumn = r#"{"name": "OriginNamespace", "type": "string", "jsonPath": ".metadata.labels.kubelb\\.k8c\\.io/origin-ns"}"#,
    printcolumn = r#"{"name": "Hostname", "type": "string", "jsonPath": ".status.hostname.hostname"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.loadBalancer.ingress[0].ip"}"#,
    printcolumn = r#"{"name": "Programmed", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name": "Healthy", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"BackendsHealthy\")].status"}"#,
    printcolumn = r#"{"name": "DataPlane", "type": "string", "jsonPath": ".status.dataPlane.mode", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.ports) || self.endpoints.all(e, !has(e.ports) || size(e.ports) >= size(self.ports))",
    "message": "every port needs a port of the endpoints",
}]))]
pub struct LoadBalancerSpec {
    /// Where traffic goes. The first group is the one that ports refer to.
    #[schemars(length(min = 1, max = 16))]
    pub endpoints: Vec<LoadBalancerEndpoints>,
    /// The ports that clients dial. Each goes to the endpoints' port of the same name, else to the one in the same place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{
        "rule": "self.all(p, self.exists_one(q, q.port == p.port && (has(q.protocol) ? q.protocol : 'TCP') \
                 == (has(p.protocol) ? p.protocol : 'TCP')))",
        "message": "a port and protocol may be listed once",
    }]))]
    pub ports: Vec<LoadBalancerPort>,
    /// Name under which the service is also to be reached over HTTPS, on layer 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
    /// Type of the Service in the management cluster, where one is made: ClusterIP, NodePort or LoadBalancer.
    #[serde(rename = "type", default = "cluster_ip")]
    pub type_: String,
    /// Cluster or Local, as the tenant's Service has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// IP families of the addresses that clients dial, as the tenant's Service has them: IPv4, IPv6 or both, the more important one first.
    /// Those that the address pools have, when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 4)), extend("x-kubernetes-validations" = [{
        "rule": "self.all(f, f == 'IPv4' || f == 'IPv6') && (size(self) < 2 || self[0] != self[1])",
        "message": "ipFamilies must be IPv4, IPv6 or both",
    }]))]
    pub ip_families: Vec<String>,
    /// SingleStack, PreferDualStack or RequireDualStack, as the tenant's Service has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<String>,
    /// The address that clients are to dial, of one of the address pools. For one of each family there is the annotation
    /// kubelb.k8c.io/load-balancer-ips, which wins.
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45), extend("x-kubernetes-validations" = [{
        "rule": "size(self) == 0 || isIP(self)",
        "message": "loadBalancerIP must be an IP address",
    }]))]
    pub load_balancer_ip: Option<String>,
    /// Which connections of a client go to the same backend. None when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Networks whose clients are let in. All are, when left out or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::networks")]
    pub source_ranges: Vec<String>,
    /// How backends are checked. Left out: TCP ports by connecting to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Which backend a new connection gets; RoundRobin when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// How long connections without packets are remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What happens to the connections of a backend that became unhealthy; Drain when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unhealthy: Option<OnUnhealthy>,
}

/// One port that clients dial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPort {
    /// Its name; may be left out when there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// TCP when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Port number.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// The addresses that clients dial, as they belong into the tenant's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::load_balancer_status")]
    pub load_balancer: Option<CoreLoadBalancerStatus>,
    /// The Service in the management cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceStatus>,
    /// What became of spec.hostname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostnameStatus>,
    /// Accepted, AddressAssigned, Programmed, BackendsHealthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// What forwards its traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
}

/// The Service in the management cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<UpstreamServicePort>,
}

/// A port of the Service in the management cluster: the core API's, and the port of the tenant's nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamServicePort {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP or UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "TCP"))]
    pub protocol: Option<String>,
    /// What is spoken on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The port that clients dial.
    pub port: i32,
    /// The port where the Service's own endpoints listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// The port on nodes of the management cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<i32>,
    /// The port on nodes of the tenant.
    pub upstream_target_port: i32,
}

/// What became of a hostname.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostnameStatus {
    /// The name, asked for or generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether it answers over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_enabled: Option<bool>,
    /// Whether it resolves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_record_created: Option<bool>,
}

/// What forwards the traffic of a LoadBalancer, and why not something faster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    /// Who forwards.
    pub mode: DataPlaneMode,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Who forwards the traffic of a LoadBalancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DataPlaneMode {
    /// The node agents' programs, in the kernel.
    #[serde(rename = "eBPF")]
    Ebpf,
    /// Envoy, in a process.
    Envoy,
    /// The management cluster's own Services.
    KubeProxy,
}

fn cluster_ip() -> String {
    "ClusterIP".to_owned()
}
