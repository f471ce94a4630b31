//! What the Config says of Envoy's listeners and clusters, with what holds where it says nothing.
//!
//! What is out of range is as if it were not said: the schema refuses it. Must not know: tenants.

use std::time::Duration;

use kubelb_api::v1alpha1::{AccessLogFormat, EnvoyProxy, HeaderLimits as Headers, OverloadManager};
use serde::Serialize;

/// Of listeners and clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of every listener.
    pub listener: ListenerSettings,
    /// Of every cluster.
    pub cluster: ClusterSettings,
}

/// Of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSettings {
    /// Headers of a request, in KiB; `None`: as Envoy has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_kib: Option<u32>,
    /// Headers that a request has; `None`: as Envoy has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_count: Option<u32>,
    /// How requests are logged.
    pub log: AccessLog,
    /// Whether TLS is also spoken as QUIC.
    pub http3: bool,
    /// Connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests at a time on one connection.
    pub streams: u32,
    /// What waits on one connection until somebody reads it, in KiB.
    pub buffer_kib: u32,
    /// Until a connection without requests is closed.
    #[serde(serialize_with = "crate::ir::seconds")]
    pub idle: Duration,
    /// Until a request is given up on which nothing happens.
    #[serde(serialize_with = "crate::ir::seconds")]
    pub stream_idle: Duration,
    /// Until the headers of a request have to be there.
    #[serde(serialize_with = "crate::ir::seconds")]
    pub headers: Duration,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// Each as an object.
    #[default]
    Json,
    /// Each in Envoy's form.
    Text,
}

/// Of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    /// Headers of an answer, in KiB; `None`: as Envoy has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_kib: Option<u32>,
    /// Connections at a time.
    pub connections: u32,
    /// Requests that wait for one.
    pub pending: u32,
    /// Requests at a time.
    pub requests: u32,
    /// Of these, those that are tried again.
    pub retries: u32,
    /// Requests after which a connection is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_connection: Option<u32>,
    /// When an endpoint gets no requests for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
}

/// When an endpoint gets no requests for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Outliers {
    /// Failures to connect or to answer, in a row.
    pub failures: u32,
    /// For how long, the first time.
    #[serde(serialize_with = "crate::ir::seconds")]
    pub time: Duration,
    /// How many of the endpoints at a time.
    pub percent: u32,
}

/// Of an Envoy as a whole, which has them from its start on; `None`: nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Connections of clients.
    pub connections: Option<u64>,
    /// Memory in bytes.
    pub heap: Option<u64>,
}

/// The least memory that an Envoy can do something with, in bytes.
const LEAST_HEAP: u64 = 64 << 20;

impl ProcessSettings {
    /// Reads them. They count when they are switched on.
    #[must_use]
    pub fn read(proxy: Option<&EnvoyProxy>) -> Self {
        let manager = proxy.and_then(|proxy| proxy.overload_manager.as_ref());
        let Some(manager) = manager.filter(|manager: &&OverloadManager| manager.enabled == Some(true)) else {
            return Self::default();
        };
        let number = |given: Option<i64>| given.and_then(|given| u64::try_from(given).ok());
        Self {
            connections: number(manager.max_active_downstream_connections).filter(|most| *most > 0),
            heap: number(manager.max_heap_size_bytes).filter(|most| *most >= LEAST_HEAP),
        }
    }
}

/// What bounds connections and requests is the memory of the proxy, not one backend.
const MANY: u32 = 1 << 20;
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            header_kib: None,
            header_count: None,
            log: AccessLog::default(),
            http3: true,
            connections: None,
            streams: 128,
            buffer_kib: 1_024,
            idle: Duration::from_secs(3_600),
            stream_idle: Duration::from_secs(3_600),
            headers: Duration::from_secs(30),
        }
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            header_kib: None,
            connections: MANY,
            pending: MANY,
            requests: MANY,
            retries: 1_024,
            requests_per_connection: None,
            outliers: Some(Outliers::default()),
        }
    }
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            failures: 5,
            time: Duration::from_secs(10),
            percent: 50,
        }
    }
}

