mod new_flows;

use std::time::Duration;

use kubelb_xds::contract::{FlowTimeouts, Metadata, OnUnhealthy as WireOnUnhealthy};
use kubelb_xds::pb::envoy::config::cluster::v3 as cds;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::endpoint::v3 as eds;
use kubelb_xds::pb::envoy::config::listener::v3 as lds;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3 as udp;
use kubelb_xds::pb::envoy::r#type::v3::{HashPolicy, Percent};
use kubelb_xds::pb::google::protobuf::{Any, Duration as WireDuration, UInt32Value};
use proptest::prelude::{Strategy, prop, prop_oneof, proptest};
use prost::{Message, Name};

use super::*;
use crate::model::{Frontend, OnUnhealthy, Protocol};

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn address(ip: &str, port: u32, protocol: core::socket_address::Protocol) -> Option<core::Address> {
    let socket = core::SocketAddress {
        protocol: protocol.into(),
        address: ip.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..core::SocketAddress::default()
    };
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    })
}

fn tcp_listener(proxy: tcp::TcpProxy) -> lds::Listener {
    lds::Listener {
        name: "l".to_owned(),
        address: address("203.0.113.10", 80, core::socket_address::Protocol::Tcp),
        filter_chains: vec![lds::FilterChain {
            filters: vec![lds::Filter {
                name: "envoy.filters.network.tcp_proxy".to_owned(),
                config_type: Some(lds::filter::ConfigType::TypedConfig(any(&proxy))),
            }],
            ..lds::FilterChain::default()
        }],
        ..lds::Listener::default()
    }
}

fn to(cluster: &str) -> tcp::TcpProxy {
    tcp::TcpProxy {
        stat_prefix: "p".to_owned(),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..tcp::TcpProxy::default()
    }
}

fn udp_listener(proxy: &udp::UdpProxyConfig) -> lds::Listener {
    lds::Listener {
        address: address("2001:db8::10", 53, core::socket_address::Protocol::Udp),
        listener_filters: vec![lds::ListenerFilter {
            name: "envoy.filters.udp_listener.udp_proxy".to_owned(),
            config_type: Some(lds::listener_filter::ConfigType::TypedConfig(any(proxy))),
            ..lds::ListenerFilter::default()
        }],
        ..lds::Listener::default()
    }
}

fn seconds(seconds: i64) -> Option<WireDuration> {
    Some(WireDuration { seconds, nanos: 0 })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn tcp_check() -> core::HealthCheck {
    core::HealthCheck {
        timeout: seconds(2),
        interval: seconds(3),
        unhealthy_threshold: number(3),
        healthy_threshold: number(2),
        health_checker: Some(core::health_check::HealthChecker::TcpHealthCheck(
            core::health_check::TcpHealthCheck::default(),
        )),
        ..core::HealthCheck::default()
    }
}

fn eds_cluster() -> cds::Cluster {
    cds::Cluster {
        name: "c".to_owned(),
        connect_timeout: seconds(5),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
            cds::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cds::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                    core::AggregatedConfigSource {},
                )),
                ..core::ConfigSource::default()
            }),
            ..cds::cluster::EdsClusterConfig::default()
        }),
        common_lb_config: Some(cds::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 1.0 }),
            ..cds::cluster::CommonLbConfig::default()
        }),
        health_checks: vec![tcp_check()],
        ..cds::Cluster::default()
    }
}

fn endpoint(ip: &str, port: u32, weight: u32, status: core::HealthStatus) -> eds::LbEndpoint {
    eds::LbEndpoint {
        health_status: status.into(),
        load_balancing_weight: (weight != 1).then_some(UInt32Value { value: weight }),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
            address: address(ip, port, core::socket_address::Protocol::Tcp),
            ..eds::Endpoint::default()
        })),
        ..eds::LbEndpoint::default()
    }
}

fn assignment(endpoints: Vec<eds::LbEndpoint>) -> eds::ClusterLoadAssignment {
    eds::ClusterLoadAssignment {
        cluster_name: "c".to_owned(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: endpoints,
            ..eds::LocalityLbEndpoints::default()
        }],
        ..eds::ClusterLoadAssignment::default()
    }
}

fn put(resources: &mut Resources, kind: ResourceType, name: &str, message: &impl Message) {
    let decoded = decode(kind, name, &message.encode_to_vec(), here(&snat())).unwrap();
    resources.set(name.to_owned(), decoded);
}

