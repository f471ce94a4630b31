//! Flows: from the client to a backend and back.

use kubelb_common::next_hop::{MacWord, NextHopView, flag};
use kubelb_common::stats::Reason;
use kubelb_ebpf::model::Rows;
use kubelb_ebpf::model::scene::{EGRESS, EGRESS_MAC, MTU, neighbour};
use kubelb_ebpf::outcome::Outcome::{Drop, Pass, Send, SendToNeighbour};

use super::Case;
use super::world::{
    ACK, ALL, FIN, INGRESS, RST, SYN, TCPS, UDP4, UDPS, client_hop, know_clients, set_client_hops, set_payload,
};
use crate::packet::{Body, Packet, UdpSum};

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = there_and_back();
    cases.extend(shapes());
    cases.extend(tcp_states());
    cases.extend(next_hops());
    cases.extend(ways_back());
    cases
}

fn there_and_back() -> Vec<Case> {
    ALL.map(|kind| {
        let (first, more) = (kind.request(0, SYN), kind.request(0, ACK));
        let (answer, data) = (kind.response(0, 0, SYN | ACK), kind.response(0, 0, ACK));
        let (second, third, fourth) = (kind.request(1, SYN), kind.request(2, SYN), kind.request(3, SYN));
        Case::new(format!("{}: there and back", kind.name()))
            .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
            .send("again", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
            .change(know_clients)
            .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0))
            .send("more", &more, Send(EGRESS), &kind.forwarded(&more, 0, 0))
            .send("data", &data, Send(INGRESS), &kind.returned(&data, 0))
            .send("next client", &second, Send(EGRESS), &kind.forwarded(&second, 1, 1))
            .send("third client", &third, Send(EGRESS), &kind.forwarded(&third, 2, 2))
            .send("fourth client", &fourth, Send(EGRESS), &kind.forwarded(&fourth, 0, 3))
            .send("the first again", &more, Send(EGRESS), &kind.forwarded(&more, 0, 0))
    })
    .into()
}

/// A name, and what makes a packet so.
type Shape = (&'static str, fn(&mut Packet));

/// Tags, options, odd lengths, padding, traffic classes, and datagrams without a checksum.
fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        let mut shapes: Vec<Shape> = vec![
            ("no data", |packet| set_payload(packet, Vec::new())),
            ("one byte", |packet| set_payload(packet, vec![0x5a])),
            ("as large as the MTU", |packet| {
                let headers = packet.bytes().len() - 14 - payload(packet);
                set_payload(packet, vec![0xa5; usize::from(MTU) - headers]);
            }),
            ("padded", |packet| packet.padding = 11),
            ("with traffic class", |packet| packet.traffic_class = 0xb9),
            ("hop limit 2", |packet| packet.ttl = 2),
            ("hop limit 255", |packet| packet.ttl = 255),
        ];
        if !kind.v6 {
            shapes.push(("one IPv4 option", |packet| packet.options = vec![0x94, 4, 0, 0]));
            shapes.push(("all IPv4 options", |packet| packet.options = vec![1; 40]));
            shapes.push(("may be fragmented", |packet| packet.fragment = 0));
        }
        if kind == UDP4 {
            shapes.push(("no checksum", |packet| set_sum(packet, UdpSum::Absent)));
        }
        for (shape, apply) in shapes {
            let mut request = kind.request(0, SYN);
            apply(&mut request);
            let mut answer = kind.response(0, 0, SYN | ACK);
            apply(&mut answer);
            cases.push(
                Case::new(format!("{}: {shape}", kind.name()))
                    .send("request", &request, Send(EGRESS), &kind.forwarded(&request, 0, 0))
                    .change(know_clients)
                    .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0)),
            );
        }
        cases.push(tagged(kind));
    }
    cases
}

fn payload(packet: &Packet) -> usize {
    match &packet.body {
        Body::Tcp(tcp) => tcp.payload.len(),
        Body::Udp(udp) => udp.payload.len(),
        Body::Icmp { payload, .. } => payload.len(),
        Body::Raw { bytes, .. } => bytes.len(),
    }
}

fn set_sum(packet: &mut Packet, sum: UdpSum) {
    if let Body::Udp(udp) = &mut packet.body {
        udp.sum = sum;
    }
}

/// A tagged frame keeps its tag where it leaves by the interface that it came in on; else XDP leaves it to tc.
fn tagged(kind: super::world::Kind) -> Case {
    let mut request = kind.request(0, SYN);
    request.vlan = Some(0x2042);
    let mut answer = kind.response(0, 0, SYN | ACK);
    answer.vlan = Some(0x2042);
    let forwarded = kind.forwarded(&request, 0, 0);
    Case::new(format!("{}: tagged", kind.name()))
        .passed_to_tc("to another interface", &request, Send(EGRESS), &forwarded)
        .change(|rows| set_hop(rows, 0, INGRESS, flag::RESOLVED | flag::XDP | flag::ROUTED, MTU))
        .send("to the same interface", &request, Send(INGRESS), &forwarded)
        .change(know_clients)
        .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0))
}

