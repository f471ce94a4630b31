//! Frames from their fields.

use std::net::IpAddr;

use super::checksum::{internet, pseudo_header};

/// An Ethernet frame with an IP packet in it; lengths and checksums follow from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// 802.1Q tag control information, if tagged.
    pub vlan: Option<u16>,
    /// Must be of the family of `destination`.
    pub source: IpAddr,
    /// Decides the IP version.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4 identification; bits 0–19 are the IPv6 flow label.
    pub identification: u32,
    /// IPv4 flags and fragment offset as they stand in the header (0x4000: don't fragment). Not for IPv6.
    pub fragment: u16,
    /// IPv4 options; padded to a multiple of 4. Not for IPv6.
    pub options: Vec<u8>,
    /// IPv6 extension headers, each its own number and its bytes without the first (the next header, which is filled in).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What the packet carries.
    pub body: Body,
    /// Bytes after the packet, as Ethernet pads short frames.
    pub padding: usize,
}

/// The transport part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// RFC 9293.
    Tcp(Tcp),
    /// RFC 768.
    Udp(Udp),
    /// ICMP or ICMPv6, by the packet's family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes after the checksum (for echo: identifier and sequence number).
        rest: [u8; 4],
        /// What follows.
        payload: Vec<u8>,
    },
    /// Any other protocol, or a malformed one: the bytes as they are.
    Raw {
        /// Protocol number.
        protocol: u8,
        /// What follows the IP header.
        bytes: Vec<u8>,
    },
}

/// A TCP segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Port.
    pub source: u16,
    /// Port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// CWR to FIN, as in the header's 14th byte.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options; padded to a multiple of 4.
    pub options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// Flag FIN.
    pub const FIN: u8 = 0x01;
    /// Flag SYN.
    pub const SYN: u8 = 0x02;
    /// Flag RST.
    pub const RST: u8 = 0x04;
    /// Flag PSH.
    pub const PSH: u8 = 0x08;
    /// Flag ACK.
    pub const ACK: u8 = 0x10;
}

/// A UDP datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Port.
    pub source: u16,
    /// Port.
    pub destination: u16,
    /// Checksum.
    pub sum: UdpSum,
    /// Data.
    pub payload: Vec<u8>,
}

/// The checksum of a UDP datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpSum {
    /// Computed; a sum of zero is sent as 0xffff.
    #[default]
    Computed,
    /// None (RFC 768), allowed over IPv4.
    Absent,
    /// This very value.
    Exactly(u16),
}