fn refused(kind: ResourceType, message: &impl Message) -> String {
    decode(kind, "x", &message.encode_to_vec(), here(&snat()))
        .unwrap_err()
        .to_string()
}

/// One address of each family.
fn here(snat: &Snat) -> Here<'_> {
    Here { node: "node-1", snat }
}

fn snat() -> Snat {
    Snat {
        addresses: vec![SNAT.parse().unwrap(), "2001:db8:2::1".parse().unwrap()],
        ..Snat::default()
    }
}

const SNAT: &str = "192.0.2.1";

/// One listener, one cluster, these endpoints.
fn served(endpoints: Vec<eds::LbEndpoint>) -> Resources {
    let mut resources = Resources::default();
    put(&mut resources, ResourceType::Listener, "l", &tcp_listener(to("c")));
    put(&mut resources, ResourceType::Cluster, "c", &eds_cluster());
    put(&mut resources, ResourceType::Endpoints, "c", &assignment(endpoints));
    resources
}

fn frontends(resources: &Resources) -> BTreeMap<String, Frontend> {
    let (desired, waiting) = resources.desired(Snat::default());
    assert!(waiting.is_empty(), "{waiting:?}");
    desired.frontends
}

fn waits(resources: &Resources) -> Vec<String> {
    let (_, waiting) = resources.desired(Snat::default());
    waiting.iter().map(ToString::to_string).collect()
}

fn weights(frontend: &Frontend) -> Vec<(String, u16)> {
    let backends = frontend.backends.iter();
    backends
        .map(|backend| (backend.address.to_string(), backend.weight))
        .collect()
}

#[test]
fn listener_cluster_and_endpoints_make_a_frontend() {
    let resources = served(vec![
        endpoint("10.0.0.1", 30_080, 1, core::HealthStatus::Unknown),
        endpoint("10.0.0.2", 30_080, 3, core::HealthStatus::Healthy),
        endpoint("10.0.0.3", 30_080, 1, core::HealthStatus::Draining),
    ]);
    let frontends = frontends(&resources);
    let frontend = &frontends["l"];
    assert_eq!(
        (frontend.vip, frontend.port.get()),
        ("203.0.113.10".parse().unwrap(), 80)
    );
    assert_eq!(frontend.protocol, Protocol::Tcp);
    let wanted = [("10.0.0.1:30080", 1), ("10.0.0.2:30080", 3), ("10.0.0.3:30080", 0)];
    assert_eq!(
        weights(frontend),
        wanted.map(|(address, weight)| (address.to_owned(), weight))
    );
    let check = frontend.health_check.clone().unwrap();
    assert_eq!((check.interval, check.unhealthy_threshold), (Duration::from_secs(3), 3));
    assert_eq!(resources.wanted_endpoints().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn udp_goes_where_the_route_says() {
    let mut resources = Resources::default();
    #[expect(deprecated, reason = "what older control planes send")]
    let route_specifier = Some(udp::udp_proxy_config::RouteSpecifier::Cluster("c".to_owned()));
    let proxy = udp::UdpProxyConfig {
        route_specifier,
        idle_timeout: seconds(90),
        ..udp::UdpProxyConfig::default()
    };
    put(&mut resources, ResourceType::Listener, "l", &udp_listener(&proxy));
    let inline = cds::Cluster {
        load_assignment: Some(assignment(vec![endpoint(
            "fd00::1",
            30_053,
            1,
            core::HealthStatus::Unknown,
        )])),
        ..cds::Cluster::default()
    };
    put(&mut resources, ResourceType::Cluster, "c", &inline);
    let frontends = frontends(&resources);
    assert_eq!(frontends["l"].protocol, Protocol::Udp);
    assert_eq!(frontends["l"].timeouts.udp_replied, Duration::from_secs(90));
    assert_eq!(weights(&frontends["l"]), [("[fd00::1]:30053".to_owned(), 1)]);
}

#[test]
fn weighted_clusters_share_by_their_weights() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let other = assignment(
        (2..5)
            .map(|n| endpoint(&format!("10.0.0.{n}"), 1, 1, core::HealthStatus::Unknown))
            .collect(),
    );
    put(&mut resources, ResourceType::Cluster, "d", &eds_cluster());
    put(&mut resources, ResourceType::Endpoints, "c", &other);
    let weighted = |name: &str, weight| tcp::tcp_proxy::weighted_cluster::ClusterWeight {
        name: name.to_owned(),
        weight,
        ..tcp::tcp_proxy::weighted_cluster::ClusterWeight::default()
    };
    let inline = cds::Cluster {
        load_assignment: Some(assignment(vec![endpoint(
            "10.0.0.1",
            1,
            1,
            core::HealthStatus::Unknown,
        )])),
        health_checks: vec![tcp_check()],
        ..cds::Cluster::default()
    };
    put(&mut resources, ResourceType::Cluster, "one", &inline);
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(
            tcp::tcp_proxy::WeightedCluster {
                clusters: vec![weighted("one", 90), weighted("c", 10), weighted("d", 0)],
            },
        )),
        ..tcp::TcpProxy::default()
    };
    put(&mut resources, ResourceType::Listener, "l", &tcp_listener(proxy));
    let shares: Vec<u16> = weights(&frontends(&resources)["l"])
        .iter()
        .map(|(_, weight)| *weight)
        .collect();
    assert_eq!(shares, [27, 1, 1, 1]);
}

