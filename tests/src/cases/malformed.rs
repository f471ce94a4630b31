//! Headers that lie, fragments, and what is none of the data path's business.

use kubelb_common::stats::Reason;
use kubelb_ebpf::model::scene::publish;
use kubelb_ebpf::outcome::Outcome::{Drop, Pass};

use super::Case;
use super::world::{ALL, Kind, SYN, TCP4, TCP6, TCPS, UDPS};
use crate::packet::{Body, Packet};

/// A frame to the VIP, and the same to an address that is nobody's here.
type Pair = (Vec<u8>, Vec<u8>);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        for (name, damage) in damages(kind) {
            cases.push(pair(kind, name, Reason::MALFORMED, both(kind, damage)));
        }
    }
    cases.extend(fragments());
    cases.extend(not_ours());
    cases
}

/// Dropped and counted for a VIP, passed on for others.
fn pair(kind: Kind, name: &str, reason: Reason, (ours, others): Pair) -> Case {
    Case::new(format!("{}: {name}", kind.name()))
        .untouched_frame("to the VIP", ours, Drop(reason))
        .untouched_frame("to another address", others, Pass)
}

fn both(kind: Kind, damage: impl Fn(&mut Vec<u8>)) -> Pair {
    let frame = |packet: &Packet| {
        let mut frame = packet.bytes();
        damage(&mut frame);
        frame
    };
    (frame(&kind.request(0, SYN)), frame(&stranger(kind)))
}

fn stranger(kind: Kind) -> Packet {
    let mut packet = kind.request(0, SYN);
    packet.destination = kind.client(0).0;
    packet
}

type Damage = (&'static str, Change);
type Change = Box<dyn Fn(&mut Vec<u8>)>;

fn damages(kind: Kind) -> Vec<Damage> {
    let network = if kind.v6 { 40 } else { 20 };
    let l4 = 14 + network;
    let set = move |at: usize, value: u8| -> Change { Box::new(move |frame| frame[at] = value) };
    let mut damages: Vec<Damage> = vec![
        (
            "ends in the transport header",
            Box::new(move |frame| frame.truncate(l4 + 6)),
        ),
        ("ends in the data", Box::new(|frame| frame.truncate(frame.len() - 1))),
        ("wrong version", set(14, if kind.v6 { 0x50 } else { 0x55 })),
    ];
    if kind.v6 {
        damages.push(("payload length 0", Box::new(|frame| frame[18..20].fill(0))));
        damages.push((
            "payload length 7",
            Box::new(|frame| frame[18..20].copy_from_slice(&[0, 7])),
        ));
        damages.push(("payload length beyond the end", set(18, 4)));
    } else {
        damages.push(("header length 4", set(14, 0x44)));
        damages.push(("header length 0", set(14, 0x40)));
        damages.push(("header length beyond the end", set(14, 0x4f)));
        damages.push(("total length 0", Box::new(|frame| frame[16..18].fill(0))));
        damages.push((
            "total length 20",
            Box::new(|frame| frame[16..18].copy_from_slice(&[0, 20])),
        ));
        damages.push(("total length beyond the end", set(16, 4)));
    }
    if kind.udp {
        damages.push((
            "UDP length 7",
            Box::new(move |frame| frame[l4 + 4..l4 + 6].copy_from_slice(&[0, 7])),
        ));
        damages.push(("UDP length beyond the packet", set(l4 + 5, 0xff)));
    } else {
        damages.push(("data offset 4", set(l4 + 12, 0x40)));
        damages.push(("data offset 0", set(l4 + 12, 0)));
        damages.push(("data offset beyond the packet", set(l4 + 12, 0xf0)));
    }
    damages
}

fn fragments() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [TCP4, super::world::UDP4] {
        for (name, field) in [
            ("first fragment", 0x2000),
            ("last fragment", 0x00b9),
            ("middle fragment", 0x20b9),
        ] {
            let mut ours = kind.request(0, SYN);
            let mut others = stranger(kind);
            (ours.fragment, others.fragment) = (field, field);
            cases.push(pair(kind, name, Reason::FRAGMENT, (ours.bytes(), others.bytes())));
        }
    }
    for kind in [TCP6, super::world::UDP6] {
        let mut ours = kind.request(0, SYN);
        let mut others = stranger(kind);
        for packet in [&mut ours, &mut others] {
            packet.extensions = vec![(44, vec![0, 0, 1, 0, 0, 0, 7])];
        }
        cases.push(pair(
            kind,
            "fragment header",
            Reason::FRAGMENT,
            (ours.bytes(), others.bytes()),
        ));
    }
    cases
}

