//! Answers that the load balancer itself gives: TCP RST, ICMP errors, echo replies. All are built in place from the
//! packet that asks for them and go back where it came from.

use kubelb_common::addr::{Addr, ICMP, ICMPV6, TCP, UDP};
use kubelb_common::checksum::{delta16, fold, update};
use kubelb_common::shared::opaque;
use kubelb_common::stats::{Reason, Scratch};
use kubelb_common::tcp::{ACK, FIN, RST, SYN};

use crate::bytes::{Bytes, get_mac, get16, get32, put_mac, put16, put32, put64};
use crate::outcome::Outcome;
use crate::parse::Packet;
use crate::tables::Tables;

/// Answers per CPU in a window of 64 jiffies (0.26 s at 250 Hz): RFC 1812 §4.3.2.8 wants a limit, RSTs share it.
const ANSWERS_PER_WINDOW: u32 = 1_024;
/// TTL and hop limit of answers.
const TTL: u8 = 64;

/// Why a packet is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is an echo request to a VIP.
    Echo,
    /// It is larger than the next hop's MTU, which this is.
    TooBig(u16),
    /// Any other reason.
    Refused(Reason),
}

impl Why {
    /// In one word, for the way to a function of its own.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "reasons are few")]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Echo => 0,
            Self::TooBig(mtu) => 1 << 16 | mtu as u32,
            Self::Refused(reason) => 2 << 16 | reason.index() as u32,
        }
    }

    /// Undoes [`Why::encode`].
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub const fn decode(word: u32) -> Self {
        match word >> 16 {
            0 => Self::Echo,
            1 => Self::TooBig(word as u16),
            _ => Self::Refused(Reason::from_index(word as u8)),
        }
    }
}

/// Counts a packet that is not sent on, and answers it where that helps its sender. True: the frame is the answer.
#[inline(always)]
pub fn respond<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, packet: &Packet, frontend: u32, why: Why) -> bool {
    let reason = match why {
        Why::Echo => {
            if permitted(tables) {
                tables.with_scratch(|scratch: &mut Scratch| scratch.echoes += 1);
                return echo(bytes, packet);
            }
            tables.count_drop(frontend, Reason::ANSWER_LIMITED);
            return false;
        }
        Why::TooBig(_) => Reason::TOO_BIG,
        Why::Refused(reason) => reason,
    };
    tables.count_drop(frontend, reason);
    let icmp = match reason {
        Reason::TOO_BIG | Reason::TTL_EXPIRED => true,
        Reason::NO_BACKEND | Reason::NO_FLOW | Reason::STALE_BACKEND | Reason::UNSERVED => packet.protocol == UDP,
        _ => return false,
    };
    if !permitted(tables) {
        tables.count_drop(frontend, Reason::ANSWER_LIMITED);
        return false;
    }
    if !icmp {
        return reset(bytes, packet);
    }
    // IPv4 packets that may be fragmented get the error all the same: the data path does not fragment.
    error(
        bytes,
        packet,
        match why {
            Why::TooBig(mtu) => Error::TooBig(mtu),
            Why::Refused(Reason::TTL_EXPIRED) => Error::TimeExceeded,
            Why::Refused(_) | Why::Echo => Error::PortUnreachable,
        },
    )
}

/// What becomes of a packet that is not sent on.
#[inline(always)]
pub fn give<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, packet: &Packet, frontend: u32, why: Why) -> Outcome {
    if bytes.respond(tables, packet, frontend, why) {
        return Outcome::Answer;
    }
    Outcome::Drop(match why {
        Why::Echo => Reason::ANSWER_LIMITED,
        Why::TooBig(_) => Reason::TOO_BIG,
        Why::Refused(reason) => reason,
    })
}

/// ICMP errors (RFC 792, RFC 1191, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Error {
    /// Nobody serves the port.
    PortUnreachable,
    /// The hop limit ran out.
    TimeExceeded,
    /// Too large for the next hop, whose MTU this is.
    TooBig(u16),
}

