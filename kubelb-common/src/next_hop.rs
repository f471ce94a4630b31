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

/// A next hop, loaded once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopView {
    /// Neighbour's MAC address.
    pub destination_mac: [u8; 6],
    /// Interface's MAC address.
    pub source_mac: [u8; 6],
    /// Largest IP packet in bytes, at most 65,535; 0 is unknown.
    pub mtu: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Interface index.
    pub interface: u32,
}

/// A MAC address and a 16-bit value in one word.
#[inline(always)]
#[must_use]
pub const fn pack_mac(mac: [u8; 6], value: u16) -> u64 {
    let v = value.to_le_bytes();
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], v[0], v[1]])
}

/// What [`pack_mac`] packed.
#[inline(always)]
#[must_use]
pub const fn unpack_mac(word: u64) -> ([u8; 6], u16) {
    let b = word.to_le_bytes();
    ([b[0], b[1], b[2], b[3], b[4], b[5]], u16::from_le_bytes([b[6], b[7]]))
}

impl NextHop {
    /// Loads the row.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half of the word holds the index")]
    pub fn view(&self) -> NextHopView {
        let (destination_mac, mtu) = unpack_mac(self.destination.load());
        let (source_mac, flags) = unpack_mac(self.source.load());
        NextHopView { destination_mac, source_mac, mtu, flags, interface: self.interface.load() as u32 }
    }

    /// Replaces the row: unusable first, usable last.
    pub fn replace(&self, hop: &NextHopView) {
        if self.view() == *hop {
            return;
        }
        self.source.store(pack_mac(hop.source_mac, 0));
        self.destination.store(pack_mac(hop.destination_mac, hop.mtu));
        self.interface.store(u64::from(hop.interface));
        self.source.store(pack_mac(hop.source_mac, hop.flags));
    }
}
