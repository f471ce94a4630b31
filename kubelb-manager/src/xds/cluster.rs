//! Clusters and their endpoints.
//!
//! Endpoints come by EDS, so that a change of one is a change of one resource; those with names are in the cluster itself, which is how
//! Envoy resolves them.

use std::net::IpAddr;
use std::time::Duration;

use kubelb_xds::contract::{Metadata, OnUnhealthy as WireOnUnhealthy};
use kubelb_xds::pb::envoy::config::cluster::v3 as pb;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::endpoint::v3 as eds;
use kubelb_xds::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use kubelb_xds::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use kubelb_xds::pb::envoy::r#type::v3 as envoy_type;
use kubelb_xds::{Audience, Reference, Resource, ResourceType};

use super::wire::{self, any, cluster_name, duration, number};
use crate::ir::{Algorithm, Cluster, DataPlane, Family, HealthCheck, Host, LoadBalancer, Location, OnUnhealthy, Probe};

/// Longest time for a connection from Envoy to a backend.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the healthy endpoints; below it all get traffic. For up to 100 endpoints that means: when none is healthy.
const PANIC_THRESHOLD: f64 = 1.0;

/// The cluster, and what its endpoints come in.
pub(super) fn resources(load_balancer: &LoadBalancer, cluster: &Cluster, audience: Audience) -> Vec<Resource> {
    let name = cluster_name(load_balancer, cluster.id);
    let owner = wire::owner(&load_balancer.tenant);
    let affinity = load_balancer
        .listeners
        .iter()
        .find(|listener| listener.targets.iter().any(|target| target.cluster == cluster.id))
        .and_then(|listener| listener.affinity);
    let mut message = message(load_balancer, cluster, &name, affinity);
    let assignment = assignment(cluster, &name);
    match cluster.id.family {
        Family::Dns => {
            message.cluster_discovery_type = Some(discovery(pb::cluster::DiscoveryType::StrictDns));
            message.load_assignment = Some(assignment);
            vec![Resource::new(&message, owner, audience)]
        }
        Family::V4 | Family::V6 => {
            message.cluster_discovery_type = Some(discovery(pb::cluster::DiscoveryType::Eds));
            message.eds_cluster_config = Some(pb::cluster::EdsClusterConfig {
                eds_config: Some(core::ConfigSource {
                    resource_api_version: core::ApiVersion::V3.into(),
                    config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                        core::AggregatedConfigSource {},
                    )),
                    ..core::ConfigSource::default()
                }),
                ..pb::cluster::EdsClusterConfig::default()
            });
            let needed = Reference {
                kind: ResourceType::Endpoints,
                name: name.into(),
            };
            vec![
                Resource::new(&message, owner.clone(), audience).needing([needed]),
                Resource::new(&assignment, owner, audience),
            ]
        }
    }
}

fn discovery(kind: pb::cluster::DiscoveryType) -> pb::cluster::ClusterDiscoveryType {
    pb::cluster::ClusterDiscoveryType::Type(kind.into())
}

fn message(load_balancer: &LoadBalancer, cluster: &Cluster, name: &str, affinity: Option<Duration>) -> pb::Cluster {
    let is_envoy = cluster.data_plane == DataPlane::Envoy;
    // Envoy keeps a client with its backend by hashing only.
    let hashes = cluster.algorithm == Algorithm::Maglev || (is_envoy && affinity.is_some());
    let policy = if hashes {
        pb::cluster::LbPolicy::Maglev
    } else {
        pb::cluster::LbPolicy::RoundRobin
    };
    let metadata = Metadata {
        tenant: Some(load_balancer.tenant.to_string()),
        affinity_timeout: affinity,
        on_unhealthy: match cluster.on_unhealthy {
            OnUnhealthy::Drain => None,
            OnUnhealthy::Reset => Some(WireOnUnhealthy::Reset),
        },
        ..Metadata::default()
    };
    pb::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: policy.into(),
        health_checks: cluster.health_check.iter().map(health_check).collect(),
        common_lb_config: Some(pb::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(envoy_type::Percent { value: PANIC_THRESHOLD }),
            ..pb::cluster::CommonLbConfig::default()
        }),
        transport_socket: cluster.proxy_protocol.then(proxy_protocol),
        // Otherwise a removed backend keeps its place for as long as it is healthy.
        ignore_health_on_host_removal: true,
        close_connections_on_host_health_failure: cluster.on_unhealthy == OnUnhealthy::Reset,
        metadata: metadata.encode(),
        ..pb::Cluster::default()
    }
}

