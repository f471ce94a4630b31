//! Makes the ends of a connection that is over say something, so that the data path can tell them.
//!
//! A RST counts only with a sequence number that its receiver waits for, and the data path knows none. But whoever gets a segment from out of
//! its window answers with its own numbers (RFC 9293 §3.10.7.4), and that answer the data path turns into the right RST. Owns the segments and
//! the sockets that send them; which connections are over is the sweep's to say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use kubelb_common::addr::TCP;
use kubelb_common::tcp::ACK;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// One end of a connection, and whom it takes the other one for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who is to speak.
    pub to: SocketAddr,
    /// The address that it talks to, of the same family.
    pub from: SocketAddr,
}

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
const TTL: u8 = 64;
/// No window is larger (RFC 7323), so of two numbers this far apart at least one is outside.
const FAR: u32 = 1 << 31;

/// The packets that make an end speak; `sequence` is any number. Empty when the families differ.
#[must_use]
pub fn packets(end: &End, sequence: u32) -> Vec<Vec<u8>> {
    let one = |sequence| match (end.from.ip(), end.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(packet_v4((from, to), segment(end, sequence))),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(packet_v6((from, to), segment(end, sequence))),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    };
    [sequence, sequence.wrapping_add(FAR)]
        .into_iter()
        .filter_map(one)
        .collect()
}

/// A bare ACK, its checksum still zero.
fn segment(end: &End, sequence: u32) -> Vec<u8> {
    let mut segment = Vec::with_capacity(TCP_HEADER);
    segment.extend(end.from.port().to_be_bytes());
    segment.extend(end.to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(0u32.to_be_bytes());
    segment.extend([0x50, ACK, 0, 0]);
    segment.extend([0; 4]);
    segment
}

/// The kernel fills in the header's checksum and identification (raw(7)).
fn packet_v4((from, to): (Ipv4Addr, Ipv4Addr), segment: Vec<u8>) -> Vec<u8> {
    let ends = [from.octets(), to.octets()].concat();
    let mut packet = vec![0x45, 0, 0, 20 + 20, 0, 0, 0x40, 0, TTL, TCP, 0, 0];
    packet.extend(&ends);
    packet.extend(summed(&ends, segment));
    packet
}

fn packet_v6((from, to): (Ipv6Addr, Ipv6Addr), segment: Vec<u8>) -> Vec<u8> {
    let ends = [from.octets(), to.octets()].concat();
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, TCP, TTL];
    packet.extend(&ends);
    packet.extend(summed(&ends, segment));
    packet
}

/// The segment with its checksum (RFC 9293 §3.1, RFC 8200 §8.1).
fn summed(ends: &[u8], mut segment: Vec<u8>) -> Vec<u8> {
    let words = |bytes: &[u8]| -> u32 {
        let words = bytes.as_chunks::<2>().0.iter();
        words.map(|word| u32::from(u16::from_be_bytes(*word))).sum()
    };
    let mut sum = words(ends) + u32::from(TCP) + 20 + words(&segment);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    segment
}

/// Sends whole packets, from any address.
#[derive(Debug)]
pub struct Sender {
    v4: UdpSocket,
    v6: UdpSocket,
}

impl Sender {
    /// Opens the sockets.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where a family is missing.
    pub fn open() -> io::Result<Self> {
        let raw = |family| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            // It sends like any datagram socket; ports mean nothing to it.
            socket(family, SockType::Raw, flags, SockProtocol::Raw).map(UdpSocket::from)
        };
        Ok(Self {
            v4: raw(AddressFamily::Inet)?,
            v6: raw(AddressFamily::Inet6)?,
        })
    }

    /// Makes an end speak. What cannot be sent is lost: the end learns at its own next packet.
    ///
    /// # Errors
    /// When a packet cannot be sent, for want of a route or of room.
    pub fn nudge(&self, end: &End, sequence: u32) -> io::Result<()> {
        let socket = if end.to.is_ipv4() { &self.v4 } else { &self.v6 };
        for packet in packets(end, sequence) {
            socket.send_to(&packet, (end.to.ip(), 0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(to: &str, from: &str) -> End {
        End {
            to: to.parse().unwrap(),
            from: from.parse().unwrap(),
        }
    }

    /// Sum of 16-bit words, folded: 0xffff where a checksum is right.
    fn folded(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn two_bare_acknowledgements_half_the_numbers_apart() {
        for (end, header, addresses) in [
            (end("198.51.100.7:40000", "203.0.113.10:80"), 20, 12..20),
            (end("[2001:db8:c::7]:40000", "[2001:db8::10]:80"), 40, 8..40),
        ] {
            let packets = packets(&end, 7);
            let sequences: Vec<&[u8]> = packets.iter().map(|packet| &packet[header + 4..header + 8]).collect();
            assert_eq!(sequences, [[0, 0, 0, 7], [0x80, 0, 0, 7]]);
            for packet in &packets {
                assert_eq!(packet.len(), header + 20);
                assert_eq!(packet[header..header + 4], [0, 80, 0x9c, 0x40]);
                assert_eq!(packet[header + 13], ACK);
                let mut covered = packet[addresses.clone()].to_vec();
                covered.extend([0, TCP, 0, 20]);
                covered.extend(&packet[header..]);
                assert_eq!(folded(&covered), 0xffff);
            }
        }
        assert!(packets(&end("198.51.100.7:1", "[2001:db8::10]:80"), 0).is_empty());
    }
}
