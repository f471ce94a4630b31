//! Who has this address? Questions of ARP (RFC 826) and neighbour discovery (RFC 4861) about addresses that this node announces are
//! answered in place; another machine that announces one of them gets it (RFC 5227 §2.4). Whatever else these protocols say is the stack's.

use kubelb_common::addr::{Addr, ICMPV6};
use kubelb_common::announce::AnnounceRow;
use kubelb_common::checksum::fold;
use kubelb_common::next_hop::MacWord;
use kubelb_common::shared::opaque;

use crate::bytes::{Bytes, get_mac, get16, get32, get64, put_mac, put16, put32, put64};
use crate::tables::Tables;

/// Ethernet and IPv4, addresses of six and four bytes.
const ARP_KIND: [u32; 2] = [0x0001_0800u32.to_be(), 0x0604_0000u32.to_be()];
const ARP_SIZES: u32 = 0xffff_0000u32.to_be();
const ARP_REQUEST: u16 = 1u16.to_be();
const ARP_REPLY: u16 = 2u16.to_be();

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement.
const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;
/// Options (RFC 4861 §4.6.1).
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Neighbour discovery counts only from the link itself.
const HOP_LIMIT: u8 = 255;
/// Longest message that is understood, in units of eight bytes: no host sends a longer one, and all of it is summed up.
const MESSAGE_UNITS: usize = 12;
/// Units of a solicitation before its options.
const FIXED_UNITS: usize = 3;
const ALL_NODES_MAC: MacWord = MacWord::new([0x33, 0x33, 0, 0, 0, 1], 0);

/// First half of all link-local multicast addresses that neighbour discovery uses.
pub const LINK_MULTICAST: u64 = u64::from_ne_bytes([0xff, 2, 0, 0, 0, 0, 0, 0]);
const ALL_NODES: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);

/// Which protocol a frame speaks, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// An ARP message at this offset.
    Arp(usize),
    /// An IPv6 packet at this offset, which may be one of neighbour discovery.
    Discovery(usize),
}

impl Question {
    /// In one word, for the way to a function of its own.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "offsets are 14 or 18")]
    pub const fn encode(self) -> u32 {
        match self {
            Self::Arp(l3) => l3 as u32,
            Self::Discovery(l3) => 1 << 16 | l3 as u32,
        }
    }

    /// Undoes [`Question::encode`]; the offset gets a bound that the verifier sees.
    #[inline(always)]
    #[must_use]
    pub const fn decode(word: u32) -> Self {
        let l3 = word as usize & 0x1f;
        if word >> 16 == 0 {
            Self::Arp(l3)
        } else {
            Self::Discovery(l3)
        }
    }
}

/// Answers a question, if it is one about an address that is announced here. True: the frame is the answer.
#[inline(always)]
pub fn consider<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, question: Question) -> bool {
    match question {
        Question::Arp(l3) => arp(bytes, tables, l3).unwrap_or_else(|| malformed(tables)),
        Question::Discovery(l3) => discovery(bytes, tables, l3),
    }
}

/// A message about an address of ours that says what cannot be. It is left to the stack.
#[inline(always)]
fn malformed<T: Tables>(tables: &T) -> bool {
    tables.count_malformed_question();
    false
}