fn proxy_protocol() -> core::TransportSocket {
    let plain = core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&RawBuffer {}))),
    };
    let header = ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig {
            version: core::proxy_protocol_config::Version::V2.into(),
            ..core::ProxyProtocolConfig::default()
        }),
        transport_socket: Some(plain),
        ..ProxyProtocolUpstreamTransport::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&header))),
    }
}

fn health_check(check: &HealthCheck) -> core::HealthCheck {
    let checker = match &check.probe {
        Probe::Tcp => core::health_check::HealthChecker::TcpHealthCheck(core::health_check::TcpHealthCheck::default()),
        Probe::Http { path, host } => {
            core::health_check::HealthChecker::HttpHealthCheck(core::health_check::HttpHealthCheck {
                path: path.clone(),
                host: host.clone().unwrap_or_default(),
                expected_statuses: vec![envoy_type::Int64Range { start: 200, end: 400 }],
                ..core::health_check::HttpHealthCheck::default()
            })
        }
    };
    core::HealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        // A backend without connections is checked as often as any other.
        no_traffic_interval: Some(duration(check.interval)),
        unhealthy_threshold: Some(number(check.unhealthy_threshold)),
        healthy_threshold: Some(number(check.healthy_threshold)),
        health_checker: Some(checker),
        ..core::HealthCheck::default()
    }
}

fn assignment(cluster: &Cluster, name: &str) -> eds::ClusterLoadAssignment {
    let endpoints: Vec<eds::LbEndpoint> = cluster.hosts.iter().map(|host| endpoint(cluster, host)).collect();
    let group = eds::LocalityLbEndpoints {
        lb_endpoints: endpoints,
        ..eds::LocalityLbEndpoints::default()
    };
    eds::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: if group.lb_endpoints.is_empty() {
            Vec::new()
        } else {
            vec![group]
        },
        ..eds::ClusterLoadAssignment::default()
    }
}

fn endpoint(cluster: &Cluster, host: &Host) -> eds::LbEndpoint {
    let text = match &host.location {
        Location::Address(address) => address.to_string(),
        // With the dot a resolver adds nothing: no search domain of the Envoy's own cluster.
        Location::Name(name) => format!("{name}."),
    };
    let check = cluster.health_check.as_ref();
    let check_port = check.and_then(|check| check.port);
    // Left alone, Envoy would name the cluster in the Host header; a node agent takes the address by itself.
    let asks_without_host = check.is_some_and(|check| matches!(check.probe, Probe::Http { host: None, .. }));
    let check_host = (cluster.data_plane == DataPlane::Envoy && asks_without_host).then(|| match &host.location {
        Location::Address(IpAddr::V6(address)) => format!("[{address}]"),
        other @ (Location::Address(IpAddr::V4(_)) | Location::Name(_)) => other.to_string(),
    });
    let is_special = check_port.is_some() || check_host.is_some();
    let endpoint = eds::Endpoint {
        address: Some(wire::address(text, cluster.backend_port.get(), cluster.id.protocol)),
        health_check_config: is_special.then(|| eds::endpoint::HealthCheckConfig {
            port_value: check_port.map_or(0, |port| port.get().into()),
            hostname: check_host.unwrap_or_default(),
            ..eds::endpoint::HealthCheckConfig::default()
        }),
        ..eds::Endpoint::default()
    };
    let is_draining = host.weight == 0;
    eds::LbEndpoint {
        health_status: if is_draining {
            core::HealthStatus::Draining
        } else {
            core::HealthStatus::Unknown
        }
        .into(),
        // Envoy takes no weight of 0.
        load_balancing_weight: (host.weight > 1).then(|| number(host.weight.into())),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..eds::LbEndpoint::default()
    }
}
