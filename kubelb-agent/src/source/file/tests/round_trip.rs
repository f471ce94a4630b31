//! Any valid configuration, written as YAML, is read back as it was.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::node::format_duration;
use super::super::{MAX_SNAT_ADDRESSES, MAX_WEIGHT};
use super::read;
use crate::model::{
    Algorithm, Backend, Desired, Frontend, HealthCheck, OnUnhealthy, PortRange, Probe, Protocol, Snat, Timeouts,
};
use crate::source::limits::MAX_HALF_OPEN;

fn render(desired: &Desired) -> String {
    let Snat { addresses, ports } = &desired.snat;
    let addresses: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let mut text = format!(
        "snat: {{addresses: [{}], portRange: {}-{}}}\n",
        addresses.join(", "),
        ports.first(),
        ports.last()
    );
    text += if desired.frontends.is_empty() {
        "frontends: []\n"
    } else {
        "frontends:\n"
    };
    for (name, frontend) in &desired.frontends {
        let algorithm = match frontend.algorithm {
            Algorithm::RoundRobin => "RoundRobin",
            Algorithm::Maglev => "Maglev",
            Algorithm::MaglevBySource => "MaglevBySource",
        };
        let Timeouts {
            tcp_half_open,
            tcp_established,
            tcp_closing,
            udp_unreplied,
            udp_replied,
        } = frontend.timeouts;
        let [a, b, c, d, e] =
            [tcp_half_open, tcp_established, tcp_closing, udp_unreplied, udp_replied].map(format_duration);
        text += &format!(
            "- name: {}\n  vip: {}\n  port: {}\n  protocol: {}\n  algorithm: {algorithm}\n  healthCheck: {}\n  \
             timeouts: {{tcpHalfOpen: {a}, tcpEstablished: {b}, tcpClosing: {c}, udpUnreplied: {d}, udpReplied: {e}}}\n",
            serde_json::to_string(name).unwrap(),
            frontend.vip,
            frontend.port,
            if frontend.protocol == Protocol::Tcp {
                "TCP"
            } else {
                "UDP"
            },
            frontend
                .health_check
                .as_ref()
                .map_or("{type: None}".to_owned(), render_check),
        );
        if let Some(budget) = frontend.half_open_budget {
            text += &format!("  halfOpenBudget: {budget}\n");
        }
        if let Some(backend) = frontend.backends.first() {
            text += &format!("  onUnhealthy: {:?}\n", backend.on_unhealthy);
        }
        if let Some(timeout) = frontend.affinity {
            text += &format!("  affinityTimeout: {}\n", format_duration(timeout));
        }
        if let Some(ranges) = &frontend.source_ranges {
            let ranges: Vec<_> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
            text += &format!("  sourceRanges: [{}]\n", ranges.join(", "));
        }
        text += if frontend.backends.is_empty() {
            "  backends: []\n"
        } else {
            "  backends:\n"
        };
        for Backend { address, weight, .. } in &frontend.backends {
            text += &format!(
                "  - {{address: \"{}\", port: {}, weight: {weight}}}\n",
                address.ip(),
                address.port()
            );
        }
    }
    text
}

fn render_check(check: &HealthCheck) -> String {
    let probe = match &check.probe {
        Probe::Tcp => "type: TCP".to_owned(),
        Probe::Http { path, host } => {
            let host = host
                .as_ref()
                .map(|host| format!(", host: \"{host}\""))
                .unwrap_or_default();
            format!("type: HTTP, path: {}{host}", serde_json::to_string(path).unwrap())
        }
    };
    let port = check.port.map(|port| format!(", port: {port}")).unwrap_or_default();
    format!(
        "{{{probe}{port}, interval: {}, timeout: {}, healthyThreshold: {}, unhealthyThreshold: {}}}",
        format_duration(check.interval),
        format_duration(check.timeout),
        check.healthy_threshold,
        check.unhealthy_threshold,
    )
}

fn any_check(port: impl Strategy<Value = Option<NonZeroU16>>) -> impl Strategy<Value = HealthCheck> {
    let http = ("/[a-z0-9/_.%?=&-]{0,20}", proptest::option::of("[a-z0-9.-]{1,20}"))
        .prop_map(|(path, host)| Probe::Http { path, host });
    let probe = prop_oneof![Just(Probe::Tcp), http];
    (
        probe,
        port,
        100_u64..=3_600_000,
        1_u64..=3_600_000,
        1_u32..=100,
        1_u32..=100,
    )
        .prop_map(
            |(probe, port, interval, timeout, healthy_threshold, unhealthy_threshold)| HealthCheck {
                probe,
                port,
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
                healthy_threshold,
                unhealthy_threshold,
            },
        )
}

