//! The local port of a check: never one of the SNAT ports.
//!
//! A check from a SNAT address and port would be the same connection as a translated flow to that backend. Owns the
//! choice between the kernel's own allocation (restricted by `IP_LOCAL_PORT_RANGE`, ip(7), Linux 6.3) and explicit
//! binds. Decisions are pure; one function reads the host's ephemeral range.

use crate::model::PortRange;

/// Where `ephemeral` is read from; the network namespace is that of the reading thread.
const EPHEMERAL_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default (`inet_init_net` in net/ipv4/af_inet.c), for when the file cannot be read.
const DEFAULT_EPHEMERAL: (u16, u16) = (32_768, 60_999);
/// Lowest port for explicit binds when the ephemeral range is of no use: below are privileged ports.
const FIRST_UNPRIVILEGED: u16 = 1_024;
/// Explicit binds tried for one check.
pub(super) const MAX_BINDS: usize = 16;

/// How a check gets its local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The kernel's allocation cannot meet the excluded range.
    Kernel,
    /// It can, but not within this part.
    KernelWithin(PortRange),
    /// The excluded range covers the ephemeral one: bind to a port elsewhere.
    Explicit,
}

/// Decides for the host's `ephemeral` range.
pub(super) fn choose(ephemeral: PortRange, exclude: PortRange) -> Choice {
    if exclude.last() < ephemeral.first() || ephemeral.last() < exclude.first() {
        return Choice::Kernel;
    }
    // The option takes one contiguous range: the larger remainder.
    match without(ephemeral, exclude)
        .into_iter()
        .flatten()
        .max_by_key(|part| part.count())
    {
        Some(part) => Choice::KernelWithin(part),
        None => Choice::Explicit,
    }
}

/// A random port for an explicit bind, `None` when every port is excluded. `random` yields a number below its argument.
pub(super) fn explicit(ephemeral: PortRange, exclude: PortRange, random: impl FnOnce(u32) -> u32) -> Option<u16> {
    let unprivileged = PortRange::new(FIRST_UNPRIVILEGED, u16::MAX)?;
    let parts = [ephemeral, unprivileged].map(|range| without(range, exclude));
    let parts = parts.into_iter().find(|parts| parts.iter().any(Option::is_some))?;
    let total: u32 = parts.iter().flatten().map(|part| part.count()).sum();
    let mut index = random(total);
    for part in parts.into_iter().flatten() {
        if index < part.count() {
            return u16::try_from(u32::from(part.first()) + index).ok();
        }
        index -= part.count();
    }
    None
}

/// The host's ephemeral range now.
pub(super) fn ephemeral() -> PortRange {
    let text = std::fs::read_to_string(EPHEMERAL_FILE).unwrap_or_default();
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let read = match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => PortRange::new(first, last),
        _ => None,
    };
    let (first, last) = DEFAULT_EPHEMERAL;
    read.or_else(|| PortRange::new(first, last))
        .unwrap_or(PortRange::NODE_DEFAULT)
}

/// What remains of `range` below and above `exclude`.
fn without(range: PortRange, exclude: PortRange) -> [Option<PortRange>; 2] {
    let below = exclude
        .first()
        .checked_sub(1)
        .and_then(|last| PortRange::new(range.first(), last.min(range.last())));
    let above = exclude
        .last()
        .checked_add(1)
        .and_then(|first| PortRange::new(first.max(range.first()), range.last()));
    [below, above]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn the_kernel_chooses_wherever_it_cannot_go_wrong() {
        let ephemeral = range(32_768, 60_999);
        assert_eq!(choose(ephemeral, range(10_000, 29_999)), Choice::Kernel);
        assert_eq!(choose(ephemeral, range(61_000, 65_535)), Choice::Kernel);
        assert_eq!(
            choose(ephemeral, range(30_000, 40_000)),
            Choice::KernelWithin(range(40_001, 60_999))
        );
        assert_eq!(
            choose(ephemeral, range(40_000, 50_000)),
            Choice::KernelWithin(range(50_001, 60_999))
        );
        assert_eq!(
            choose(ephemeral, range(50_000, 65_535)),
            Choice::KernelWithin(range(32_768, 49_999))
        );
        assert_eq!(choose(ephemeral, range(32_768, 60_999)), Choice::Explicit);
        assert_eq!(choose(ephemeral, range(1_024, 65_535)), Choice::Explicit);
    }

    #[test]
    fn no_port_is_left_when_all_are_excluded() {
        assert_eq!(explicit(range(32_768, 60_999), range(1_024, 65_535), |_| 0), None);
        assert_eq!(
            explicit(range(32_768, 60_999), range(1_025, 65_535), |_| 0),
            Some(1_024)
        );
    }

    fn any_range() -> impl Strategy<Value = PortRange> {
        (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| range(a.min(b), a.max(b)))
    }

    proptest! {
        #[test]
        fn no_choice_ever_holds_an_excluded_port(ephemeral in any_range(), exclude in any_range(), dice in any::<u32>()) {
            let excluded = exclude.first()..=exclude.last();
            match choose(ephemeral, exclude) {
                Choice::Kernel => prop_assert!((ephemeral.first()..=ephemeral.last()).all(|port| !excluded.contains(&port))),
                Choice::KernelWithin(part) => {
                    prop_assert!((part.first()..=part.last()).all(|port| !excluded.contains(&port)));
                    prop_assert!(ephemeral.first() <= part.first() && part.last() <= ephemeral.last());
                }
                Choice::Explicit => {}
            }
            if let Some(port) = explicit(ephemeral, exclude, |below| dice % below) {
                prop_assert!(!excluded.contains(&port));
            }
        }
    }
}
