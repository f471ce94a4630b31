//! What holds for every packet.

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::checksum::{address_delta, negate};
use proptest::prelude::*;

use super::frames::Mk;
use crate::bytes::Bytes;
use crate::model::scene::{SNAT, Scene, VIP};
use crate::model::{Frame, Model};
use crate::outcome::Outcome;
use crate::parse::{self, Packet};
use crate::process::process;
use crate::rewrite::{self, Translation};

fn any_address(v6: bool) -> BoxedStrategy<Addr> {
    if v6 {
        any::<[u8; 16]>()
            .prop_map(Addr::v6)
            .prop_filter("not an IPv4 address in disguise", |address| !address.is_v4())
            .boxed()
    } else {
        any::<[u8; 4]>().prop_map(Addr::v4).boxed()
    }
}

fn any_packet() -> impl Strategy<Value = Mk> {
    any::<bool>().prop_flat_map(|v6| {
        let ends = (any_address(v6), any_address(v6), any::<(u16, u16)>());
        let kind = (any::<bool>(), any::<u8>(), any::<u8>(), any::<bool>());
        let rest = (
            0..=if v6 { 0usize } else { 10 },
            prop::collection::vec(any::<u8>(), 0..80),
        );
        (ends, kind, rest).prop_map(|(ends, (udp, flags, ttl, vlan), (options, payload))| Mk {
            source: (ends.0, ends.2.0),
            destination: (ends.1, ends.2.1),
            protocol: if udp { UDP } else { TCP },
            flags,
            ttl,
            vlan,
            options,
            payload,
            ..Mk::new(0, (ends.0, 0), (ends.1, 0))
        })
    })
}

fn parsed(frame: &mut Frame<true>) -> Option<Packet> {
    let to = parse::destination(frame)?;
    let mut packet = Packet::default();
    parse::headers(frame, &to, &mut packet).ok().map(|()| packet)
}

/// Runs `bytes` through the maps of `model` as XDP and as tc sees them.
fn both(model: &Model, bytes: &[u8]) -> [(Outcome, Vec<u8>); 2] {
    let mut xdp = Frame::<false>::new(bytes.to_vec(), 1);
    let first = process(&mut xdp, &model.cpu(0, 0));
    let mut tc = Frame::<true>::new(bytes.to_vec(), 1);
    let second = process(&mut tc, &model.cpu(0, 0));
    [(first, xdp.bytes), (second, tc.bytes)]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_passed_on_untouched(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let model = Scene::default().model();
        for (outcome, after) in both(&model, &bytes) {
            prop_assert_eq!(outcome, Outcome::Pass);
            prop_assert_eq!(&after, &bytes);
        }
    }

    #[test]
    fn packets_for_others_are_passed_on_untouched(packet in any_packet()) {
        let ours = [VIP, SNAT].concat();
        prop_assume!(!ours.contains(&packet.destination.0));
        let model = Scene::default().model();
        let frame = packet.frame();
        for (outcome, after) in both(&model, &frame) {
            prop_assert_eq!(outcome, Outcome::Pass);
            prop_assert_eq!(&after, &frame);
        }
    }

    /// Whatever is wrong with a packet to a VIP or SNAT address: no panic, and what is not rewritten is not touched.
    #[test]
    fn damaged_packets_for_us_are_rewritten_whole_or_not_at_all(
        packet in any_packet(), snat: bool, cut in 0usize..200,
        damage in prop::collection::vec((12usize..90, any::<u8>()), 0..6),
    ) {
        let mut packet = packet;
        let family = usize::from(!packet.source.0.is_v4());
        packet.destination = if snat {
            (SNAT[family], packet.destination.1)
        } else {
            (VIP[family], if packet.protocol == TCP { 80 } else { 53 })
        };
        let mut frame = packet.frame();
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) { *place = byte; }
        }
        frame.truncate(frame.len().saturating_sub(cut.saturating_sub(100)));
        let model = Scene::default().model();
        for (outcome, after) in both(&model, &frame) {
            match outcome {
                Outcome::Pass | Outcome::HandOver | Outcome::Drop(_) => prop_assert_eq!(&after, &frame),
                Outcome::Send(_) | Outcome::SendToNeighbour(_) => prop_assert_eq!(after.len(), frame.len()),
                Outcome::Answer => {}
            }
        }
    }

    #[test]
    fn what_parses_lies_inside_the_frame(bytes in any_packet().prop_map(|packet| packet.frame()),
        damage in prop::collection::vec((0usize..90, any::<u8>()), 0..10), cut in 0usize..120)
    {
        let mut bytes = bytes;
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) { *place = byte; }
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        let length = bytes.len();
        let mut frame = Frame::<true>::new(bytes, 1);
        if let Some(packet) = parsed(&mut frame) {
            prop_assert!(packet.l3() + packet.ip_length <= length);
            prop_assert!(packet.headers <= packet.ip_length);
            prop_assert!(packet.l4() < packet.l3() + packet.ip_length);
            let least = if packet.protocol == TCP { 20 } else { 8 };
            prop_assert!(packet.l4() + least <= length);
            prop_assert!(frame.holds(packet.l4() + least));
        }
    }

    #[test]
    fn translating_there_and_back_changes_the_ttl_only(packet in any_packet(), new in (any::<(u16, u16)>(), any::<[u8; 32]>())) {
        let v6 = !packet.source.0.is_v4();
        let (ports, bytes) = new;
        let take = |at: usize| if v6 {
            Addr::v6(bytes[at..at + 16].try_into().unwrap())
        } else {
            Addr::v4(bytes[at..at + 4].try_into().unwrap())
        };
        let (source, destination) = (take(0), take(16));
        prop_assume!(packet.ttl >= 2);
        let before = packet.frame();
        let mut frame = Frame::<true>::new(before.clone(), 1);
        let there = parsed(&mut frame).unwrap();
        let delta = address_delta((packet.source.0, packet.destination.0), (source, destination));
        let translated = rewrite::translate(&mut frame, &there, &Translation {
            source, destination, source_port: ports.0.to_be(), destination_port: ports.1.to_be(), address_delta: delta,
        });
        prop_assert!(translated);
        // The same as building it so in the first place, up to the two zeros of one's complement.
        let expected = Mk { source: (source, ports.0), destination: (destination, ports.1), ttl: packet.ttl - 1, ..packet.clone() };
        prop_assert_eq!(zeros_alike(&frame.bytes, &there), zeros_alike(&expected.frame(), &there));

        let back = parsed(&mut frame).unwrap();
        let translated = rewrite::translate(&mut frame, &back, &Translation {
            source: packet.source.0, destination: packet.destination.0,
            source_port: packet.source.1.to_be(), destination_port: packet.destination.1.to_be(),
            address_delta: negate(delta),
        });
        prop_assert!(translated);
        let expected = Mk { ttl: packet.ttl - 2, ..packet };
        prop_assert_eq!(zeros_alike(&frame.bytes, &there), zeros_alike(&expected.frame(), &there));
    }
}

/// The frame with checksums of 0xffff written as 0: both say that the sum is zero.
fn zeros_alike(frame: &[u8], packet: &Packet) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let transport = packet.l4() + if packet.protocol == TCP { 16 } else { 6 };
    let network = (!packet.v6).then_some(packet.l3() + 10);
    for at in network.into_iter().chain([transport]) {
        if frame[at..at + 2] == [0xff, 0xff] {
            frame[at..at + 2].fill(0);
        }
    }
    frame
}
