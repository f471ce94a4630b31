//! Flow records and the buckets that hold them.
//!
//! A record is one cache line and is reached from both sides: by hash from the client's, by SNAT port from the
//! backend's. The words of a record are written while its tag is busy and are constant while it is live, except the
//! last-seen time, the state bits and the client's next hop.

use crate::addr::Addr;
use crate::next_hop::MacWord;
use crate::shared::{SharedU32, SharedU64};
use crate::tcp;

/// Records in a bucket.
pub const WAYS: usize = 4;

/// Bits of [`Flow::flags`].
pub mod flag {
    /// UDP; TCP otherwise.
    pub const UDP: u16 = 1;
}

/// One flow: 64 bytes.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Flow {
    client_high: SharedU64,
    client_low: SharedU64,
    /// client port | SNAT port << 16 | frontend << 32
    ports: SharedU64,
    /// backend | generation << 32 | SNAT slot << 48 | fold << 56
    choice: SharedU64,
    /// Low half of jiffies at the last packet.
    last_seen: SharedU32,
    /// Bits of [`crate::tcp::state`] | low 24 bits of the acknowledgement that completes the handshake << 8
    state: SharedU32,
    /// address delta | flags << 16 | client interface << 32
    constants: SharedU64,
    /// client-side destination MAC | route revision << 48
    hop_destination: SharedU64,
    /// client-side source MAC | MTU, of which the lowest bit says "XDP may send there", << 48
    hop_source: SharedU64,
}

const _: () = assert!(size_of::<Flow>() == 64);

/// What a record holds for the whole of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The client's address.
    pub client: Addr,
    /// The client's port, raw.
    pub client_port: u16,
    /// The port that the backend sees, raw.
    pub snat_port: u16,
    /// Row number of the SNAT address that the backend sees.
    pub snat_slot: u8,
    /// Row number of the frontend.
    pub frontend: u32,
    /// Row number of the backend.
    pub backend: u32,
    /// Generation of that row when the flow was made.
    pub generation: u16,
    /// The backend's fold at that time: part of the reverse index.
    pub fold: u8,
    /// Checksum delta of client -> SNAT address and VIP -> backend address.
    pub address_delta: u16,
    /// Bits of [`flag`].
    pub flags: u16,
}

/// How replies reach the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHop {
    /// Neighbour's MAC address, and the revision of the routes under which it was resolved; 0 never matches.
    pub destination: MacWord,
    /// Interface's MAC address, and what [`ClientHop::mtu`] and [`ClientHop::xdp`] say.
    pub source: MacWord,
    /// Interface index, 0 when unknown.
    pub interface: u32,
}

impl ClientHop {
    /// Revision of the routes under which it was resolved; 0 never matches.
    #[inline(always)]
    #[must_use]
    pub const fn revision(&self) -> u16 {
        self.destination.value()
    }

    /// Largest IP packet in bytes, rounded down to an even number; 0 is unknown.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.source.value() & !1
    }

    /// True when an XDP program may redirect to the interface.
    #[inline(always)]
    #[must_use]
    pub const fn xdp(&self) -> bool {
        self.source.value() & 1 != 0
    }

    /// The same hop with another MTU and another answer to [`ClientHop::xdp`].
    #[inline(always)]
    #[must_use]
    pub const fn with(self, mtu: u16, xdp: bool) -> Self {
        Self {
            source: self.source.with_value((mtu & !1) | xdp as u16),
            ..self
        }
    }
}

impl Flow {
    /// Fills the record of a busy slot.
    #[inline(always)]
    pub fn bind(&self, b: &Binding, state: u32, now: u32) {
        let (high, low) = b.client.words();
        self.client_high.store(high);
        self.client_low.store(low);
        self.ports
            .store(u64::from(b.client_port) | (u64::from(b.snat_port) << 16) | (u64::from(b.frontend) << 32));
        self.choice.store(
            u64::from(b.backend)
                | (u64::from(b.generation) << 32)
                | (u64::from(b.snat_slot) << 48)
                | (u64::from(b.fold) << 56),
        );
        self.constants
            .store(u64::from(b.address_delta) | (u64::from(b.flags) << 16));
        self.hop_destination.store(0);
        self.hop_source.store(0);
        self.state.store(state);
        self.last_seen.store(now);
    }

    /// What [`Flow::bind`] wrote.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of packed words")]
    pub fn binding(&self) -> Binding {
        let (ports, choice, constants) = (self.ports.load(), self.choice.load(), self.constants.load());
        Binding {
            client: Addr::from_words(self.client_high.load(), self.client_low.load()),
            client_port: ports as u16,
            snat_port: (ports >> 16) as u16,
            snat_slot: (choice >> 48) as u8,
            frontend: (ports >> 32) as u32,
            backend: choice as u32,
            generation: (choice >> 32) as u16,
            fold: (choice >> 56) as u8,
            address_delta: constants as u16,
            flags: (constants >> 16) as u16,
        }
    }

    /// True when the client's side of the record is this; the frontend is the caller's to check.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits hold the port")]
    pub fn is_client(&self, address: Addr, port: u16) -> bool {
        let (high, low) = address.words();
        self.client_low.load() == low && self.ports.load() as u16 == port && self.client_high.load() == high
    }

