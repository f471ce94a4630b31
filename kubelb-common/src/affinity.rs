//! Which backend a client address had last, for frontends that keep clients with their backends for a time.
//!
//! These records live in an LRU map: no translation depends on them, so what a flood of clients evicts costs a client its
//! backend at its next flow, and never a flow.

use crate::addr::Addr;
use crate::shared::SharedU64;

/// Key of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    client: Addr,
    /// Row of the frontend: one word, because the verifier wants every access to the stack aligned.
    frontend: u64,
}

const _: () = assert!(size_of::<AffinityKey>() == 24);

impl AffinityKey {
    /// A client address at a frontend's row.
    #[inline(always)]
    #[must_use]
    pub const fn new(client: Addr, frontend: u32) -> Self {
        Self {
            client,
            frontend: frontend as u64,
        }
    }
}

/// A choice that no record has: rows are far fewer than 2^32.
pub const NO_CHOICE: u64 = u64::MAX;

/// Jiffies for which a choice that `seen` does not know of yet counts as fresh: a replaced record's two words do not change at once, and whoever
/// looks in between must not take the new choice for an old one and replace it again.
const JUST_NOW: u16 = 16;

/// A record. Of those that replace its choice at once, one succeeds; the others learn its choice.
#[repr(C)]
#[derive(Default)]
pub struct Affinity {
    /// backend | generation << 32 | low 16 bits of jiffies at the client's last new flow << 48
    choice: SharedU64,
    /// Low half of jiffies at the client's last new flow. Its low 16 bits differ from those of `choice` only while a record changes.
    seen: SharedU64,
}

const _: () = assert!(size_of::<Affinity>() == 16);

/// The choice of a backend, of this generation, at `now` (the low half of jiffies).
#[inline(always)]
#[must_use]
pub const fn choice(backend: u32, generation: u16, now: u32) -> u64 {
    at(backend as u64 | (generation as u64) << 32, now)
}

/// The same choice, of the time `now`.
#[inline(always)]
const fn at(choice: u64, now: u32) -> u64 {
    choice & ((1 << 48) - 1) | (now as u64) << 48
}

/// Row number of the backend, and its generation then.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
pub const fn backend_of(choice: u64) -> (u32, u16) {
    (choice as u32, (choice >> 32) as u16)
}

impl Affinity {
    /// The client got the backend of `choice` at `now` (the low half of jiffies).
    #[inline(always)]
    #[must_use]
    pub const fn new(choice: u64, now: u32) -> Self {
        Self {
            choice: SharedU64::new(choice),
            seen: SharedU64::new(now as u64),
        }
    }

    /// The choice now.
    #[inline(always)]
    #[must_use]
    pub fn choice(&self) -> u64 {
        self.choice.load()
    }

    /// True when the record, whose choice was read as `choice`, is not older than `timeout`, in jiffies.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of packed words")]
    pub fn is_young(&self, choice: u64, now: u32, timeout: u32) -> bool {
        let seen = self.seen.load() as u32;
        let age = now.wrapping_sub(seen);
        // Another CPU may be a tick ahead: the age is then a small negative number.
        if age <= timeout || age >= 0x8000_0000 {
            return true;
        }
        // Words that agree are of one flow, long ago. Low bits alone would call any record young once in 65,536 jiffies.
        let made = (choice >> 48) as u16;
        made != seen as u16 && (now as u16).wrapping_sub(made) < JUST_NOW
    }

    /// Notes a new flow of the record, whose choice was read as `choice`.
    #[inline(always)]
    pub fn renew(&self, choice: u64, now: u32) {
        self.seen.store(u64::from(now));
        // Who comes too late finds the time of somebody else's flow there, or another choice, which has its own.
        let _ = self.choice.compare_exchange(choice, at(choice, now));
    }

    /// Replaces the choice `stale` by `choice`, made at `now`; false when somebody else has replaced it.
    #[inline(always)]
    #[must_use]
    pub fn replace(&self, stale: u64, choice: u64, now: u32) -> bool {
        let replaced = self.choice.compare_exchange(stale, choice);
        if replaced {
            self.seen.store(u64::from(now));
        }
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::{Affinity, backend_of, choice};

    #[test]
    fn a_record_is_young_until_its_timeout_over_the_wrap_of_the_clock() {
        for start in [0, 1_000, u32::MAX - 10] {
            let made = choice(70_000, 65_535, start);
            let record = Affinity::new(made, start);
            assert_eq!(backend_of(record.choice()), (70_000, 65_535));
            let at = |ticks: u32| record.is_young(made, start.wrapping_add(ticks), 100);
            assert!(at(0) && at(100) && !at(101) && !at(1 << 30));
            assert!(
                record.is_young(made, start.wrapping_sub(1), 100),
                "another CPU is a tick ahead"
            );
            record.renew(made, start.wrapping_add(50));
            let renewed = record.choice();
            assert_eq!(backend_of(renewed), (70_000, 65_535));
            let at = |ticks: u32| record.is_young(renewed, start.wrapping_add(ticks), 100);
            assert!(at(150) && !at(151) && !at(50 + (1 << 16)));
        }
    }
    #[test]
    fn of_those_that_replace_a_choice_at_once_one_succeeds() {
        let stale = choice(1, 1, 0);
        let record = Affinity::new(stale, 0);
        let (ours, theirs) = (choice(2, 1, 5_000), choice(3, 1, 5_000));
        assert!(!record.is_young(stale, 5_000, 100));
        assert!(record.replace(stale, ours, 5_000));
        assert!(!record.replace(stale, theirs, 5_000));
        assert_eq!(record.choice(), ours);
    }

    #[test]
    fn a_choice_is_fresh_before_its_time_is_noted() {
        let record = Affinity::new(choice(2, 1, 5_000), 0);
        let made = record.choice();
        assert!(record.is_young(made, 5_000, 100) && record.is_young(made, 5_015, 100));
        assert!(!record.is_young(made, 5_016, 100));
    }
}
