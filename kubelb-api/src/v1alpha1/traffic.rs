//! How traffic is spread over backends: algorithm, persistence, health checks, timeouts.

use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Which backend a new connection gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// In turn, in proportion to the weights.
    #[default]
    RoundRobin,
    /// By a hash of the connection, so that data planes agree without talking, and few connections move when backends change.
    Maglev,
}

/// Which connections of a client stay together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Persistence {
    /// By what clients are told apart.
    #[serde(rename = "type")]
    pub type_: PersistenceType,
    /// For how many seconds after its last connection a client keeps its backend; 10800 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: Option<i32>,
}

/// By what clients are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PersistenceType {
    /// The address that the data plane sees them with.
    SourceIP,
}

/// What happens to the connections of a backend that became unhealthy. New ones go elsewhere in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnhealthy {
    /// They go on.
    #[default]
    Drain,
    /// They are reset.
    Reset,
}

/// How backends are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.http) || (has(self.type) && self.type == 'HTTP')",
        "message": "http is for type HTTP",
    },
    {
        "rule": "!has(self.interval) || duration(self.interval) >= duration('1s')",
        "message": "interval must be 1s or more",
    },
    {
        "rule": "!has(self.timeout) || duration(self.timeout) >= duration('100ms')",
        "message": "timeout must be 100ms or more",
    },
]))]
pub struct HealthCheck {
    /// What is asked; TCP when left out.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<HealthCheckType>,
    /// Port to check in place of the backend's own. A UDP port is checked only when one is given; of others, refusals count that
    /// come back as ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Time from one check to the next; 5s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub interval: Option<Duration>,
    /// Longest time for one check; 5s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub timeout: Option<Duration>,
    /// Successes in a row that make an unhealthy backend healthy; 2 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<i32>,
    /// Failures in a row that make a healthy backend unhealthy; 3 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<i32>,
    /// What an HTTP check asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
}

/// What a health check asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HealthCheckType {
    /// A connection that is closed at once.
    #[default]
    Tcp,
    /// A request; an answer of 200 to 399 is healthy.
    Http,
}

/// What an HTTP check asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHealthCheck {
    /// Path and query; `/` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = "^/[!-~]*$"))]
    pub path: Option<String>,
    /// The `Host` header; the backend's address when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = "^[!-~]+$"))]
    pub host: Option<String>,
}

/// How long connections without packets are remembered. Values that an RFC sets a minimum for may be shorter on request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(!has(self.tcpHalfOpen) || duration(self.tcpHalfOpen) >= duration('1s')) \
             && (!has(self.tcpIdle) || duration(self.tcpIdle) >= duration('1s')) \
             && (!has(self.tcpClosing) || duration(self.tcpClosing) >= duration('1s')) \
             && (!has(self.udpUnreplied) || duration(self.udpUnreplied) >= duration('1s')) \
             && (!has(self.udpIdle) || duration(self.udpIdle) >= duration('1s'))",
    "message": "timeouts must be 1s or more",
}]))]
pub struct Timeouts {
    /// TCP from the first SYN until both sides were heard; 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub tcp_half_open: Option<Duration>,
    /// Established TCP; 2h4m when left out (RFC 5382, REQ-5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub tcp_idle: Option<Duration>,
    /// TCP after both FINs, or a RST; 60s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub tcp_closing: Option<Duration>,
    /// UDP before the first answer; 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub udp_unreplied: Option<Duration>,
    /// UDP after it; 3m when left out (RFC 4787, REQ-5, asks for 2m or more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub udp_idle: Option<Duration>,
}
