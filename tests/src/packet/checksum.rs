//! The Internet checksum (RFC 1071), always computed over everything, and its verification in whole frames.

use std::net::IpAddr;

const ETHERNET: usize = 14;
const VLAN_TYPES: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// A header or a length field points beyond the end.
    #[error("the frame ends inside its {0}")]
    Truncated(&'static str),
    /// The sum over header (and data) is not all ones.
    #[error("the {layer} checksum is {found:#06x}, and {expected:#06x} would be right")]
    Wrong {
        /// Which checksum.
        layer: &'static str,
        /// What the frame has.
        found: u16,
        /// What it should have.
        expected: u16,
    },
    /// UDP over IPv6 without a checksum (RFC 8200 section 8.1).
    #[error("a UDP datagram over IPv6 has no checksum")]
    MissingUdp6,
    /// Not understood, so nothing can be said about it.
    #[error("{0} is not understood here")]
    Unknown(String),
}

/// Checks every checksum of an Ethernet frame: IPv4 header, TCP, UDP, ICMP, ICMPv6. A fragment has only its IPv4 header
/// checked; other protocols than IP have none.
///
/// # Errors
/// With the first one that is wrong.
pub fn verify(frame: &[u8]) -> Result<(), ChecksumError> {
    let (ethertype, packet) = network(frame)?;
    match ethertype {
        IPV4 => verify_v4(packet),
        IPV6 => verify_v6(packet),
        _ => Ok(()),
    }
}

/// RFC 1071: the ones' complement of the ones' complement sum of 16-bit words, an odd last byte padded with zero.
#[must_use]
pub fn internet(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The pseudo header of RFC 9293 section 3.1 (IPv4) or RFC 8200 section 8.1 (IPv6).
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend([0, protocol]);
            let [_, _, high, low] = length;
            bytes.extend([high, low]);
        }
        (source, destination) => {
            for address in [source, destination] {
                match address {
                    IpAddr::V4(v4) => bytes.extend(v4.to_ipv6_mapped().octets()),
                    IpAddr::V6(v6) => bytes.extend(v6.octets()),
                }
            }
            bytes.extend(length);
            bytes.extend([0, 0, 0, protocol]);
        }
    }
    bytes
}

/// Ethertype and what follows, behind up to two VLAN tags.
fn network(frame: &[u8]) -> Result<(u16, &[u8]), ChecksumError> {
    let mut at = ETHERNET - 2;
    for _ in 0..3 {
        let ethertype = word(frame, at, "Ethernet header")?;
        if !VLAN_TYPES.contains(&ethertype) {
            return Ok((ethertype, frame.get(at + 2..).unwrap_or_default()));
        }
        at += 4;
    }
    Err(ChecksumError::Unknown("a frame with three VLAN tags".to_owned()))
}

fn verify_v4(packet: &[u8]) -> Result<(), ChecksumError> {
    const WHAT: &str = "IPv4 header";
    let header_length = usize::from(byte(packet, 0, WHAT)? & 0x0f) * 4;
    let header = packet.get(..header_length).filter(|header| header.len() >= 20);
    let header = header.ok_or(ChecksumError::Truncated(WHAT))?;
    expect_sum(
        "IPv4 header",
        &[header],
        word(packet, 10, WHAT)?,
        &[
            header.get(..10).unwrap_or_default(),
            &[0, 0],
            header.get(12..).unwrap_or_default(),
        ],
    )?;
    let total = usize::from(word(packet, 2, WHAT)?);
    let payload = packet
        .get(header_length..total)
        .ok_or(ChecksumError::Truncated("IPv4 packet"))?;
    // More fragments, or an offset: the transport checksum is over the whole datagram, which isn't here.
    if word(packet, 6, WHAT)? & 0x3fff != 0 {
        return Ok(());
    }
    let source = IpAddr::from(array::<4>(packet, 12, WHAT)?);
    let destination = IpAddr::from(array::<4>(packet, 16, WHAT)?);
    verify_transport(source, destination, byte(packet, 9, WHAT)?, payload)
}

