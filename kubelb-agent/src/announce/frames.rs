//! What is said to all on a link when an address is taken over. Owns the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Next-header value of ICMPv6.
const ICMPV6: u8 = 58;

/// "`address` is at `mac`", as a whole Ethernet frame.
#[must_use]
pub fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => arp(v4, mac),
        IpAddr::V6(v6) => advertisement(v6, mac),
    }
}

/// An ARP Announcement (RFC 5227 §2.3): a request about the sender's own address, which hosts of all kinds heed.
fn arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let address = address.octets();
    let parts: [&[u8]; 7] = [
        &BROADCAST,
        &mac,
        // Type; Ethernet, IPv4, six and four bytes; request.
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac,
        &address,
        &[0; 6],
        &address,
    ];
    let mut frame = parts.concat();
    // The shortest frame that Ethernet has, less its checksum.
    frame.resize(60, 0);
    frame
}

/// An unsolicited neighbour advertisement that overrides what is known (RFC 4861 §7.2.6).
fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let (from, to) = (address.octets(), ALL_NODES.octets());
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(from);
    // The target's link-layer address.
    message.extend([2, 1]);
    message.extend(mac);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [from.as_slice(), &to, &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message].concat();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum(&pseudo).to_be_bytes());
    }
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    let parts: [&[u8]; 7] = [&ALL_NODES_MAC, &mac, &[0x86, 0xdd], &header, &from, &to, &message];
    parts.concat()
}

/// RFC 1071, of whole words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_arp_announcement_is_a_request_about_oneself() {
        let frame = announcement("203.0.113.10".parse().unwrap(), MAC);
        let expected = "ffffffffffff020000000007080600010800060400010200000000\
                        07cb00710a000000000000cb00710a";
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.trim_end_matches('0').len().max(84), 84);
        assert_eq!(&hex[..84], expected.replace(' ', ""));
        assert_eq!(frame.len(), 60);
    }

    #[test]
    fn an_advertisement_goes_to_all_nodes_and_its_checksum_is_right() {
        let address: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let frame = announcement(address.into(), MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
        assert_eq!(frame[21], 255, "hop limit");
        assert_eq!(frame[22..38], address.octets());
        assert_eq!(frame[54..60], [136, 0, frame[56], frame[57], 0x20, 0]);
        assert_eq!(frame[62..78], address.octets());
        assert_eq!(frame[78..86], [2, 1, 2, 0, 0, 0, 0, 7]);
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