#[test]
fn timeouts_come_from_the_metadata_first() {
    let metadata = Metadata {
        timeouts: FlowTimeouts {
            tcp_established: Some(Duration::from_secs(100)),
            ..FlowTimeouts::default()
        },
        ..Metadata::default()
    };
    let mut proxy = to("c");
    proxy.idle_timeout = seconds(50);
    let mut listener = tcp_listener(proxy);
    let mut resources = served(Vec::new());
    put(&mut resources, ResourceType::Listener, "l", &listener);
    assert_eq!(
        frontends(&resources)["l"].timeouts.tcp_established,
        Duration::from_secs(50)
    );
    listener.metadata = metadata.encode();
    put(&mut resources, ResourceType::Listener, "l", &listener);
    assert_eq!(
        frontends(&resources)["l"].timeouts.tcp_established,
        Duration::from_secs(100)
    );
}

#[test]
fn what_is_missing_is_waited_for() {
    let whole = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let mut resources = whole.clone();
    resources.remove(ResourceType::Endpoints, "c");
    assert_eq!(
        waits(&resources),
        ["listener l is not served: the endpoints c have not come yet"]
    );
    resources.remove(ResourceType::Cluster, "c");
    assert_eq!(
        waits(&resources),
        ["listener l is not served: its cluster c has not come yet"]
    );
    let empty = served(Vec::new());
    assert!(
        frontends(&empty)["l"].backends.is_empty(),
        "no endpoints is an answer too"
    );
    let mut twice = whole;
    put(&mut twice, ResourceType::Listener, "m", &tcp_listener(to("c")));
    assert_eq!(
        waits(&twice),
        ["listener m is not served: listener l has the same address, port and protocol"]
    );
    let other_family = served(vec![endpoint("fd00::1", 1, 1, core::HealthStatus::Unknown)]);
    assert_eq!(
        waits(&other_family),
        ["listener l is not served: endpoint [fd00::1]:1 is not of its address family"]
    );
}

#[test]
fn listeners_that_ask_for_more_are_refused() {
    let with = |change: &dyn Fn(&mut lds::Listener)| {
        let mut listener = tcp_listener(to("c"));
        change(&mut listener);
        refused(ResourceType::Listener, &listener)
    };
    let chain_match = |listener: &mut lds::Listener| {
        listener.filter_chains[0].filter_chain_match = Some(lds::FilterChainMatch {
            source_prefix_ranges: vec![core::CidrRange::default()],
            ..lds::FilterChainMatch::default()
        });
    };
    assert!(with(&chain_match).starts_with("filter_chains[0].filter_chain_match.source_prefix_ranges[0]: "));
    let server_names = |listener: &mut lds::Listener| {
        listener.filter_chains[0].filter_chain_match = Some(lds::FilterChainMatch {
            server_names: vec!["a".to_owned()],
            ..lds::FilterChainMatch::default()
        });
    };
    assert!(with(&server_names).starts_with("filter_chains[0].filter_chain_match.server_names: "));
    assert!(with(&|listener| listener.address = None).starts_with("address: "));
    let port = |listener: &mut lds::Listener| {
        listener.address = address("203.0.113.1", 0, core::socket_address::Protocol::Tcp);
    };
    assert!(with(&port).starts_with("address.socket_address.port_value: "));
    for ip in ["0.0.0.0", "::", "224.0.0.1", "::ffff:10.0.0.1", "example.com"] {
        let said = with(&|listener| {
            listener.address = address(ip, 80, core::socket_address::Protocol::Tcp);
        });
        assert!(said.starts_with("address.socket_address.address: "), "{ip}: {said}");
    }
    assert!(with(&|listener| listener.filter_chains.clear()).starts_with("filter_chains: "));
    assert!(with(&|listener| listener.transparent = Some(Default::default())).starts_with("transparent: "));
    let mut affinity = to("c");
    affinity.hash_policy.push(HashPolicy::default());
    assert!(refused(ResourceType::Listener, &tcp_listener(affinity)).contains("hash_policy: "));
    assert!(refused(ResourceType::Listener, &tcp_listener(to(""))).contains("cluster: is missing"));
}

