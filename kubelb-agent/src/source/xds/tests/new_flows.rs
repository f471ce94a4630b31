//! Whose flows are let in, and which endpoint they get.

use kubelb_xds::pb::envoy::extensions::matching::common_inputs::network::v3::{SourceIpInput, SourcePortInput};
use kubelb_xds::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use kubelb_xds::pb::envoy::r#type::v3::hash_policy;
use kubelb_xds::pb::xds::core::v3::TypedExtensionConfig;
use kubelb_xds::pb::xds::r#type::matcher::v3::{Matcher, matcher};
use matcher::matcher_list::predicate::{self, SinglePredicate, single_predicate};
use matcher::matcher_list::{FieldMatcher, Predicate};

use super::*;
use crate::model::Algorithm;

fn range(prefix: &str, length: u32) -> core::CidrRange {
    core::CidrRange {
        address_prefix: prefix.to_owned(),
        prefix_len: number(length),
    }
}

fn admitted(resources: &Resources) -> Option<Vec<String>> {
    let ranges = frontends(resources)["l"].source_ranges.clone()?;
    Some(ranges.iter().map(ToString::to_string).collect())
}

fn filtered_tcp(ranges: Vec<core::CidrRange>) -> lds::Listener {
    let mut listener = tcp_listener(to("c"));
    listener.filter_chains[0].filter_chain_match = Some(lds::FilterChainMatch {
        source_prefix_ranges: ranges,
        ..lds::FilterChainMatch::default()
    });
    listener
}

#[test]
fn tcp_listeners_filter_by_their_chains_match() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    assert_eq!(admitted(&resources), None);
    put(&mut resources, ResourceType::Listener, "l", &filtered_tcp(Vec::new()));
    assert_eq!(admitted(&resources), None, "an empty match is no match");
    let listener = filtered_tcp(vec![range("192.0.2.7", 24), range("2001:db8::", 32)]);
    put(&mut resources, ResourceType::Listener, "l", &listener);
    assert_eq!(admitted(&resources).unwrap(), ["192.0.2.0/24", "2001:db8::/32"]);

    let mut denied = tcp_listener(to("c"));
    denied.metadata = Metadata {
        deny_all_sources: true,
        ..Metadata::default()
    }
    .encode();
    put(&mut resources, ResourceType::Listener, "l", &denied);
    assert_eq!(admitted(&resources).unwrap(), [""; 0]);

    for (bad, reason) in [
        (range("192.0.2.0", 33), "192.0.2.0/33"),
        (range("everybody", 0), "everybody/0"),
    ] {
        let said = refused(ResourceType::Listener, &filtered_tcp(vec![range("10.0.0.0", 8), bad]));
        assert!(
            said.contains("source_prefix_ranges[1]: ") && said.contains(reason),
            "{said}"
        );
    }
}

fn extension<M: Message + Name>(message: &M) -> Option<TypedExtensionConfig> {
    Some(TypedExtensionConfig {
        name: "any".to_owned(),
        typed_config: Some(any(message)),
    })
}

fn leads_to(cluster: &str) -> matcher::OnMatch {
    let route = udp::Route {
        cluster: cluster.to_owned(),
    };
    matcher::OnMatch {
        on_match: extension(&route).map(matcher::on_match::OnMatch::Action),
        ..matcher::OnMatch::default()
    }
}

fn by_source(ranges: Vec<core::CidrRange>) -> SinglePredicate {
    let ip = Ip {
        cidr_ranges: ranges,
        stat_prefix: "s".to_owned(),
    };
    SinglePredicate {
        input: extension(&SourceIpInput {}),
        matcher: extension(&ip).map(single_predicate::Matcher::CustomMatch),
    }
}

fn when(predicate: predicate::MatchType, cluster: &str) -> FieldMatcher {
    FieldMatcher {
        predicate: Some(Predicate {
            match_type: Some(predicate),
        }),
        on_match: Some(leads_to(cluster)),
    }
}

