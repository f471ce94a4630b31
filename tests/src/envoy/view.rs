//! What Envoy's admin interface says, as values (`envoy.admin.v3` in JSON).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// A cluster that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// By xDS, not by the bootstrap.
    pub dynamic: bool,
    /// In the order that Envoy has them.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Where it is.
    pub address: SocketAddr,
    /// What EDS said: `HEALTHY`, `DRAINING`, …
    pub eds_health: String,
    /// What Envoy's own checks say.
    pub passes_checks: bool,
    /// Load balancing weight.
    pub weight: u64,
    /// Connections made so far.
    pub connections: u64,
}

/// A listener that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// With the port that it really has.
    pub address: SocketAddr,
}

pub(super) fn clusters(answer: &Value) -> anyhow::Result<Vec<ClusterView>> {
    list(answer, "/cluster_statuses").map(cluster).collect()
}

fn cluster(value: &Value) -> anyhow::Result<ClusterView> {
    Ok(ClusterView {
        name: text(value, "/name").context("a cluster has no name")?,
        dynamic: value.pointer("/added_via_api").and_then(Value::as_bool) == Some(true),
        endpoints: list(value, "/host_statuses").map(endpoint).collect::<Result<_, _>>()?,
    })
}

fn endpoint(value: &Value) -> anyhow::Result<EndpointView> {
    let connections = list(value, "/stats")
        .find(|stat| stat.pointer("/name").and_then(Value::as_str) == Some("cx_total"))
        .map(|stat| number(stat, "/value"));
    Ok(EndpointView {
        address: address(value, "/address")?,
        eds_health: text(value, "/health_status/eds_health_status").unwrap_or_default(),
        passes_checks: value.pointer("/health_status/failed_active_health_check").is_none(),
        weight: number(value, "/weight"),
        connections: connections.unwrap_or_default(),
    })
}

pub(super) fn listeners(answer: &Value) -> anyhow::Result<Vec<ListenerView>> {
    let listener = |value: &Value| {
        Ok(ListenerView {
            name: text(value, "/name").context("a listener has no name")?,
            address: address(value, "/local_address")?,
        })
    };
    list(answer, "/listener_statuses").map(listener).collect()
}

/// The value of the one statistic that the answer is about.
pub(super) fn stat(answer: &Value, name: &str) -> anyhow::Result<u64> {
    let found: Vec<&Value> = list(answer, "/stats")
        .filter(|stat| stat.pointer("/name").and_then(Value::as_str) == Some(name))
        .collect();
    ensure!(found.len() <= 1, "several statistics are called {name}");
    Ok(found.first().map_or(0, |stat| number(stat, "/value")))
}

/// Protobuf's JSON leaves out an empty list.
fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    Some(value.pointer(pointer)?.as_str()?.to_owned())
}

/// Protobuf's JSON leaves out a zero and writes a 64-bit number as text.
fn number(value: &Value, pointer: &str) -> u64 {
    let value = value.pointer(pointer);
    let as_text = || value.and_then(Value::as_str)?.parse().ok();
    value.and_then(Value::as_u64).or_else(as_text).unwrap_or_default()
}

fn address(value: &Value, pointer: &str) -> anyhow::Result<SocketAddr> {
    let socket = value.pointer(pointer).and_then(|address| address.get("socket_address"));
    let socket = socket.with_context(|| format!("no socket address at {pointer} of {value}"))?;
    let ip: IpAddr = text(socket, "/address").context("no address")?.parse()?;
    Ok(SocketAddr::new(ip, u16::try_from(number(socket, "/port_value"))?))
}