/// True while this CPU's budget of answers lasts.
#[inline(always)]
fn permitted<T: Tables>(tables: &T) -> bool {
    let window = tables.now() >> 6;
    tables
        .with_scratch(|scratch: &mut Scratch| {
            if scratch.answer_window != window {
                scratch.answer_window = window;
                scratch.answers = 0;
            }
            scratch.answers += 1;
            scratch.answers <= ANSWERS_PER_WINDOW
        })
        .unwrap_or(false)
}

/// True when an error may be sent to this source (RFC 1122 §3.2.2: never to one that is not a single host).
#[inline(always)]
fn answerable(source: Addr) -> bool {
    let bytes = source.bytes();
    if source.is_v4() {
        let first = bytes[12];
        first != 0 && first != 127 && first < 224
    } else {
        bytes[0] != 0xff && source.words() != (0, 0)
    }
}

#[inline(always)]
fn swap_link<B: Bytes>(bytes: &mut B) -> bool {
    let Some(header) = bytes.window::<12>(0) else {
        return false;
    };
    let (destination, source) = (get_mac::<0, 12>(header), get_mac::<6, 12>(header));
    put_mac::<0, 12>(header, source);
    put_mac::<6, 12>(header, destination);
    true
}

/// Sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
fn pseudo_sum(packet: &Packet, protocol: u8, length: u16) -> u64 {
    let (a, b) = packet.source.words();
    let (c, d) = packet.destination.words();
    let half = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    // In IPv4-mapped form the prefix 0xffff of both addresses adds nothing to a one's-complement sum.
    half(a) + half(b) + half(c) + half(d) + u64::from(u16::from(protocol).to_be()) + u64::from(length.to_be())
}

/// Writes an IPv4 header without options from the packet's destination to its source.
#[inline(always)]
fn put_ipv4<B: Bytes>(bytes: &mut B, packet: &Packet, protocol: u8, length: u16) -> bool {
    let Some(header) = bytes.window::<20>(packet.l3()) else {
        return false;
    };
    put32::<0, 20>(header, u32::from_be_bytes([0x45, 0, 0, 0]).to_be());
    put16::<2, 20>(header, length.to_be());
    // Identification 0 with "don't fragment" (RFC 6864 §4.1).
    put32::<4, 20>(header, 0x0000_4000u32.to_be());
    put32::<8, 20>(header, u32::from_be_bytes([TTL, protocol, 0, 0]).to_be());
    let (source, destination) = (packet.destination.v4_bytes(), packet.source.v4_bytes());
    put32::<12, 20>(header, u32::from_ne_bytes(source));
    put32::<16, 20>(header, u32::from_ne_bytes(destination));
    let mut sum = 0u64;
    sum += u64::from(get32::<0, 20>(header)) + u64::from(get32::<4, 20>(header)) + u64::from(get32::<8, 20>(header));
    sum += u64::from(get32::<12, 20>(header)) + u64::from(get32::<16, 20>(header));
    put16::<10, 20>(header, !fold(sum));
    true
}

/// Writes an IPv6 header from the packet's destination to its source.
#[inline(always)]
fn put_ipv6<B: Bytes>(bytes: &mut B, packet: &Packet, protocol: u8, payload: u16) -> bool {
    let Some(header) = bytes.window::<40>(packet.l3()) else {
        return false;
    };
    put32::<0, 40>(header, 0x6000_0000u32.to_be());
    put16::<4, 40>(header, payload.to_be());
    header[6] = protocol;
    header[7] = TTL;
    let (high, low) = packet.destination.words();
    put64::<8, 40>(header, high);
    put64::<16, 40>(header, low);
    let (high, low) = packet.source.words();
    put64::<24, 40>(header, high);
    put64::<32, 40>(header, low);
    true
}

