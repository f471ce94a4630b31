//! Which SNAT addresses there are, and how each shares out the reverse index and the port pools. Pure.
//!
//! Rows never move or change their geometry while a flow may use them: an address that is no longer wanted stops giving
//! out ports, and its row is freed once all of them are back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_common::addr::Addr;
use kubelb_common::snat::{MAX_ADDRESSES, SnatView};

use crate::model::{NextHop, Snat};

/// Most bits of the backend fold: 16 backends to a port, and more by hashing alike.
const MAX_FOLD_BITS: u32 = 4;

/// What there is to share out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Words of reverse index.
    pub reverse: u32,
    /// Port pools.
    pub pools: u32,
}

/// A change of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnatOp {
    /// Prepare pools and reverse index, then fill the row.
    Create { slot: u8, view: SnatView },
    /// Give out no more ports.
    Retire { slot: u8 },
    /// Give out ports again.
    Resume { slot: u8 },
    /// All ports are back: empty the row.
    Free { slot: u8 },
}

/// What should be done, and which row to use towards which backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes in order.
    pub ops: Vec<SnatOp>,
    /// Row to use towards a backend; absent: any of the family.
    pub rows: BTreeMap<IpAddr, u8>,
    /// Addresses that found no row.
    pub left_out: Vec<IpAddr>,
}

/// Plans the rows. `rows` are those that exist, with the number of ports that flows hold.
#[must_use]
pub fn plan(snat: &Snat, hops: &BTreeMap<IpAddr, NextHop>, rows: &BTreeMap<u8, (SnatView, u64)>, room: Room) -> Plan {
    let listed = |v4: bool| snat.addresses.iter().any(|address| address.is_ipv4() == v4);
    let mut wanted: BTreeSet<IpAddr> = snat.addresses.iter().copied().collect();
    let mut by_backend = BTreeMap::new();
    for (backend, hop) in hops {
        if !listed(backend.is_ipv4())
            && let Some(source) = hop.source
        {
            wanted.insert(source);
            by_backend.insert(*backend, source);
        }
    }
    let ports = snat.ports.count();
    let mut plan = Plan::default();
    let mut slots: BTreeMap<IpAddr, u8> = BTreeMap::new();
    let mut kept: BTreeMap<u8, SnatView> = BTreeMap::new();
    for (slot, (view, used)) in rows {
        let address = IpAddr::from(view.address);
        let fits = wanted.contains(&address)
            && view.first_port == u32::from(snat.ports.first())
            && view.ports == ports
            && !slots.contains_key(&address);
        if fits {
            slots.insert(address, *slot);
            if !view.in_service {
                plan.ops.push(SnatOp::Resume { slot: *slot });
            }
        } else if *used == 0 && !view.in_service {
            plan.ops.push(SnatOp::Free { slot: *slot });
            continue;
        } else if view.in_service {
            plan.ops.push(SnatOp::Retire { slot: *slot });
        }
        kept.insert(*slot, *view);
    }
    let missing: Vec<IpAddr> = wanted
        .iter()
        .copied()
        .filter(|address| !slots.contains_key(address))
        .collect();
    for (index, address) in missing.iter().enumerate() {
        let others = u32::try_from(missing.len() - index).unwrap_or(u32::MAX);
        let Some((slot, view)) = place(*address, snat, &kept, rows, room, others) else {
            plan.left_out.push(*address);
            continue;
        };
        plan.ops.push(SnatOp::Create { slot, view });
        kept.insert(slot, view);
        slots.insert(*address, slot);
    }
    for (backend, source) in by_backend {
        if let Some(slot) = slots.get(&source) {
            plan.rows.insert(backend, *slot);
        }
    }
    plan
}

/// A row and room for an address, with as many folds as fit when `others` addresses, itself included, are to come.
fn place(
    address: IpAddr,
    snat: &Snat,
    kept: &BTreeMap<u8, SnatView>,
    rows: &BTreeMap<u8, (SnatView, u64)>,
    room: Room,
    others: u32,
) -> Option<(u8, SnatView)> {
    // A row that is freed in this very plan is given out in the next one.
    let slot =
        (0..u8::try_from(MAX_ADDRESSES).ok()?).find(|slot| !kept.contains_key(slot) && !rows.contains_key(slot))?;
    let ports = snat.ports.count();
    let reverse_used: Vec<(u32, u32)> = sorted(
        kept.values()
            .map(|view| (view.reverse, view.reverse + view.sections() * view.ports)),
    );
    let pools_used: Vec<(u32, u32)> = sorted(kept.values().map(|view| (view.pool, view.pool + view.sections())));
    (0..=MAX_FOLD_BITS).rev().find_map(|fold_bits| {
        let sections = 2u32 << fold_bits;
        let words = sections.checked_mul(ports)?;
        let fair =
            words <= free(&reverse_used, room.reverse) / others && sections <= free(&pools_used, room.pools) / others;
        if !fair && fold_bits > 0 {
            return None;
        }
        let view = SnatView {
            address: Addr::from(address),
            first_port: u32::from(snat.ports.first()),
            ports,
            fold_bits,
            reverse: gap(&reverse_used, words, room.reverse)?,
            pool: gap(&pools_used, sections, room.pools)?,
            in_service: true,
        };
        Some((slot, view))
    })
}

fn sorted(ranges: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = ranges.collect();
    ranges.sort_unstable();
    ranges
}

fn free(used: &[(u32, u32)], capacity: u32) -> u32 {
    capacity.saturating_sub(used.iter().map(|(start, end)| end - start).sum())
}

fn gap(used: &[(u32, u32)], length: u32, capacity: u32) -> Option<u32> {
    let mut start = 0;
    for (begin, end) in used {
        if begin.checked_sub(start)? >= length {
            return Some(start);
        }
        start = *end;
    }
    (start.checked_add(length)? <= capacity).then_some(start)
}

#[cfg(test)]
mod tests;
