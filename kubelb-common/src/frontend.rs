//! Frontend rows: one per VIP, port and protocol, and the key that finds them.

use crate::addr::Addr;
use crate::shared::{SharedU32, SharedU64};

/// Key of the map from what a client dials to the frontend's row number.
///
/// Port 0 with protocol ICMP (58 or 1) says that the address is a VIP at all, so that echo requests are answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    vip: Addr,
    /// port | protocol << 16: one word, because the verifier wants every access to the stack aligned.
    service: u64,
}

const _: () = assert!(size_of::<FrontendKey>() == 24);

impl FrontendKey {
    /// `port` is the raw word of the header (network byte order in memory).
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: Addr, port: u16, protocol: u8) -> Self {
        Self {
            vip,
            service: port as u64 | ((protocol as u64) << 16),
        }
    }

    /// The VIP.
    #[must_use]
    pub const fn vip(&self) -> Addr {
        self.vip
    }

    /// The port, raw.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits")]
    pub const fn port(&self) -> u16 {
        self.service as u16
    }

    /// IP protocol number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bits 16 to 23")]
    pub const fn protocol(&self) -> u8 {
        (self.service >> 16) as u8
    }
}

/// Row number that stands for "a VIP, for echo only" as a value of the key map.
pub const ECHO_ONLY: u32 = u32::MAX;

/// Classes of idle timeouts, indices into [`Frontend::timeout`].
pub mod timeout {
    /// TCP, the handshake is not complete.
    pub const TCP_HALF_OPEN: usize = 0;
    /// TCP after the handshake.
    pub const TCP_ESTABLISHED: usize = 1;
    /// TCP after both FINs or a RST.
    pub const TCP_CLOSING: usize = 2;
    /// UDP before the first reply.
    pub const UDP_UNREPLIED: usize = 3;
    /// UDP after it.
    pub const UDP_REPLIED: usize = 4;
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// A frontend. The first cache line changes with the configuration, the second with every new flow.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Frontend {
    vip_high: SharedU64,
    vip_low: SharedU64,
    /// port | protocol << 16 | active << 24 | generation << 32
    identity: SharedU64,
    /// offset | length << 32 into the backend slots
    set: SharedU64,
    timeouts: [SharedU32; timeout::COUNT],
    max_flows: SharedU32,
    /// See [`Policy`].
    policy: SharedU64,
    next: SharedU64,
    flows: SharedU32,
    half_open: SharedU32,
    half_open_budget: SharedU32,
    half_open_hand: SharedU32,
    reserved_flows: [u32; 7],
    affinity_failures: SharedU32,
    /// offset | length << 32 into the source ranges, and [`FILTERED`]
    sources: SharedU64,
}

const _: () = assert!(size_of::<Frontend>() == 128);

const ACTIVE: u64 = 1 << 24;
/// Of the word of source ranges: there are some, though the set may be empty.
const FILTERED: u64 = 1 << 63;

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// In turn.
    #[default]
    RoundRobin,
    /// The slots are a Maglev table, looked up by a hash of the 5-tuple.
    Maglev,
    /// The same by a hash of the client's address alone.
    MaglevBySource,
}

/// What a frontend does with new flows, in one word of its row. A word of zeros is round robin without affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bits 0 to 7.
    pub selection: Selection,
    /// Bit 9: all backends in the slots are unhealthy, and get flows all the same.
    pub fail_open: bool,
    /// Bits 32 to 63: how long, in jiffies, a client address without new flows stays with its backend; 0: not at all.
    pub affinity: u32,
}

const FAIL_OPEN: u64 = 1 << 9;

impl Policy {
    /// As the row has it.
    #[must_use]
    pub const fn word(self) -> u64 {
        let selection = match self.selection {
            Selection::RoundRobin => 0,
            Selection::Maglev => 1,
            Selection::MaglevBySource => 2,
        };
        selection | if self.fail_open { FAIL_OPEN } else { 0 } | (self.affinity as u64) << 32
    }

    /// Undoes [`Policy::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            selection: match word & 0xff {
                1 => Selection::Maglev,
                2 => Selection::MaglevBySource,
                _ => Selection::RoundRobin,
            },
            fail_open: word & FAIL_OPEN != 0,
            affinity: (word >> 32) as u32,
        }
    }
}

impl Frontend {
    /// True when the row is active and stands for this VIP, raw port and protocol.
    #[inline(always)]
    #[must_use]
    pub fn is(&self, vip: Addr, port: u16, protocol: u8) -> bool {
        let (high, low) = vip.words();
        let identity = self.identity.load() & 0xffff_ffff;
        identity == u64::from(port) | (u64::from(protocol) << 16) | ACTIVE
            && self.vip_low.load() == low
            && self.vip_high.load() == high
    }

    /// The VIP.
    #[inline(always)]
    #[must_use]
    pub fn vip(&self) -> Addr {
        Addr::from_words(self.vip_high.load(), self.vip_low.load())
    }

    /// The port, raw.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits hold the port")]
    pub fn port(&self) -> u16 {
        self.identity.load() as u16
    }

    /// IP protocol number.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bits 16 to 23 hold the protocol")]
    pub fn protocol(&self) -> u8 {
        (self.identity.load() >> 16) as u8
    }

