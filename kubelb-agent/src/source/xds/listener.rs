//! Listener → what a frontend needs of it. Knows which fields the kernel path can honour; must not know clusters' contents.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use kubelb_xds::contract::Metadata;
use kubelb_xds::pb::envoy::config::core::v3::address::Address as AddressKind;
use kubelb_xds::pb::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol as SocketProtocol};
use kubelb_xds::pb::envoy::config::core::v3::{Address, SocketAddress};
use kubelb_xds::pb::envoy::config::listener::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::RouteSpecifier;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::{Route, UdpProxyConfig};
use kubelb_xds::pb::google::protobuf::Any;
use kubelb_xds::pb::xds::r#type::matcher::v3::Matcher;
use kubelb_xds::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch;
use prost::{Message, Name};

use super::refusal::{Refusal, nothing_else, refuse};
use super::wire;
use crate::model::{Protocol, Timeouts};
use crate::source::limits::{ESTABLISHED_TIMEOUT, FLOW_TIMEOUT, MAX_HALF_OPEN};

/// A listener as the kernel path sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) vip: IpAddr,
    pub(super) port: NonZeroU16,
    pub(super) protocol: Protocol,
    /// Where to, with shares above zero. Never empty.
    pub(super) clusters: Vec<(String, u32)>,
    pub(super) timeouts: Timeouts,
    pub(super) half_open_budget: Option<NonZeroU32>,
}

/// # Errors
/// With the first field that is wrong or cannot be done.
pub(super) fn decode(bytes: &[u8]) -> Result<Listener, Refusal> {
    let mut message: pb::Listener = wire::decode(bytes, "")?;
    let metadata = metadata(&message)?;
    let (vip, port, protocol) = match message.address.take() {
        Some(address) => frontend(address)?,
        None => return refuse("address", "is missing"),
    };
    let (clusters, idle) = match protocol {
        Protocol::Tcp => tcp(&mut message)?,
        Protocol::Udp => udp(&mut message)?,
    };
    let timeouts = timeouts(&metadata, protocol, idle)?;
    let half_open_budget = half_open_budget(&metadata, protocol)?;
    // What says nothing about packets.
    message.name.clear();
    message.metadata = None;
    message.stat_prefix.clear();
    message.traffic_direction = 0;
    message.freebind = None;
    message.enable_reuse_port = None;
    message.udp_listener_config = None;
    // What a proxy does with its sockets and memory; there are none.
    message.per_connection_buffer_limit_bytes = None;
    message.tcp_backlog_size = None;
    message.connection_balance_config = None;
    nothing_else("", &message)?;
    Ok(Listener {
        vip,
        port,
        protocol,
        clusters,
        timeouts,
        half_open_budget,
    })
}

fn metadata(message: &pb::Listener) -> Result<Metadata, Refusal> {
    let metadata = wire::metadata(message.metadata.as_ref())?;
    if metadata.deny_all_sources {
        return refuse(wire::metadata_field("denyAllSources"), SOURCES);
    }
    Ok(metadata)
}

fn half_open_budget(metadata: &Metadata, protocol: Protocol) -> Result<Option<NonZeroU32>, Refusal> {
    let field = || wire::metadata_field("halfOpenBudget");
    match (metadata.half_open_budget, protocol) {
        (None, _) => Ok(None),
        (Some(_), Protocol::Udp) => refuse(field(), "is for TCP: UDP has no handshake; leave it out"),
        (Some(budget), Protocol::Tcp) => match NonZeroU32::new(budget).filter(|budget| budget.get() <= MAX_HALF_OPEN) {
            Some(budget) => Ok(Some(budget)),
            None => refuse(field(), format!("must be 1 to {MAX_HALF_OPEN}, is {budget}")),
        },
    }
}

/// What is said of source ranges, wherever they are.
const SOURCES: &str = "this agent does not filter by source address; serve this listener by Envoy";

