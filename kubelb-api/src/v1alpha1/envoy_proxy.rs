//! How Envoys run in the management cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// How Envoys run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyProxy {
    /// Who shares an Envoy. Every tenant has its own, whatever it says.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf || oldSelf != 'shared'",
        "message": "topology cannot be changed from shared",
    }]))]
    pub topology: EnvoyProxyTopology,
    /// One on each node in place of a number of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_daemonset: Option<bool>,
    /// How many each tenant has.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    pub replicas: i32,
    /// One on a node at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_pod_per_node: Option<bool>,
    /// Nodes that they may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that they tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// What each needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Near what they should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How they stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graceful_shutdown: Option<GracefulShutdown>,
    /// When they refuse work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload_manager: Option<OverloadManager>,
    /// Whether Prometheus is told where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<PodMonitor>,
    /// How large headers may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_limits: Option<HeaderLimits>,
}

/// Who shares an Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EnvoyProxyTopology {
    /// The load balancers of a tenant.
    #[default]
    Shared,
    /// Deprecated.
    Dedicated,
    /// Deprecated.
    Global,
}

/// How an Envoy stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulShutdown {
    /// Connections are cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// How long connections may take to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_default_60s")]
    pub drain_timeout: Option<Duration>,
    /// How long it goes on although no connection is left, for clients that have not heard yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_default_5s")]
    pub min_drain_duration: Option<Duration>,
    /// After how many seconds it is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30), extend("default" = 300))]
    pub termination_grace_period_seconds: Option<i64>,
}

/// When an Envoy refuses work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverloadManager {
    /// Whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Connections that one Envoy takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_active_downstream_connections: Option<i64>,
    /// Bytes of memory that one Envoy takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_heap_size_bytes: Option<i64>,
}

/// Whether Prometheus is told where the Envoys are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitor {
    /// By a PodMonitor object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// How large headers may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderLimits {
    /// All headers of a request, in KiB; 8192 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8192))]
    pub max_request_headers_kb: Option<i32>,
    /// Number of headers of a request; 4096 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_request_headers_count: Option<i32>,
    /// All headers of an answer, in KiB; 8192 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8192))]
    pub max_response_headers_kb: Option<i32>,
}

fn three() -> i32 {
    3
}