fn not_ours() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        let other_port = kind.packet(kind.client(0), (kind.vip().0, 8_443), SYN);
        let other_protocol = Kind { udp: !kind.udp, ..kind }.packet(kind.client(0), kind.vip(), SYN);
        let mut spent = stranger(kind);
        spent.ttl = 1;
        cases.push(
            Case::new(format!("{}: what no frontend is for", kind.name()))
                .untouched("another port of the VIP", &other_port, Pass)
                .untouched("the other protocol", &other_protocol, Pass)
                .untouched("another address", &stranger(kind), Pass)
                .untouched("another address, hop limit 1", &spent, Pass)
                .untouched("a SNAT port without a flow", &kind.response(0, 5, SYN), Pass)
                .untouched(
                    "below the SNAT ports",
                    &kind.packet(kind.client(0), (kind.snat(0).0, 80), SYN),
                    Pass,
                ),
        );
        cases.push(
            Case::new(format!("{}: the filter says yes and the tables say no", kind.name()))
                .change(everything_may_be_ours)
                .untouched("another address", &stranger(kind), Pass)
                .untouched_frame("another address, damaged", both(kind, |frame| frame[14] = 0).1, Pass)
                .untouched("a SNAT port without a flow", &kind.response(0, 5, SYN), Pass),
        );
    }
    for kind in TCPS {
        let protocol = Packet {
            body: Body::Raw {
                protocol: 132,
                bytes: vec![1; 40],
            },
            ..kind.request(0, SYN)
        };
        let error = Packet {
            body: Body::Icmp {
                kind: if kind.v6 { 1 } else { 3 },
                code: 1,
                rest: [0; 4],
                payload: vec![3; 48],
            },
            ..kind.request(0, SYN)
        };
        cases.push(
            Case::new(format!("{}: other protocols are the stack's", kind.name()))
                .untouched("SCTP", &protocol, Pass)
                .untouched("ICMP error", &error, Pass),
        );
        let mut tagged_twice = kind.request(0, SYN).bytes();
        tagged_twice.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        let mut arp = kind.request(0, SYN).bytes();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        cases.push(
            Case::new(format!("{}: other frames are the stack's", kind.name()))
                .untouched_frame("two tags", tagged_twice, Pass)
                .untouched_frame("ARP", arp, Pass),
        );
    }
    for kind in UDPS {
        let request = kind.request(0, 0);
        cases.push(
            Case::new(format!(
                "{}: an answer meant for the VIP's own address and port",
                kind.name()
            ))
            .change(move |rows| publish(rows, kind.frontend(), &[]))
            .untouched(
                "from port 0",
                &kind.packet((request.source, 0), (kind.snat(0).0, 53), 0),
                Pass,
            ),
        );
    }
    cases
}

/// A filter of which every byte says "VIP, or SNAT address 1 or 2".
fn everything_may_be_ours(rows: &kubelb_ebpf::model::Rows<'_>) {
    use kubelb_common::control::{FILTER_BYTES, FILTER_VIP};
    let (_, seed) = rows.control.filter();
    rows.filters[1].fill(&[FILTER_VIP | 1; FILTER_BYTES]);
    rows.control.publish_filter(1, seed);
}
