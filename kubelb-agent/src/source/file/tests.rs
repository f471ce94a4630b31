//! One case per kind of mistake: the line, the field and the hint that the user gets. And: what is valid is read as meant.

mod flows;
mod new_flows;
mod round_trip;

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::*;
use crate::model::{Backend, HealthCheck, OnUnhealthy, PortRange, Probe, Protocol, Timeouts};

fn read(text: &str) -> Result<Desired, ConfigErrors> {
    parse(Path::new("kubelb.yaml"), text)
}

/// A valid file of seven lines with one line replaced (`0` adds none), so that each case shows its mistake alone.
fn with_line(number: usize, line: &str) -> String {
    let lines = [
        "frontends:",
        "- name: default/web",
        "  vip: 203.0.113.10",
        "  port: 80",
        "  protocol: TCP",
        "  backends:",
        "  - {address: 10.0.1.11, port: 30080, weight: 1}",
    ];
    let replaced = lines
        .iter()
        .enumerate()
        .map(|(index, old)| if index + 1 == number { line } else { old });
    replaced.map(|line| format!("{line}\n")).collect()
}

/// The same with lines appended to the first frontend.
fn with_more(more: &str) -> String {
    with_line(0, "") + more
}

#[track_caller]
fn check(text: &str, line: usize, field: &str, reason: &str) {
    let errors = match read(text) {
        Ok(desired) => panic!("accepted: {desired:?}\n{text}"),
        Err(errors) => errors,
    };
    let [error] = errors.errors() else {
        panic!("not one error:\n{errors}\n{text}")
    };
    assert_eq!(
        (error.line, error.field.as_str()),
        (Some(line), field),
        "{errors}\n{text}"
    );
    assert!(error.reason.contains(reason), "{errors}\nwants {reason:?}\n{text}");
}