fn list(matchers: Vec<FieldMatcher>, otherwise: Option<matcher::OnMatch>) -> Matcher {
    Matcher {
        matcher_type: (!matchers.is_empty())
            .then_some(matcher::MatcherType::MatcherList(matcher::MatcherList { matchers })),
        on_no_match: otherwise.map(Box::new),
    }
}

fn udp_by(matcher: Matcher) -> lds::Listener {
    let proxy = udp::UdpProxyConfig {
        route_specifier: Some(udp::udp_proxy_config::RouteSpecifier::Matcher(matcher)),
        ..udp::UdpProxyConfig::default()
    };
    let mut listener = udp_listener(&proxy);
    listener.address = address("203.0.113.10", 53, core::socket_address::Protocol::Udp);
    listener
}

/// One endpoint without a check.
fn unchecked() -> Resources {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let mut cluster = eds_cluster();
    cluster.health_checks.clear();
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    resources
}

#[test]
fn udp_listeners_filter_by_their_matcher() {
    let mut resources = unchecked();
    let single = predicate::MatchType::SinglePredicate(by_source(vec![range("192.0.2.0", 24)]));
    let other = predicate::MatchType::SinglePredicate(by_source(vec![range("10.0.0.0", 8)]));
    let either = predicate::MatchType::OrMatcher(predicate::PredicateList {
        predicate: [&single, &other]
            .map(|one| Predicate {
                match_type: Some(one.clone()),
            })
            .into(),
    });
    let cases = [
        (list(Vec::new(), Some(leads_to("c"))), None),
        (list(vec![when(single.clone(), "c")], None), Some(vec!["192.0.2.0/24"])),
        (
            list(vec![when(single.clone(), "c"), when(other.clone(), "c")], None),
            Some(vec!["192.0.2.0/24", "10.0.0.0/8"]),
        ),
        (
            list(vec![when(either.clone(), "c")], None),
            Some(vec!["192.0.2.0/24", "10.0.0.0/8"]),
        ),
        (list(vec![when(single.clone(), "c")], Some(leads_to("c"))), None),
    ];
    for (matcher, expected) in cases {
        put(&mut resources, ResourceType::Listener, "l", &udp_by(matcher));
        let expected = expected.map(|ranges| ranges.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(admitted(&resources), expected);
    }

    let by_port = SinglePredicate {
        input: extension(&SourcePortInput {}),
        ..by_source(Vec::new())
    };
    let mut goes_on = when(single.clone(), "c");
    goes_on.on_match.as_mut().unwrap().keep_matching = true;
    let not = predicate::MatchType::NotMatcher(Box::new(Predicate {
        match_type: Some(single.clone()),
    }));
    for (matcher, said) in [
        (list(Vec::new(), None), "matcher: must lead to one cluster"),
        (
            list(vec![when(single.clone(), "c")], Some(leads_to("d"))),
            "matcher: must lead to one cluster",
        ),
        (
            list(vec![when(single, "c"), when(other, "d")], None),
            "matcher: must lead to one cluster",
        ),
        (
            list(vec![when(not, "c")], None),
            "matchers[0].predicate: this agent matches by source_ip",
        ),
        (
            list(vec![when(predicate::MatchType::SinglePredicate(by_port), "c")], None),
            "single_predicate.input.typed_config: is a ",
        ),
        (list(vec![goes_on], None), "on_match.keep_matching: "),
    ] {
        let refusal = refused(ResourceType::Listener, &udp_by(matcher));
        assert!(refusal.contains(said), "{refusal}");
    }
}

#[test]
fn policies_are_read_as_envoy_means_them() {
    let source_ip = HashPolicy {
        policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {})),
    };
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let hour = Duration::from_secs(3_600);
    for (maglev, hashed, timeout, expected) in [
        (false, false, None, Algorithm::RoundRobin),
        (false, true, None, Algorithm::RoundRobin),
        (false, true, Some(hour), Algorithm::RoundRobin),
        (true, false, None, Algorithm::Maglev),
        (true, true, None, Algorithm::MaglevBySource),
        (true, true, Some(hour), Algorithm::MaglevBySource),
    ] {
        let mut cluster = eds_cluster();
        if maglev {
            cluster.lb_policy = cds::cluster::LbPolicy::Maglev.into();
            cluster.lb_config = Some(cds::cluster::LbConfig::MaglevLbConfig(cds::cluster::MaglevLbConfig {
                table_size: Some(kubelb_xds::pb::google::protobuf::UInt64Value { value: 65_537 }),
            }));
        }
        cluster.metadata = timeout.and_then(affinity_metadata);
        put(&mut resources, ResourceType::Cluster, "c", &cluster);
        let mut proxy = to("c");
        proxy.hash_policy.extend(hashed.then(|| source_ip.clone()));
        put(&mut resources, ResourceType::Listener, "l", &tcp_listener(proxy));
        let frontend = &frontends(&resources)["l"];
        assert_eq!((frontend.algorithm, frontend.affinity), (expected, timeout));
    }
    let mut two = to("c");
    two.hash_policy = vec![source_ip.clone(), source_ip];
    assert!(refused(ResourceType::Listener, &tcp_listener(two)).contains("hash_policy: "));
}