/// Turns a TCP segment into the RST that RFC 9293 §3.5.2 (group 1) asks for. False: the segment is itself a RST, its
/// sender must not be answered, or there is no room.
#[inline(always)]
fn reset<B: Bytes>(bytes: &mut B, packet: &Packet) -> bool {
    let l4 = packet.l4();
    if packet.tcp_flags & RST != 0 || !answerable(packet.source) {
        return false;
    }
    let Some(header) = bytes.window::<20>(l4) else {
        return false;
    };
    let (sequence, acknowledged) = (get32::<4, 20>(header), get32::<8, 20>(header));
    let mut occupied = u32::try_from(packet.ip_length.wrapping_sub(packet.headers) & 0xffff).unwrap_or(0);
    occupied += u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
    let (sequence, acknowledged, flags) = if packet.tcp_flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        (0, u32::from_be(sequence).wrapping_add(occupied).to_be(), RST | ACK)
    };
    let partial = bytes.checksum_is_partial(l4 + 16);
    let network = if packet.v6 { 40 } else { 20 };
    if !bytes.truncate(packet.l3() + network + 20) || !swap_link(bytes) {
        return false;
    }
    let written = if packet.v6 {
        put_ipv6(bytes, packet, TCP, 20)
    } else {
        put_ipv4(bytes, packet, TCP, 40)
    };
    let Some(header) = bytes.window::<20>(packet.l3() + network) else {
        return false;
    };
    put16::<0, 20>(header, packet.destination_port);
    put16::<2, 20>(header, packet.source_port);
    put32::<4, 20>(header, sequence);
    put32::<8, 20>(header, acknowledged);
    put32::<12, 20>(header, u32::from_be_bytes([0x50, flags, 0, 0]).to_be());
    put32::<16, 20>(header, 0);
    let pseudo = pseudo_sum(packet, TCP, 20);
    let sum = if partial {
        fold(pseudo)
    } else {
        let words = u64::from(packet.destination_port)
            + u64::from(packet.source_port)
            + u64::from(sequence)
            + u64::from(acknowledged)
            + u64::from(get32::<12, 20>(header));
        !fold(pseudo + words)
    };
    put16::<16, 20>(header, sum);
    written
}

/// Turns a packet into an ICMP error about itself that quotes its network header and its TCP header without options, or
/// its UDP header. False: its sender must not be answered, it carries IPv4 options, or there is no room.
///
/// Of TCP the checksum field is quoted too: the stack does not cut a frame before a field that hardware is to fill.
#[inline(always)]
fn error<B: Bytes>(bytes: &mut B, packet: &Packet, error: Error) -> bool {
    let l3 = packet.l3();
    let tcp = packet.protocol == TCP;
    let network = if packet.v6 { 40 } else { 20 };
    let quoted = if tcp { 20 } else { 8 };
    let not_tcp_or_udp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    if !answerable(packet.source) || not_tcp_or_udp || packet.l4() != l3 + network {
        return false;
    }
    let partial = bytes.checksum_is_partial(packet.l4() + if tcp { 16 } else { 6 });
    if !bytes.make_room(l3, network + 8) || !bytes.truncate(l3 + network + 8 + network + quoted) || !swap_link(bytes) {
        return false;
    }
    let (kind, code, parameter) = match (error, packet.v6) {
        (Error::PortUnreachable, false) => (3, 3, 0),
        (Error::PortUnreachable, true) => (1, 4, 0),
        (Error::TimeExceeded, false) => (11, 0, 0),
        (Error::TimeExceeded, true) => (3, 0, 0),
        (Error::TooBig(mtu), false) => (3, 4, u32::from(mtu)),
        (Error::TooBig(mtu), true) => (2, 0, u32::from(mtu)),
    };
    let message = l3 + network;
    let Some(header) = bytes.window::<8>(message) else {
        return false;
    };
    put32::<0, 8>(header, u32::from_be_bytes([kind, code, 0, 0]).to_be());
    put32::<4, 8>(header, parameter.to_be());
    let Some(sum) = quoted_transport_sum(bytes, message + 8 + network, tcp, partial) else {
        return false;
    };
    // Of IPv4 the whole packet, of IPv6 what follows its header: 20 + 8 + 20 and 8 + 40.
    let length = if tcp { 68 } else { 56 };
    let sum = if packet.v6 {
        let Some(header) = bytes.window::<48>(message) else {
            return false;
        };
        let sum = sum + sum_words(header) + pseudo_sum(packet, ICMPV6, length);
        if !put_ipv6(bytes, packet, ICMPV6, length) {
            return false;
        }
        sum
    } else {
        let Some(header) = bytes.window::<28>(message) else {
            return false;
        };
        let sum = sum + sum_words(header);
        if !put_ipv4(bytes, packet, ICMP, length) {
            return false;
        }
        sum
    };
    let Some(field) = bytes.window::<2>(message + 2) else {
        return false;
    };
    put16::<0, 2>(field, !fold(sum));
    true
}

