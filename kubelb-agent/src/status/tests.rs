//! A report with one of everything, against what is checked in.

use super::address::AddressLinkReport;
use super::xds::{
    CredentialKind, CredentialReport, FailureReport, ManagerReport, RejectionReport, TypeReport, XdsReport,
};
use super::*;

/// Also the metrics' example.
pub(crate) fn example() -> Report {
    let traffic = |flows: u64| Traffic {
        packets_in: flows * 10,
        bytes_in: flows * 12_345,
        packets_out: flows * 8,
        bytes_out: flows * 654_321,
        flows_total: flows,
    };
    let backend = |address: &str, port, weight, health, state, flows| BackendReport {
        address: address.parse().unwrap(),
        port,
        weight,
        health,
        state,
        traffic: traffic(flows),
    };
    let web = vec![
        backend(
            "10.0.1.11",
            30_080,
            1,
            BackendHealth::Healthy,
            BackendState::Active,
            1_234_567,
        ),
        backend(
            "10.0.1.12",
            30_080,
            1,
            BackendHealth::Unhealthy,
            BackendState::Active,
            1_230_000,
        ),
        backend(
            "10.0.1.13",
            30_080,
            0,
            BackendHealth::Unknown,
            BackendState::Draining,
            7,
        ),
    ];
    let dns = vec![backend(
        "2001:db8:1::11",
        30_053,
        256,
        BackendHealth::Unchecked,
        BackendState::Active,
        0,
    )];
    let frontend = |name: &str, vip: &str, port, protocol, backends: Vec<BackendReport>| FrontendReport {
        name: name.to_owned(),
        vip: vip.parse().unwrap(),
        port,
        protocol,
        traffic: traffic(backends.iter().map(|backend| backend.traffic.flows_total).sum()),
        flows_per_second: None,
        packets_per_second: None,
        half_open: (protocol == Protocol::Tcp).then_some(HalfOpenReport {
            flows: 12,
            budget: 10_000,
        }),
        drops: BTreeMap::new(),
        condition: Condition::of(&backends),
        algorithm: Algorithm::RoundRobin,
        affinity_timeout_seconds: None,
        affinity_failures: 0,
        source_ranges: None,
        backends,
    };
    let mut first = frontend("default/web", "203.0.113.10", 80, Protocol::Tcp, web);
    first.flows_per_second = Some(12_345.6);
    first.packets_per_second = Some(1_200_000.0);
    first.drops = BTreeMap::from([("snat-exhausted".to_owned(), 3), ("ttl".to_owned(), 0)]);
    first.algorithm = Algorithm::Maglev;
    first.affinity_timeout_seconds = Some(10_800);
    first.affinity_failures = 2;
    let ranges = [
        "192.0.2.0/24",
        "198.51.100.7/32",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "100.64.0.0/10",
    ];
    first.source_ranges = Some(ranges.map(|range| range.parse().unwrap()).into());
    Report {
        agent: AgentInfo {
            version: "0.1.0".to_owned(),
            pid: Some(4242),
            running: true,
            config_error: None,
        },
        xds: Some(managers()),
        interfaces: vec![InterfaceReport {
            name: "eth0".to_owned(),
            ifindex: 2,
            mode: "xdp".to_owned(),
            reason: "the driver has native XDP".to_owned(),
        }],
        addresses: addresses(),
        malformed_questions: 3,
        snat: vec![SnatReport {
            address: "192.0.2.1".parse().unwrap(),
            ports: PortRange::NODE_DEFAULT,
            capacity: 20_000,
            used: 1_999,
        }],
        maps: vec![MapReport {
            name: "flows".to_owned(),
            used: 123_456,
            capacity: 262_144,
        }],
        checks: Some(ChecksReport {
            passed: 990,
            failed: 10,
            local_errors: 2,
            delayed: 0,
            targets: 5,
            stretch_thousandths: 1_000,
        }),
        frontends: vec![
            first,
            frontend("team \"b\"\\dns", "2001:db8::10", 53, Protocol::Udp, dns),
            frontend("empty", "203.0.113.11", 443, Protocol::Tcp, Vec::new()),
        ],
        drops: BTreeMap::from([("malformed".to_owned(), 17)]),
    }
}

fn addresses() -> Vec<AddressReport> {
    let link = |interface: &str, rival: Option<&str>| AddressLinkReport {
        interface: interface.to_owned(),
        is_answering: rival.is_none(),
        epoch: 5,
        since: 1_795_255_629,
        answered: 1_234,
        conflicts: u64::from(rival.is_some()),
        last_rival: rival.map(str::to_owned),
    };
    let report = |address: &str, owner: Option<&str>, links: Vec<AddressLinkReport>| AddressReport {
        address: address.parse().unwrap(),
        owner: owner.map(str::to_owned),
        is_ours: !links.is_empty(),
        epoch: 5,
        tenant: Some("a".to_owned()),
        links,
    };
    vec![
        report(
            "203.0.113.10",
            Some("node-1"),
            vec![link("eth0", None), link("eth1", Some("02:09:09:09:09:09"))],
        ),
        report("203.0.113.11", Some("node-2"), Vec::new()),
        report("2001:db8::10", None, Vec::new()),
    ]
}