#[test]
fn clusters_that_ask_for_more_are_refused() {
    let with = |change: &dyn Fn(&mut cds::Cluster)| {
        let mut cluster = eds_cluster();
        change(&mut cluster);
        refused(ResourceType::Cluster, &cluster)
    };
    assert!(with(&|cluster| cluster.lb_policy = cds::cluster::LbPolicy::RingHash.into()).starts_with("lb_policy: "));
    let affinity = |cluster: &mut cds::Cluster| {
        cluster.metadata = affinity_metadata(Duration::from_millis(1));
    };
    assert!(with(&affinity).contains("affinityTimeout: 1ms is not from 1s"));
    assert!(with(&|cluster| cluster.health_checks.push(tcp_check())).starts_with("health_checks: "));
    assert!(with(&|cluster| cluster.health_checks[0].interval = None).starts_with("health_checks[0].interval: "));
    assert!(with(&|cluster| cluster.health_checks[0].alt_port = number(1)).starts_with("health_checks[0].alt_port: "));
    let grpc = |cluster: &mut cds::Cluster| {
        cluster.health_checks[0].health_checker = Some(core::health_check::HealthChecker::GrpcHealthCheck(
            core::health_check::GrpcHealthCheck::default(),
        ));
    };
    assert!(with(&grpc).starts_with("health_checks[0]: "));
    assert!(with(&|cluster| cluster.transport_socket = Some(Default::default())).starts_with("transport_socket: "));
    let panic = |cluster: &mut cds::Cluster| {
        cluster.common_lb_config.as_mut().unwrap().healthy_panic_threshold = Some(Percent { value: 50.0 });
    };
    assert!(with(&panic).contains("healthy_panic_threshold: "));
    let names = |cluster: &mut cds::Cluster| {
        cluster.cluster_discovery_type = Some(cds::cluster::ClusterDiscoveryType::Type(
            cds::cluster::DiscoveryType::StrictDns.into(),
        ));
    };
    assert!(with(&names).starts_with("type: "));
}

#[test]
fn a_budget_of_half_open_flows_is_the_listeners() {
    let budget = |budget| Metadata {
        half_open_budget: Some(budget),
        ..Metadata::default()
    };
    let mut listener = tcp_listener(to("c"));
    let mut resources = served(Vec::new());
    assert_eq!(frontends(&resources)["l"].half_open_budget, None);
    listener.metadata = budget(1_000).encode();
    put(&mut resources, ResourceType::Listener, "l", &listener);
    let found = frontends(&resources)["l"].half_open_budget;
    assert_eq!(found.map(std::num::NonZeroU32::get), Some(1_000));
    for wrong in [0, 16_777_217] {
        listener.metadata = budget(wrong).encode();
        let said = refused(ResourceType::Listener, &listener);
        assert!(
            said.contains("halfOpenBudget: ") && said.contains("1 to 16777216"),
            "{said}"
        );
    }
    #[expect(deprecated, reason = "what older control planes send")]
    let route_specifier = Some(udp::udp_proxy_config::RouteSpecifier::Cluster("c".to_owned()));
    let mut datagrams = udp_listener(&udp::UdpProxyConfig {
        route_specifier,
        ..udp::UdpProxyConfig::default()
    });
    datagrams.metadata = budget(7).encode();
    assert!(refused(ResourceType::Listener, &datagrams).contains("halfOpenBudget: "));
}