fn any_timeouts() -> impl Strategy<Value = Timeouts> {
    let flow = || (100_u64..=86_400_000).prop_map(Duration::from_millis);
    let established = (100_u64..=864_000_000).prop_map(Duration::from_millis);
    (flow(), established, flow(), flow(), flow()).prop_map(
        |(tcp_half_open, tcp_established, tcp_closing, udp_unreplied, udp_replied)| Timeouts {
            tcp_half_open,
            tcp_established,
            tcp_closing,
            udp_unreplied,
            udp_replied,
        },
    )
}

/// An address of one family: 10/8 or 2001:db8::/32.
fn address_of(v4: bool, host: u32) -> IpAddr {
    let [_, a, b, c] = host.to_be_bytes();
    if v4 {
        IpAddr::V4(Ipv4Addr::new(10, a, b, c))
    } else {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0,
            0,
            0,
            0,
            u16::from(a),
            u16::from_be_bytes([b, c]),
        ))
    }
}

fn any_port() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).unwrap())
}

fn any_frontend() -> impl Strategy<Value = Frontend> {
    let backends = proptest::collection::btree_map((1_u32..1 << 24, 1..=u16::MAX), 0..=MAX_WEIGHT, 0..5);
    const ALGORITHMS: [Algorithm; 3] = [Algorithm::RoundRobin, Algorithm::Maglev, Algorithm::MaglevBySource];
    let new_flows = (
        proptest::sample::select(&ALGORITHMS[..]),
        proptest::option::of((1_u64..=86_400).prop_map(Duration::from_secs)),
        proptest::option::of(proptest::collection::vec((any::<u32>(), 0_u8..=32), 1..4)),
    );
    (
        any::<bool>(),
        any::<bool>(),
        1_u32..1 << 24,
        any_port(),
        any_timeouts(),
        backends,
        proptest::option::of(1_u32..=MAX_HALF_OPEN),
        any::<bool>().prop_map(|reset| if reset { OnUnhealthy::Reset } else { OnUnhealthy::Drain }),
        new_flows,
    )
        .prop_flat_map(
            |(v4, tcp, vip, port, timeouts, backends, half_open_budget, on_unhealthy, new_flows)| {
                let check_port = if tcp {
                    proptest::option::of(any_port()).boxed()
                } else {
                    any_port().prop_map(Some).boxed()
                };
                proptest::option::of(any_check(check_port)).prop_map(move |health_check| {
                    let mut backends: Vec<_> = backends
                        .iter()
                        .map(|((host, port), weight)| Backend {
                            on_unhealthy,
                            ..Backend::new(SocketAddr::new(address_of(v4, *host), *port), *weight)
                        })
                        .collect();
                    if let Some(first) = backends.first_mut() {
                        first.weight = first.weight.max(1);
                    }
                    let (algorithm, affinity, source_ranges) = new_flows.clone();
                    let network = |(address, length)| IpNet::new(address_of(v4, address), length).unwrap().trunc();
                    Frontend {
                        vip: address_of(v4, vip),
                        port,
                        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                        algorithm,
                        affinity,
                        source_ranges: source_ranges.map(|ranges| ranges.into_iter().map(network).collect()),
                        health_check,
                        timeouts,
                        half_open_budget: half_open_budget.filter(|_| tcp).and_then(NonZeroU32::new),
                        backends,
                    }
                })
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        frontends in proptest::collection::btree_map("[^\\p{Cc}]{1,30}", any_frontend(), 0..4),
        snat in (proptest::collection::btree_set(1_u8..=254, 0..=MAX_SNAT_ADDRESSES), 1_u16..=1000, 1000_u16..),
    ) {
        let mut frontends = frontends;
        let mut taken = BTreeSet::new();
        frontends.retain(|_, frontend| taken.insert((frontend.vip, frontend.port, frontend.protocol)));
        let (hosts, first, last) = snat;
        let addresses = hosts.into_iter().map(|host| IpAddr::from([192, 0, 2, host])).collect();
        let desired = Desired { snat: Snat { addresses, ports: PortRange::new(first, last).unwrap() }, frontends, addresses: Some(Default::default()) };
        let text = render(&desired);
        match read(&text) {
            Ok(parsed) => prop_assert_eq!(parsed, desired),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, text),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", yaml in "[a-z:{}\\[\\]\\-&*!|>'\"# \n]{0,200}") {
        drop(read(&text));
        drop(read(&yaml));
    }
}