    /// Row number of the backend, and its generation when the flow was made.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub fn backend(&self) -> (u32, u16) {
        let choice = self.choice.load();
        (choice as u32, (choice >> 32) as u16)
    }

    /// Row number of the frontend.
    #[inline(always)]
    #[must_use]
    pub fn frontend(&self) -> u32 {
        (self.ports.load() >> 32) as u32
    }

    /// Low half of jiffies at the last packet.
    #[inline(always)]
    #[must_use]
    pub fn last_seen(&self) -> u32 {
        self.last_seen.load()
    }

    /// Notes a packet; leaves the cache line clean within the same jiffy.
    #[inline(always)]
    pub fn touch(&self, now: u32) {
        if self.last_seen.load() != now {
            self.last_seen.store(now);
        }
    }

    /// Bits of [`crate::tcp::state`].
    #[inline(always)]
    #[must_use]
    pub fn state(&self) -> u32 {
        self.state.load()
    }

    /// Adds state bits; two CPUs may add theirs at the same time. True when it is this that completes the handshake: of all
    /// who may try, one is told so, and its frontend has one half-open flow less.
    #[inline(always)]
    pub fn add_state(&self, old: u32, new: u32) -> bool {
        if new == old {
            return false;
        }
        let new = new & tcp::state::BITS;
        let before = self.state.fetch_or(new);
        tcp::is_half_open(before) && !tcp::is_half_open(before | new)
    }

    /// Notes which acknowledgement number, in host byte order, completes the handshake: the one of the backend's SYN.
    /// Readers in between see 0, which stands for any.
    #[inline(always)]
    pub fn await_acknowledgement(&self, acknowledgement: u32) {
        let expected = acknowledgement << 8;
        if self.state.load() & !tcp::state::BITS != expected {
            self.state.fetch_and(tcp::state::BITS);
            self.state.fetch_or(expected);
        }
    }

    /// Notes that the record is given up, by whoever holds its slot. True when it was half-open (of UDP that says nothing).
    #[inline(always)]
    pub fn end(&self) -> bool {
        tcp::is_half_open(self.state.fetch_or(tcp::state::ENDED))
    }

    /// Undoes [`Flow::end`], before the slot is live again.
    #[inline(always)]
    pub fn resume(&self) {
        self.state.fetch_and(!tcp::state::ENDED);
    }

    /// How replies reach the client, as last resolved.
    #[inline(always)]
    #[must_use]
    pub fn client_hop(&self) -> ClientHop {
        ClientHop {
            destination: MacWord::from_word(self.hop_destination.load()),
            source: MacWord::from_word(self.hop_source.load()),
            interface: (self.constants.load() >> 32) as u32,
        }
    }

    /// Stores how replies reach the client. The revision goes last: until then the hop counts as stale.
    #[inline(always)]
    pub fn set_client_hop(&self, hop: &ClientHop) {
        self.hop_destination.store(0);
        self.hop_source.store(hop.source.word());
        self.constants
            .store((self.constants.load() & 0xffff_ffff) | (u64::from(hop.interface) << 32));
        self.hop_destination.store(hop.destination.word());
    }
}

/// Four records, their tags in one cache line before them.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Bucket {
    tags: [SharedU64; WAYS],
    /// 0, or the number of the CPU, plus one, that inserts into this bucket.
    claim: SharedU64,
    reserved: [u64; 3],
    flows: [Flow; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 320);

impl Bucket {
    /// Tag word of a way, `way < 4`.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, way: usize) -> &SharedU64 {
        #[expect(clippy::indexing_slicing, reason = "masked to the array's size, a power of two")]
        &self.tags[way & (WAYS - 1)]
    }

    /// Record of a way, `way < 4`.
    #[inline(always)]
    #[must_use]
    pub fn flow(&self, way: usize) -> &Flow {
        #[expect(clippy::indexing_slicing, reason = "masked to the array's size, a power of two")]
        &self.flows[way & (WAYS - 1)]
    }

    /// The word that serialises insertions whose first bucket this is.
    #[inline(always)]
    #[must_use]
    pub fn claim(&self) -> &SharedU64 {
        &self.claim
    }
}

/// A tag: fingerprint in the high half, 24 bits of sequence, 8 bits of slot state. The sequence changes with every
/// change of hands, so that a compare-and-swap never mistakes a new owner for the old.
pub mod tag {
    /// Nobody's.
    pub const FREE: u64 = 0;
    /// Being filled or emptied by one owner.
    pub const BUSY: u64 = 1;
    /// Holds a flow.
    pub const LIVE: u64 = 2;

    const STATE: u64 = 0xff;
    const SEQUENCE: u64 = 0xffff_ff00;

    /// State of a tag.
    #[inline(always)]
    #[must_use]
    pub const fn state(tag: u64) -> u64 {
        tag & STATE
    }

    /// True when a live flow of this fingerprint may be in the slot.
    #[inline(always)]
    #[must_use]
    pub const fn matches(tag: u64, fingerprint: u32) -> bool {
        (tag >> 32) as u32 == fingerprint && tag & STATE == LIVE
    }

    /// The tag that takes the slot for filling or emptying: next sequence number.
    #[inline(always)]
    #[must_use]
    pub const fn busy(tag: u64) -> u64 {
        ((tag & SEQUENCE).wrapping_add(0x100) & SEQUENCE) | BUSY
    }

    /// The tag that publishes the flow of a busy slot.
    #[inline(always)]
    #[must_use]
    pub const fn live(busy: u64, fingerprint: u32) -> u64 {
        ((fingerprint as u64) << 32) | (busy & SEQUENCE) | LIVE
    }

    /// The tag that gives up a busy slot.
    #[inline(always)]
    #[must_use]
    pub const fn free(busy: u64) -> u64 {
        (busy & SEQUENCE) | FREE
    }
}