fn frontend(address: Address) -> Result<(IpAddr, NonZeroU16, Protocol), Refusal> {
    const FIELD: &str = "address.socket_address";
    let Some(AddressKind::SocketAddress(mut socket)) = address.address else {
        return refuse(FIELD, "is missing; an IP address and a port are needed");
    };
    let protocol = match SocketProtocol::try_from(socket.protocol) {
        Ok(SocketProtocol::Tcp) => Protocol::Tcp,
        Ok(SocketProtocol::Udp) => Protocol::Udp,
        Err(_unknown) => return refuse(format!("{FIELD}.protocol"), "is neither TCP nor UDP"),
    };
    let vip = wire::unicast(&format!("{FIELD}.address"), &socket.address)?;
    let port = wire::port(&format!("{FIELD}.port_value"), port_value(&socket))?;
    socket.protocol = 0;
    socket.address.clear();
    socket.port_specifier = None;
    nothing_else(FIELD, &socket)?;
    Ok((vip, port, protocol))
}

fn port_value(socket: &SocketAddress) -> u32 {
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => port,
        Some(PortSpecifier::NamedPort(_)) | None => 0,
    }
}

type Targets = (Vec<(String, u32)>, Option<Duration>);

fn tcp(message: &mut pb::Listener) -> Result<Targets, Refusal> {
    let chains = std::mem::take(&mut message.filter_chains);
    let Ok([mut chain]) = <[pb::FilterChain; 1]>::try_from(chains) else {
        return refuse("filter_chains", "exactly one is needed for TCP");
    };
    const CHAIN: &str = "filter_chains[0]";
    if let Some(mut criteria) = chain.filter_chain_match.take() {
        if !std::mem::take(&mut criteria.source_prefix_ranges).is_empty() {
            return refuse(format!("{CHAIN}.filter_chain_match.source_prefix_ranges"), SOURCES);
        }
        nothing_else(&format!("{CHAIN}.filter_chain_match"), &criteria)?;
    }
    let field = format!("{CHAIN}.filters");
    let Ok([filter]) = <[pb::Filter; 1]>::try_from(std::mem::take(&mut chain.filters)) else {
        return refuse(field, "exactly one is needed, a TCP proxy");
    };
    chain.name.clear();
    chain.metadata = None;
    nothing_else(CHAIN, &chain)?;
    let path = format!("{field}[0].typed_config");
    let Some(pb::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return refuse(path, "is missing; a TCP proxy is needed");
    };
    let mut proxy: TcpProxy = typed(&any, &path)?;
    let clusters = match proxy.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name, 1)],
        Some(ClusterSpecifier::WeightedClusters(several)) => weighted(several, &path)?,
        None => Vec::new(),
    };
    if !proxy.hash_policy.is_empty() {
        return refuse(format!("{path}.hash_policy"), AFFINITY);
    }
    let idle = match proxy.idle_timeout.take() {
        Some(time) => Some(wire::duration(&format!("{path}.idle_timeout"), time)?),
        None => None,
    };
    proxy.stat_prefix.clear();
    nothing_else(&path, &proxy)?;
    some_target(clusters, &path).map(|clusters| (clusters, idle))
}

/// What is said of affinity, wherever it is.
const AFFINITY: &str = "this agent does not keep a client address with its backend; serve this listener by Envoy";

fn weighted(several: tcp_proxy::WeightedCluster, path: &str) -> Result<Vec<(String, u32)>, Refusal> {
    let mut clusters = Vec::new();
    for (index, mut one) in several.clusters.into_iter().enumerate() {
        let (name, weight) = (std::mem::take(&mut one.name), std::mem::take(&mut one.weight));
        nothing_else(&format!("{path}.weighted_clusters.clusters[{index}]"), &one)?;
        if weight > 0 {
            clusters.push((name, weight));
        }
    }
    Ok(clusters)
}

