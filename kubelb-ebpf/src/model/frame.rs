//! A frame in a vector.

use kubelb_common::checksum::{combine, update, update_udp};

use crate::bytes::{Bytes, get16, put16};
use crate::parse::Packet;

/// A frame as the XDP program sees it, or, with `TC`, as the tc program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<const TC: bool> {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Index of the interface that it came in on.
    pub interface: u32,
    /// Payload of each segment in bytes, when several were merged into this frame; else 0.
    pub segment: usize,
    /// The transport checksum is left to hardware.
    pub partial: bool,
}

impl<const TC: bool> Frame<TC> {
    /// A single, finished frame.
    #[must_use]
    pub const fn new(bytes: Vec<u8>, interface: u32) -> Self {
        Self {
            bytes,
            interface,
            segment: 0,
            partial: false,
        }
    }
}

impl<const TC: bool> Bytes for Frame<TC> {
    const RESOLVES_NEIGHBOURS: bool = TC;

    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }

    fn holds(&self, length: usize) -> bool {
        self.bytes.len() >= length
    }

    fn segment_length(&self, packet: &Packet) -> usize {
        if self.segment == 0 {
            packet.ip_length
        } else {
            packet.headers + self.segment
        }
    }

    fn interface(&self) -> u32 {
        self.interface
    }

    fn update_checksum(&mut self, offset: usize, addresses: u16, covered: u16, udp: bool, _v6: bool) -> bool {
        let partial = self.partial;
        let Some(field) = self.window::<2>(offset) else {
            return false;
        };
        let old = get16::<0, 2>(field);
        let new = if partial {
            // The sum of the pseudo-header, not its complement.
            !update(!old, addresses)
        } else if udp {
            update_udp(old, combine(addresses, covered))
        } else {
            update(old, combine(addresses, covered))
        };
        put16::<0, 2>(field, new);
        true
    }

    fn checksum_is_partial(&mut self, _offset: usize) -> bool {
        self.partial
    }

    fn make_room(&mut self, l3: usize, room: usize) -> bool {
        if l3 > self.bytes.len() {
            return false;
        }
        self.bytes.splice(l3..l3, std::iter::repeat_n(0, room));
        true
    }

    fn truncate(&mut self, length: usize) -> bool {
        self.bytes.resize(length, 0);
        true
    }
}
