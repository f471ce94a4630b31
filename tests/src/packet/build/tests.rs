use std::net::IpAddr;

use proptest::prelude::*;

use super::{Body, Packet, Tcp, UdpSum};
use crate::packet::{ChecksumError, verify};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A SYN as Linux sent it from 10.0.0.1:40000 to 10.0.0.2:80, written out by hand from the RFCs.
#[test]
fn a_syn_has_each_field_in_its_place() {
    let mut packet = Packet::tcp((ip("10.0.0.1"), 40_000), (ip("10.0.0.2"), 80), Tcp::SYN);
    packet.identification = 1;
    let expected: Vec<u8> = [
        // Ethernet
        "020000000002",
        "020000000001",
        "0800",
        // IPv4: 40 bytes, id 1, DF, TTL 64, TCP
        "4500",
        "0028",
        "0001",
        "4000",
        "4006",
        "26cd",
        "0a000001",
        "0a000002",
        // TCP
        "9c40",
        "0050",
        "01020304",
        "00000000",
        "5002",
        "faf0",
    ]
    .concat()
    .as_bytes()
    .chunks(2)
    .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
    .collect();
    let bytes = packet.bytes();
    assert_eq!(bytes.len(), 54);
    assert_eq!(bytes[..50], expected);
    assert_eq!(verify(&bytes), Ok(()));
}

#[test]
fn wrong_sums_are_named_with_the_right_one() {
    let bytes = Packet::udp((ip("10.0.0.1"), 1), (ip("10.0.0.2"), 2), b"abc").bytes();
    let mut broken = bytes.clone();
    broken[24] ^= 1;
    assert!(matches!(
        verify(&broken),
        Err(ChecksumError::Wrong {
            layer: "IPv4 header",
            ..
        })
    ));
    let mut broken = bytes;
    broken[42] ^= 1;
    assert!(matches!(
        verify(&broken),
        Err(ChecksumError::Wrong { layer: "UDP", .. })
    ));
}

#[test]
fn udp_may_go_without_a_sum_over_ipv4_only() {
    for (source, destination, expected) in [
        ("10.0.0.1", "10.0.0.2", Ok(())),
        ("fd00::1", "fd00::2", Err(ChecksumError::MissingUdp6)),
    ] {
        let mut packet = Packet::udp((ip(source), 1), (ip(destination), 2), b"abc");
        if let Body::Udp(udp) = &mut packet.body {
            udp.sum = UdpSum::Absent;
        }
        assert_eq!(verify(&packet.bytes()), expected);
    }
}

#[test]
fn a_fragment_is_verified_as_far_as_it_goes() {
    let mut packet = Packet::new(
        ip("10.0.0.1"),
        ip("10.0.0.2"),
        Body::Raw {
            protocol: 17,
            bytes: vec![1; 64],
        },
    );
    assert!(verify(&packet.bytes()).is_err());
    packet.fragment = 0x2000;
    assert_eq!(verify(&packet.bytes()), Ok(()));
}

#[test]
fn frames_cut_short_say_where() {
    let bytes = Packet::echo_request(ip("fd00::1"), ip("fd00::2"), 1, 2, b"x").bytes();
    for length in 0..bytes.len() {
        assert!(
            matches!(verify(&bytes[..length]), Err(ChecksumError::Truncated(_))),
            "{length} bytes"
        );
    }
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(a, b)| (IpAddr::V4(a.into()), IpAddr::V4(b.into()))),
        any::<(u128, u128)>().prop_map(|(a, b)| (IpAddr::V6(a.into()), IpAddr::V6(b.into()))),
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    let payload = || proptest::collection::vec(any::<u8>(), 0..100);
    let options = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (any::<(u16, u16, u32, u32, u8, u16)>(), options(), payload()).prop_map(|(fields, options, payload)| {
            let (source, destination, sequence, acknowledgement, flags, window) = fields;
            Body::Tcp(Tcp {
                source,
                destination,
                sequence,
                acknowledgement,
                flags,
                window,
                options,
                payload,
            })
        }),
        (any::<(u16, u16)>(), payload()).prop_map(|((source, destination), payload)| {
            Body::Udp(super::Udp {
                source,
                destination,
                sum: UdpSum::Computed,
                payload,
            })
        }),
        (any::<(u8, u8, [u8; 4])>(), payload()).prop_map(|((kind, code, rest), payload)| {
            Body::Icmp {
                kind,
                code,
                rest,
                payload,
            }
        }),
    ]
}

proptest! {
    /// What is built verifies, and no single changed bit of the packet goes unnoticed (but in the Ethernet header, in
    /// fields that no checksum covers, and where the change makes it something that has no checksum).
    #[test]
    fn what_is_built_verifies(
        (source, destination) in addresses(),
        body in bodies(),
        vlan in proptest::option::of(any::<u16>()),
        options in proptest::collection::vec(any::<u8>(), 0..40),
        padding in 0usize..20,
        flip in any::<proptest::sample::Index>(),
    ) {
        let mut packet = Packet::new(source, destination, body);
        packet.vlan = vlan;
        packet.options = options;
        packet.padding = padding;
        let bytes = packet.bytes();
        prop_assert_eq!(verify(&bytes), Ok(()));

        let payload_start = bytes.len() - padding - packet.segment().1.len();
        let mut changed = bytes.clone();
        let at = payload_start + flip.index((bytes.len() - padding - payload_start) * 8) / 8;
        changed[at] ^= 1 << (flip.index(8));
        prop_assert_ne!(verify(&changed), Ok(()), "byte {} of {}", at, bytes.len());
    }

    #[test]
    fn extension_headers_are_walked((source, destination) in any::<(u128, u128)>(), length in 0u8..3) {
        let mut packet = Packet::udp((IpAddr::V6(source.into()), 1), (IpAddr::V6(destination.into()), 2), b"x");
        let mut options = vec![length];
        options.resize((usize::from(length) + 1) * 8 - 1, 0);
        packet.extensions = vec![(0, options.clone()), (60, options)];
        prop_assert_eq!(verify(&packet.bytes()), Ok(()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        drop(verify(&bytes));
    }
}