fn udp(message: &mut pb::Listener) -> Result<Targets, Refusal> {
    let filters = std::mem::take(&mut message.listener_filters);
    let Ok([filter]) = <[pb::ListenerFilter; 1]>::try_from(filters) else {
        return refuse("listener_filters", "exactly one is needed for UDP, a UDP proxy");
    };
    let path = "listener_filters[0].typed_config";
    let Some(pb::listener_filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return refuse(path, "is missing; a UDP proxy is needed");
    };
    let mut proxy: UdpProxyConfig = typed(&any, path)?;
    let cluster = match proxy.route_specifier.take() {
        #[expect(deprecated, reason = "control planes still send it, and it is clear enough")]
        Some(RouteSpecifier::Cluster(name)) => name,
        Some(RouteSpecifier::Matcher(matcher)) => route(matcher, &format!("{path}.matcher"))?,
        None => String::new(),
    };
    if !proxy.hash_policies.is_empty() {
        return refuse(format!("{path}.hash_policies"), AFFINITY);
    }
    let idle = match proxy.idle_timeout.take() {
        Some(time) => Some(wire::duration(&format!("{path}.idle_timeout"), time)?),
        None => None,
    };
    proxy.stat_prefix.clear();
    nothing_else(path, &proxy)?;
    some_target(vec![(cluster, 1)], path).map(|clusters| (clusters, idle))
}

/// The cluster of a matcher that sends everybody there.
fn route(mut matcher: Matcher, path: &str) -> Result<String, Refusal> {
    if matcher.matcher_type.take().is_some() {
        return refuse(path, SOURCES);
    }
    let action = matcher.on_no_match.take().and_then(|otherwise| otherwise.on_match);
    nothing_else(path, &matcher)?;
    let path = format!("{path}.on_no_match.action.typed_config");
    match action {
        Some(OnMatch::Action(extension)) => match extension.typed_config {
            Some(any) => typed::<Route>(&any, &path).map(|route| route.cluster),
            None => refuse(path, "is missing; a route to a cluster is needed"),
        },
        _ => refuse(path, "is missing; a route to a cluster is needed"),
    }
}

fn some_target(clusters: Vec<(String, u32)>, path: &str) -> Result<Vec<(String, u32)>, Refusal> {
    if clusters.is_empty() || clusters.iter().any(|(name, _)| name.is_empty()) {
        return refuse(format!("{path}.cluster"), "is missing; name the cluster to forward to");
    }
    Ok(clusters)
}

fn typed<M: Message + Name + Default>(any: &Any, path: &str) -> Result<M, Refusal> {
    if any.type_url.rsplit('/').next() != Some(M::full_name().as_str()) {
        return refuse(
            path,
            format!("is a {}; the kernel path knows {} here", any.type_url, M::full_name()),
        );
    }
    wire::decode(&any.value, path)
}

/// Those of the metadata; what they leave open is as the proxy's own idle timeout says, then as the agent's defaults.
fn timeouts(metadata: &Metadata, protocol: Protocol, idle: Option<Duration>) -> Result<Timeouts, Refusal> {
    let mut timeouts = Timeouts::default();
    let given = metadata.timeouts;
    let (tcp_idle, udp_idle) = match protocol {
        // Zero switches Envoy's timeout off; a flow record has to end some time.
        Protocol::Tcp => (
            idle.map(|idle| if idle.is_zero() { ESTABLISHED_TIMEOUT.1 } else { idle }),
            None,
        ),
        Protocol::Udp => (None, idle),
    };
    for (key, field, value, range) in [
        (
            "tcpHalfOpen",
            &mut timeouts.tcp_half_open,
            given.tcp_half_open,
            FLOW_TIMEOUT,
        ),
        (
            "tcpEstablished",
            &mut timeouts.tcp_established,
            given.tcp_established.or(tcp_idle),
            ESTABLISHED_TIMEOUT,
        ),
        ("tcpClosing", &mut timeouts.tcp_closing, given.tcp_closing, FLOW_TIMEOUT),
        (
            "udpUnreplied",
            &mut timeouts.udp_unreplied,
            given.udp_unreplied,
            FLOW_TIMEOUT,
        ),
        (
            "udpReplied",
            &mut timeouts.udp_replied,
            given.udp_replied.or(udp_idle),
            FLOW_TIMEOUT,
        ),
    ] {
        if let Some(value) = value {
            *field = wire::within(&wire::metadata_field(&format!("timeouts.{key}")), value, range)?;
        }
    }
    Ok(timeouts)
}
