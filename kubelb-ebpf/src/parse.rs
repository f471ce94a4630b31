//! Headers to [`Packet`]. Ethernet, one 802.1Q tag, IPv4 (RFC 791, options included) or IPv6 (RFC 8200, no extension
//! headers), then TCP, UDP or ICMP.
//!
//! In two steps, so that a packet for somebody else costs only the first: [`destination`] reads where a packet goes,
//! [`headers`] all the rest.

use kubelb_common::addr::{Addr, ICMP, ICMPV6, TCP, UDP};

use crate::bytes::{Bytes, get16, get32, get64};

const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();
/// Next-header value of the fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: u8 = 44;
const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();
const ETHERTYPE_QINQ: u16 = 0x88a8u16.to_be();

/// Length of the Ethernet header without and with a tag.
pub const L2: usize = 14;
/// Length of the Ethernet header with one tag.
pub const L2_TAGGED: usize = 18;

/// A packet's headers, as far as steering needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port, raw. ICMP: type and code.
    pub source_port: u16,
    /// Destination port, raw. ICMP: checksum.
    pub destination_port: u16,
    l3: usize,
    l4: usize,
    /// Bytes of the network header and all that follows, by its own account.
    pub ip_length: usize,
    /// Bytes of the network and transport headers, options included.
    pub headers: usize,
    /// IP protocol number.
    pub protocol: u8,
    /// Flags byte of the TCP header, 0 for others.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv6; IPv4 otherwise.
    pub v6: bool,
}

impl Packet {
    /// Offset of the network header, with a bound that the verifier sees: it forgets them on the way through a map.
    #[inline(always)]
    #[must_use]
    pub const fn l3(&self) -> usize {
        self.l3 & 0x1f
    }

    /// Offset of the transport header, bounded likewise: at most 18 + 60.
    #[inline(always)]
    #[must_use]
    pub const fn l4(&self) -> usize {
        self.l4 & 0x7f
    }
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

/// Where a packet goes, and where to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Destination address.
    pub address: Addr,
    /// Offset of the network header: 14 or 18.
    pub l3: usize,
    /// IPv6; IPv4 otherwise.
    pub v6: bool,
    /// IPv4 without options, untagged: nearly every packet. Where this is a constant, so are all offsets.
    pub plain: bool,
}

impl Destination {
    /// Where a packet goes that is [`Destination::plain`].
    #[inline(always)]
    #[must_use]
    pub const fn plain(address: Addr) -> Self {
        Self {
            address,
            l3: L2,
            v6: false,
            plain: true,
        }
    }
}

/// Reads where a packet goes. `None`: not IP, or too short to say.
#[inline(always)]
pub fn destination<B: Bytes>(bytes: &mut B) -> Option<Destination> {
    // 34 bytes are the least that holds Ethernet and IPv4.
    let head = bytes.window::<34>(0)?;
    if get16::<12, 34>(head) == ETHERTYPE_IPV4 {
        // Nearly every packet: one window shows it all, and the offset is a constant.
        let address = Addr::v4(get32::<30, 34>(head).to_ne_bytes());
        return Some(Destination {
            plain: head[L2] == 0x45,
            ..Destination::plain(address)
        });
    }
    let (kind, l3) = match get16::<12, 34>(head) {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => (get16::<16, 34>(head), L2_TAGGED),
        kind => (kind, L2),
    };
    match kind {
        ETHERTYPE_IPV4 => {
            let header = bytes.window::<20>(l3)?;
            let address = Addr::v4(get32::<16, 20>(header).to_ne_bytes());
            Some(Destination {
                address,
                l3,
                v6: false,
                plain: false,
            })
        }
        ETHERTYPE_IPV6 => {
            let header = bytes.window::<40>(l3)?;
            let address = Addr::from_words(get64::<24, 40>(header), get64::<32, 40>(header));
            Some(Destination {
                address,
                l3,
                v6: true,
                plain: false,
            })
        }
        _ => None,
    }
}