fn verify_v6(packet: &[u8]) -> Result<(), ChecksumError> {
    const WHAT: &str = "IPv6 header";
    let length = usize::from(word(packet, 4, WHAT)?);
    let source = IpAddr::from(array::<16>(packet, 8, WHAT)?);
    let destination = IpAddr::from(array::<16>(packet, 24, WHAT)?);
    let mut next = byte(packet, 6, WHAT)?;
    let mut rest = packet
        .get(40..40 + length)
        .ok_or(ChecksumError::Truncated("IPv6 packet"))?;
    loop {
        let header_length = match next {
            // Hop-by-hop, routing, destination options (RFC 8200 section 4).
            0 | 43 | 60 => (usize::from(byte(rest, 1, "extension header")?) + 1) * 8,
            44 => return Ok(()),
            _ => return verify_transport(source, destination, next, rest),
        };
        next = byte(rest, 0, "extension header")?;
        rest = rest
            .get(header_length..)
            .ok_or(ChecksumError::Truncated("extension header"))?;
    }
}

fn verify_transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> Result<(), ChecksumError> {
    let pseudo = pseudo_header(source, destination, protocol, segment.len());
    let (layer, at, pseudo): (_, usize, &[u8]) = match protocol {
        TCP => ("TCP", 16, &pseudo),
        UDP => ("UDP", 6, &pseudo),
        ICMP => ("ICMP", 2, &[]),
        ICMPV6 => ("ICMPv6", 2, &pseudo),
        _ => return Ok(()),
    };
    let found = word(segment, at, layer)?;
    if protocol == UDP {
        if usize::from(word(segment, 4, layer)?) != segment.len() {
            return Err(ChecksumError::Unknown(
                "a UDP length that is not the packet's".to_owned(),
            ));
        }
        if found == 0 {
            return if source.is_ipv4() {
                Ok(())
            } else {
                Err(ChecksumError::MissingUdp6)
            };
        }
    }
    let (before, after) = segment.split_at_checked(at).ok_or(ChecksumError::Truncated(layer))?;
    let after = after.get(2..).ok_or(ChecksumError::Truncated(layer))?;
    expect_sum(layer, &[pseudo, segment], found, &[pseudo, before, &[0, 0], after])
}

/// `whole` must sum to nothing; `rest`, the same without the checksum, tells what would have been right.
fn expect_sum(layer: &'static str, whole: &[&[u8]], found: u16, rest: &[&[u8]]) -> Result<(), ChecksumError> {
    if internet(whole) == 0 {
        return Ok(());
    }
    let expected = internet(rest);
    Err(ChecksumError::Wrong { layer, found, expected })
}

fn byte(bytes: &[u8], at: usize, what: &'static str) -> Result<u8, ChecksumError> {
    bytes.get(at).copied().ok_or(ChecksumError::Truncated(what))
}

fn word(bytes: &[u8], at: usize, what: &'static str) -> Result<u16, ChecksumError> {
    array::<2>(bytes, at, what).map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize, what: &'static str) -> Result<[u8; N], ChecksumError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or(ChecksumError::Truncated(what))
}

#[cfg(test)]
mod tests {
    use super::{ChecksumError, internet, verify};

    /// The example of RFC 1071 section 3: the words 0001, f203, f4f5, f6f7 sum to ddf2.
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(
            internet(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
        assert_eq!(internet(&[&[0xff]]), !0xff00, "an odd byte is the high one");
        assert_eq!(internet(&[]), 0xffff);
    }

    const ARP: [u8; 20] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4,
    ];

    #[test]
    fn what_is_not_ip_has_nothing_to_verify() {
        assert_eq!(verify(&ARP), Ok(()));
        assert_eq!(verify(&ARP[..13]), Err(ChecksumError::Truncated("Ethernet header")));
    }
}
