//! Source ranges as the maps have them: sorted spans that do not touch, and room for them, shared where frontends ask for the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use kubelb_common::addr::Addr;

use super::turn;

/// First and last address.
pub type Span = (Addr, Addr);

/// Source ranges of a frontend, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSet {
    /// Where they begin in the array of source ranges.
    pub offset: u32,
    /// Sorted, and not overlapping. Empty: nobody may come.
    pub spans: Vec<Span>,
}

impl SourceSet {
    /// The spans as networks, as few as possible.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        let of = |(first, last): &Span| {
            if first.is_v4() && last.is_v4() {
                IpSubnets::from(Ipv4Subnets::new(first.v4_bytes().into(), last.v4_bytes().into(), 0))
            } else {
                IpSubnets::from(Ipv6Subnets::new(first.bytes().into(), last.bytes().into(), 0))
            }
        };
        self.spans.iter().flat_map(of).collect()
    }
}

/// Spans of the networks that are of the VIP's family; `None` when that is everybody.
pub(super) fn spans(vip: IpAddr, networks: &[IpNet]) -> Option<Vec<Span>> {
    let same_family = |network: &&IpNet| network.network().is_ipv4() == vip.is_ipv4();
    let mut bounds: Vec<(u128, u128)> = networks
        .iter()
        .filter(same_family)
        .map(|network| (number(network.network()), number(network.broadcast())))
        .collect();
    bounds.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    if merged == [whole_family(vip)] {
        return None;
    }
    let span = |(first, last): (u128, u128)| (address(first), address(last));
    Some(merged.into_iter().map(span).collect())
}

fn number(ip: IpAddr) -> u128 {
    u128::from_be_bytes(Addr::from(ip).bytes())
}

fn address(number: u128) -> Addr {
    Addr::v6(number.to_be_bytes())
}

fn whole_family(vip: IpAddr) -> (u128, u128) {
    match vip {
        IpAddr::V4(_) => (number(IpAddr::from([0; 4])), number(IpAddr::from([255; 4]))),
        IpAddr::V6(_) => (0, u128::MAX),
    }
}

/// Where sets are, before or after.
#[derive(Default)]
pub(super) struct Places {
    sets: BTreeMap<Vec<Span>, u32>,
    used: BTreeMap<u32, u32>,
}

impl Places {
    /// Notes a set that is published.
    pub(super) fn occupy(&mut self, set: &SourceSet) {
        let Ok(length @ 1..) = u32::try_from(set.spans.len()) else {
            return;
        };
        self.used.insert(set.offset, set.offset.saturating_add(length));
        self.sets.entry(set.spans.clone()).or_insert(set.offset);
    }

    /// The set of these spans: the one of that kind that there is, or a new one where no other is. `None`: there is no room.
    pub(super) fn place(&mut self, spans: Vec<Span>, cursor: &mut u32, capacity: u32) -> Option<SourceSet> {
        let known = if spans.is_empty() {
            Some(&0)
        } else {
            self.sets.get(&spans)
        };
        if let Some(offset) = known {
            return Some(SourceSet { offset: *offset, spans });
        }
        let length = u32::try_from(spans.len()).ok()?;
        let offset =
            turn::gap(&self.used, *cursor, length, capacity).or_else(|| turn::gap(&self.used, 0, length, capacity))?;
        *cursor = offset + length;
        let set = SourceSet { offset, spans };
        self.occupy(&set);
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn of(vip: IpAddr, networks: &[&str]) -> Option<Vec<(IpAddr, IpAddr)>> {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
        let spans = spans(vip, &networks)?;
        Some(spans.into_iter().map(|(a, b)| (a.into(), b.into())).collect())
    }

    fn span(first: &str, last: &str) -> (IpAddr, IpAddr) {
        (first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn networks_are_sorted_and_merged() {
        assert_eq!(
            of(
                V4,
                &[
                    "198.51.100.0/24",
                    "10.1.0.0/16",
                    "10.0.0.0/16",
                    "10.0.7.0/24",
                    "2001:db8::/32"
                ]
            ),
            Some(vec![
                span("10.0.0.0", "10.1.255.255"),
                span("198.51.100.0", "198.51.100.255")
            ])
        );
        assert_eq!(
            of(V6, &["2001:db8::/32", "10.0.0.0/8"]),
            Some(vec![span("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")])
        );
    }

    #[test]
    fn sets_read_as_networks_again() {
        for (vip, networks) in [
            (V4, ["10.0.0.0/15", "198.51.100.7/32"]),
            (V6, ["::/64", "2001:db8::/32"]),
        ] {
            let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
            let spans = spans(vip, &networks).unwrap();
            assert_eq!(SourceSet { offset: 0, spans }.networks(), networks);
        }
        let odd = SourceSet {
            offset: 0,
            spans: vec![(Addr::from(V6), Addr::v6([0xff; 16]))],
        };
        assert!(!odd.networks().is_empty());
        let around_v4 = spans(V6, &["::/1".parse().unwrap()]).unwrap();
        assert_eq!(
            SourceSet {
                offset: 0,
                spans: around_v4
            }
            .networks(),
            ["::/1".parse().unwrap()]
        );
    }

    #[test]
    fn everybody_is_no_filter_and_nobody_is_one() {
        assert_eq!(of(V4, &["0.0.0.0/0", "10.0.0.0/8"]), None);
        assert_eq!(of(V4, &["128.0.0.0/1", "0.0.0.0/1"]), None);
        assert_eq!(of(V6, &["::/0"]), None);
        assert_eq!(of(V4, &[]), Some(Vec::new()));
        assert_eq!(of(V4, &["::/0"]), Some(Vec::new()), "of the other family only");
        assert_eq!(of(V6, &["0.0.0.0/0"]), Some(Vec::new()));
    }

    #[test]
    fn equal_sets_share_a_place_and_others_do_not_overlap() {
        let spans = |n: u8, count: u8| -> Vec<Span> {
            (0..count)
                .map(|m| (Addr::v4([n, m, 0, 0]), Addr::v4([n, m, 0, 9])))
                .collect()
        };
        let mut places = Places::default();
        let mut cursor = 0;
        let mut place = |n, count| places.place(spans(n, count), &mut cursor, 8).map(|set| set.offset);
        assert_eq!(
            [place(1, 3), place(2, 2), place(1, 3), place(3, 0)],
            [Some(0), Some(3), Some(0), Some(0)]
        );
        assert_eq!([place(4, 4), place(5, 3)], [None, Some(5)]);
    }
}
