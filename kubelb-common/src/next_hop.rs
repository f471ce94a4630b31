//! Next-hop rows: how packets to a backend leave the node. The agent keeps them fresh from netlink.

use crate::shared::SharedU64;

/// Bits of [`NextHopView::flags`].
pub mod flag {
    /// Both MAC addresses are known.
    pub const RESOLVED: u16 = 1;
    /// An XDP program may redirect to the interface.
    pub const XDP: u16 = 1 << 1;
    /// There is a route, so the interface is known.
    pub const ROUTED: u16 = 1 << 2;
}

/// Row number that stands for "no route".
pub const NONE: u32 = 0;

/// A next hop. Written by the agent only; a reader in between two stores may combine old and new for one packet.
#[repr(C, align(32))]
#[derive(Default)]
pub struct NextHop {
    /// destination MAC (6 bytes) | MTU << 48
    destination: SharedU64,
    /// source MAC (6 bytes) | flags << 48
    source: SharedU64,
    /// interface index
    interface: SharedU64,
    reserved: u64,
}

const _: () = assert!(size_of::<NextHop>() == 32);

/// A MAC address in the low six bytes of a word, first byte lowest, and a 16-bit value above it. Kept in one piece so
/// that moving it takes one aligned load and store.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacWord(u64);

impl MacWord {
    /// Packs an address and a value.
    #[inline(always)]
    #[must_use]
    pub const fn new(mac: [u8; 6], value: u16) -> Self {
        let v = value.to_le_bytes();
        Self(u64::from_le_bytes([
            mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], v[0], v[1],
        ]))
    }

    /// From a stored word.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word to store.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The address.
    #[must_use]
    pub const fn mac(self) -> [u8; 6] {
        let b = self.0.to_le_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }

    /// The value.
    #[inline(always)]
    #[must_use]
    pub const fn value(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The same address with another value.
    #[inline(always)]
    #[must_use]
    pub const fn with_value(self, value: u16) -> Self {
        Self((self.0 & 0xffff_ffff_ffff) | ((value as u64) << 48))
    }
}

/// A next hop, loaded once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHopView {
    /// Neighbour's MAC address, and the largest IP packet in bytes, at most 65,535; 0 is unknown.
    pub destination: MacWord,
    /// Interface's MAC address, and bits of [`flag`].
    pub source: MacWord,
    /// Interface index.
    pub interface: u32,
}

impl NextHopView {
    /// Bits of [`flag`].
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self) -> u16 {
        self.source.value()
    }

    /// Largest IP packet in bytes; 0 is unknown.
    #[inline(always)]
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.destination.value()
    }
}

impl NextHop {
    /// Loads the row.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half of the word holds the index"
    )]
    pub fn view(&self) -> NextHopView {
        NextHopView {
            destination: MacWord::from_word(self.destination.load()),
            source: MacWord::from_word(self.source.load()),
            interface: self.interface.load() as u32,
        }
    }

    /// Replaces the row: unusable first, usable last.
    pub fn replace(&self, hop: &NextHopView) {
        if self.view() == *hop {
            return;
        }
        self.source.store(hop.source.with_value(0).word());
        self.destination.store(hop.destination.word());
        self.interface.store(u64::from(hop.interface));
        self.source.store(hop.source.word());
    }
}
