//! Which SNAT addresses there are, and how each shares out the reverse index and the port pools. Pure.
//!
//! Rows never move or change their geometry while a flow may use them: an address that is no longer wanted stops giving
//! out ports, and its row is freed once all of them are back. The data path knows one row of an address, so another port
//! range has to wait as well: the row goes on with the one it has until no flow holds a port.

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
    /// Prepare pools and reverse index, then fill the row, which gives out no ports before [`SnatOp::Resume`].
    Create {
        /// The row.
        slot: u8,
        /// What it holds.
        view: SnatView,
    },
    /// Give out no more ports.
    Retire {
        /// The row.
        slot: u8,
    },
    /// Give out ports. Replies must find the address before: the destination filter comes first.
    Resume {
        /// The row.
        slot: u8,
    },
    /// All ports are back: empty the row.
    Free {
        /// The row.
        slot: u8,
    },
}

/// What should be done, and which row to use towards which backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes in order.
    pub ops: Vec<SnatOp>,
    /// Row to use towards a backend; absent: any of the family.
    pub rows: BTreeMap<IpAddr, u8>,
    /// Row of each address that gives out ports, once the operations are done.
    pub addresses: BTreeMap<IpAddr, u8>,
    /// Addresses that found no row.
    pub left_out: Vec<IpAddr>,
    /// Addresses that keep another port range than the one asked for, because flows hold ports of it.
    pub waiting: Vec<IpAddr>,
    /// True when rows are on their way out: another plan is due after a while.
    pub unfinished: bool,
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
    // Rows that fit come first, so that of two with one address the right one is kept.
    let fits = |view: &SnatView| view.first_port == u32::from(snat.ports.first()) && view.ports == ports;
    let (fitting, others): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, (view, _))| fits(view));
    for (slot, (view, used)) in fitting.into_iter().chain(others) {
        let address = IpAddr::from(view.address);
        let stays = wanted.contains(&address) && !slots.contains_key(&address) && (fits(view) || *used > 0);
        if !stays && *used == 0 && !view.in_service {
            plan.ops.push(SnatOp::Free { slot: *slot });
            plan.unfinished = true;
            continue;
        }
        kept.insert(*slot, *view);
        if stays {
            slots.insert(address, *slot);
            if !fits(view) {
                plan.waiting.push(address);
            }
            if !view.in_service {
                plan.ops.push(SnatOp::Resume { slot: *slot });
            }
        } else {
            plan.unfinished = true;
            if view.in_service {
                plan.ops.push(SnatOp::Retire { slot: *slot });
            }
        }
    }
    plan.unfinished |= !plan.waiting.is_empty();
    // A row that was retired or freed in this very plan is given out again in a later one.
    let occupied: BTreeSet<IpAddr> = rows.values().map(|(view, _)| IpAddr::from(view.address)).collect();
    let mut missing: Vec<IpAddr> = Vec::new();
    for address in wanted {
        if !slots.contains_key(&address) && !occupied.contains(&address) {
            missing.push(address);
        }
    }
    for (index, address) in missing.iter().enumerate() {
        let more = u32::try_from(missing.len() - index - 1).unwrap_or(u32::MAX);
        let Some((slot, view)) = place(*address, snat, &kept, rows, room, more) else {
            plan.left_out.push(*address);
            continue;
        };
        plan.ops.push(SnatOp::Create { slot, view });
        plan.ops.push(SnatOp::Resume { slot });
        kept.insert(slot, view);
        slots.insert(*address, slot);
    }
    for (backend, source) in by_backend {
        if let Some(slot) = slots.get(&source) {
            plan.rows.insert(backend, *slot);
        }
    }
    plan.addresses = slots;
    plan
}

/// A row and room for an address, with as many folds as fit when `more` addresses are to come now, and later ones shall
/// not be left out.
fn place(
    address: IpAddr,
    snat: &Snat,
    kept: &BTreeMap<u8, SnatView>,
    rows: &BTreeMap<u8, (SnatView, u64)>,
    room: Room,
    more: u32,
) -> Option<(u8, SnatView)> {
    let slot =
        (0..u8::try_from(MAX_ADDRESSES).ok()?).find(|slot| !kept.contains_key(slot) && !rows.contains_key(slot))?;
    let ports = snat.ports.count();
    let reverse_used: Vec<(u32, u32)> = sorted(
        kept.values()
            .map(|view| (view.reverse, view.reverse + view.sections() * view.ports)),
    );
    let pools_used: Vec<(u32, u32)> = sorted(kept.values().map(|view| (view.pool, view.pool + view.sections())));
    let rows_left = MAX_ADDRESSES.saturating_sub(u32::try_from(kept.len()).unwrap_or(u32::MAX));
    let now = more.saturating_add(1).min(rows_left.max(1));
    let later = rows_left.saturating_sub(now);
    let share = |free: u32, least: u32| free.saturating_sub(later.saturating_mul(least)) / now;
    let reverse_share = share(free(&reverse_used, room.reverse), 2 * ports);
    let pools_share = share(free(&pools_used, room.pools), 2);
    (0..=MAX_FOLD_BITS).rev().find_map(|fold_bits| {
        let sections = 2u32 << fold_bits;
        let words = sections.checked_mul(ports)?;
        if fold_bits > 0 && (words > reverse_share || sections > pools_share) {
            return None;
        }
        let view = SnatView {
            address: Addr::from(address),
            first_port: u32::from(snat.ports.first()),
            ports,
            fold_bits,
            reverse: gap(&reverse_used, words, room.reverse)?,
            pool: gap(&pools_used, sections, room.pools)?,
            in_service: false,
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
