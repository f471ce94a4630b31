//! Full NAT of one packet: addresses, ports, TTL, checksums, link header. Every byte that is not one of these stays.

use kubelb_common::addr::{Addr, UDP};
use kubelb_common::checksum::{combine, delta16, fold32, update};
use kubelb_common::next_hop::MacWord;

use crate::bytes::{Bytes, get16, put_mac, put16, put32, put64};
use crate::parse::Packet;

/// What one hop takes from the sum of an IPv4 header: the same for every TTL that has one to give.
const ONE_HOP: u16 = delta16(0x0100u16.to_be(), 0);

/// What a packet becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// New source address.
    pub source: Addr,
    /// New destination address.
    pub destination: Addr,
    /// New source port, raw.
    pub source_port: u16,
    /// New destination port, raw.
    pub destination_port: u16,
    /// Checksum delta of both addresses.
    pub address_delta: u16,
}

/// Rewrites network and transport headers. False: the frame is shorter than it was, or its checksum cannot be updated.
#[inline(always)]
pub fn translate<B: Bytes>(bytes: &mut B, packet: &Packet, to: &Translation) -> bool {
    if packet.v6 {
        let Some(header) = bytes.window::<40>(packet.l3()) else {
            return false;
        };
        header[7] = packet.ttl.wrapping_sub(1);
        let (high, low) = to.source.words();
        put64::<8, 40>(header, high);
        put64::<16, 40>(header, low);
        let (high, low) = to.destination.words();
        put64::<24, 40>(header, high);
        put64::<32, 40>(header, low);
    } else {
        let Some(header) = bytes.window::<20>(packet.l3()) else {
            return false;
        };
        // TTL is the first byte of its 16-bit word, so one less is 0x0100 less in network order. It was above 1.
        let old = get16::<8, 20>(header);
        let new = u16::from_be(old).wrapping_sub(0x0100).to_be();
        put16::<8, 20>(header, new);
        let sum = get16::<10, 20>(header);
        put16::<10, 20>(header, update(sum, combine(to.address_delta, ONE_HOP)));
        put32::<12, 20>(header, u32::from_ne_bytes(to.source.v4_bytes()));
        put32::<16, 20>(header, u32::from_ne_bytes(to.destination.v4_bytes()));
    }
    let l4 = packet.l4();
    let Some(ports) = bytes.window::<4>(l4) else {
        return false;
    };
    put16::<0, 4>(ports, to.source_port);
    put16::<2, 4>(ports, to.destination_port);
    let covered = fold32(
        u32::from(to.source_port)
            + u32::from(to.destination_port)
            + u32::from(!packet.source_port)
            + u32::from(!packet.destination_port),
    );
    let udp = packet.protocol == UDP;
    bytes.update_checksum(l4 + if udp { 6 } else { 16 }, to.address_delta, covered, udp, packet.v6)
}

/// Writes the link header's addresses when they are `known`.
#[inline(always)]
pub fn link<B: Bytes>(bytes: &mut B, known: bool, destination: MacWord, source: MacWord) -> bool {
    if !known {
        return true;
    }
    let Some(header) = bytes.window::<12>(0) else {
        return false;
    };
    put_mac::<0, 12>(header, destination);
    put_mac::<6, 12>(header, source);
    true
}
