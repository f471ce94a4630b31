//! Questions and answers of hosts on one link: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Body, Packet};

/// An ARP message for Ethernet and IPv4, in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Ethernet source.
    pub from: [u8; 6],
    /// 802.1Q tag control information, if tagged.
    pub vlan: Option<u16>,
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Who says it.
    pub sender: ([u8; 6], Ipv4Addr),
    /// Whom it is about, or for.
    pub target: ([u8; 6], Ipv4Addr),
}

const BROADCAST: [u8; 6] = [0xff; 6];

impl Arp {
    /// `sender` asks all who has `address`.
    #[must_use]
    pub fn request(sender: ([u8; 6], Ipv4Addr), address: Ipv4Addr) -> Self {
        Self {
            to: BROADCAST,
            from: sender.0,
            vlan: None,
            operation: 1,
            sender,
            target: ([0; 6], address),
        }
    }

    /// `mac` announces `address` (RFC 5227 §2.3).
    #[must_use]
    pub fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Self {
        Self::request((mac, address), address)
    }

    /// What the owner of `mac` replies.
    #[must_use]
    pub fn reply(&self, mac: [u8; 6]) -> Self {
        Self {
            to: self.from,
            from: mac,
            vlan: self.vlan,
            operation: 2,
            sender: (mac, self.target.1),
            target: self.sender,
        }
    }

    /// The frame, padded to Ethernet's 60 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4]);
        frame.extend(self.operation.to_be_bytes());
        for (mac, address) in [self.sender, self.target] {
            frame.extend(mac);
            frame.extend(address.octets());
        }
        frame.resize(60, 0);
        frame
    }
}

/// The group of those who may have `address` (RFC 4291 §2.7.1), and its MAC address (RFC 2464 §7).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = address.octets();
    let low = [u16::from(a), u16::from(b), u16::from(c)];
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | low[0], low[1] << 8 | low[2]);
    (group, [0x33, 0x33, 0xff, a, b, c])
}

const ALL_NODES: (Ipv6Addr, [u8; 6]) = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), [0x33, 0x33, 0, 0, 0, 1]);

fn message(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Body {
    Body::Icmp {
        kind,
        code: 0,
        rest: [flags, 0, 0, 0],
        payload: [&target.octets(), options].concat(),
    }
}

fn link_address(option: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[option, 1], mac.as_slice()].concat()
}

/// `sender` asks the group of `address` who has it.
#[must_use]
pub fn solicitation(sender: ([u8; 6], Ipv6Addr), address: Ipv6Addr) -> Packet {
    let (group, to) = solicited_node(address);
    let body = message(135, 0, address, &link_address(1, sender.0));
    let mut packet = Packet::new(sender.1.into(), group.into(), body);
    (packet.source_mac, packet.destination_mac) = (sender.0, to);
    (packet.ttl, packet.identification) = (255, 0);
    packet
}

/// Somebody asks whether `address` is free (RFC 4862 §5.4).
#[must_use]
pub fn probe(mac: [u8; 6], address: Ipv6Addr) -> Packet {
    let mut packet = solicitation((mac, Ipv6Addr::UNSPECIFIED), address);
    packet.body = message(135, 0, address, &[]);
    packet
}

/// `mac` says to all nodes that it has `address`.
#[must_use]
pub fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Packet {
    let body = message(136, 0x20, address, &link_address(2, mac));
    let mut packet = Packet::new(address.into(), ALL_NODES.0.into(), body);
    (packet.source_mac, packet.destination_mac) = (mac, ALL_NODES.1);
    (packet.ttl, packet.identification) = (255, 0);
    packet
}

/// What the owner of `mac` answers to `sender`.
#[must_use]
pub fn advertisement(mac: [u8; 6], address: Ipv6Addr, sender: ([u8; 6], Ipv6Addr)) -> Packet {
    let mut packet = unsolicited_advertisement(mac, address);
    packet.body = message(136, 0x60, address, &link_address(2, mac));
    (packet.destination_mac, packet.destination) = (sender.0, sender.1.into());
    packet
}