fn managers() -> XdsReport {
    let certificate = CredentialReport {
        kind: CredentialKind::Certificate,
        expires_at: Some(1_802_592_000),
    };
    let failure = FailureReport {
        at: 1_799_999_300,
        reason: "Unavailable: tcp connect error (Connection refused)".to_owned(),
    };
    let kind = |kind: &str, resources, nacked_at| TypeReport {
        kind: kind.to_owned(),
        resources,
        acked_at: Some(1_799_999_940),
        nacked_at,
    };
    XdsReport {
        at: 1_800_000_000,
        node: "node-1".to_owned(),
        managers: vec![
            ManagerReport {
                url: "https://manager-0.kubelb:18000".to_owned(),
                credential: certificate.clone(),
                streams: 1,
                failures: 3,
                last_failure: Some(failure),
                ..ManagerReport::default()
            },
            ManagerReport {
                url: "https://manager-1.kubelb:18000".to_owned(),
                connected_since: Some(1_799_999_400),
                credential: certificate,
                streams: 1,
                ..ManagerReport::default()
            },
            ManagerReport {
                url: "http://192.0.2.9:18000".to_owned(),
                is_insecure: true,
                ..ManagerReport::default()
            },
        ],
        back_off_ms: None,
        is_current: true,
        current_at: Some(1_800_000_000),
        types: vec![
            kind("cds", 2, None),
            kind("eds", 2, None),
            kind("lds", 3, Some(1_799_999_400)),
        ],
        rejections: vec![RejectionReport {
            kind: "lds".to_owned(),
            name: "tenant-x/odd/203.0.113.11/443-tcp".to_owned(),
            reason: "filter_chains[0].filters[0]: HTTP is not for the kernel path".to_owned(),
        }],
        rejected: 1,
        owners: Vec::new(),
    }
}

/// Compares with a file of `testdata/`; on a difference, prints what to put there.
#[track_caller]
pub(crate) fn assert_golden(actual: &str, golden: &str, file: &str) {
    assert!(
        actual == golden,
        "testdata/{file} differs; if this is right, make it:\n{actual}"
    );
}

#[test]
fn the_table_is_as_checked_in() {
    assert_golden(
        &render_table(&example()),
        include_str!("../../testdata/status.txt"),
        "status.txt",
    );
}

#[test]
fn the_json_is_as_checked_in() {
    let json = serde_json::to_string_pretty(&example()).unwrap() + "\n";
    assert_golden(&json, include_str!("../../testdata/status.json"), "status.json");
}

#[test]
fn no_line_is_longer_than_a_wide_terminal_and_nothing_escapes_to_it() {
    let mut report = example();
    let frontend = &mut report.frontends[0];
    frontend.name = "a-very-long-name/".repeat(8) + "\u{1b}[31m";
    frontend.vip = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
    frontend.port = 65_535;
    frontend.condition = Condition::NoBackends;
    frontend.traffic.flows_total = 999_999;
    frontend.backends[0].address = frontend.vip;
    report.interfaces[0].reason = "because ".repeat(40);
    let table = render_table(&report);
    for line in table.lines() {
        assert!(
            line.chars().count() <= 120,
            "{} characters: {line}",
            line.chars().count()
        );
    }
    assert!(!table.contains('\u{1b}'));
}

#[test]
fn a_stopped_agent_and_a_refused_change_are_said() {
    let mut report = example();
    report.agent.running = false;
    report.agent.pid = None;
    report.agent.config_error = Some("kubelb.yaml:4: frontends[0].port: 0 is not a port\nkubelb.yaml:9: x".to_owned());
    let table = render_table(&report);
    assert!(table.contains("not running; forwarding goes on"), "{table}");
    assert!(
        table.contains("last change refused") && table.contains("\n         kubelb.yaml:9: x\n"),
        "{table}"
    );
}

#[test]
fn the_condition_follows_from_the_backends() {
    let of = |healths: &[(BackendHealth, BackendState)]| {
        let template = example().frontends[0].backends[0].clone();
        let backend = |(health, state): &(BackendHealth, BackendState)| BackendReport {
            health: *health,
            state: *state,
            ..template.clone()
        };
        Condition::of(&healths.iter().map(backend).collect::<Vec<_>>())
    };
    use BackendHealth::{Healthy, Unchecked, Unhealthy, Unknown};
    use BackendState::{Active, Draining};
    assert_eq!(of(&[]), Condition::NoBackends);
    assert_eq!(of(&[(Healthy, Draining)]), Condition::NoBackends);
    assert_eq!(
        of(&[(Healthy, Active), (Unknown, Active), (Unchecked, Active)]),
        Condition::Ok
    );
    assert_eq!(of(&[(Healthy, Active), (Unhealthy, Active)]), Condition::Degraded);
    assert_eq!(of(&[(Unhealthy, Active), (Healthy, Draining)]), Condition::FailOpen);
    for condition in Condition::ALL {
        assert_eq!(serde_json::to_value(condition).unwrap(), condition.as_str());
    }
}
