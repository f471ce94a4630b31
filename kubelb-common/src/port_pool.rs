//! Free SNAT ports of one (address, protocol, fold): a bitmap with two levels of summary above it.
//!
//! Finding and taking a free port costs the same at any occupancy. Bits are claimed by atomic and; a summary bit may
//! be stale in the harmless direction only (it says "maybe free" for a full word), except for the instant between the
//! two steps of [`PortPool::put`].

use crate::shared::{SharedU64, opaque};

const LEAVES: usize = 1024;
const MIDDLES: usize = LEAVES / 64;
const TRIES: u32 = 8;

/// A pool of up to 65,536 ports, counted from the first of the range.
#[repr(C)]
pub struct PortPool {
    top: SharedU64,
    middle: [SharedU64; MIDDLES],
    leaf: [SharedU64; LEAVES],
}

const _: () = assert!(size_of::<PortPool>() == 8 * (1 + MIDDLES + LEAVES));

/// Bits at and above `bit`, which is below 64.
#[inline(always)]
const fn from_bit(bit: u32) -> u64 {
    u64::MAX << (bit & 63)
}

/// Bits above `bit`, which is below 64.
#[inline(always)]
const fn above_bit(bit: u32) -> u64 {
    (u64::MAX << (bit & 63)) << 1
}

impl PortPool {
    #[inline(always)]
    fn leaf(&self, index: u32) -> &SharedU64 {
        // The mask lets the compiler and the verifier see that no index is out of bounds.
        #[expect(clippy::indexing_slicing, reason = "masked to the array's size, a power of two")]
        &self.leaf[index as usize & (LEAVES - 1)]
    }

    #[inline(always)]
    fn middle(&self, index: u32) -> &SharedU64 {
        #[expect(clippy::indexing_slicing, reason = "masked to the array's size, a power of two")]
        &self.middle[index as usize & (MIDDLES - 1)]
    }

    /// First free port at or after `from` that is below `end`, without taking it.
    #[inline(always)]
    fn find(&self, from: u32, end: u32) -> Option<u32> {
        let leaf = from >> 6;
        let bits = self.leaf(leaf).load() & from_bit(from);
        let found = if bits != 0 {
            (leaf << 6) + bits.trailing_zeros()
        } else {
            let middle = leaf >> 6;
            let bits = self.middle(middle).load() & above_bit(leaf);
            let next = if bits != 0 {
                (middle << 6) + bits.trailing_zeros()
            } else {
                let bits = self.top.load() & above_bit(middle);
                if bits == 0 {
                    return None;
                }
                let middle = bits.trailing_zeros();
                let bits = self.middle(middle).load();
                if bits == 0 {
                    // A stale summary: clear it as `clear_summaries` does, and let the caller try again.
                    self.top.fetch_and(!(1 << (middle & 63)));
                    if self.middle(middle).load() != 0 {
                        self.top.fetch_or(1 << (middle & 63));
                    }
                    return Some(u32::MAX);
                }
                (middle << 6) + bits.trailing_zeros()
            };
            let bits = self.leaf(next).load();
            if bits == 0 {
                self.clear_summary(next);
                return Some(u32::MAX);
            }
            (next << 6) + bits.trailing_zeros()
        };
        (found < end).then_some(found)
    }

    /// The leaf is empty: say so above, and look again, since a port may have come back in between.
    #[inline(always)]
    fn clear_summary(&self, leaf: u32) {
        let middle = leaf >> 6;
        self.middle(middle).fetch_and(!(1 << (leaf & 63)));
        if self.leaf(leaf).load() != 0 {
            self.middle(middle).fetch_or(1 << (leaf & 63));
            self.top.fetch_or(1 << (middle & 63));
        }
    }

    /// Takes the first free port in `from..end`. `None`: there is none, or others were faster several times.
    #[inline(always)]
    #[must_use]
    pub fn take(&self, from: u32, end: u32) -> Option<u32> {
        let mut step = opaque(0);
        while step < TRIES {
            step += 1;
            let port = self.find(from, end)?;
            if port != u32::MAX && self.take_exact(port) {
                return Some(port);
            }
        }
        None
    }

