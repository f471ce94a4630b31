use super::*;
use std::collections::BTreeSet;

fn port() -> ServicePort {
    ServicePort {
        namespace: "a".to_owned(),
        service: "s".to_owned(),
        port_name: "http".to_owned(),
        family: Family::V4,
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: Some("10.96.0.20".parse().unwrap()),
        node_port: None,
        external_ips: BTreeSet::new(),
        load_balancer_ips: BTreeSet::new(),
        source_ranges: Vec::new(),
        affinity: None,
        internal: Policy::Cluster,
        external: Policy::Cluster,
        endpoints: ["10.100.1.2:8080", "10.100.2.2:8080"]
            .map(|text| text.parse().unwrap())
            .into(),
        local: ["10.100.1.2:8080"].map(|text| text.parse().unwrap()).into(),
    }
}

fn of(port: ServicePort) -> Ruleset {
    ruleset(&State {
        pod_cidrs: ["10.100.1.0/24".parse().unwrap()].into(),
        ports: vec![port],
        ..State::default()
    })
}

/// What a port adds to rules without any.
fn added(port: ServicePort) -> String {
    of(port)
        .after(&ruleset(&State::default()))
        .replace("inet kubelb-service-proxy ", "")
}

#[test]
fn nothing_changes_nothing() {
    assert_eq!(of(port()).after(&of(port())), "");
}

#[test]
fn a_cluster_address_leads_to_endpoints_in_turn() {
    assert_eq!(
        added(port()),
        "\
add chain endpoint/v4/a/s/tcp/http/10.100.1.2/8080
add chain endpoint/v4/a/s/tcp/http/10.100.2.2/8080
add chain service/v4/a/s/tcp/http
add rule endpoint/v4/a/s/tcp/http/10.100.1.2/8080 ip saddr 10.100.1.2 meta mark set meta mark or 0x4000
add rule endpoint/v4/a/s/tcp/http/10.100.1.2/8080 meta l4proto tcp dnat ip to 10.100.1.2:8080
add rule endpoint/v4/a/s/tcp/http/10.100.2.2/8080 ip saddr 10.100.2.2 meta mark set meta mark or 0x4000
add rule endpoint/v4/a/s/tcp/http/10.100.2.2/8080 meta l4proto tcp dnat ip to 10.100.2.2:8080
add rule service/v4/a/s/tcp/http numgen inc mod 2 vmap { 0 : goto endpoint/v4/a/s/tcp/http/10.100.1.2/8080, 1 : goto endpoint/v4/a/s/tcp/http/10.100.2.2/8080 }
add element services-v4 { 10.96.0.20 . tcp . 80 : goto service/v4/a/s/tcp/http }
"
    );
}

#[test]
fn the_local_policy_holds_for_the_outside_only() {
    let text = added(ServicePort {
        node_port: Some(30_080),
        external: Policy::Local,
        ..port()
    });
    for line in [
        "add rule external/v4/a/s/tcp/http ip saddr 10.100.1.0/24 goto service/v4/a/s/tcp/http",
        "add rule external/v4/a/s/tcp/http fib saddr type local meta mark set meta mark or 0x4000 goto service/v4/a/s/tcp/http",
        "add rule external/v4/a/s/tcp/http goto local/v4/a/s/tcp/http",
        "add rule local/v4/a/s/tcp/http numgen inc mod 1 vmap { 0 : goto endpoint/v4/a/s/tcp/http/10.100.1.2/8080 }",
        "add element node-ports-v4 { tcp . 30080 : goto external/v4/a/s/tcp/http }",
        "add element services-v4 { 10.96.0.20 . tcp . 80 : goto service/v4/a/s/tcp/http }",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    let nowhere = added(ServicePort {
        internal: Policy::Local,
        local: BTreeSet::new(),
        ..port()
    });
    assert!(nowhere.contains("add rule local/v4/a/s/tcp/http drop\n"), "{nowhere}");
}

#[test]
fn a_service_without_endpoints_is_refused_on_all_its_ways() {
    let text = added(ServicePort {
        node_port: Some(30_080),
        external_ips: ["203.0.113.1".parse().unwrap()].into(),
        endpoints: BTreeSet::new(),
        local: BTreeSet::new(),
        ..port()
    });
    assert_eq!(
        text,
        "\
add element unserved-node-ports-v4 { tcp . 30080 : goto refuse }
add element unserved-v4 { 10.96.0.20 . tcp . 80 : goto refuse, 203.0.113.1 . tcp . 80 : goto refuse }
"
    );
}

#[test]
fn an_endpoint_that_goes_leaves_the_others_affinities_alone() {
    let both = of(ServicePort {
        affinity: Some(600),
        ..port()
    });
    let mut one = port();
    one.affinity = Some(600);
    one.endpoints.pop_last();
    let text = of(one).after(&both).replace("inet kubelb-service-proxy ", "");
    assert_eq!(
        text,
        "\
flush chain service/v4/a/s/tcp/http
add rule service/v4/a/s/tcp/http ip saddr @affinity/v4/a/s/tcp/http/10.100.1.2/8080/600 goto endpoint/v4/a/s/tcp/http/10.100.1.2/8080
add rule service/v4/a/s/tcp/http numgen inc mod 1 vmap { 0 : goto endpoint/v4/a/s/tcp/http/10.100.1.2/8080 }
flush chain endpoint/v4/a/s/tcp/http/10.100.2.2/8080
delete chain endpoint/v4/a/s/tcp/http/10.100.2.2/8080
delete set affinity/v4/a/s/tcp/http/10.100.2.2/8080/600
"
    );
}

#[test]
fn source_ranges_are_asked_of_the_load_balancers_addresses() {
    let text = added(ServicePort {
        load_balancer_ips: ["203.0.113.1".parse().unwrap()].into(),
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..port()
    });
    for line in [
        "add rule source-ranges/v4/a/s/tcp/http ip saddr 10.0.0.0/8 return",
        "add rule source-ranges/v4/a/s/tcp/http drop",
        "add element source-ranges-v4 { 203.0.113.1 . tcp . 80 : goto source-ranges/v4/a/s/tcp/http }",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
}

#[test]
fn of_two_services_that_want_one_address_the_first_has_it() {
    let mut second = port();
    second.service = "t".to_owned();
    let both = ruleset(&State {
        ports: vec![port(), second],
        ..State::default()
    });
    assert!(
        both.whole()
            .contains("{ 10.96.0.20 . tcp . 80 : goto service/v4/a/s/tcp/http }")
    );
}

#[test]
fn a_second_familys_names_have_no_colons() {
    let text = added(ServicePort {
        family: Family::V6,
        cluster_ip: Some("fd00:96::14".parse().unwrap()),
        endpoints: ["[fd00:64:1::2]:8080".parse().unwrap()].into(),
        ..port()
    });
    assert!(
        text.contains("add chain endpoint/v6/a/s/tcp/http/fd00_64_1__2/8080\n"),
        "{text}"
    );
    assert!(text.contains("dnat ip6 to [fd00:64:1::2]:8080\n"), "{text}");
}