#[test]
fn udp_policies_are_read_likewise() {
    use udp::udp_proxy_config::hash_policy::PolicySpecifier;
    let with = |policy| {
        let mut listener = udp_by(list(Vec::new(), Some(leads_to("c"))));
        let proxy = udp::UdpProxyConfig {
            route_specifier: Some(udp::udp_proxy_config::RouteSpecifier::Matcher(list(
                Vec::new(),
                Some(leads_to("c")),
            ))),
            hash_policies: vec![udp::udp_proxy_config::HashPolicy {
                policy_specifier: Some(policy),
            }],
            ..udp::UdpProxyConfig::default()
        };
        listener.listener_filters[0].config_type = Some(lds::listener_filter::ConfigType::TypedConfig(any(&proxy)));
        listener
    };
    let mut resources = unchecked();
    let mut cluster = eds_cluster();
    cluster.health_checks.clear();
    cluster.lb_policy = cds::cluster::LbPolicy::Maglev.into();
    put(&mut resources, ResourceType::Cluster, "c", &cluster);
    put(
        &mut resources,
        ResourceType::Listener,
        "l",
        &with(PolicySpecifier::SourceIp(true)),
    );
    assert_eq!(frontends(&resources)["l"].algorithm, Algorithm::MaglevBySource);
    let by_key = with(PolicySpecifier::Key("k".to_owned()));
    assert!(refused(ResourceType::Listener, &by_key).contains("hash_policies: "));
}

#[test]
fn clusters_of_one_listener_choose_alike() {
    let mut resources = served(vec![endpoint("10.0.0.1", 1, 1, core::HealthStatus::Unknown)]);
    let mut other = eds_cluster();
    other.lb_policy = cds::cluster::LbPolicy::Maglev.into();
    put(&mut resources, ResourceType::Cluster, "d", &other);
    put(&mut resources, ResourceType::Endpoints, "d", &assignment(Vec::new()));
    let weighted = |name: &str| tcp::tcp_proxy::weighted_cluster::ClusterWeight {
        name: name.to_owned(),
        weight: 1,
        ..tcp::tcp_proxy::weighted_cluster::ClusterWeight::default()
    };
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(
            tcp::tcp_proxy::WeightedCluster {
                clusters: vec![weighted("c"), weighted("d")],
            },
        )),
        ..tcp::TcpProxy::default()
    };
    put(&mut resources, ResourceType::Listener, "l", &tcp_listener(proxy));
    // "d" looks up its endpoints under the name that the cluster has.
    let waiting = waits(&resources);
    assert!(
        waiting[0].contains("different ways to choose an endpoint"),
        "{waiting:?}"
    );
}