    /// Takes this port if it is free.
    #[inline(always)]
    #[must_use]
    pub fn take_exact(&self, port: u32) -> bool {
        let bit = 1u64 << (port & 63);
        let before = self.leaf(port >> 6).fetch_and(!bit);
        if before == bit {
            self.clear_summary(port >> 6);
        }
        before & bit != 0
    }

    /// Gives a port back.
    #[inline(always)]
    pub fn put(&self, port: u32) {
        let leaf = port >> 6;
        if self.leaf(leaf).fetch_or(1 << (port & 63)) == 0 {
            let middle = leaf >> 6;
            self.middle(middle).fetch_or(1 << (leaf & 63));
            self.top.fetch_or(1 << (middle & 63));
        }
    }

    /// True when the port is free.
    #[must_use]
    pub fn is_free(&self, port: u32) -> bool {
        self.leaf(port >> 6).load() & (1 << (port & 63)) != 0
    }

    /// Number of free ports.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.leaf.iter().map(|word| word.load().count_ones()).sum()
    }

    /// Makes exactly the first `ports` ports free; only while nothing else uses the pool.
    pub fn reset(&self, ports: u32) {
        self.top.store(0);
        self.middle.iter().chain(&self.leaf).for_each(|word| word.store(0));
        (0..ports).for_each(|port| self.put(port));
    }

    /// Makes the summaries true again; only while nothing else uses the pool, or after a writer died.
    pub fn repair_summaries(&self) {
        for index in 0..1024u32 {
            if self.leaf(index).load() != 0 {
                self.middle(index >> 6).fetch_or(1 << (index & 63));
                self.top.fetch_or(1 << ((index >> 6) & 63));
            }
        }
    }
}

impl Default for PortPool {
    fn default() -> Self {
        Self {
            top: SharedU64::new(0),
            middle: [const { SharedU64::new(0) }; MIDDLES],
            leaf: [const { SharedU64::new(0) }; LEAVES],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PortPool;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn filled(count: u32) -> PortPool {
        let pool = PortPool::default();
        (0..count).for_each(|port| pool.put(port));
        pool
    }

    #[test]
    fn every_port_once_then_none() {
        let pool = filled(20_000);
        let taken: BTreeSet<u32> = std::iter::from_fn(|| pool.take(0, 65_536)).collect();
        assert_eq!(taken.len(), 20_000);
        assert_eq!(pool.free(), 0);
        pool.put(777);
        assert_eq!(pool.take(778, 65_536), None);
        assert_eq!(pool.take(0, 65_536), Some(777));
    }

    #[test]
    fn two_threads_never_share_a_port() {
        let pool = filled(4_096);
        let take_all = |from| -> Vec<u32> {
            let mut taken = Vec::new();
            while let Some(port) = pool.take(from, 65_536).or_else(|| pool.take(0, 65_536)) {
                taken.push(port);
            }
            taken
        };
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| take_all(0));
            let b = scope.spawn(|| take_all(2_048));
            (a.join().unwrap(), b.join().unwrap())
        });
        let all: BTreeSet<u32> = a.iter().chain(&b).copied().collect();
        assert_eq!(all.len(), a.len() + b.len());
        assert_eq!(all.len() + usize::try_from(pool.free()).unwrap(), 4_096);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..3_000), 1..400)) {
            let pool = PortPool::default();
            let mut model = BTreeSet::new();
            for (put, port) in steps {
                if put {
                    if model.insert(port) { pool.put(port); }
                } else {
                    let expected = model.range(port..).next().copied();
                    prop_assert_eq!(pool.take(port, 65_536), expected);
                    if let Some(port) = expected { model.remove(&port); }
                }
            }
            prop_assert_eq!(usize::try_from(pool.free()).unwrap(), model.len());
        }
    }
}
