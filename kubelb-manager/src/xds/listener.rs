//! Listeners: one for each address, port and protocol.
//!
//! TCP is one filter chain with a TCP proxy; UDP is a listener filter, for Envoy takes no filter chain there.

use kubelb_xds::contract::{FlowTimeouts, Metadata};
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::listener::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3 as udp;
use kubelb_xds::pb::envoy::extensions::matching::common_inputs::network::v3::SourceIpInput;
use kubelb_xds::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use kubelb_xds::pb::envoy::r#type::v3 as envoy_type;
use kubelb_xds::pb::google::protobuf::BoolValue;
use kubelb_xds::pb::xds::r#type::matcher::v3 as matcher;
use kubelb_xds::{Audience, Reference, Resource, ResourceType};

use super::wire::{self, any, cluster_name, duration, extension, listener_name};
use crate::ir::{DataPlane, Listener, LoadBalancer, Protocol};

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const UDP_PROXY: &str = "envoy.filters.udp_listener.udp_proxy";
const UDP_ROUTE: &str = "route";

pub(super) fn resource(load_balancer: &LoadBalancer, listener: &Listener, audience: Audience) -> Resource {
    let frontend = &listener.frontend;
    let name = listener_name(load_balancer, frontend);
    let targets = listener.targets.iter();
    let clusters: Vec<(String, u32)> = targets
        .map(|target| (cluster_name(load_balancer, target.cluster), target.weight))
        .collect();
    let is_envoy = listener.data_plane == DataPlane::Envoy;
    let mut message = pb::Listener {
        name,
        address: Some(wire::address(
            frontend.address.to_string(),
            frontend.port.get(),
            frontend.protocol,
        )),
        metadata: metadata(load_balancer, listener).encode(),
        // The VIP may be on the node only later, or for a while not at all.
        freebind: is_envoy.then_some(BoolValue { value: true }),
        ..pb::Listener::default()
    };
    match frontend.protocol {
        Protocol::Tcp => message.filter_chains.push(chain(&message.name, listener, &clusters)),
        Protocol::Udp => message.listener_filters.push(pb::ListenerFilter {
            name: UDP_PROXY.to_owned(),
            config_type: Some(pb::listener_filter::ConfigType::TypedConfig(any(&udp_proxy(
                &message.name,
                listener,
                &clusters,
            )))),
            ..pb::ListenerFilter::default()
        }),
    }
    let needed = clusters.into_iter().map(|(name, _)| Reference {
        kind: ResourceType::Cluster,
        name: name.into(),
    });
    Resource::new(&message, wire::owner(&load_balancer.tenant), audience).needing(needed)
}

fn metadata(load_balancer: &LoadBalancer, listener: &Listener) -> Metadata {
    let timeouts = &listener.timeouts;
    Metadata {
        tenant: Some(load_balancer.tenant.to_string()),
        timeouts: FlowTimeouts {
            tcp_half_open: timeouts.tcp_half_open,
            tcp_established: timeouts.tcp_idle,
            tcp_closing: timeouts.tcp_closing,
            udp_unreplied: timeouts.udp_unreplied,
            udp_replied: timeouts.udp_idle,
        },
        deny_all_sources: wire::excludes_family(&listener.source_ranges, listener.frontend.address),
        ..Metadata::default()
    }
}

fn chain(name: &str, listener: &Listener, clusters: &[(String, u32)]) -> pb::FilterChain {
    let ranges: Vec<core::CidrRange> = listener.source_ranges.iter().map(wire::range).collect();
    let source_ip = envoy_type::HashPolicy {
        policy_specifier: Some(envoy_type::hash_policy::PolicySpecifier::SourceIp(
            envoy_type::hash_policy::SourceIp {},
        )),
    };
    let proxy = tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(match clusters {
            [(cluster, _)] => tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.clone()),
            several => tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted(several)),
        }),
        idle_timeout: listener.timeouts.tcp_idle.map(duration),
        hash_policy: listener.affinity.map(|_| source_ip).into_iter().collect(),
        ..tcp::TcpProxy::default()
    };
    pb::FilterChain {
        filter_chain_match: (!ranges.is_empty()).then(|| pb::FilterChainMatch {
            source_prefix_ranges: ranges,
            ..pb::FilterChainMatch::default()
        }),
        filters: vec![pb::Filter {
            name: TCP_PROXY.to_owned(),
            config_type: Some(pb::filter::ConfigType::TypedConfig(any(&proxy))),
        }],
        ..pb::FilterChain::default()
    }
}

fn weighted(clusters: &[(String, u32)]) -> tcp::tcp_proxy::WeightedCluster {
    let weights = clusters.iter().filter(|(_, weight)| *weight > 0);
    let one = |(name, weight): &(String, u32)| tcp::tcp_proxy::weighted_cluster::ClusterWeight {
        name: name.clone(),
        weight: *weight,
        ..tcp::tcp_proxy::weighted_cluster::ClusterWeight::default()
    };
    tcp::tcp_proxy::WeightedCluster {
        clusters: weights.map(one).collect(),
    }
}

/// UDP has no weighted clusters: the first one with a share gets everything.
fn udp_proxy(name: &str, listener: &Listener, clusters: &[(String, u32)]) -> udp::UdpProxyConfig {
    let cluster = clusters.iter().find(|(_, weight)| *weight > 0).or(clusters.first());
    let route = udp::Route {
        cluster: cluster.map(|(name, _)| name.clone()).unwrap_or_default(),
    };
    let action = matcher::matcher::OnMatch {
        on_match: Some(matcher::matcher::on_match::OnMatch::Action(extension(
            UDP_ROUTE, &route,
        ))),
        ..matcher::matcher::OnMatch::default()
    };
    let hash = udp::udp_proxy_config::HashPolicy {
        policy_specifier: Some(udp::udp_proxy_config::hash_policy::PolicySpecifier::SourceIp(true)),
    };
    udp::UdpProxyConfig {
        stat_prefix: name.to_owned(),
        idle_timeout: listener.timeouts.udp_idle.map(duration),
        hash_policies: listener.affinity.map(|_| hash).into_iter().collect(),
        route_specifier: Some(udp::udp_proxy_config::RouteSpecifier::Matcher(sources(
            listener, action,
        ))),
        ..udp::UdpProxyConfig::default()
    }
}

/// Everybody, or those whose address is in one of the networks; others get no session.
fn sources(listener: &Listener, action: matcher::matcher::OnMatch) -> matcher::Matcher {
    use matcher::matcher::matcher_list::{FieldMatcher, Predicate, predicate};
    if listener.source_ranges.is_empty() {
        return matcher::Matcher {
            on_no_match: Some(action.into()),
            ..matcher::Matcher::default()
        };
    }
    let ip = Ip {
        cidr_ranges: listener.source_ranges.iter().map(wire::range).collect(),
        stat_prefix: "source_ranges".to_owned(),
    };
    let single = predicate::SinglePredicate {
        input: Some(extension("envoy.matching.inputs.source_ip", &SourceIpInput {})),
        matcher: Some(predicate::single_predicate::Matcher::CustomMatch(extension(
            "envoy.matching.matchers.ip",
            &ip,
        ))),
    };
    let field = FieldMatcher {
        predicate: Some(Predicate {
            match_type: Some(predicate::MatchType::SinglePredicate(single)),
        }),
        on_match: Some(action),
    };
    matcher::Matcher {
        matcher_type: Some(matcher::matcher::MatcherType::MatcherList(
            matcher::matcher::MatcherList { matchers: vec![field] },
        )),
        ..matcher::Matcher::default()
    }
}
