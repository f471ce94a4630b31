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
    /// When they refuse work. An Envoy asks for it before it starts: a change holds for each from its next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overload_manager: Option<OverloadManager>,
    /// Whether Prometheus is told where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<PodMonitor>,
    /// How large headers may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_limits: Option<HeaderLimits>,
    /// What is logged of requests of layer 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Whether HTTPS listeners speak HTTP/3 too, on the UDP port of the same number; they do when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http3: Option<bool>,
    /// What one client may have of a listener of layer 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_limits: Option<ConnectionLimits>,
    /// How many connections and requests one Service may have at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When an endpoint that fails gets no requests for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
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

/// When an Envoy refuses work. Flags of `kubelb-manager bootstrap`, and so the limits of the chart kubelb-envoy, win.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverloadManager {
    /// Whether these numbers count. Without them Envoys have limits all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Connections of clients that one Envoy accepts; 50000 when left out or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_active_downstream_connections: Option<i64>,
    /// Bytes of memory near which one Envoy gives some back, and then accepts nothing more; 2 GiB when left out or less than 64 MiB.
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
    /// All headers of a request, in KiB; 60 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8192))]
    pub max_request_headers_kb: Option<i32>,
    /// Number of headers of a request; 100 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_request_headers_count: Option<i32>,
    /// All headers of an answer, in KiB; 60 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8192))]
    pub max_response_headers_kb: Option<i32>,
}

/// What is logged of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// Nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// How; JSON when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<AccessLogFormat>,
}

/// How a request is logged: one line on Envoy's standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogFormat {
    /// An object of JSON.
    #[default]
    #[serde(rename = "JSON")]
    Json,
    /// Envoy's own form.
    Text,
}

/// What one client may have of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(!has(self.idleTimeout) || duration(self.idleTimeout) >= duration('1s')) \
             && (!has(self.streamIdleTimeout) || duration(self.streamIdleTimeout) >= duration('1s')) \
             && (!has(self.requestHeadersTimeout) || duration(self.requestHeadersTimeout) >= duration('1s'))",
    "message": "timeouts must be 1s or more",
}]))]
pub struct ConnectionLimits {
    /// Connections of one listener, in each Envoy; as many as its overload manager allows when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<i32>,
    /// Requests at a time on one connection (HTTP/2 and 3); 128 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub max_concurrent_streams: Option<i32>,
    /// KiB that wait on one connection until somebody reads them; 1024 when left out.
    #[serde(rename = "bufferKb", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 65_536))]
    pub buffer_kb: Option<i32>,
    /// Until a connection without requests is closed; 1h when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub idle_timeout: Option<Duration>,
    /// Until a request is given up on which nothing happens; 1h when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub stream_idle_timeout: Option<Duration>,
    /// Until all headers of a request have to be there; 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub request_headers_timeout: Option<Duration>,
}

/// How many connections and requests one port of a Service may have at a time, in each Envoy. What is more is answered with 503.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections; 1048576 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<i32>,
    /// Requests that wait for a connection; 1048576 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pending_requests: Option<i32>,
    /// Requests; 1048576 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_parallel_requests: Option<i32>,
    /// Requests that are tried again; 1024 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_parallel_retries: Option<i32>,
    /// Requests after which a connection is closed; any number when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests_per_connection: Option<i32>,
}

/// When an endpoint gets no requests for a while: it refuses connections, resets them, or does not answer. Its answers do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.ejectionTime) || duration(self.ejectionTime) >= duration('1s')",
    "message": "ejectionTime must be 1s or more",
}]))]
pub struct OutlierDetection {
    /// Never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Failures in a row; 5 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub consecutive_failures: Option<i32>,
    /// For how long, the first time; 10s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ejection_time: Option<Duration>,
    /// How many of the endpoints at a time, in percent; 50 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejection_percent: Option<i32>,
}

fn three() -> i32 {
    3
}