    /// False once the frontend is removed.
    #[inline(always)]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.identity.load() & ACTIVE != 0
    }

    /// Gives the row an identity and makes it active. Only user space, only on a row without flows.
    pub fn activate(&self, vip: Addr, port: u16, protocol: u8) {
        self.half_open.store(0);
        let (high, low) = vip.words();
        let generation = (self.identity.load() >> 32).wrapping_add(1) & 0xffff_ffff;
        self.identity.store(generation << 32);
        self.vip_high.store(high);
        self.vip_low.store(low);
        self.affinity_failures.store(0);
        self.identity
            .store(u64::from(port) | (u64::from(protocol) << 16) | ACTIVE | (generation << 32));
    }

    /// Takes the row out of service; its flows expire from then on.
    pub fn deactivate(&self) {
        self.identity.fetch_and(!ACTIVE);
    }

    /// The published backend slots: (offset, length) into the slots array.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "two halves of one word")]
    pub fn set(&self) -> (u32, u32) {
        let set = self.set.load();
        (set as u32, (set >> 32) as u32)
    }

    /// Publishes other backend slots in one store.
    pub fn publish_set(&self, offset: u32, length: u32) {
        self.set.store(u64::from(offset) | (u64::from(length) << 32));
    }

    /// Idle timeout of a class, in jiffies.
    #[inline(always)]
    #[must_use]
    pub fn timeout(&self, class: usize) -> u32 {
        self.timeouts.get(class).map_or(0, SharedU32::load)
    }

    /// Sets all idle timeouts, in jiffies.
    pub fn set_timeouts(&self, jiffies: [u32; timeout::COUNT]) {
        for (word, value) in self.timeouts.iter().zip(jiffies) {
            word.store(value);
        }
    }

    /// Most flows at a time; 0 is no cap.
    #[inline(always)]
    #[must_use]
    pub fn max_flows(&self) -> u32 {
        self.max_flows.load()
    }

    /// Sets the cap of [`Frontend::max_flows`].
    pub fn set_max_flows(&self, flows: u32) {
        self.max_flows.store(flows);
    }

    /// What the frontend does with new flows.
    #[inline(always)]
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.policy.load())
    }

    /// Sets what [`Frontend::policy`] gives, in one store.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(policy.word());
    }

    /// The published source ranges: (offset, length) into the array of [`crate::source::SourceRange`]; `None`: everybody may come.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "parts of one word")]
    pub fn sources(&self) -> Option<(u32, u32)> {
        let word = self.sources.load();
        (word & FILTERED != 0).then_some((word as u32, ((word & !FILTERED) >> 32) as u32))
    }

    /// Publishes other source ranges in one store. An empty set admits nobody.
    pub fn publish_sources(&self, set: Option<(u32, u32)>) {
        self.sources.store(match set {
            Some((offset, length)) => u64::from(offset) | (u64::from(length) << 32) | FILTERED,
            None => 0,
        });
    }

    /// Clients whose backend could not be noted down, since the row stands for this frontend.
    #[inline(always)]
    #[must_use]
    pub fn affinity_failures(&self) -> &SharedU32 {
        &self.affinity_failures
    }

    /// The round-robin counter; one step per new flow, over all CPUs.
    #[inline(always)]
    #[must_use]
    pub fn next(&self) -> &SharedU64 {
        &self.next
    }

    /// Flows that have a record now.
    #[inline(always)]
    #[must_use]
    pub fn flows(&self) -> &SharedU32 {
        &self.flows
    }

    /// TCP flows among them that are half-open ([`crate::tcp::is_half_open`]).
    #[inline(always)]
    #[must_use]
    pub fn half_open(&self) -> &SharedU32 {
        &self.half_open
    }

    /// Half-open flows above which a new one has to take the place of another; 0 is no budget.
    #[inline(always)]
    #[must_use]
    pub fn half_open_budget(&self) -> u32 {
        self.half_open_budget.load()
    }

    /// Sets the budget of [`Frontend::half_open_budget`], below 2^31.
    pub fn set_half_open_budget(&self, flows: u32) {
        self.half_open_budget.store(flows);
    }

    /// Modulo the budget, where the next half-open flow is to be noted; there is the oldest note.
    #[inline(always)]
    #[must_use]
    pub fn half_open_hand(&self) -> &SharedU32 {
        &self.half_open_hand
    }

    /// True when `flows` are half-open, or more. A count that is one too low, until it is mended, is not taken for a huge one.
    #[inline(always)]
    #[must_use]
    pub fn has_half_open(&self, flows: u32) -> bool {
        self.half_open.load().wrapping_sub(flows) < 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_zeros_is_round_robin_for_everybody() {
        let row = Frontend::default();
        assert_eq!((row.policy(), row.sources()), (Policy::default(), None));
    }

    #[test]
    fn words_of_a_row_are_read_as_written() {
        let row = Frontend::default();
        for selection in [Selection::RoundRobin, Selection::Maglev, Selection::MaglevBySource] {
            for (fail_open, affinity) in [(false, 0), (true, 1), (false, u32::MAX)] {
                let policy = Policy {
                    selection,
                    fail_open,
                    affinity,
                };
                row.set_policy(policy);
                assert_eq!(row.policy(), policy);
            }
        }
        for set in [Some((0, 0)), Some((u32::MAX, crate::source::MAX_SET)), None] {
            row.publish_sources(set);
            assert_eq!(row.sources(), set);
        }
    }
}