impl Packet {
    /// A packet with the usual values in every field that isn't named: TTL 64, don't fragment, no options.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source_mac: [0x02, 0, 0, 0, 0, 0x01],
            destination_mac: [0x02, 0, 0, 0, 0, 0x02],
            vlan: None,
            source,
            destination,
            ttl: 64,
            traffic_class: 0,
            identification: 0x1234,
            fragment: 0x4000,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
            padding: 0,
        }
    }

    /// A TCP segment without data.
    #[must_use]
    pub fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        let tcp = Tcp {
            source: source.1,
            destination: destination.1,
            sequence: 0x0102_0304,
            acknowledgement: if flags & Tcp::ACK == 0 { 0 } else { 0x0506_0708 },
            flags,
            window: 64_240,
            ..Tcp::default()
        };
        Self::new(source.0, destination.0, Body::Tcp(tcp))
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), payload: &[u8]) -> Self {
        let udp = Udp {
            source: source.1,
            destination: destination.1,
            sum: UdpSum::Computed,
            payload: payload.to_vec(),
        };
        Self::new(source.0, destination.0, Body::Udp(udp))
    }

    /// An echo request of the family of `destination`.
    #[must_use]
    pub fn echo_request(source: IpAddr, destination: IpAddr, identifier: u16, sequence: u16, payload: &[u8]) -> Self {
        let [a, b] = identifier.to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        let body = Body::Icmp {
            kind: if destination.is_ipv4() { 8 } else { 128 },
            code: 0,
            rest: [a, b, c, d],
            payload: payload.to_vec(),
        };
        Self::new(source, destination, body)
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        let (protocol, segment) = self.segment();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.header_v4(source.octets(), destination.octets(), protocol, segment.len()));
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.headers_v6(source, destination, protocol, segment.len()));
            }
        }
        frame.extend(segment);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn segment(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp(tcp) => {
                let options = padded(&tcp.options);
                let words = u8::try_from(5 + options.len() / 4).unwrap_or(15);
                let mut bytes = Vec::new();
                bytes.extend(tcp.source.to_be_bytes());
                bytes.extend(tcp.destination.to_be_bytes());
                bytes.extend(tcp.sequence.to_be_bytes());
                bytes.extend(tcp.acknowledgement.to_be_bytes());
                bytes.extend([words << 4, tcp.flags]);
                bytes.extend(tcp.window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(&tcp.payload);
                let sum = self.sum(6, &bytes);
                put(&mut bytes, 16, sum);
                (6, bytes)
            }
            Body::Udp(udp) => {
                let mut bytes = Vec::new();
                bytes.extend(udp.source.to_be_bytes());
                bytes.extend(udp.destination.to_be_bytes());
                bytes.extend(length16(8 + udp.payload.len()));
                bytes.extend([0; 2]);
                bytes.extend(&udp.payload);
                let sum = match udp.sum {
                    UdpSum::Absent => 0,
                    UdpSum::Exactly(sum) => sum,
                    UdpSum::Computed => match self.sum(17, &bytes) {
                        0 => 0xffff,
                        sum => sum,
                    },
                };
                put(&mut bytes, 6, sum);
                (17, bytes)
            }
            Body::Icmp {
                kind,
                code,
                rest,
                payload,
            } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(payload);
                let v4 = self.destination.is_ipv4();
                let sum = if v4 { internet(&[&bytes]) } else { self.sum(58, &bytes) };
                put(&mut bytes, 2, sum);
                (if v4 { 1 } else { 58 }, bytes)
            }
            Body::Raw { protocol, bytes } => (*protocol, bytes.clone()),
        }
    }

    fn sum(&self, protocol: u8, segment: &[u8]) -> u16 {
        internet(&[
            &pseudo_header(self.source, self.destination, protocol, segment.len()),
            segment,
        ])
    }

    fn header_v4(&self, source: [u8; 4], destination: [u8; 4], protocol: u8, payload: usize) -> Vec<u8> {
        let options = padded(&self.options);
        let words = u8::try_from(5 + options.len() / 4).unwrap_or(15);
        let [_, _, high, low] = self.identification.to_be_bytes();
        let mut header = vec![0x40 | words, self.traffic_class];
        header.extend(length16(20 + options.len() + payload));
        header.extend([high, low]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(options);
        let sum = internet(&[&header]);
        put(&mut header, 10, sum);
        header
    }

    fn headers_v6(&self, source: IpAddr, destination: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut following = self.extensions.iter().skip(1).map(|(number, _)| *number);
        for (_, bytes) in &self.extensions {
            extensions.push(following.next().unwrap_or(protocol));
            extensions.extend(bytes);
        }
        let first = self.extensions.first().map_or(protocol, |(number, _)| *number);
        let start = 0x6000_0000 | (u32::from(self.traffic_class) << 20) | (self.identification & 0x000f_ffff);
        let mut headers = start.to_be_bytes().to_vec();
        headers.extend(length16(extensions.len() + payload));
        headers.extend([first, self.ttl]);
        for address in [source, destination] {
            match address {
                IpAddr::V4(v4) => headers.extend(v4.to_ipv6_mapped().octets()),
                IpAddr::V6(v6) => headers.extend(v6.octets()),
            }
        }
        headers.extend(extensions);
        headers
    }
}

/// Options filled up with end-of-options to whole words.
fn padded(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
