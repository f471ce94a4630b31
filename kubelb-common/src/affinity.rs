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

/// A record. Both words change while others read them; a reader may see one before the other, which harms nobody.
#[repr(C)]
#[derive(Default)]
pub struct Affinity {
    /// backend | generation << 32
    choice: SharedU64,
    /// Low half of jiffies at the client's last new flow.
    seen: SharedU64,
}

const _: () = assert!(size_of::<Affinity>() == 16);

impl Affinity {
    /// The client had this backend, of this generation, at `now` (the low half of jiffies).
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u32, generation: u16, now: u32) -> Self {
        Self {
            choice: SharedU64::new(backend as u64 | (generation as u64) << 32),
            seen: SharedU64::new(now as u64),
        }
    }

    /// Row number of the backend, and its generation then.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub fn backend(&self) -> (u32, u16) {
        let choice = self.choice.load();
        (choice as u32, (choice >> 32) as u16)
    }

    /// True when the record is not older than `timeout`, in jiffies.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half holds the time")]
    pub fn is_young(&self, now: u32, timeout: u32) -> bool {
        let age = now.wrapping_sub(self.seen.load() as u32);
        // Another CPU may be a tick ahead: the age is then a small negative number.
        age <= timeout || age >= 0x8000_0000
    }

    /// Notes a new flow.
    #[inline(always)]
    pub fn renew(&self, now: u32) {
        self.seen.store(u64::from(now));
    }
}

#[cfg(test)]
mod tests {
    use super::Affinity;

    #[test]
    fn a_record_is_young_until_its_timeout_over_the_wrap_of_the_clock() {
        for start in [0, 1_000, u32::MAX - 10] {
            let record = Affinity::new(70_000, 65_535, start);
            assert_eq!(record.backend(), (70_000, 65_535));
            let at = |ticks: u32| record.is_young(start.wrapping_add(ticks), 100);
            assert!(at(0) && at(100) && !at(101) && !at(1 << 30));
            assert!(
                record.is_young(start.wrapping_sub(1), 100),
                "another CPU is a tick ahead"
            );
            record.renew(start.wrapping_add(50));
            assert!(at(150) && !at(151));
        }
    }
}
