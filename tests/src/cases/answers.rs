//! What the data path answers itself, and what it drops in silence.

use std::net::IpAddr;

use kubelb_common::stats::Reason;
use kubelb_ebpf::model::scene::{EGRESS, MTU, publish};
use kubelb_ebpf::outcome::Outcome::{Answer, Drop, Pass, Send};

use super::Case;
use super::world::{ACK, ALL, FIN, INGRESS, Kind, RST, SYN, TCP4, TCP6, TCPS, UDP4, UDPS, know_clients, set_payload};
use crate::packet::{Body, Packet, Tcp, UdpSum};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = echoes();
    cases.extend(resets());
    cases.extend(unreachable());
    cases.extend(errors());
    cases
}

/// The packet from its destination to its source, link addresses too.
fn turned(packet: &Packet, body: Body) -> Packet {
    let mut answer = Packet::new(packet.destination, packet.source, body);
    (answer.source_mac, answer.destination_mac) = (packet.destination_mac, packet.source_mac);
    answer.vlan = packet.vlan;
    answer.identification = 0;
    answer
}

fn echoes() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in TCPS {
        for (shape, apply) in [
            ("plain", (|_| ()) as fn(&mut Packet)),
            ("tagged", |packet| packet.vlan = Some(5)),
            ("empty", |packet| set_payload(packet, Vec::new())),
            ("hop limit 1", |packet| packet.ttl = 1),
        ] {
            let mut request = Packet::echo_request(kind.client(0).0, kind.vip().0, 7, 9, b"are you there?");
            apply(&mut request);
            let mut reply = request.clone();
            (reply.source, reply.destination) = (request.destination, request.source);
            (reply.source_mac, reply.destination_mac) = (request.destination_mac, request.source_mac);
            reply.ttl = 64;
            if let Body::Icmp { kind: code, .. } = &mut reply.body {
                *code = if kind.v6 { 129 } else { 0 };
            }
            cases.push(
                Case::new(format!("{}: echo request to a VIP, {shape}", kind.name()))
                    .send("echo request", &request, Answer, &reply)
                    .untouched("echo reply", &reply, Pass),
            );
        }
        let to_snat = Packet::echo_request(kind.client(0).0, kind.snat(0).0, 7, 9, b"?");
        cases.push(
            Case::new(format!("{}: echo request to a SNAT address is the node's", kind.name())).untouched(
                "echo request",
                &to_snat,
                Pass,
            ),
        );
    }
    cases
}

pub(super) fn reset_to(packet: &Packet, sequence: u32, acknowledgement: u32, flags: u8) -> Packet {
    let Body::Tcp(tcp) = &packet.body else {
        return packet.clone();
    };
    let body = Tcp {
        source: tcp.destination,
        destination: tcp.source,
        sequence,
        acknowledgement,
        flags,
        ..Tcp::default()
    };
    turned(packet, Body::Tcp(body))
}

fn no_backends(kind: Kind) -> impl Fn(&kubelb_ebpf::model::Rows<'_>) {
    move |rows| publish(rows, kind.frontend(), &[])
}

fn resets() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in TCPS {
        let syn = kind.request(0, SYN);
        cases.push(
            Case::new(format!("{}: no backend", kind.name()))
                .change(no_backends(kind))
                .send("SYN", &syn, Answer, &reset_to(&syn, 0, 0x0102_0305, RST | ACK)),
        );
        let mut fast_open = kind.request(0, SYN);
        set_payload(&mut fast_open, vec![1; 100]);
        fast_open.padding = 3;
        fast_open.vlan = Some(9);
        cases.push(
            Case::new(format!("{}: no backend, SYN with data, tagged, padded", kind.name()))
                .change(no_backends(kind))
                .send(
                    "SYN",
                    &fast_open,
                    Answer,
                    &reset_to(&fast_open, 0, 0x0102_0305 + 100, RST | ACK),
                ),
        );
        let (ack, end) = (kind.request(0, ACK), kind.request(0, FIN));
        cases.push(
            Case::new(format!("{}: segments of no flow", kind.name()))
                .send("ACK", &ack, Answer, &reset_to(&ack, 0x0102_0305, 0, RST))
                // Nine bytes of data and the FIN.
                .send(
                    "FIN without ACK",
                    &end,
                    Answer,
                    &reset_to(&end, 0, 0x0102_0304 + 10, RST | ACK),
                )
                .untouched("RST", &kind.request(0, RST), Drop(Reason::NO_FLOW))
                .untouched("RST with ACK", &kind.request(0, RST | ACK), Drop(Reason::NO_FLOW)),
        );
        let mut optioned = kind.request(0, SYN);
        if let Body::Tcp(tcp) = &mut optioned.body {
            tcp.options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        }
        if !kind.v6 {
            optioned.options = vec![0x94, 4, 0, 0];
        }
        cases.push(
            Case::new(format!("{}: no backend, with options", kind.name()))
                .change(no_backends(kind))
                .send(
                    "SYN",
                    &optioned,
                    Answer,
                    &reset_to(&optioned, 0, 0x0102_0305, RST | ACK),
                ),
        );
    }
    for (name, source, kind) in [
        ("a multicast address", IpAddr::from([224, 0, 0, 5]), TCP4),
        ("the loopback network", IpAddr::from([127, 0, 0, 1]), TCP4),
        ("no address", IpAddr::from([0; 4]), TCP4),
        ("a multicast address", IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]), TCP6),
        ("no address", IpAddr::from([0; 16]), TCP6),
    ] {
        let ack = kind.packet((source, 9), kind.vip(), ACK);
        cases.push(
            Case::new(format!("{}: {name} as source gets no answer", kind.name())).untouched(
                "ACK",
                &ack,
                Drop(Reason::NO_FLOW),
            ),
        );
    }
    cases
}