impl ListenerSettings {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ClusterSettings {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Settings {
    /// Reads them; `None`: nothing is said.
    #[must_use]
    pub fn read(proxy: Option<&EnvoyProxy>) -> Self {
        let mut settings = Self::default();
        if let Some(proxy) = proxy {
            settings.listener.read(proxy);
            settings.cluster.read(proxy);
        }
        settings
    }
}

impl ListenerSettings {
    fn read(&mut self, proxy: &EnvoyProxy) {
        let headers = proxy.header_limits.as_ref();
        self.header_kib = kib(headers.and_then(|limits: &Headers| limits.max_request_headers_kb));
        self.header_count = count(headers.and_then(|limits| limits.max_request_headers_count), u32::MAX);
        if let Some(log) = &proxy.access_log {
            self.log = match log.format.unwrap_or_default() {
                _ if log.disabled == Some(true) => AccessLog::Off,
                AccessLogFormat::Json => AccessLog::Json,
                AccessLogFormat::Text => AccessLog::Text,
            };
        }
        self.http3 = proxy.http3.unwrap_or(self.http3);
        let Some(limits) = &proxy.connection_limits else {
            return;
        };
        self.connections = count(limits.max_connections, u32::MAX);
        self.streams = count(limits.max_concurrent_streams, 65_535).unwrap_or(self.streams);
        let buffer = count(limits.buffer_kb, 65_536).filter(|buffer| *buffer >= 16);
        self.buffer_kib = buffer.unwrap_or(self.buffer_kib);
        self.idle = time(limits.idle_timeout).unwrap_or(self.idle);
        self.stream_idle = time(limits.stream_idle_timeout).unwrap_or(self.stream_idle);
        self.headers = time(limits.request_headers_timeout).unwrap_or(self.headers);
    }
}

impl ClusterSettings {
    fn read(&mut self, proxy: &EnvoyProxy) {
        let headers = proxy.header_limits.as_ref();
        self.header_kib = kib(headers.and_then(|limits| limits.max_response_headers_kb));
        if let Some(breaker) = &proxy.circuit_breaker {
            self.connections = count(breaker.max_connections, u32::MAX).unwrap_or(self.connections);
            self.pending = count(breaker.max_pending_requests, u32::MAX).unwrap_or(self.pending);
            self.requests = count(breaker.max_parallel_requests, u32::MAX).unwrap_or(self.requests);
            let retries = breaker
                .max_parallel_retries
                .and_then(|retries| u32::try_from(retries).ok());
            self.retries = retries.unwrap_or(self.retries);
            self.requests_per_connection = count(breaker.max_requests_per_connection, u32::MAX);
        }
        if let Some(wanted) = &proxy.outlier_detection {
            let usual = Outliers::default();
            self.outliers = (wanted.disabled != Some(true)).then(|| Outliers {
                failures: count(wanted.consecutive_failures, 1_000).unwrap_or(usual.failures),
                time: time(wanted.ejection_time).unwrap_or(usual.time),
                percent: count(wanted.max_ejection_percent, 100).unwrap_or(usual.percent),
            });
        }
    }
}

fn count(given: Option<i32>, most: u32) -> Option<u32> {
    let given = given.and_then(|given| u32::try_from(given).ok());
    given.filter(|given| (1..=most).contains(given))
}

fn kib(given: Option<i32>) -> Option<u32> {
    count(given, 8_192)
}

fn time(given: Option<kube::core::Duration>) -> Option<Duration> {
    let given = given.filter(|given| !given.is_negative()).map(Duration::from);
    given.filter(|given| (Duration::from_secs(1)..=LONGEST).contains(given))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(proxy: serde_json::Value) -> Settings {
        Settings::read(Some(&serde_json::from_value(proxy).unwrap()))
    }

    #[test]
    fn what_is_not_said_or_has_no_meaning_is_as_usual() {
        assert_eq!(Settings::read(None), Settings::default());
        assert_eq!(read(json!({})), Settings::default());
        let strange = json!({
            "connectionLimits": {"maxConnections": 0, "bufferKb": 1, "idleTimeout": "1ms", "maxConcurrentStreams": -1},
            "circuitBreaker": {"maxConnections": -1}, "headerLimits": {"maxRequestHeadersKb": 9000},
            "outlierDetection": {"maxEjectionPercent": 101, "ejectionTime": "0s"},
        });
        assert_eq!(read(strange), Settings::default());
    }

    #[test]
    fn limits_of_the_process_count_when_they_are_switched_on() {
        let read = |manager: serde_json::Value| {
            let proxy = json!({"overloadManager": manager});
            ProcessSettings::read(Some(&serde_json::from_value(proxy).unwrap()))
        };
        let numbers = |enabled: Option<bool>| json!({"enabled": enabled, "maxActiveDownstreamConnections": 7, "maxHeapSizeBytes": 1_u64 << 32});
        let said = ProcessSettings {
            connections: Some(7),
            heap: Some(1 << 32),
        };
        assert_eq!(read(numbers(Some(true))), said);
        for nothing in [
            numbers(Some(false)),
            numbers(None),
            json!({"enabled": true}),
            json!({"enabled": true, "maxActiveDownstreamConnections": 0, "maxHeapSizeBytes": 1024}),
            json!({"enabled": true, "maxActiveDownstreamConnections": -1, "maxHeapSizeBytes": -1}),
        ] {
            assert_eq!(read(nothing.clone()), ProcessSettings::default(), "{nothing}");
        }
        assert_eq!(ProcessSettings::read(None), ProcessSettings::default());
    }

    #[test]
    fn what_is_said_holds() {
        let said = read(json!({
            "accessLog": {"format": "Text"}, "http3": false,
            "connectionLimits": {"maxConnections": 7, "requestHeadersTimeout": "5s"},
            "circuitBreaker": {"maxParallelRetries": 0}, "outlierDetection": {"disabled": true},
            "headerLimits": {"maxRequestHeadersKb": 32, "maxRequestHeadersCount": 50, "maxResponseHeadersKb": 64},
        }));
        let listener = ListenerSettings {
            header_kib: Some(32),
            header_count: Some(50),
            log: AccessLog::Text,
            http3: false,
            connections: Some(7),
            headers: Duration::from_secs(5),
            ..ListenerSettings::default()
        };
        let cluster = ClusterSettings {
            header_kib: Some(64),
            retries: 0,
            outliers: None,
            ..ClusterSettings::default()
        };
        assert_eq!(said, Settings { listener, cluster });
        let off = read(json!({"accessLog": {"disabled": true, "format": "Text"}}));
        assert_eq!(off.listener.log, AccessLog::Off);
    }
}