#[test]
fn the_documented_example_is_read_as_meant() {
    let text = "\
snat: {addresses: [192.0.2.1], portRange: 10000-29999}
frontends:
- name: default/web
  vip: 203.0.113.10
  port: 80
  protocol: TCP
  algorithm: RoundRobin
  healthCheck: {type: TCP, port: 30081, interval: 5s, timeout: 1m30s, healthyThreshold: 2, unhealthyThreshold: 3}
  timeouts: {tcpHalfOpen: 500ms, tcpEstablished: 240h}
  halfOpenBudget: 4096
  onUnhealthy: Reset
  snatAddress: 192.0.2.1
  backends:
  - {address: 10.0.1.11, port: 30080, weight: 1}
- name: dns
  vip: 2001:db8::10
  port: 53
  protocol: UDP
  healthCheck: {type: HTTP, port: 8080, path: /healthz?full=1, host: example.com}
  backends: []
";
    let desired = read(text).unwrap();
    assert_eq!(desired.snat.addresses, [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(desired.snat.ports, PortRange::new(10_000, 29_999).unwrap());
    let web = &desired.frontends["default/web"];
    assert_eq!(
        (web.vip, web.port.get(), web.protocol),
        (IpAddr::from([203, 0, 113, 10]), 80, Protocol::Tcp)
    );
    assert_eq!(
        web.backends,
        [Backend {
            on_unhealthy: OnUnhealthy::Reset,
            snat: Some(IpAddr::from([192, 0, 2, 1])),
            ..Backend::new(SocketAddr::from(([10, 0, 1, 11], 30_080)), 1)
        }]
    );
    assert_eq!(web.half_open_budget.map(NonZeroU32::get), Some(4_096));
    let check = web.health_check.as_ref().unwrap();
    assert_eq!(
        (check.port.map(NonZeroU16::get), check.timeout),
        (Some(30_081), Duration::from_secs(90))
    );
    assert_eq!(web.timeouts.tcp_half_open, Duration::from_millis(500));
    assert_eq!(web.timeouts.tcp_established, Duration::from_secs(864_000));
    assert_eq!(web.timeouts.udp_replied, Timeouts::default().udp_replied);
    let probe = Probe::Http {
        path: "/healthz?full=1".to_owned(),
        host: Some("example.com".to_owned()),
    };
    assert_eq!(desired.frontends["dns"].health_check.as_ref().unwrap().probe, probe);
}

#[test]
fn what_is_left_out_has_its_default() {
    let web = read(&with_line(7, "  - {address: 10.0.1.11, port: 30080}"))
        .unwrap()
        .frontends["default/web"]
        .clone();
    assert_eq!(web.backends[0].weight, 1);
    assert_eq!(web.timeouts, Timeouts::default());
    let expected = HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(5),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };
    assert_eq!(web.health_check, Some(expected));
    let nothing = Desired {
        // A file says of all addresses who announces them: this node, or nobody.
        addresses: Some(Default::default()),
        ..Desired::default()
    };
    assert_eq!(read("frontends: []").unwrap(), nothing);
    assert_eq!(
        read(&with_line(5, "  protocol: UDP")).unwrap().frontends["default/web"].health_check,
        None
    );
    assert_eq!(
        read(&with_more("  healthCheck: {type: None}\n")).unwrap().frontends["default/web"].health_check,
        None
    );
}

#[test]
fn text_that_is_not_the_yaml_of_a_configuration() {
    let cases: &[(&str, usize, &str)] = &[
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("frontends: [\n", 2, "not valid YAML"),
        ("frontends:\n- name: \"open\n", 2, "not valid YAML"),
        ("frontends:\n\t- name: x\n", 2, "not valid YAML"),
        ("frontends: &a []\n", 1, "anchors"),
        ("snat: {}\nfrontends: *a\n", 2, "not valid YAML"),
        ("a: &a [x]\nb: &b [*a, *a]\n", 1, "anchors"),
        ("frontends: !!seq []\n", 1, "tags"),
        ("frontends: []\n---\nfrontends: []\n", 2, "second document"),
        ("? [a]\n: b\n", 1, "a key is a list or a map"),
    ];
    for (text, line, reason) in cases {
        check(text, *line, "", reason);
    }
    check(&"[".repeat(20), 1, "", "nested deeper than 16 levels");
    check(&"[".repeat(100_000), 1, "", "not valid YAML");
    check("[]", 1, "", "a list where a map is expected");
    check("hello", 1, "", "the text \"hello\" where a map is expected");
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let errors = read(&" ".repeat(MAX_FILE + 1)).unwrap_err();
    assert!(errors.to_string().contains("longer than 16 MiB"), "{errors}");
}

#[test]
fn keys() {
    check("snat: {}", 1, "frontends", "is missing; add `frontends: []`");
    check("frontend: []\nfrontends: []", 1, "frontend", "did you mean frontends?");
    check(
        "frontends: []\nfrontends: []",
        2,
        "frontends",
        "given twice, first on line 1",
    );
    check("frontends:\n", 1, "frontends", "has no value");
    check("frontends: 5", 1, "frontends", "the number 5 where a list is expected");
    check(
        "frontends: [web]",
        1,
        "frontends[0]",
        "the text \"web\" where a map is expected",
    );
    check(
        &with_line(2, "- nmae: default/web\n  name: x"),
        2,
        "frontends[0].nmae",
        "did you mean name?",
    );
    check(
        &with_more("  Protocol: UDP\n"),
        8,
        "frontends[0].Protocol",
        "did you mean protocol?",
    );
    check(
        &with_more("  colour: red\n"),
        8,
        "frontends[0].colour",
        "use name, vip, port",
    );
    check(
        &with_more("  port: 81\n"),
        8,
        "frontends[0].port",
        "given twice, first on line 4",
    );
    check(
        &with_more("  healthCheck:\n"),
        8,
        "frontends[0].healthCheck",
        "has no value",
    );
    let backend = |text: &str| with_line(7, &format!("  - {{{text}}}"));
    check(
        &backend("address: 10.0.1.11"),
        7,
        "frontends[0].backends[0].port",
        "is missing",
    );
    check(
        &backend("port: 80"),
        7,
        "frontends[0].backends[0].address",
        "is missing",
    );
    check(
        &backend("address: 10.0.1.11, port: 80, wieght: 1"),
        7,
        "frontends[0].backends[0].wieght",
        "mean weight?",
    );
    for (line, key) in [(3, "vip"), (4, "port"), (5, "protocol")] {
        check(&with_line(line, ""), 2, &format!("frontends[0].{key}"), "is missing");
    }
    check(
        "frontends:\n- {name: a, vip: 192.0.2.1, port: 1, protocol: TCP}",
        2,
        "frontends[0].backends",
        "is missing",
    );
}

#[test]
fn names() {
    let name = |text: &str| with_line(2, &format!("- name: {text}"));
    check(&name("\"\""), 2, "frontends[0].name", "is empty");
    check(&name(&"x".repeat(129)), 2, "frontends[0].name", "129 bytes");
    check(&name("\"a\\nb\""), 2, "frontends[0].name", "control characters");
    check(
        &name("8080"),
        2,
        "frontends[0].name",
        "the number 8080 where text is expected; write it as \"8080\"",
    );
    check(&name("true"), 2, "frontends[0].name", "the truth value true");
    check(&name("[a]"), 2, "frontends[0].name", "a list where text is expected");
    assert!(read(&name("\"8080\"")).is_ok());
    let twice = with_line(0, "") + "- {name: default/web, vip: 203.0.113.11, port: 80, protocol: TCP, backends: []}\n";
    check(&twice, 8, "frontends[1].name", "is the name of frontends[0] on line 2");
}

#[test]
fn ports() {
    let port = |text: &str| with_line(4, &format!("  port: {text}"));
    check(&port("0"), 4, "frontends[0].port", "0 is not a port; use 1 to 65535");
    check(
        &port("65536"),
        4,
        "frontends[0].port",
        "65536 is not a port; use 1 to 65535",
    );
    check(&port("-1"), 4, "frontends[0].port", "-1 is not a port");
    check(&port("99999999999999999999"), 4, "frontends[0].port", "is not a port");
    check(&port("http"), 4, "frontends[0].port", "http is not a port");
    check(&port("80.5"), 4, "frontends[0].port", "80.5 is not a port");
    check(&port("\"80\""), 4, "frontends[0].port", "remove the quotes");
    check(
        &port("[80]"),
        4,
        "frontends[0].port",
        "a list where a number from 1 to 65535",
    );
    check(
        &with_line(7, "  - {address: 10.0.1.11, port: 0}"),
        7,
        "frontends[0].backends[0].port",
        "0 is not a port",
    );
}

#[test]
fn addresses() {
    let cases = [
        ("0.0.0.0", "unspecified"),
        ("\"::\"", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "zone"),
        ("\"::ffff:10.0.0.1\"", "write 10.0.0.1"),
        ("10.0.0.0/8", "is a network"),
        ("10.0.0.1:80", "the port has a key of its own"),
        ("\"[2001:db8::1]\"", "in brackets"),
        ("example.com", "not an IP address"),
        ("10.0.0.256", "not an IP address"),
        ("5", "not an IP address"),
        ("\"\"", "not an IP address"),
        ("{a: b}", "a map where an IP address is expected"),
    ];
    for (text, reason) in cases {
        check(&with_line(3, &format!("  vip: {text}")), 3, "frontends[0].vip", reason);
        let backend = format!(
            "  - {{port: 80, address: {}}}",
            if text.contains('{') { "{a: b}" } else { text }
        );
        check(&with_line(7, &backend), 7, "frontends[0].backends[0].address", reason);
        check(
            &(with_line(0, "") + &format!("snat: {{addresses: [{text}]}}\n")),
            8,
            "snat.addresses[0]",
            reason,
        );
    }
}

#[test]
fn families_do_not_mix_in_a_frontend() {
    let text = with_line(7, "  - {address: 2001:db8::1, port: 80}");
    check(
        &text,
        7,
        "frontends[0].backends[0].address",
        "2001:db8::1 is IPv6 but the VIP 203.0.113.10 is IPv4",
    );
    check(
        &with_line(3, "  vip: 2001:db8::1"),
        7,
        "frontends[0].backends[0].address",
        "10.0.1.11 is IPv4",
    );
}

#[test]
fn a_vip_port_and_protocol_is_taken_once() {
    let second = |vip: &str, port: u16, protocol: &str| {
        with_line(0, "") + &format!("- {{name: b, vip: {vip}, port: {port}, protocol: {protocol}, backends: []}}\n")
    };
    check(
        &second("203.0.113.10", 80, "TCP"),
        8,
        "frontends[1].vip",
        "203.0.113.10:80 TCP is taken by frontends[0] on line 3",
    );
    for (vip, port, protocol) in [
        ("203.0.113.11", 80, "TCP"),
        ("203.0.113.10", 81, "TCP"),
        ("203.0.113.10", 80, "UDP"),
    ] {
        assert!(read(&second(vip, port, protocol)).is_ok());
    }
}

#[test]
fn enumerations() {
    check(
        &with_line(5, "  protocol: SCTP"),
        5,
        "frontends[0].protocol",
        "SCTP is not a protocol; use TCP or UDP",
    );
    check(
        &with_line(5, "  protocol: tcp"),
        5,
        "frontends[0].protocol",
        "use TCP or UDP",
    );
    check(
        &with_more("  algorithm: Random\n"),
        8,
        "frontends[0].algorithm",
        "use RoundRobin",
    );
    check(
        &with_more("  healthCheck: {type: ICMP}\n"),
        8,
        "frontends[0].healthCheck.type",
        "use TCP, HTTP or None",
    );
}

#[test]
fn backends() {
    let second = |text: &str| with_more(&format!("  - {{{text}}}\n"));
    check(
        &second("address: 10.0.1.11, port: 30080"),
        8,
        "frontends[0].backends[1].address",
        "backends[0] on line 7 already",
    );
    assert!(read(&second("address: 10.0.1.11, port: 30081, weight: 0")).is_ok());
    let weight = |text: &str| with_line(7, &format!("  - {{address: 10.0.1.11, port: 80, weight: {text}}}"));
    check(
        &weight("257"),
        7,
        "frontends[0].backends[0].weight",
        "257 is not a weight; use 0 to 256",
    );
    check(
        &weight("-1"),
        7,
        "frontends[0].backends[0].weight",
        "-1 is not a weight",
    );
    check(&weight("0"), 7, "frontends[0].backends", "all weights are 0");
    check(
        &with_line(6, "  backends: none").replace("  - {address: 10.0.1.11, port: 30080, weight: 1}\n", ""),
        6,
        "frontends[0].backends",
        "a list is expected",
    );
}

#[test]
fn too_many_of_anything() {
    let backends: String = (0..=MAX_BACKENDS)
        .map(|n| format!("  - {{address: 10.0.{}.{}, port: 80}}\n", n / 250, n % 250 + 1))
        .collect();
    check(
        &with_line(7, backends.trim_end()),
        7,
        "frontends[0].backends",
        "4097 elements; at most 4096",
    );
    let frontends = "- {}\n".repeat(MAX_FRONTENDS + 1);
    check(
        &format!("frontends:\n{frontends}"),
        2,
        "frontends",
        "65537 elements; at most 65536",
    );
    let addresses: Vec<_> = (1..=9).map(|n| format!("192.0.2.{n}")).collect();
    let snat = format!("frontends: []\nsnat: {{addresses: [{}]}}", addresses.join(", "));
    check(&snat, 2, "snat.addresses", "9 elements; at most 8");
}

#[test]
fn health_checks() {
    let check_with = |text: &str| with_more(&format!("  healthCheck: {{{text}}}\n"));
    let cases = [
        ("port: 0", "port", "0 is not a port"),
        ("interval: 99ms", "interval", "99ms is too short; use 100ms to 1h"),
        ("interval: 1h1s", "interval", "too long; use 100ms to 1h"),
        ("interval: 5", "interval", "5 has no unit; write 5s or 5ms"),
        ("interval: 5 s", "interval", "write it like 5s, 1m30s or 500ms"),
        ("interval: 1s1m", "interval", "not a length of time"),
        ("interval: -5s", "interval", "not a length of time"),
        ("interval: 99999999999999999999h", "interval", "not a length of time"),
        ("timeout: 0s", "timeout", "0s is too short; use 1ms to 1h"),
        ("timeout: [5s]", "timeout", "a list where a length of time"),
        (
            "healthyThreshold: 0",
            "healthyThreshold",
            "0 is not a threshold; use 1 to 100",
        ),
        (
            "unhealthyThreshold: 101",
            "unhealthyThreshold",
            "101 is not a threshold",
        ),
        ("path: /x", "path", "only HTTP checks have it"),
        ("host: x", "host", "only HTTP checks have it"),
        ("type: HTTP, path: healthz", "path", "write /healthz"),
        ("type: HTTP, path: \"/a b\"", "path", "write them as %XX"),
        ("type: HTTP, path: \"/a\\r\\nX: y\"", "path", "write them as %XX"),
        ("type: HTTP, path: \"/a#b\"", "path", "write them as %XX"),
        ("type: HTTP, host: \"a\\r\\nX: y\"", "host", "is not a host"),
        ("type: HTTP, host: \"\"", "host", "is not a host"),
        ("type: HTTP, host: a/b", "host", "is not a host"),
        ("type: None, interval: 5s", "interval", "has no use with type: None"),
        ("kind: TCP", "kind", "use type, port"),
    ];
    for (text, key, reason) in cases {
        check(&check_with(text), 8, &format!("frontends[0].healthCheck.{key}"), reason);
    }
    assert!(
        read(&check_with("interval: 1s, timeout: 5s")).is_ok(),
        "a timeout may be longer than the interval"
    );
    check(
        &with_more("  healthCheck: TCP\n"),
        8,
        "frontends[0].healthCheck",
        "its keys are type, port",
    );
}

#[test]
fn a_udp_frontend_is_checked_on_a_named_port_only() {
    let udp = |check: &str| with_line(5, &format!("  protocol: UDP\n  healthCheck: {check}"));
    check(
        &udp("{type: TCP}"),
        6,
        "frontends[0].healthCheck.port",
        "a UDP frontend can only be checked on a TCP port",
    );
    assert!(read(&udp("{type: HTTP, port: 8080}")).is_ok());
    assert!(read(&udp("{type: None}")).is_ok());
}

#[test]
fn snat() {
    let snat = |text: &str| with_line(0, "") + &format!("snat: {{{text}}}\n");
    let cases = [
        ("portRange: 10000", "snat.portRange", "write it like 10000-29999"),
        ("portRange: a-b", "snat.portRange", "write it like 10000-29999"),
        ("portRange: 1-65536", "snat.portRange", "within 1 to 65535"),
        (
            "portRange: 20000-10000",
            "snat.portRange",
            "is backwards; write 10000-20000",
        ),
        ("portRange: 0-100", "snat.portRange", "port 0"),
        ("portRange: [1, 2]", "snat.portRange", "a list where a range of ports"),
        ("addresses: 192.0.2.1", "snat.addresses", "a list is expected"),
        (
            "addresses: [192.0.2.1, 192.0.2.1]",
            "snat.addresses[1]",
            "snat.addresses[0] on line 8 already",
        ),
        (
            "addresses: [192.0.2.1, 203.0.113.10]",
            "snat.addresses[1]",
            "is also the VIP of frontends[0]",
        ),
        ("adresses: []", "snat.adresses", "did you mean addresses?"),
    ];
    for (text, field, reason) in cases {
        check(&snat(text), 8, field, reason);
    }
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_their_lines() {
    let text = "\
frontends:
- name: a
  vip: 127.0.0.1
  port: 0
  protocol: TCP
  backends:
  - {address: 10.0.1.11, port: 70000, weight: x}
- name: a
  colour: red
";
    let errors = read(text).unwrap_err();
    let expected = "\
kubelb.yaml:3: frontends[0].vip: 127.0.0.1 is a loopback address, which never leaves the node; use one that is routed
kubelb.yaml:4: frontends[0].port: 0 is not a port; use 1 to 65535
kubelb.yaml:7: frontends[0].backends[0].port: 70000 is not a port; use 1 to 65535
kubelb.yaml:7: frontends[0].backends[0].weight: x is not a weight; use 0 to 256
kubelb.yaml:8: frontends[1].name: a is the name of frontends[0] on line 2; names are unique
kubelb.yaml:8: frontends[1].vip: is missing; add `vip: 203.0.113.10`
kubelb.yaml:8: frontends[1].port: is missing; add `port: 80`
kubelb.yaml:8: frontends[1].protocol: is missing; add `protocol: TCP`
kubelb.yaml:8: frontends[1].backends: is missing; add `backends: []`
kubelb.yaml:9: frontends[1].colour: is not a known key; use name, vip, port, protocol, algorithm, affinityTimeout, sourceRanges, healthCheck, timeouts, halfOpenBudget, onUnhealthy, snatAddress, backends";
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn the_list_of_mistakes_is_bounded_and_says_so() {
    let errors = read(&format!("frontends:\n{}", "- 1\n".repeat(150))).unwrap_err();
    assert_eq!((errors.errors().len(), errors.left_out()), (MAX_ERRORS, 50));
    assert!(
        errors.to_string().ends_with("kubelb.yaml: and 50 more errors"),
        "{errors}"
    );
}