/// What the quoted transport header adds to the error's checksum. A header whose own sum is `partial` will be completed
/// by hardware over the rest of the frame, which is just this header: it then adds up to the complement of what the
/// field holds now.
#[inline(always)]
fn quoted_transport_sum<B: Bytes>(bytes: &mut B, at: usize, tcp: bool, partial: bool) -> Option<u64> {
    if partial {
        let field = bytes.window::<2>(at + if tcp { 16 } else { 6 })?;
        return Some(u64::from(!get16::<0, 2>(field)));
    }
    Some(if tcp {
        sum_words(bytes.window::<20>(at)?)
    } else {
        sum_words(bytes.window::<8>(at)?)
    })
}

/// Sum of all words, for [`fold`]; `N` is a multiple of 4.
#[inline(always)]
fn sum_words<const N: usize>(bytes: &[u8; N]) -> u64 {
    const { assert!(N.is_multiple_of(4)) };
    let (words, _) = bytes.as_chunks::<4>();
    let (mut sum, mut step) = (0, opaque(0));
    while let Some(word) = words.get(step as usize) {
        sum += u64::from(u32::from_ne_bytes(*word));
        step += 1;
    }
    sum
}

/// True when an ICMP packet is an echo request.
#[inline(always)]
#[must_use]
pub fn is_echo_request(packet: &Packet) -> bool {
    packet.source_port == u16::from_be_bytes([if packet.v6 { 128 } else { 8 }, 0]).to_be()
}

/// Turns an echo request into its reply (RFC 792, RFC 4443 §4.2).
#[inline(always)]
fn echo<B: Bytes>(bytes: &mut B, packet: &Packet) -> bool {
    if !answerable(packet.source) || !swap_link(bytes) {
        return false;
    }
    if packet.v6 {
        let Some(header) = bytes.window::<40>(packet.l3()) else {
            return false;
        };
        header[7] = TTL;
        let (high, low) = packet.destination.words();
        put64::<8, 40>(header, high);
        put64::<16, 40>(header, low);
        let (high, low) = packet.source.words();
        put64::<24, 40>(header, high);
        put64::<32, 40>(header, low);
    } else {
        let Some(header) = bytes.window::<20>(packet.l3()) else {
            return false;
        };
        let old = get16::<8, 20>(header);
        header[8] = TTL;
        let new = get16::<8, 20>(header);
        let sum = get16::<10, 20>(header);
        put16::<10, 20>(header, update(sum, delta16(old, new)));
        put32::<12, 20>(header, u32::from_ne_bytes(packet.destination.v4_bytes()));
        put32::<16, 20>(header, u32::from_ne_bytes(packet.source.v4_bytes()));
    }
    let Some(message) = bytes.window::<4>(packet.l4()) else {
        return false;
    };
    let old = get16::<0, 4>(message);
    message[0] = if packet.v6 { 129 } else { 0 };
    let new = get16::<0, 4>(message);
    let sum = get16::<2, 4>(message);
    put16::<2, 4>(message, update(sum, delta16(old, new)));
    true
}
