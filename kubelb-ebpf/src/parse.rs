//! Headers to [`Packet`]. Ethernet, one 802.1Q tag, IPv4 (RFC 791, options included) or IPv6 (RFC 8200, no extension
//! headers), then TCP, UDP or ICMP.
//!
//! In two steps, so that a packet for somebody else costs only the first: [`network`] reads what says where a packet
//! goes, [`transport`] what says whose it is.

use kubelb_common::addr::{Addr, ICMP, ICMPV6, TCP, UDP};

use crate::bytes::{Bytes, get16, get32, get64};

const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8u16.to_be();

/// Length of the Ethernet header without and with a tag.
pub const L2: usize = 14;
/// Length of the Ethernet header with one tag.
pub const L2_TAGGED: usize = 18;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port, raw. ICMP: type and code.
    pub source_port: u16,
    /// Destination port, raw. ICMP: checksum.
    pub destination_port: u16,
    /// Offset of the network header: 14 or 18.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes of the network header and all that follows, by its own account.
    pub ip_length: usize,
    /// IP protocol number.
    pub protocol: u8,
    /// Flags byte of the TCP header, 0 for others.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv6; IPv4 otherwise.
    pub v6: bool,
    /// A fragment (RFC 791): ports are known of none, see [`transport`].
    pub fragment: bool,
}

/// Why a packet is not steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsteerable {
    /// Not IP, or too short to say where it goes: nobody's business here.
    NotIp,
    /// A protocol that is not forwarded.
    Protocol,
    /// A fragment.
    Fragment,
    /// Headers that contradict themselves or end early.
    Malformed,
}

/// Reads the link and network headers. Ports and flags are zero until [`transport`].
#[inline(always)]
pub fn network<B: Bytes>(bytes: &mut B) -> Result<Packet, Unsteerable> {
    // 34 bytes are the least that holds Ethernet and IPv4.
    let Some(head) = bytes.window::<34>(0) else { return Err(Unsteerable::NotIp) };
    match get16::<12, 34>(head) {
        ETHERTYPE_IPV4 => ipv4(bytes, L2),
        ETHERTYPE_IPV6 => ipv6(bytes, L2),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => match get16::<16, 34>(head) {
            ETHERTYPE_IPV4 => ipv4(bytes, L2_TAGGED),
            ETHERTYPE_IPV6 => ipv6(bytes, L2_TAGGED),
            _ => Err(Unsteerable::NotIp),
        },
        _ => Err(Unsteerable::NotIp),
    }
}

#[inline(always)]
fn ipv4<B: Bytes>(bytes: &mut B, l3: usize) -> Result<Packet, Unsteerable> {
    let Some(header) = bytes.window::<20>(l3) else { return Err(Unsteerable::NotIp) };
    let [version_ihl, ..] = *header;
    let fragment = u16::from_be(get16::<6, 20>(header)) & 0x3fff != 0;
    let header_length = usize::from(version_ihl & 0x0f) << 2;
    Ok(Packet {
        source: Addr::v4(get32::<12, 20>(header).to_ne_bytes()),
        destination: Addr::v4(get32::<16, 20>(header).to_ne_bytes()),
        source_port: 0,
        destination_port: 0,
        l3,
        // A header that is not IPv4's or too short is told apart in `transport`, once it is known to be ours.
        l4: if version_ihl >> 4 == 4 { l3 + header_length } else { l3 },
        ip_length: usize::from(u16::from_be(get16::<2, 20>(header))),
        protocol: header[9],
        tcp_flags: 0,
        ttl: header[8],
        v6: false,
        fragment,
    })
}

#[inline(always)]
fn ipv6<B: Bytes>(bytes: &mut B, l3: usize) -> Result<Packet, Unsteerable> {
    let Some(header) = bytes.window::<40>(l3) else { return Err(Unsteerable::NotIp) };
    Ok(Packet {
        source: Addr::from_words(get64::<8, 40>(header), get64::<16, 40>(header)),
        destination: Addr::from_words(get64::<24, 40>(header), get64::<32, 40>(header)),
        source_port: 0,
        destination_port: 0,
        l3,
        l4: if header[0] >> 4 == 6 { l3 + 40 } else { l3 },
        ip_length: usize::from(u16::from_be(get16::<4, 40>(header))) + 40,
        protocol: header[6],
        tcp_flags: 0,
        ttl: header[7],
        v6: true,
        fragment: header[6] == 44,
    })
}

/// Reads the transport header of a packet that is, or may be, ours.
#[inline(always)]
pub fn transport<B: Bytes>(bytes: &mut B, packet: &mut Packet) -> Result<(), Unsteerable> {
    // One pair of bounds for the verifier, which cannot know that a header length has four bits.
    let l4 = packet.l4 & 0x7f;
    let least = packet.l3 + if packet.v6 { 40 } else { 20 };
    if l4 < least || !bytes.holds(packet.l3 + packet.ip_length) {
        return Err(Unsteerable::Malformed);
    }
    if packet.fragment {
        return Err(Unsteerable::Fragment);
    }
    let payload = (packet.l3 + packet.ip_length).wrapping_sub(l4);
    match packet.protocol {
        TCP => {
            let Some(header) = bytes.window::<20>(l4) else { return Err(Unsteerable::Malformed) };
            let data_offset = usize::from(header[12] >> 4) << 2;
            if data_offset < 20 || data_offset > payload || payload > 65_535 {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 20>(header);
            packet.destination_port = get16::<2, 20>(header);
            packet.tcp_flags = header[13];
        }
        UDP => {
            let Some(header) = bytes.window::<8>(l4) else { return Err(Unsteerable::Malformed) };
            let length = usize::from(u16::from_be(get16::<4, 8>(header)));
            if length < 8 || length > payload || payload > 65_535 {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 8>(header);
            packet.destination_port = get16::<2, 8>(header);
        }
        ICMP | ICMPV6 if (packet.protocol == ICMPV6) == packet.v6 => {
            let Some(header) = bytes.window::<8>(l4) else { return Err(Unsteerable::Malformed) };
            if payload < 8 || payload > 65_535 {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 8>(header);
            packet.destination_port = get16::<2, 8>(header);
        }
        _ => return Err(Unsteerable::Protocol),
    }
    Ok(())
}