fn tcp_states() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in TCPS {
        let (syn, ack, fin, rst) = (
            kind.request(0, SYN),
            kind.request(0, ACK),
            kind.request(0, FIN | ACK),
            kind.request(0, RST | ACK),
        );
        let (answer, end) = (kind.response(0, 0, SYN | ACK), kind.response(0, 0, FIN | ACK));
        let open = |name: &str| {
            Case::new(format!("{}: {name}", kind.name()))
                .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 0, 0))
                .change(know_clients)
                .send("SYN-ACK", &answer, Send(INGRESS), &kind.returned(&answer, 0))
                .send("ACK", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0))
        };
        cases.push(
            open("a SYN on a closed flow takes a new turn")
                .send("FIN", &fin, Send(EGRESS), &kind.forwarded(&fin, 0, 0))
                .send("SYN, half-closed", &syn, Send(EGRESS), &kind.forwarded(&syn, 0, 0))
                .send("FIN of the backend", &end, Send(INGRESS), &kind.returned(&end, 0))
                .send("last ACK", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0))
                .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 1, 1))
                .untouched("what the old backend still sends", &end, Pass),
        );
        cases.push(
            open("a SYN after a reset takes a new turn")
                .send("RST", &rst, Send(EGRESS), &kind.forwarded(&rst, 0, 0))
                .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 1, 1)),
        );
        cases.push(open("a SYN on an open flow goes to its backend").send(
            "SYN",
            &syn,
            Send(EGRESS),
            &kind.forwarded(&syn, 0, 0),
        ));
    }
    cases
}

/// Rewrites next hop `n`, counted from 0.
fn set_hop(rows: &Rows<'_>, n: u8, interface: u32, flags: u16, mtu: u16) {
    rows.next_hops[1 + usize::from(n)].replace(&NextHopView {
        destination: MacWord::new(neighbour(n), mtu),
        source: MacWord::new(EGRESS_MAC, flags),
        interface,
    });
}

fn next_hops() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        let request = kind.request(0, SYN);
        let forwarded = kind.forwarded(&request, 0, 0);
        let mut without_link = forwarded.clone();
        (without_link.source_mac, without_link.destination_mac) = (request.source_mac, request.destination_mac);
        cases.push(
            Case::new(format!("{}: neighbour unknown", kind.name()))
                .change(|rows| set_hop(rows, 0, EGRESS, flag::ROUTED | flag::XDP, MTU))
                .passed_to_tc("request", &request, SendToNeighbour(EGRESS), &without_link),
        );
        cases.push(
            Case::new(format!("{}: XDP cannot send there", kind.name()))
                .change(|rows| set_hop(rows, 0, EGRESS, flag::ROUTED | flag::RESOLVED, MTU))
                .passed_to_tc("request", &request, Send(EGRESS), &forwarded),
        );
        cases.push(
            Case::new(format!("{}: no route to the backend", kind.name()))
                .change(|rows| set_hop(rows, 0, 0, 0, 0))
                .apart(
                    "request",
                    request.bytes(),
                    (kubelb_ebpf::outcome::Outcome::HandOver, request.bytes()),
                    (Drop(Reason::NO_ROUTE), request.bytes()),
                ),
        );
        let mut large = kind.request(0, SYN);
        set_payload(&mut large, vec![0x33; 3_000]);
        cases.push(
            Case::new(format!("{}: MTU unknown", kind.name()))
                .change(|rows| set_hop(rows, 0, EGRESS, flag::ROUTED | flag::RESOLVED | flag::XDP, 0))
                .send("request", &large, Send(EGRESS), &kind.forwarded(&large, 0, 0)),
        );
        let headers = large.bytes().len() - 14 - 3_000;
        cases.push(Case::new(format!("{}: merged segments that fit", kind.name())).merged(
            "request",
            &large,
            u32::from(MTU) - u32::try_from(headers).unwrap_or(0),
            Send(EGRESS),
            &kind.forwarded(&large, 0, 0),
        ));
    }
    cases
}

fn ways_back() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        let request = kind.request(0, SYN);
        let forwarded = kind.forwarded(&request, 0, 0);
        let answer = kind.response(0, 0, SYN | ACK);
        let begun = |name: &str| {
            Case::new(format!("{}: {name}", kind.name())).send("request", &request, Send(EGRESS), &forwarded)
        };
        cases.push(
            begun("the way back is looked up anew after routes changed")
                .change(know_clients)
                .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0))
                .change(|rows| rows.control.advance_routes())
                // There is no route to any client in these tests.
                .untouched("answer", &answer, Drop(Reason::NO_ROUTE))
                .change(know_clients)
                .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0)),
        );
        cases.push(
            begun("XDP cannot send back there")
                .change(|rows| set_client_hops(rows, &client_hop(rows, EGRESS, MTU, false)))
                .passed_to_tc("answer", &answer, Send(EGRESS), &kind.returned(&answer, 0)),
        );
        let mut large = kind.response(0, 0, ACK);
        set_payload(&mut large, vec![0x44; 3_000]);
        cases.push(
            begun("MTU towards the client unknown")
                .change(|rows| set_client_hops(rows, &client_hop(rows, INGRESS, 0, true)))
                .send("answer", &large, Send(INGRESS), &kind.returned(&large, 0)),
        );
        let mut stranger = kind.response(1, 0, SYN | ACK);
        let mut other_port = kind.response(0, 1, SYN | ACK);
        (stranger.ttl, other_port.ttl) = (9, 9);
        cases.push(
            begun("answers from elsewhere are not ours")
                .change(know_clients)
                .untouched("another backend", &stranger, Pass)
                .untouched("another port", &other_port, Pass),
        );
    }
    for kind in UDPS {
        let request = kind.request(0, 0);
        let response = kind.response(0, 0, 0);
        let mut tcp = super::world::Kind { udp: false, ..kind }.response(0, 0, ACK);
        tcp = super::world::between(&tcp, kind.backend(0), kind.snat(0));
        cases.push(
            Case::new(format!(
                "{}: the same port of the other protocol is not ours",
                kind.name()
            ))
            .send("request", &request, Send(EGRESS), &kind.forwarded(&request, 0, 0))
            .change(know_clients)
            .untouched("TCP", &tcp, Pass)
            .send("UDP", &response, Send(INGRESS), &kind.returned(&response, 0)),
        );
    }
    cases
}
