//! What a frontend says of its flows: timeouts, half-open ones, those of unhealthy backends, and where they come from.

use super::{check, read, with_line, with_more};

#[test]
fn flow_timeouts() {
    let timeouts = |text: &str| with_more(&format!("  timeouts: {{{text}}}\n"));
    let cases = [
        ("tcpHalfOpen: 25h", "tcpHalfOpen", "25h is too long; use 100ms to 24h"),
        ("tcpEstablished: 241h", "tcpEstablished", "use 100ms to 240h"),
        ("tcpClosing: 0s", "tcpClosing", "too short"),
        ("udpUnreplied: soon", "udpUnreplied", "not a length of time"),
        ("udpReplied: 24h1ms", "udpReplied", "too long"),
        ("udpreplied: 5s", "udpreplied", "did you mean udpReplied?"),
    ];
    for (text, key, reason) in cases {
        check(&timeouts(text), 8, &format!("frontends[0].timeouts.{key}"), reason);
    }
}

#[test]
fn budgets_of_half_open_flows() {
    let field = "frontends[0].halfOpenBudget";
    for (value, reason) in [
        ("0", "use 1 to 16777216"),
        ("16777217", "use 1 to 16777216"),
        ("many", "not a budget of half-open connections"),
    ] {
        check(&with_more(&format!("  halfOpenBudget: {value}\n")), 8, field, reason);
    }
    let udp = with_line(5, "  protocol: UDP") + "  halfOpenBudget: 5\n";
    check(&udp, 8, field, "UDP has no handshake");
}

#[test]
fn what_becomes_of_an_unhealthy_backends_flows() {
    check(
        &with_more("  onUnhealthy: Kill\n"),
        8,
        "frontends[0].onUnhealthy",
        "use Drain or Reset",
    );
}

#[test]
fn snat_addresses_of_frontends() {
    let field = "frontends[0].snatAddress";
    let one = |address: &str| with_more(&format!("  snatAddress: {address}\nsnat: {{addresses: [192.0.2.1]}}\n"));
    check(
        &one("192.0.2.2"),
        8,
        field,
        "192.0.2.2 is not in snat.addresses; add it there",
    );
    check(&one("\"2001:db8::1\""), 8, field, "use one family in a frontend");
    check(
        &with_more("  snatAddress: 192.0.2.1\n"),
        8,
        field,
        "not in snat.addresses",
    );
}

#[test]
fn a_file_names_the_addresses_that_this_node_announces() {
    let announced = read("announce: [203.0.113.10, \"2001:db8::10\"]\nfrontends: []").unwrap();
    assert_eq!(announced.addresses.map(|addresses| addresses.len()), Some(2));
    let twice = read("announce: [203.0.113.10, 203.0.113.10]\nfrontends: []").unwrap_err();
    assert!(twice.to_string().contains("203.0.113.10 is there already"), "{twice}");
}