#[test]
fn flows_of_unhealthy_backends_are_reset_where_the_cluster_says_so() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let first = |resources: &Resources| frontends(resources)["l"].backends[0].on_unhealthy;
    assert_eq!(first(&resources), OnUnhealthy::Drain);
    let says = |action| {
        let metadata = Metadata {
            on_unhealthy: Some(action),
            ..Metadata::default()
        };
        metadata.encode()
    };
    let mut cluster = eds_cluster();
    cluster.metadata = says(WireOnUnhealthy::Reset);
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    assert_eq!(first(&resources), OnUnhealthy::Reset);
    cluster.metadata = None;
    cluster.close_connections_on_host_health_failure = true;
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    assert_eq!(first(&resources), OnUnhealthy::Reset, "Envoy's own field");
    cluster.metadata = says(WireOnUnhealthy::Drain);
    assert!(refused(ResourceType::Cluster, &cluster).starts_with("close_connections_on_host_health_failure: "));
}

fn bind(ip: &str, port: u32) -> core::BindConfig {
    core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..core::SocketAddress::default()
        }),
        ..core::BindConfig::default()
    }
}

#[test]
fn a_clusters_own_snat_address_is_one_of_the_nodes() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let mut cluster = eds_cluster();
    cluster.upstream_bind_config = Some(bind(SNAT, 0));
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    assert_eq!(frontends(&resources)["l"].backends[0].snat, Some(SNAT.parse().unwrap()));
    let mut with = |config| {
        cluster.upstream_bind_config = Some(config);
        refused(ResourceType::Cluster, &cluster)
    };
    assert!(with(bind(SNAT, 7)).starts_with("upstream_bind_config.source_address.port_value: "));
    assert!(with(core::BindConfig::default()).starts_with("upstream_bind_config.source_address: "));
    let said = with(bind("192.0.2.9", 0));
    assert!(
        said.starts_with("upstream_bind_config.source_address.address: ") && said.contains("--snat-address"),
        "{said}"
    );
    let said = with(core::BindConfig {
        socket_options: vec![core::SocketOption::default()],
        ..bind(SNAT, 0)
    });
    assert!(said.starts_with("upstream_bind_config.socket_options: "), "{said}");
    cluster.upstream_bind_config = Some(bind("2001:db8:2::1", 0));
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    assert_eq!(
        waits(&resources),
        ["listener l is not served: SNAT address 2001:db8:2::1 of a cluster is not of its address family"]
    );
}

#[test]
fn a_udp_port_is_checked_at_another_port_or_not_at_all() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    #[expect(deprecated, reason = "what older control planes send")]
    let route_specifier = Some(udp::udp_proxy_config::RouteSpecifier::Cluster("c".to_owned()));
    let proxy = udp::UdpProxyConfig {
        route_specifier,
        ..udp::UdpProxyConfig::default()
    };
    let mut listener = udp_listener(&proxy);
    listener.address = address("203.0.113.10", 53, core::socket_address::Protocol::Udp);
    put(&mut resources, ResourceType::Listener, "l", &listener);
    assert!(waits(&resources)[0].contains("health_check_config.port_value"));
    let mut member = endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown);
    if let Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut member.host_identifier {
        endpoint.health_check_config = Some(eds::endpoint::HealthCheckConfig {
            port_value: 8_080,
            ..eds::endpoint::HealthCheckConfig::default()
        });
    }
    put(&mut resources, ResourceType::Endpoints, "c", &assignment(vec![member]));
    let check = frontends(&resources)["l"].health_check.clone().unwrap();
    assert_eq!(check.port.unwrap().get(), 8_080);
}

#[test]
fn endpoints_are_of_one_kind() {
    let mut group = assignment(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Degraded)]);
    assert!(refused(ResourceType::Endpoints, &group).starts_with("endpoints[0].lb_endpoints[0].health_status: "));
    group.endpoints[0].lb_endpoints[0] = endpoint("10.0.0.1", 0, 1, core::HealthStatus::Unknown);
    assert!(refused(ResourceType::Endpoints, &group).ends_with("0 is not a port from 1 to 65535"));
    group.endpoints[0].lb_endpoints[0] = endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown);
    group.endpoints[0].priority = 1;
    assert!(refused(ResourceType::Endpoints, &group).starts_with("endpoints[0].priority: "));
}

fn affinity_metadata(timeout: Duration) -> Option<core::Metadata> {
    Metadata {
        affinity_timeout: Some(timeout),
        ..Metadata::default()
    }
    .encode()
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(kind in 0_usize..6, bytes in prop::collection::vec(any_byte(), 0..200)) {
        drop(decode(ResourceType::ALL[kind], "x", &bytes, here(&snat())));
    }
}

fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![0_u8..40, prop::num::u8::ANY]
}
