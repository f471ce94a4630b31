//! Maglev tables (Eisenbud et al., NSDI 2016): which backend each of many slots belongs to, so that nodes which know the same backends
//! choose alike, and few clients change theirs when a backend comes or goes.
//!
//! A table follows from addresses, ports and weights alone, never from row numbers, which are a node's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelb_common::addr::Addr;
use kubelb_common::hash;

/// Sizes of tables, all prime, so that every step visits every slot.
const SIZES: [u32; 5] = [251, 1_021, USUAL, 16_381, LARGEST];
/// The smallest size that is asked for: most frontends never need another, and a change of size moves nearly every client.
const USUAL: u32 = 4_093;
const LARGEST: u32 = 65_521;
/// Slots for each backend (the paper's section 5.3 finds shares within about a percent at 100), and for each part of the smallest weight.
const SLOTS_PER_BACKEND: u64 = 100;
const SLOTS_PER_UNIT: u64 = 10;

/// A backend with a share above zero, by what all nodes know it by.
pub(super) type Entry = (Addr, u16, u32);

/// Sizes to try, best first: what the configured backends want, then what is left where there is no room. Health has no say, so that
/// a table keeps its size while backends fail and come back.
pub(super) fn sizes(weights: &[u32]) -> impl Iterator<Item = u32> + use<> {
    let count = u64::try_from(weights.len()).unwrap_or(u64::MAX);
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let units = sum.div_ceil(weights.iter().copied().min().unwrap_or(1).max(1).into());
    let least = (count.saturating_mul(SLOTS_PER_BACKEND)).max(units.saturating_mul(SLOTS_PER_UNIT));
    let wanted = SIZES
        .into_iter()
        .find(|size| *size >= USUAL && u64::from(*size) >= least)
        .unwrap_or(LARGEST);
    let fits = move |size: &u32| *size <= wanted && u64::from(*size) >= count;
    SIZES.into_iter().rev().filter(fits)
}

/// Tables of the last round: building one takes a fraction of a millisecond, and most do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memo {
    last: BTreeMap<(Vec<Entry>, u32), Arc<[u16]>>,
    next: BTreeMap<(Vec<Entry>, u32), Arc<[u16]>>,
}

impl Memo {
    /// For each slot the position of its backend in `entries`, which are sorted. Empty without entries.
    pub(super) fn table(&mut self, entries: Vec<Entry>, size: u32) -> Arc<[u16]> {
        let key = (entries, size);
        if let Some(table) = self.next.get(&key) {
            return Arc::clone(table);
        }
        let table = self.last.remove(&key).unwrap_or_else(|| build(&key.0, size).into());
        self.next.insert(key, Arc::clone(&table));
        table
    }

    /// Forgets what the round that ends did not ask for.
    pub(super) fn end_round(&mut self) {
        self.last = std::mem::take(&mut self.next);
    }
}

const NOBODY: u16 = u16::MAX;

/// A backend on its way through the slots in its order of preference.
struct Walker {
    at: u64,
    step: u64,
    weight: u64,
    credit: u64,
}

fn build(entries: &[Entry], size: u32) -> Vec<u16> {
    let modulus = u64::from(size.max(2));
    let heaviest = entries.iter().map(|(.., weight)| u64::from(*weight)).max().unwrap_or(0);
    if heaviest == 0 {
        return Vec::new();
    }
    let mut walkers: Vec<Walker> = entries
        .iter()
        .map(|(address, port, weight)| {
            let (at, step) = hash::preference(*address, *port);
            Walker {
                at: at % modulus,
                step: step % (modulus - 1) + 1,
                weight: u64::from(*weight),
                // Everybody takes a slot in the first round: no weight is too small for any.
                credit: heaviest,
            }
        })
        .collect();
    let mut table = vec![NOBODY; usize::try_from(size).unwrap_or(0)];
    let mut free = table.len();
    // A round takes at least the slot of the heaviest, as long as there is a free one.
    while free > 0 {
        for (index, walker) in (0..NOBODY).zip(&mut walkers) {
            walker.credit += walker.weight;
            if walker.credit < heaviest || free == 0 {
                continue;
            }
            walker.credit -= heaviest;
            loop {
                let here = usize::try_from(walker.at).unwrap_or(usize::MAX);
                walker.at = (walker.at + walker.step) % modulus;
                match table.get_mut(here) {
                    Some(slot) if *slot == NOBODY => {
                        *slot = index;
                        free -= 1;
                        break;
                    }
                    Some(_) => {}
                    None => return Vec::new(),
                }
            }
        }
    }
    table
}

#[cfg(test)]
mod tests;
