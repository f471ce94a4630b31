//! The order in which backends take their turn, and room for it in the slots array.

use std::collections::BTreeMap;

use kubelb_common::addr::Addr;
use kubelb_common::backend::flag;

use super::BackendRow;

/// Longest turn of one frontend: beyond it weights are scaled down.
const MAX_TURN: u32 = 8_192;

/// Who takes new flows.
pub(super) struct Takers {
    /// Rows and weights: of the healthy ones, or of all when none is (fail open).
    pub(super) shares: Vec<(u32, u32)>,
    /// Address and raw port of each of [`Self::shares`].
    pub(super) identities: Vec<(Addr, u16)>,
    /// There are some, and none is healthy.
    pub(super) fail_open: bool,
    /// Weights of all that would take flows if they were healthy.
    pub(super) configured: Vec<u32>,
}

/// Who of a frontend's backends takes new flows.
pub(super) fn takers(rows: &BTreeMap<u32, BackendRow>) -> Takers {
    let wanted = |row: &&BackendRow| row.flags & flag::DRAINING == 0 && row.weight > 0;
    let is_healthy = |row: &BackendRow| row.flags & flag::UNHEALTHY == 0;
    let some_healthy = rows.values().filter(wanted).any(is_healthy);
    let takes = |(_, row): &(&u32, &BackendRow)| wanted(row) && (!some_healthy || is_healthy(row));
    let (shares, identities): (Vec<_>, Vec<_>) = rows
        .iter()
        .filter(takes)
        .map(|(number, row)| ((*number, u32::from(row.weight)), (row.address, row.port)))
        .unzip();
    Takers {
        fail_open: !shares.is_empty() && !some_healthy,
        configured: rows.values().filter(wanted).map(|row| row.weight.into()).collect(),
        shares,
        identities,
    }
}

/// Backend rows in the order of the turn: as often as their weights say, spread evenly (smooth weighted round robin).
pub(super) fn of(shares: &[(u32, u32)]) -> Vec<u32> {
    let divisor = shares
        .iter()
        .fold(0, |divisor, (_, weight)| greatest_common_divisor(divisor, *weight));
    let total: u32 = shares.iter().map(|(_, weight)| weight / divisor.max(1)).sum();
    let scale = |weight: u32| {
        let weight = weight / divisor.max(1);
        if total <= MAX_TURN {
            weight
        } else {
            (weight * MAX_TURN / total).max(1)
        }
    };
    let shares: Vec<(u32, i64)> = shares
        .iter()
        .map(|(number, weight)| (*number, i64::from(scale(*weight))))
        .collect();
    spread(&shares)
}

/// Each step raises everybody by their weight and lets the highest go, who pays the sum of all.
fn spread(shares: &[(u32, i64)]) -> Vec<u32> {
    let total: i64 = shares.iter().map(|(_, weight)| weight).sum();
    if shares.iter().all(|(_, weight)| *weight == 1) {
        return shares.iter().map(|(number, _)| *number).collect();
    }
    let mut credit: Vec<i64> = vec![0; shares.len()];
    let mut turn = Vec::new();
    for _ in 0..total {
        let mut best: Option<(i64, usize)> = None;
        for (index, (credit, (_, weight))) in credit.iter_mut().zip(shares).enumerate() {
            *credit += weight;
            if best.is_none_or(|(highest, _)| *credit > highest) {
                best = Some((*credit, index));
            }
        }
        let Some((_, index)) = best else { break };
        if let (Some(credit), Some((number, _))) = (credit.get_mut(index), shares.get(index)) {
            *credit -= total;
            turn.push(*number);
        }
    }
    turn
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The first `length` free slots at or after `from`; `used` maps the start of each range, none overlapping, to its end.
pub(super) fn gap(used: &BTreeMap<u32, u32>, from: u32, length: u32, capacity: u32) -> Option<u32> {
    let mut start = used.range(..from).next_back().map_or(from, |(_, end)| from.max(*end));
    for (begin, end) in used.range(start..) {
        if begin - start >= length {
            break;
        }
        start = *end;
    }
    (start.checked_add(length)? <= capacity).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(rows: &BTreeMap<u32, BackendRow>) -> Vec<u32> {
        super::of(&takers(rows).shares)
    }

    fn row(weight: u16, flags: u16) -> BackendRow {
        BackendRow {
            frontend: 1,
            address: Addr::v4([10, 0, 0, 1]),
            port: 80,
            flags: flag::IN_USE | flags,
            weight,
            snat: None,
            next_hop: 0,
        }
    }

    #[test]
    fn equal_weights_are_one_slot_each() {
        let rows = [(1, row(7, 0)), (2, row(7, 0)), (3, row(7, 0))].into();
        assert_eq!(of(&rows), [1, 2, 3]);
    }

    #[test]
    fn weights_are_spread() {
        let rows = [(1, row(5, 0)), (2, row(1, 0)), (3, row(1, 0))].into();
        assert_eq!(of(&rows), [1, 1, 2, 1, 3, 1, 1]);
    }

    #[test]
    fn unhealthy_and_draining_ones_are_out_unless_nobody_is_left() {
        let mut rows: BTreeMap<u32, BackendRow> = [
            (1, row(1, 0)),
            (2, row(1, flag::UNHEALTHY)),
            (3, row(1, flag::DRAINING)),
            (4, row(0, 0)),
        ]
        .into();
        assert_eq!(of(&rows), [1]);
        assert!(!takers(&rows).fail_open);
        rows.insert(1, row(1, flag::UNHEALTHY));
        assert!(takers(&rows).fail_open);
        assert_eq!(takers(&rows).configured, [1, 1]);
        assert_eq!(of(&rows), [1, 2], "fail open, but never to a draining one");
        assert_eq!(of(&BTreeMap::new()), [0u32; 0]);
        assert!(!takers(&BTreeMap::new()).fail_open);
    }

    proptest! {
        #[test]
        fn each_gets_its_share(weights in prop::collection::vec(0u16..=256, 1..60)) {
            let rows: BTreeMap<u32, BackendRow> =
                weights.iter().enumerate().map(|(n, w)| (u32::try_from(n).unwrap(), row(*w, 0))).collect();
            let turn = of(&rows);
            prop_assert!(turn.len() <= usize::try_from(MAX_TURN).unwrap() + weights.len());
            let sum: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            for (n, w) in weights.iter().enumerate() {
                let got = turn.iter().filter(|row| usize::try_from(**row).unwrap() == n).count();
                prop_assert_eq!(got > 0, *w > 0);
                if sum <= MAX_TURN && sum > 0 {
                    prop_assert_eq!(got * usize::try_from(sum).unwrap(), usize::from(*w) * turn.len());
                }
            }
        }

        #[test]
        fn gaps_do_not_overlap(ranges in prop::collection::btree_map(0u32..200, 1u32..10, 0..12), from in 0u32..200, length in 1u32..40) {
            let mut used = BTreeMap::new();
            let mut end = 0;
            for (start, length) in ranges {
                let start = start.max(end);
                end = start + length;
                used.insert(start, end);
            }
            if let Some(found) = gap(&used, from, length, 256) {
                prop_assert!(found >= from && found + length <= 256);
                prop_assert!(used.iter().all(|(start, end)| found + length <= *start || found >= *end));
            }
        }
    }
}
