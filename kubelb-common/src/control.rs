//! The one control row: secrets and revisions that every packet or every new flow reads.

use crate::shared::{SharedU32, SharedU64};

/// Control row, one cache line.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Control {
    /// Secret of the flow hash; fixed for the life of the flow table.
    pub flow_seed: SharedU64,
    /// Secret of the destination filter's hash: low half for filter 0, high half for filter 1.
    filter_seeds: [SharedU64; 2],
    /// Which of the two filters is current.
    filter: SharedU32,
    /// Goes up whenever a route or neighbour changed: client-side next hops are resolved anew. Never 0.
    route_revision: SharedU32,
    /// Number of CPUs that share out the SNAT ports.
    pub cpus: SharedU32,
    /// Jiffies per second.
    pub hz: SharedU32,
    /// Low half of jiffies at the last step of the agent's sweep.
    pub swept: SharedU32,
    reserved_swept: u32,
    reserved: [u64; 2],
}

const _: () = assert!(size_of::<Control>() == 64);

/// Two to this power is the number of seconds without a step after which nobody sweeps any more.
const SWEPT_SHIFT: u32 = 4;

impl Control {
    /// The current filter's number and seed.
    #[inline(always)]
    #[must_use]
    pub fn filter(&self) -> (u32, u64) {
        let which = self.filter.load() & 1;
        let seed = if which == 0 {
            self.filter_seeds[0].load()
        } else {
            self.filter_seeds[1].load()
        };
        (which, seed)
    }

    /// Makes the other filter, already filled under `seed`, the current one.
    pub fn publish_filter(&self, which: u32, seed: u64) {
        let [first, second] = &self.filter_seeds;
        if which == 0 {
            first.store(seed)
        } else {
            second.store(seed)
        }
        self.filter.store(which & 1);
    }

    /// True while somebody sweeps: the counts of flows are then those of live ones, give or take. `now` is the low half
    /// of jiffies.
    #[inline(always)]
    #[must_use]
    pub fn is_swept(&self, now: u32) -> bool {
        now.wrapping_sub(self.swept.load()) < self.hz.load() << SWEPT_SHIFT
    }

    /// The revision of routes and neighbours, 1 to 65,535.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "advance_routes keeps it to 16 bits")]
    pub fn route_revision(&self) -> u16 {
        self.route_revision.load() as u16
    }

    /// Makes every client-side next hop stale.
    pub fn advance_routes(&self) {
        let next = (self.route_revision.load() + 1) & 0xffff;
        self.route_revision.store(if next == 0 { 1 } else { next });
    }
}

/// The destination filter: one byte for each value of a 16-bit hash of an address.
///
/// Bit 7: some VIP has this hash. Low 7 bits: number of the SNAT slot, plus one, whose address has it (user space picks
/// the seed so that no two SNAT addresses share one).
pub const FILTER_BYTES: usize = 65_536;
/// Bit 7 of a filter byte.
pub const FILTER_VIP: u8 = 0x80;
/// The other bits of a filter byte.
pub const FILTER_SNAT: u8 = 0x7f;

const FILTER_WORDS: usize = FILTER_BYTES / 8;

/// One filter. Only user space writes, and only the one that is not current.
#[repr(C, align(8))]
pub struct Filter([SharedU64; FILTER_WORDS]);

const _: () = assert!(size_of::<Filter>() == FILTER_BYTES);

impl Default for Filter {
    fn default() -> Self {
        Self([const { SharedU64::new(0) }; FILTER_WORDS])
    }
}

impl Filter {
    /// The byte of a hash.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "one byte of the word is meant")]
    pub fn byte(&self, hash: u16) -> u8 {
        #[expect(
            clippy::indexing_slicing,
            reason = "a 16-bit number divided by eight is below the number of words"
        )]
        let word = self.0[hash as usize >> 3].load();
        (word >> ((hash & 7) << 3)) as u8
    }

    /// Replaces all bytes.
    pub fn fill(&self, bytes: &[u8; FILTER_BYTES]) {
        for (word, bytes) in self.0.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes));
        }
    }

    /// True when these are the bytes.
    #[must_use]
    pub fn same(&self, bytes: &[u8; FILTER_BYTES]) -> bool {
        self.0
            .iter()
            .zip(bytes.as_chunks::<8>().0)
            .all(|(word, bytes)| word.load() == u64::from_le_bytes(*bytes))
    }
}