/// Where the ARP message begins of a frame that has no [`destination`]. `None`: it carries something else.
#[inline(always)]
pub fn arp<B: Bytes>(bytes: &mut B) -> Option<usize> {
    let head = bytes.window::<18>(0)?;
    match (get16::<12, 18>(head), get16::<16, 18>(head)) {
        (ETHERTYPE_ARP, _) => Some(L2),
        (ETHERTYPE_VLAN | ETHERTYPE_QINQ, ETHERTYPE_ARP) => Some(L2_TAGGED),
        _ => None,
    }
}

/// Reads all headers of a packet that is, or may be, ours.
#[inline(always)]
pub fn headers<B: Bytes>(bytes: &mut B, to: &Destination, packet: &mut Packet) -> Result<(), Unsteerable> {
    packet.destination = to.address;
    packet.l3 = to.l3;
    packet.v6 = to.v6;
    packet.tcp_flags = 0;
    let l3 = packet.l3();
    if to.v6 {
        let Some(header) = bytes.window::<40>(l3) else {
            return Err(Unsteerable::NotIp);
        };
        packet.source = Addr::from_words(get64::<8, 40>(header), get64::<16, 40>(header));
        packet.l4 = l3 + 40;
        packet.ip_length = usize::from(u16::from_be(get16::<4, 40>(header))) + 40;
        packet.protocol = header[6];
        packet.ttl = header[7];
        if header[0] >> 4 != 6 {
            return Err(Unsteerable::Malformed);
        }
        if packet.protocol == FRAGMENT_HEADER {
            return Err(Unsteerable::Fragment);
        }
    } else {
        let Some(header) = bytes.window::<20>(l3) else {
            return Err(Unsteerable::NotIp);
        };
        packet.source = Addr::v4(get32::<12, 20>(header).to_ne_bytes());
        let [version_ihl, ..] = if to.plain { [0x45; 20] } else { *header };
        packet.l4 = l3 + (usize::from(version_ihl & 0x0f) << 2);
        packet.ip_length = usize::from(u16::from_be(get16::<2, 20>(header)));
        packet.protocol = header[9];
        packet.ttl = header[8];
        if version_ihl >> 4 != 4 || version_ihl & 0x0f < 5 {
            return Err(Unsteerable::Malformed);
        }
        if u16::from_be(get16::<6, 20>(header)) & 0x3fff != 0 {
            return Err(Unsteerable::Fragment);
        }
    }
    transport(bytes, packet)
}

#[inline(always)]
fn transport<B: Bytes>(bytes: &mut B, packet: &mut Packet) -> Result<(), Unsteerable> {
    let (l3, l4) = (packet.l3(), packet.l4());
    if !bytes.holds(l3 + packet.ip_length) {
        return Err(Unsteerable::Malformed);
    }
    let payload = (l3 + packet.ip_length).wrapping_sub(l4);
    match packet.protocol {
        TCP => {
            let Some(header) = bytes.window::<20>(l4) else {
                return Err(Unsteerable::Malformed);
            };
            let data_offset = usize::from(header[12] >> 4) << 2;
            if data_offset < 20 || data_offset > payload || payload > 65_535 {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 20>(header);
            packet.destination_port = get16::<2, 20>(header);
            packet.tcp_flags = header[13];
            packet.headers = l4 - l3 + data_offset;
        }
        UDP => {
            let Some(header) = bytes.window::<8>(l4) else {
                return Err(Unsteerable::Malformed);
            };
            let length = usize::from(u16::from_be(get16::<4, 8>(header)));
            if length < 8 || length > payload || payload > 65_535 {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 8>(header);
            packet.destination_port = get16::<2, 8>(header);
            packet.headers = l4 - l3 + 8;
        }
        ICMP | ICMPV6 if (packet.protocol == ICMPV6) == packet.v6 => {
            let Some(header) = bytes.window::<8>(l4) else {
                return Err(Unsteerable::Malformed);
            };
            if !(8..=65_535).contains(&payload) {
                return Err(Unsteerable::Malformed);
            }
            packet.source_port = get16::<0, 8>(header);
            packet.destination_port = get16::<2, 8>(header);
            packet.headers = l4 - l3 + 8;
        }
        _ => return Err(Unsteerable::Protocol),
    }
    Ok(())
}