/// The error about `packet` that quotes `quoted` bytes of it behind the link header.
fn error_about(packet: &Packet, kind: u8, code: u8, rest: [u8; 4]) -> Packet {
    let link = if packet.vlan.is_some() { 18 } else { 14 };
    let network = if packet.destination.is_ipv4() { 20 } else { 40 };
    let transport = if matches!(packet.body, Body::Tcp(_)) { 20 } else { 8 };
    let payload = packet.bytes()[link..link + network + transport].to_vec();
    turned(
        packet,
        Body::Icmp {
            kind,
            code,
            rest,
            payload,
        },
    )
}

fn time_exceeded(packet: &Packet) -> Packet {
    error_about(packet, if packet.destination.is_ipv4() { 11 } else { 3 }, 0, [0; 4])
}

fn too_big(packet: &Packet) -> Packet {
    let [high, low] = MTU.to_be_bytes();
    let (kind, code) = if packet.destination.is_ipv4() { (3, 4) } else { (2, 0) };
    error_about(packet, kind, code, [0, 0, high, low])
}

pub(super) fn port_unreachable(packet: &Packet) -> Packet {
    let (kind, code) = if packet.destination.is_ipv4() { (3, 3) } else { (1, 4) };
    error_about(packet, kind, code, [0; 4])
}

fn unreachable() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in UDPS {
        for (shape, apply) in [
            ("plain", (|_| ()) as fn(&mut Packet)),
            ("empty and padded", |packet| {
                set_payload(packet, Vec::new());
                packet.padding = 18;
            }),
            ("large", |packet| set_payload(packet, vec![7; 1_300])),
        ] {
            let mut request = kind.request(0, 0);
            apply(&mut request);
            cases.push(
                Case::new(format!("{}: no backend, {shape}", kind.name()))
                    .change(no_backends(kind))
                    .send("datagram", &request, Answer, &port_unreachable(&request)),
            );
        }
    }
    let mut request = UDP4.request(0, 0);
    request.options = vec![1; 4];
    cases.push(
        Case::new("IPv4 UDP: no backend, with IPv4 options: in silence")
            .change(no_backends(UDP4))
            .untouched("datagram", &request, Drop(Reason::NO_BACKEND)),
    );
    let mut request = UDP4.request(0, 0);
    if let Body::Udp(udp) = &mut request.body {
        udp.sum = UdpSum::Absent;
    }
    cases.push(
        Case::new("IPv4 UDP: no backend, without a checksum")
            .change(no_backends(UDP4))
            .send("datagram", &request, Answer, &port_unreachable(&request)),
    );
    cases
}

fn errors() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        let mut last = kind.request(0, SYN);
        last.ttl = 1;
        let mut spent = kind.request(0, SYN);
        spent.ttl = 0;
        let mut large = kind.request(0, ACK);
        set_payload(&mut large, vec![0x77; usize::from(MTU)]);
        let first = kind.request(0, SYN);
        let small_answer = kind.response(0, 0, ACK);
        let mut back = kind.response(0, 0, SYN | ACK);
        back.ttl = 1;
        cases.push(
            Case::new(format!("{}: hop limit 1", kind.name()))
                .send("request", &last, Answer, &time_exceeded(&last))
                .send("hop limit 0", &spent, Answer, &time_exceeded(&spent))
                .change(know_clients)
                .send("answer", &back, Answer, &time_exceeded(&back)),
        );
        cases.push(
            Case::new(format!("{}: larger than the next hop takes", kind.name()))
                .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
                .send("large", &large, Answer, &too_big(&large))
                .send("small again", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0)),
        );
        let mut large_answer = kind.response(0, 0, ACK);
        set_payload(&mut large_answer, vec![0x77; usize::from(MTU)]);
        cases.push(
            Case::new(format!("{}: larger than the way back takes", kind.name()))
                .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
                .change(know_clients)
                .send("large answer", &large_answer, Answer, &too_big(&large_answer))
                .send(
                    "small answer",
                    &small_answer,
                    Send(INGRESS),
                    &kind.returned(&small_answer, 0),
                ),
        );
        let headers = large.bytes().len() - 14 - usize::from(MTU);
        let segment = u32::from(MTU) - u32::try_from(headers).unwrap_or(0) + 1;
        cases.push(
            Case::new(format!("{}: merged segments that are too large", kind.name()))
                .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
                .merged("large", &large, segment, Answer, &too_big(&large)),
        );
    }
    cases
}