/// `None`: the message is malformed.
#[inline(always)]
fn arp<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, l3: usize) -> Option<bool> {
    let interface = bytes.interface();
    let message = bytes.window::<28>(l3)?;
    if get32::<0, 28>(message) != ARP_KIND[0] || get32::<4, 28>(message) & ARP_SIZES != ARP_KIND[1] {
        return None;
    }
    let operation = get16::<6, 28>(message);
    let asker = get_mac::<8, 28>(message);
    let (from, about) = (get32::<14, 28>(message), get32::<24, 28>(message));
    let sender = Addr::v4(from.to_ne_bytes());
    if let Some(row) = tables.announced(sender, interface) {
        // Its own word come back to it is no answer's matter either.
        hear(tables, row, asker);
        return Some(false);
    }
    if operation != ARP_REQUEST {
        return Some(false);
    }
    let Some(row) = tables.announced(Addr::v4(about.to_ne_bytes()), interface) else {
        return Some(false);
    };
    let Some(mac) = row.answer() else { return Some(false) };
    if !is_station(asker) {
        return None;
    }
    let link = bytes.window::<12>(0)?;
    let back = get_mac::<6, 12>(link);
    put_mac::<0, 12>(link, back);
    put_mac::<6, 12>(link, mac);
    let message = bytes.window::<28>(l3)?;
    put16::<6, 28>(message, ARP_REPLY);
    put_mac::<8, 28>(message, mac);
    put32::<14, 28>(message, about);
    put_mac::<18, 28>(message, asker);
    put32::<24, 28>(message, from);
    row.count();
    Some(true)
}

/// Somebody announces the address of `row`.
#[inline(always)]
fn hear<T: Tables>(tables: &T, row: &AnnounceRow, mac: MacWord) {
    if let Some(own) = row.answer()
        && own != mac
        && is_station(mac)
        && !tables.is_own_mac(mac)
    {
        row.give_way(mac);
    }
}

/// True for the address of a single station.
#[inline(always)]
const fn is_station(mac: MacWord) -> bool {
    mac.word() & 1 == 0 && mac.word() != 0
}

#[inline(always)]
fn discovery<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, l3: usize) -> bool {
    let Some(header) = bytes.window::<40>(l3) else {
        return false;
    };
    let (protocol, hop_limit) = (header[6], header[7]);
    let length = usize::from(u16::from_be(get16::<4, 40>(header)));
    let source = (get64::<8, 40>(header), get64::<16, 40>(header));
    let destination = (get64::<24, 40>(header), get64::<32, 40>(header));
    if protocol != ICMPV6 {
        return false;
    }
    let Some(message) = bytes.window::<24>(l3 + 40) else {
        return false;
    };
    let (kind, code) = (message[0], message[1]);
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return false;
    }
    let target = (get64::<8, 24>(message), get64::<16, 24>(message));
    let about = Addr::from_words(target.0, target.1);
    let interface = bytes.interface();
    if about.is_v4() {
        return false;
    }
    let Some(row) = tables.announced(about, interface) else {
        return false;
    };
    let Some(mac) = row.answer() else { return false };
    let Some(link) = bytes.window::<12>(0) else {
        return false;
    };
    let asker = get_mac::<6, 12>(link);
    let options = options(bytes, l3, length, pseudo_sum(source, destination, length));
    let is_sound = hop_limit == HOP_LIMIT && code == 0 && is_station(asker) && options != BROKEN;
    // RFC 4861 §7.1.1: who has no address yet asks the group of the address, and names no link-layer address.
    let is_probe = source == (0, 0);
    let is_possible = !is_probe || (options == NO_SOURCE && destination == solicited_node(target));
    if !is_sound || (kind == SOLICITATION && !is_possible) {
        return malformed(tables);
    }
    if kind == ADVERTISEMENT {
        hear(tables, row, asker);
        return false;
    }
    if mac == asker || !advertise(bytes, l3, target, source, (asker, mac)) {
        return false;
    }
    row.count();
    true
}

/// The group of those who may have an address (RFC 4291 §2.7.1).
#[inline(always)]
const fn solicited_node(address: (u64, u64)) -> (u64, u64) {
    let [.., a, b, c] = address.1.to_ne_bytes();
    (LINK_MULTICAST, u64::from_ne_bytes([0, 0, 0, 1, 0xff, a, b, c]))
}

#[inline(always)]
fn pseudo_sum(source: (u64, u64), destination: (u64, u64), length: usize) -> u64 {
    let half = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let ends = half(source.0) + half(source.1) + half(destination.0) + half(destination.1);
    #[expect(clippy::cast_possible_truncation, reason = "a length of 16 bits")]
    let length = (length as u16).to_be();
    ends + u64::from(length) + u64::from(u16::from(ICMPV6).to_be())
}

