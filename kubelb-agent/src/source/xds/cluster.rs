//! Cluster → how endpoints are chosen and checked. Must not know listeners.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use kubelb_xds::contract::{Metadata, OnUnhealthy as WireOnUnhealthy};
use kubelb_xds::pb::envoy::config::cluster::v3 as pb;
use kubelb_xds::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck};
use kubelb_xds::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use kubelb_xds::pb::envoy::config::core::v3::{BindConfig, HealthCheck as WireCheck, RequestMethod, config_source};

use super::endpoints::{self, Endpoints};
use super::refusal::{Refusal, nothing_else, refuse};
use super::wire;
use crate::model::{HealthCheck, OnUnhealthy, Probe, Snat};
use crate::source::limits::{AFFINITY, CHECK_TIMEOUT, INTERVAL, MAX_HOST, MAX_PATH, THRESHOLD};

/// A cluster as the kernel path sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cluster {
    /// In turn otherwise.
    pub(super) is_maglev: bool,
    /// How long a client address without new flows stays with its endpoint.
    pub(super) affinity: Option<Duration>,
    /// Its port is unset: that comes with each endpoint.
    pub(super) check: Option<HealthCheck>,
    pub(super) source: EndpointSource,
    pub(super) on_unhealthy: OnUnhealthy,
    /// What its backends see as the client; `None`: any SNAT address.
    pub(super) snat: Option<IpAddr>,
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum EndpointSource {
    /// The ClusterLoadAssignment of this name.
    Discovered(String),
    /// The cluster itself.
    Inline(Endpoints),
}

/// Percent of healthy endpoints below which Envoy sends to all. This agent does so at none, which for up to 100 endpoints is the same.
const MAX_PANIC_THRESHOLD: f64 = 1.0;

/// # Errors
/// With the first field that is wrong or cannot be done.
pub(super) fn decode(bytes: &[u8], snat: &Snat) -> Result<Cluster, Refusal> {
    let mut message: pb::Cluster = wire::decode(bytes, "")?;
    let metadata = wire::metadata(message.metadata.as_ref())?;
    let affinity = match metadata.affinity_timeout {
        Some(timeout) => Some(wire::within(
            &wire::metadata_field("affinityTimeout"),
            timeout,
            AFFINITY,
        )?),
        None => None,
    };
    let on_unhealthy = on_unhealthy(
        &metadata,
        std::mem::take(&mut message.close_connections_on_host_health_failure),
    )?;
    let is_maglev = match pb::cluster::LbPolicy::try_from(message.lb_policy) {
        Ok(pb::cluster::LbPolicy::RoundRobin) => false,
        Ok(pb::cluster::LbPolicy::Maglev) => true,
        _ => return refuse("lb_policy", "this agent knows ROUND_ROBIN and MAGLEV"),
    };
    if is_maglev && let Some(pb::cluster::LbConfig::MaglevLbConfig(mut config)) = message.lb_config.take() {
        // How fine Envoy's table is; here that follows from the endpoints.
        config.table_size = None;
        nothing_else("maglev_lb_config", &config)?;
    }
    panic_threshold(&mut message)?;
    let check = health_check(&mut message)?;
    let source = endpoint_source(&mut message)?;
    let snat = match message.upstream_bind_config.take() {
        Some(config) => Some(snat_address(config, snat)?),
        None => None,
    };
    // What says nothing about packets, and what this agent does anyway: a removed backend is drained whatever its health.
    message.name.clear();
    message.alt_stat_name.clear();
    message.connect_timeout = None;
    message.metadata = None;
    message.lb_policy = 0;
    message.ignore_health_on_host_removal = false;
    message.circuit_breakers = None;
    message.per_connection_buffer_limit_bytes = None;
    nothing_else("", &message)?;
    Ok(Cluster {
        is_maglev,
        affinity,
        check,
        source,
        on_unhealthy,
        snat,
    })
}

