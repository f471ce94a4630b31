//! What a file says of new flows, and mistakes in that.

use std::time::Duration;

use super::{check, read, with_more};
use crate::model::Algorithm;

#[test]
fn algorithm_affinity_and_source_ranges_are_read_as_meant() {
    let lines = "  algorithm: MaglevBySource\n  affinityTimeout: 3h\n  sourceRanges: [192.0.2.0/24, 198.51.100.7/32]\n";
    let web = read(&with_more(lines)).unwrap().frontends["default/web"].clone();
    assert_eq!(
        (web.algorithm, web.affinity),
        (Algorithm::MaglevBySource, Some(Duration::from_secs(10_800)))
    );
    let ranges: Vec<String> = web.source_ranges.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.0/24", "198.51.100.7/32"]);
    let plain = read(&with_more("")).unwrap().frontends["default/web"].clone();
    assert_eq!(
        (plain.algorithm, plain.affinity, plain.source_ranges),
        (Algorithm::RoundRobin, None, None)
    );
}

#[test]
fn affinity_and_source_ranges() {
    check(
        &with_more("  affinityTimeout: 500ms\n"),
        8,
        "frontends[0].affinityTimeout",
        "too short; use 1s to 24h",
    );
    for (ranges, field, reason) in [
        ("[]", "", "is empty; name who may come"),
        ("192.0.2.0/24", "", "a list is expected"),
        ("[192.0.2.0/24, 192.0.2.7/24]", "[1]", "write 192.0.2.0/24"),
        ("[192.0.2.7]", "[0]", "write 192.0.2.7/32"),
        ("[192.0.2.0/33]", "[0]", "is not a network"),
        ("[\"2001:db8::/32\"]", "[0]", "is IPv6 but the VIP 203.0.113.10 is IPv4"),
    ] {
        check(
            &with_more(&format!("  sourceRanges: {ranges}\n")),
            8,
            &format!("frontends[0].sourceRanges{field}"),
            reason,
        );
    }
}