/// The message is not as it should be.
const BROKEN: u32 = 0;
/// It is sound, without the source's link-layer address.
const NO_SOURCE: u32 = 1;
/// It is sound, and has that.
const WITH_SOURCE: u32 = 2;

/// Reads the message to its end: the checksum must be right, and options must fill it.
#[inline(always)]
fn options<B: Bytes>(bytes: &mut B, l3: usize, length: usize, pseudo: u64) -> u32 {
    let units = length >> 3;
    if length & 7 != 0 || !(FIXED_UNITS..=MESSAGE_UNITS).contains(&units) {
        return BROKEN;
    }
    let (mut sum, mut next, mut found) = (pseudo, FIXED_UNITS, NO_SOURCE);
    let mut step = opaque(0) as usize;
    while step < units && step < MESSAGE_UNITS {
        let Some(unit) = bytes.window::<8>(l3 + 40 + (step << 3)) else {
            return BROKEN;
        };
        sum += u64::from(get32::<0, 8>(unit)) + u64::from(get32::<4, 8>(unit));
        if step == next {
            if unit[1] == 0 {
                return BROKEN;
            }
            if unit[0] == SOURCE_LINK_ADDRESS {
                found = WITH_SOURCE;
            }
            next = step + usize::from(unit[1]);
        }
        step += 1;
    }
    if next != units || fold(sum) != 0xffff {
        return BROKEN;
    }
    found
}

/// Makes the frame the advertisement of `target`: to who asked, or, when that one has no address, to all nodes (RFC 4861 §7.2.4).
#[inline(always)]
fn advertise<B: Bytes>(
    bytes: &mut B,
    l3: usize,
    target: (u64, u64),
    source: (u64, u64),
    (asker, mac): (MacWord, MacWord),
) -> bool {
    if !bytes.truncate(l3 + 40 + 32) {
        return false;
    }
    let is_probe = source == (0, 0);
    let (to, to_mac, flags) = if is_probe {
        ((LINK_MULTICAST, ALL_NODES), ALL_NODES_MAC, OVERRIDE)
    } else {
        (source, asker, SOLICITED | OVERRIDE)
    };
    let Some(link) = bytes.window::<12>(0) else {
        return false;
    };
    put_mac::<0, 12>(link, to_mac);
    put_mac::<6, 12>(link, mac);
    let Some(header) = bytes.window::<40>(l3) else {
        return false;
    };
    put32::<0, 40>(header, 0x6000_0000u32.to_be());
    put32::<4, 40>(header, u32::from_be_bytes([0, 32, ICMPV6, HOP_LIMIT]).to_be());
    put64::<8, 40>(header, target.0);
    put64::<16, 40>(header, target.1);
    put64::<24, 40>(header, to.0);
    put64::<32, 40>(header, to.1);
    let Some(message) = bytes.window::<32>(l3 + 40) else {
        return false;
    };
    put32::<0, 32>(message, u32::from_be_bytes([ADVERTISEMENT, 0, 0, 0]).to_be());
    put32::<4, 32>(message, flags.to_be());
    put64::<8, 32>(message, target.0);
    put64::<16, 32>(message, target.1);
    put16::<24, 32>(message, u16::from_be_bytes([TARGET_LINK_ADDRESS, 1]).to_be());
    put_mac::<26, 32>(message, mac);
    let mut sum = pseudo_sum(target, to, 32);
    sum += u64::from(get32::<0, 32>(message)) + u64::from(get32::<4, 32>(message));
    sum += u64::from(get32::<8, 32>(message)) + u64::from(get32::<12, 32>(message));
    sum += u64::from(get32::<16, 32>(message)) + u64::from(get32::<20, 32>(message));
    sum += u64::from(get32::<24, 32>(message)) + u64::from(get32::<28, 32>(message));
    put16::<2, 32>(message, !fold(sum));
    true
}