/// Envoy's own field says the same as the metadata; a cluster for both kinds of data plane has both.
fn on_unhealthy(metadata: &Metadata, closes: bool) -> Result<OnUnhealthy, Refusal> {
    match (metadata.on_unhealthy, closes) {
        (Some(WireOnUnhealthy::Drain), true) => refuse(
            "close_connections_on_host_health_failure",
            "contradicts onUnhealthy: Drain in the metadata; leave one of them out",
        ),
        (Some(WireOnUnhealthy::Reset), _) | (None, true) => Ok(OnUnhealthy::Reset),
        (Some(WireOnUnhealthy::Drain) | None, false) => Ok(OnUnhealthy::Drain),
    }
}

/// Only an address that was set aside for this: replies to any other would not come back to this node, or meet its own sockets.
fn snat_address(mut config: BindConfig, snat: &Snat) -> Result<IpAddr, Refusal> {
    const FIELD: &str = "upstream_bind_config";
    let Some(mut source) = config.source_address.take() else {
        return refuse(format!("{FIELD}.source_address"), "is missing");
    };
    nothing_else(FIELD, &config)?;
    let field = format!("{FIELD}.source_address");
    let address = wire::unicast(&format!("{field}.address"), &source.address)?;
    match source.port_specifier.take() {
        None | Some(PortSpecifier::PortValue(0)) => {}
        Some(PortSpecifier::PortValue(_) | PortSpecifier::NamedPort(_)) => {
            return refuse(
                format!("{field}.port_value"),
                "must be 0: each flow has a port of its own, of --snat-ports",
            );
        }
    }
    source.address.clear();
    nothing_else(&field, &source)?;
    if !snat.addresses.contains(&address) {
        return refuse(
            format!("{field}.address"),
            format!("{address} is none of this node's SNAT addresses; start its agent with --snat-address {address}"),
        );
    }
    Ok(address)
}

fn panic_threshold(message: &mut pb::Cluster) -> Result<(), Refusal> {
    let Some(mut common) = message.common_lb_config.take() else {
        return Ok(());
    };
    let threshold = common.healthy_panic_threshold.take();
    if threshold.is_some_and(|percent| !(0.0..=MAX_PANIC_THRESHOLD).contains(&percent.value)) {
        return refuse(
            "common_lb_config.healthy_panic_threshold",
            "this agent sends to unhealthy endpoints only when none is healthy; use 1 % or leave it out",
        );
    }
    nothing_else("common_lb_config", &common)
}

fn endpoint_source(message: &mut pb::Cluster) -> Result<EndpointSource, Refusal> {
    let kind = match message.cluster_discovery_type.take() {
        Some(pb::cluster::ClusterDiscoveryType::Type(kind)) => pb::cluster::DiscoveryType::try_from(kind).ok(),
        Some(pb::cluster::ClusterDiscoveryType::ClusterType(_)) => None,
        None => Some(pb::cluster::DiscoveryType::Static),
    };
    match kind {
        Some(pb::cluster::DiscoveryType::Static) => {
            let inline = message.load_assignment.take().unwrap_or_default();
            endpoints::of(inline, "load_assignment").map(EndpointSource::Inline)
        }
        Some(pb::cluster::DiscoveryType::Eds) => {
            let mut config = message.eds_cluster_config.take().unwrap_or_default();
            let is_ads = config.eds_config.take().is_some_and(|source| {
                matches!(
                    source.config_source_specifier,
                    Some(config_source::ConfigSourceSpecifier::Ads(_) | config_source::ConfigSourceSpecifier::Self_(_))
                )
            });
            if !is_ads {
                return refuse(
                    "eds_cluster_config.eds_config",
                    "must be ADS: this agent has one stream",
                );
            }
            let service = std::mem::take(&mut config.service_name);
            nothing_else("eds_cluster_config", &config)?;
            let name = if service.is_empty() {
                message.name.clone()
            } else {
                service
            };
            Ok(EndpointSource::Discovered(name))
        }
        _ => refuse(
            "type",
            "this agent knows EDS and STATIC; names are resolved by Envoy only",
        ),
    }
}

