//! Clusters of layer 7, and their endpoints.

use std::time::Duration;

use kubelb_xds::pb::envoy::config::cluster::v3 as pb;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::endpoint::v3 as eds;
use kubelb_xds::pb::envoy::extensions::upstreams::http::v3 as upstream;
use kubelb_xds::pb::envoy::r#type::v3 as envoy_type;
use kubelb_xds::{Audience, Owner, Resource, ResourceType};

use super::{ads, needs};
use crate::ir::http::{ClusterSettings, HttpCluster, Outliers, Upstream};
use crate::ir::{Host, Location, Protocol};
use crate::xds::wire::{self, any, duration, number};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As on layer 4: from one check to the next, and for one.
const CHECK: Duration = Duration::from_secs(5);
/// Of the healthy endpoints; below it all get traffic. For up to 100 endpoints that means: when none is healthy.
const PANIC_THRESHOLD: f64 = 1.0;
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn resources(name: &str, cluster: &HttpCluster, owner: &Owner) -> Vec<Resource> {
    let has_names = cluster
        .hosts
        .iter()
        .any(|host| matches!(host.location, Location::Name(_)));
    let kind = if has_names {
        pb::cluster::DiscoveryType::StrictDns
    } else {
        pb::cluster::DiscoveryType::Eds
    };
    let mut message = pb::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(kind.into())),
        health_checks: vec![check()],
        common_lb_config: Some(pb::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(envoy_type::Percent { value: PANIC_THRESHOLD }),
            ..pb::cluster::CommonLbConfig::default()
        }),
        circuit_breakers: Some(breakers(&cluster.settings)),
        outlier_detection: cluster.settings.outliers.as_ref().map(outliers),
        typed_extension_protocol_options: [(OPTIONS.to_owned(), any(&options(cluster)))].into(),
        ignore_health_on_host_removal: true,
        ..pb::Cluster::default()
    };
    let endpoints = assignment(name, cluster);
    if has_names {
        message.load_assignment = Some(endpoints);
        return vec![Resource::new(&message, owner.clone(), Audience::Fleets)];
    }
    message.eds_cluster_config = Some(pb::cluster::EdsClusterConfig {
        eds_config: Some(ads()),
        ..pb::cluster::EdsClusterConfig::default()
    });
    let needed = needs(ResourceType::Endpoints, name);
    vec![
        Resource::new(&message, owner.clone(), Audience::Fleets).needing([needed]),
        Resource::new(&endpoints, owner.clone(), Audience::Fleets),
    ]
}

fn check() -> core::HealthCheck {
    core::HealthCheck {
        timeout: Some(duration(CHECK)),
        interval: Some(duration(CHECK)),
        no_traffic_interval: Some(duration(CHECK)),
        unhealthy_threshold: Some(number(3)),
        healthy_threshold: Some(number(2)),
        health_checker: Some(core::health_check::HealthChecker::TcpHealthCheck(
            core::health_check::TcpHealthCheck::default(),
        )),
        ..core::HealthCheck::default()
    }
}

fn breakers(settings: &ClusterSettings) -> pb::CircuitBreakers {
    pb::CircuitBreakers {
        thresholds: vec![pb::circuit_breakers::Thresholds {
            max_connections: Some(number(settings.connections)),
            max_pending_requests: Some(number(settings.pending)),
            max_requests: Some(number(settings.requests)),
            max_retries: Some(number(settings.retries)),
            ..pb::circuit_breakers::Thresholds::default()
        }],
        ..pb::CircuitBreakers::default()
    }
}

/// Only what happens to connections counts: what is answered is the tenant's own business, and may be the same from all.
fn outliers(wanted: &Outliers) -> pb::OutlierDetection {
    pb::OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: Some(number(wanted.failures)),
        enforcing_consecutive_local_origin_failure: Some(number(100)),
        enforcing_consecutive_5xx: Some(number(0)),
        enforcing_consecutive_gateway_failure: Some(number(0)),
        enforcing_success_rate: Some(number(0)),
        enforcing_local_origin_success_rate: Some(number(0)),
        base_ejection_time: Some(duration(wanted.time)),
        max_ejection_percent: Some(number(wanted.percent)),
        ..pb::OutlierDetection::default()
    }
}

fn options(cluster: &HttpCluster) -> upstream::HttpProtocolOptions {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let settings = &cluster.settings;
    let common = core::HttpProtocolOptions {
        max_response_headers_kb: settings.header_kib.map(number),
        max_requests_per_connection: settings.requests_per_connection.map(number),
        ..core::HttpProtocolOptions::default()
    };
    let protocol = match cluster.protocol {
        Upstream::Http1 => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
        Upstream::Http2 => ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()),
    };
    upstream::HttpProtocolOptions {
        common_http_protocol_options: (common != core::HttpProtocolOptions::default()).then_some(common),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..upstream::HttpProtocolOptions::default()
    }
}

fn assignment(name: &str, cluster: &HttpCluster) -> eds::ClusterLoadAssignment {
    let endpoints: Vec<eds::LbEndpoint> = cluster.hosts.iter().map(|host| endpoint(cluster, host)).collect();
    let group = eds::LocalityLbEndpoints {
        lb_endpoints: endpoints,
        ..eds::LocalityLbEndpoints::default()
    };
    let is_empty = group.lb_endpoints.is_empty();
    eds::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: if is_empty { Vec::new() } else { vec![group] },
        ..eds::ClusterLoadAssignment::default()
    }
}

fn endpoint(cluster: &HttpCluster, host: &Host) -> eds::LbEndpoint {
    let text = match &host.location {
        Location::Address(address) => address.to_string(),
        // With the dot a resolver adds nothing: no search domain of the Envoy's own cluster.
        Location::Name(name) => format!("{name}."),
    };
    let endpoint = eds::Endpoint {
        address: Some(wire::address(text, cluster.port.get(), Protocol::Tcp)),
        ..eds::Endpoint::default()
    };
    let is_draining = host.weight == 0;
    let status = if is_draining {
        core::HealthStatus::Draining
    } else {
        core::HealthStatus::Unknown
    };
    eds::LbEndpoint {
        health_status: status.into(),
        load_balancing_weight: (host.weight > 1).then(|| number(host.weight.into())),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..eds::LbEndpoint::default()
    }
}
