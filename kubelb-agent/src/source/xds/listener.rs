//! Listener → what a frontend needs of it. Knows which fields the kernel path can honour; must not know clusters' contents.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use ipnet::IpNet;
use kubelb_xds::contract::Metadata;
use kubelb_xds::pb::envoy::config::core::v3::address::Address as AddressKind;
use kubelb_xds::pb::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol as SocketProtocol};
use kubelb_xds::pb::envoy::config::core::v3::{Address, SocketAddress};
use kubelb_xds::pb::envoy::config::listener::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::UdpProxyConfig;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::RouteSpecifier;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::hash_policy::PolicySpecifier as UdpHash;
use kubelb_xds::pb::envoy::r#type::v3::hash_policy;

use super::matcher;
use super::refusal::{Refusal, nothing_else, refuse};
use super::wire::{self, typed};
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
    /// The client's address decides where Maglev leads.
    pub(super) hashes_source: bool,
    /// `None`: everybody may come; empty: nobody.
    pub(super) source_ranges: Option<Vec<IpNet>>,
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
    let targets = match protocol {
        Protocol::Tcp => tcp(&mut message)?,
        Protocol::Udp => udp(&mut message)?,
    };
    let timeouts = timeouts(&metadata, protocol, targets.idle)?;
    let half_open_budget = half_open_budget(&metadata, protocol)?;
    let nobody = metadata.deny_all_sources.then(Vec::new);
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
        clusters: targets.clusters,
        hashes_source: targets.hashes_source,
        source_ranges: nobody.or(targets.source_ranges),
        timeouts,
        half_open_budget,
    })
}

fn metadata(message: &pb::Listener) -> Result<Metadata, Refusal> {
    wire::metadata(message.metadata.as_ref())
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

/// What a proxy's configuration says of flows.
struct Targets {
    clusters: Vec<(String, u32)>,
    source_ranges: Option<Vec<IpNet>>,
    hashes_source: bool,
    idle: Option<Duration>,
}

fn tcp(message: &mut pb::Listener) -> Result<Targets, Refusal> {
    let chains = std::mem::take(&mut message.filter_chains);
    let Ok([mut chain]) = <[pb::FilterChain; 1]>::try_from(chains) else {
        return refuse("filter_chains", "exactly one is needed for TCP");
    };
    const CHAIN: &str = "filter_chains[0]";
    let mut source_ranges = None;
    if let Some(mut criteria) = chain.filter_chain_match.take() {
        let path = format!("{CHAIN}.filter_chain_match");
        let ranges = std::mem::take(&mut criteria.source_prefix_ranges);
        if !ranges.is_empty() {
            source_ranges = Some(wire::networks(&format!("{path}.source_prefix_ranges"), &ranges)?);
        }
        nothing_else(&path, &criteria)?;
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
    let hashes_source = match std::mem::take(&mut proxy.hash_policy).as_slice() {
        [] => false,
        [policy] if matches!(policy.policy_specifier, Some(hash_policy::PolicySpecifier::SourceIp(_))) => true,
        _ => return refuse(format!("{path}.hash_policy"), SOURCE_ONLY),
    };
    let idle = match proxy.idle_timeout.take() {
        Some(time) => Some(wire::duration(&format!("{path}.idle_timeout"), time)?),
        None => None,
    };
    proxy.stat_prefix.clear();
    nothing_else(&path, &proxy)?;
    Ok(Targets {
        clusters: some_target(clusters, &path)?,
        source_ranges,
        hashes_source,
        idle,
    })
}

/// What is said of hash policies, wherever they are.
const SOURCE_ONLY: &str = "this agent hashes by the source address or by the 5-tuple; use one source_ip policy or none";

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
    let (cluster, source_ranges) = match proxy.route_specifier.take() {
        #[expect(deprecated, reason = "control planes still send it, and it is clear enough")]
        Some(RouteSpecifier::Cluster(name)) => (name, None),
        Some(RouteSpecifier::Matcher(matcher)) => matcher::route(matcher, &format!("{path}.matcher"))?,
        None => (String::new(), None),
    };
    let hashes_source = match std::mem::take(&mut proxy.hash_policies).as_slice() {
        [] => false,
        [policy] if matches!(policy.policy_specifier, Some(UdpHash::SourceIp(true))) => true,
        _ => return refuse(format!("{path}.hash_policies"), SOURCE_ONLY),
    };
    let idle = match proxy.idle_timeout.take() {
        Some(time) => Some(wire::duration(&format!("{path}.idle_timeout"), time)?),
        None => None,
    };
    proxy.stat_prefix.clear();
    nothing_else(path, &proxy)?;
    Ok(Targets {
        clusters: some_target(vec![(cluster, 1)], path)?,
        source_ranges,
        hashes_source,
        idle,
    })
}

fn some_target(clusters: Vec<(String, u32)>, path: &str) -> Result<Vec<(String, u32)>, Refusal> {
    if clusters.is_empty() || clusters.iter().any(|(name, _)| name.is_empty()) {
        return refuse(format!("{path}.cluster"), "is missing; name the cluster to forward to");
    }
    Ok(clusters)
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