fn health_check(message: &mut pb::Cluster) -> Result<Option<HealthCheck>, Refusal> {
    let mut checks = std::mem::take(&mut message.health_checks).into_iter();
    let Some(check) = checks.next() else { return Ok(None) };
    if checks.next().is_some() {
        return refuse("health_checks", "only one is done; leave the others out");
    }
    one_check(check).map(Some)
}

fn one_check(mut check: WireCheck) -> Result<HealthCheck, Refusal> {
    const FIELD: &str = "health_checks[0]";
    let time = |key: &str, value, range: (Duration, Duration)| match value {
        Some(time) => {
            let field = format!("{FIELD}.{key}");
            wire::within(&field, wire::duration(&field, time)?, range)
        }
        None => refuse(format!("{FIELD}.{key}"), "is missing"),
    };
    let threshold = |key: &str, value: Option<u32>| match value {
        Some(value) if (THRESHOLD.0..=THRESHOLD.1).contains(&value) => Ok(value),
        _ => refuse(
            format!("{FIELD}.{key}"),
            format!("must be from {} to {}", THRESHOLD.0, THRESHOLD.1),
        ),
    };
    let probe = match check.health_checker.take() {
        Some(HealthChecker::TcpHealthCheck(tcp)) => {
            nothing_else(&format!("{FIELD}.tcp_health_check"), &tcp)?;
            Probe::Tcp
        }
        Some(HealthChecker::HttpHealthCheck(http)) => http_probe(http, &format!("{FIELD}.http_health_check"))?,
        _ => return refuse(FIELD, "this agent checks by TCP connect or by HTTP"),
    };
    let decoded = HealthCheck {
        probe,
        port: None,
        interval: time("interval", check.interval.take(), INTERVAL)?,
        timeout: time("timeout", check.timeout.take(), CHECK_TIMEOUT)?,
        healthy_threshold: threshold(
            "healthy_threshold",
            check.healthy_threshold.take().map(|number| number.value),
        )?,
        unhealthy_threshold: threshold(
            "unhealthy_threshold",
            check.unhealthy_threshold.take().map(|number| number.value),
        )?,
    };
    // Envoy's pace without traffic and its jitter: this agent has its own. A connection is never kept.
    check.no_traffic_interval = None;
    check.no_traffic_healthy_interval = None;
    check.initial_jitter = None;
    check.interval_jitter = None;
    check.interval_jitter_percent = 0;
    check.reuse_connection = None;
    check.always_log_health_check_failures = false;
    check.always_log_health_check_success = false;
    nothing_else(FIELD, &check)?;
    Ok(decoded)
}

fn http_probe(mut http: HttpHealthCheck, field: &str) -> Result<Probe, Refusal> {
    let path = std::mem::take(&mut http.path);
    let is_safe = path.starts_with('/') && path.len() <= MAX_PATH && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_safe || path.contains('#') {
        return refuse(
            format!("{field}.path"),
            format!("must start with a slash, be of printable ASCII and of {MAX_PATH} bytes at most"),
        );
    }
    let host = std::mem::take(&mut http.host);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if host.len() > MAX_HOST || !host.bytes().all(allowed) {
        return refuse(
            format!("{field}.host"),
            "is not a host; use a name or address like example.com",
        );
    }
    let statuses = std::mem::take(&mut http.expected_statuses);
    if !matches!(statuses.as_slice(), [range] if (range.start, range.end) == (200, 400)) {
        return refuse(
            format!("{field}.expected_statuses"),
            "must be one range from 200 to 400 (exclusive): that is what this agent takes for healthy",
        );
    }
    let method = std::mem::take(&mut http.method);
    if method != i32::from(RequestMethod::MethodUnspecified) && method != i32::from(RequestMethod::Get) {
        return refuse(format!("{field}.method"), "must be GET");
    }
    nothing_else(field, &http)?;
    Ok(Probe::Http {
        path,
        host: (!host.is_empty()).then_some(host),
    })
}

/// The check of a cluster, for an endpoint with this port for checks.
pub(super) fn check_at(cluster: &Cluster, port: Option<NonZeroU16>) -> Option<HealthCheck> {
    let mut check = cluster.check.clone()?;
    check.port = port;
    Some(check)
}
