//! Backends that come, go and fail.

use kubelb_common::backend::flag;
use kubelb_common::stats::Reason;
use kubelb_ebpf::model::Rows;
use kubelb_ebpf::model::scene::{EGRESS, backend, publish};
use kubelb_ebpf::outcome::Outcome::{Answer, Drop, Pass, Send};

use super::Case;
use super::world::{ACK, ALL, Kind, RST, SYN, TCPS, UDPS, know_clients};
use crate::packet::{Body, Packet, Tcp};

/// Sets bits of the first backend.
fn mark(kind: Kind, set: u16) -> impl Fn(&Rows<'_>) {
    move |rows| row(rows, kind).change_flags(set, 0)
}

fn row<'a>(rows: &Rows<'a>, kind: Kind) -> &'a kubelb_common::backend::Backend {
    &rows.backends[backend(kind.frontend(), 0) as usize]
}

/// The first backend is removed for good, and its row given up.
fn vacate(kind: Kind) -> impl Fn(&Rows<'_>) {
    move |rows| {
        publish(rows, kind.frontend(), &[1, 2]);
        row(rows, kind).vacate();
    }
}

/// The first backend turned unhealthy, and its flows are ended.
fn renew(kind: Kind) -> impl Fn(&Rows<'_>) {
    move |rows| {
        publish(rows, kind.frontend(), &[1, 2]);
        row(rows, kind).renew();
    }
}

/// The RST that answers a segment with an acknowledgement.
pub(super) fn reset(packet: &Packet) -> Packet {
    let Body::Tcp(tcp) = &packet.body else {
        return packet.clone();
    };
    let body = Tcp {
        source: tcp.destination,
        destination: tcp.source,
        sequence: tcp.acknowledgement,
        flags: RST,
        ..Tcp::default()
    };
    let mut answer = Packet::new(packet.destination, packet.source, Body::Tcp(body));
    (answer.source_mac, answer.destination_mac) = (packet.destination_mac, packet.source_mac);
    answer.identification = 0;
    answer
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in TCPS {
        cases.extend(tcp(kind));
    }
    for kind in UDPS {
        cases.extend(udp(kind));
    }
    for kind in ALL {
        let request = kind.request(0, SYN);
        cases.push(
            Case::new(format!("{}: a frontend that is gone is the stack's", kind.name()))
                .send("request", &request, Send(EGRESS), &kind.forwarded(&request, 0, 0))
                .untouched("port of no frontend", &elsewhere(kind), Pass),
        );
        cases.push(capped(kind));
        cases.push(exhausted(kind));
    }
    cases
}

fn elsewhere(kind: Kind) -> Packet {
    kind.packet(kind.client(0), (kind.vip().0, 8_443), SYN)
}

fn tcp(kind: Kind) -> Vec<Case> {
    let (syn, ack) = (kind.request(0, SYN), kind.request(0, ACK));
    let (answer, more) = (kind.response(0, 0, SYN | ACK), kind.response(0, 0, ACK));
    let opening = |name: &str| {
        Case::new(format!("{}: {name}", kind.name())).send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 0, 0))
    };
    let open = |name: &str| {
        opening(name)
            .change(know_clients)
            .send(
                "SYN-ACK",
                &answer,
                Send(super::world::INGRESS),
                &kind.returned(&answer, 0),
            )
            .send("ACK", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0))
    };
    vec![
        opening("unanswered SYN moves on from an unhealthy backend")
            .change(mark(kind, flag::UNHEALTHY))
            .send("SYN again", &syn, Send(EGRESS), &kind.forwarded(&syn, 1, 1)),
        opening("unanswered SYN moves on from a draining backend")
            .change(mark(kind, flag::DRAINING))
            .send("SYN again", &syn, Send(EGRESS), &kind.forwarded(&syn, 1, 1)),
        opening("unanswered SYN moves on from a backend that is gone")
            .change(vacate(kind))
            .send("SYN again", &syn, Send(EGRESS), &kind.forwarded(&syn, 2, 1)),
        open("an open flow stays with an unhealthy backend")
            .change(mark(kind, flag::UNHEALTHY))
            .send("data", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0))
            .send(
                "answer",
                &answer,
                Send(super::world::INGRESS),
                &kind.returned(&answer, 0),
            ),
        open("an open flow stays with a draining backend")
            .change(mark(kind, flag::DRAINING))
            .send("data", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0))
            .send(
                "answer",
                &answer,
                Send(super::world::INGRESS),
                &kind.returned(&answer, 0),
            ),
        open("an open flow is reset when its backend is gone, and may begin anew")
            .change(vacate(kind))
            .send("data", &ack, Answer, &reset(&ack))
            .untouched("RST", &kind.request(0, RST), Drop(Reason::STALE_BACKEND))
            .untouched("what the old backend still sends", &answer, Pass)
            .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 2, 1)),
        open("a row that has a new owner does not get the old one's flows")
            .change(move |rows| {
                let row = row(rows, kind);
                let (address, port) = kind.backend(0);
                row.vacate();
                row.occupy(address.into(), port.to_be(), kind.frontend(), 1);
            })
            .send("data", &ack, Answer, &reset(&ack))
            .send("answer", &answer, Answer, &reset(&answer)),
        open("an open flow is reset towards its client when its backend is renewed, and may begin anew")
            .change(renew(kind))
            .send("data", &ack, Answer, &reset(&ack))
            .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 2, 1))
            .untouched("what the old backend still sends", &answer, Pass),
        open("an open flow is reset towards its backend when that is renewed")
            .change(renew(kind))
            .send("data of the backend", &more, Answer, &reset(&more))
            .send("data", &ack, Answer, &reset(&ack)),
        Case::new(format!(
            "{}: a flow that begins after its backend is renewed goes on",
            kind.name()
        ))
        .change(move |rows| row(rows, kind).renew())
        .send("SYN", &syn, Send(EGRESS), &kind.forwarded(&syn, 0, 0))
        .change(know_clients)
        .send(
            "SYN-ACK",
            &answer,
            Send(super::world::INGRESS),
            &kind.returned(&answer, 0),
        )
        .send("ACK", &ack, Send(EGRESS), &kind.forwarded(&ack, 0, 0)),
    ]
}

fn udp(kind: Kind) -> Vec<Case> {
    let request = kind.request(0, 0);
    let response = kind.response(0, 0, 0);
    let begun = |name: &str| {
        Case::new(format!("{}: {name}", kind.name()))
            .send("datagram", &request, Send(EGRESS), &kind.forwarded(&request, 0, 0))
            .change(know_clients)
            .send(
                "answer",
                &response,
                Send(super::world::INGRESS),
                &kind.returned(&response, 0),
            )
    };
    vec![
        begun("stays with an unhealthy backend")
            .change(mark(kind, flag::UNHEALTHY))
            .send("datagram", &request, Send(EGRESS), &kind.forwarded(&request, 0, 0)),
        begun("moves when its backend drains")
            .change(mark(kind, flag::DRAINING))
            .send("datagram", &request, Send(EGRESS), &kind.forwarded(&request, 1, 1))
            .untouched("what the old backend still sends", &response, Pass),
        begun("moves when its backend is renewed")
            .change(renew(kind))
            .send("datagram", &request, Send(EGRESS), &kind.forwarded(&request, 2, 1))
            .untouched("what the old backend still sends", &response, Pass),
        begun("moves when its backend is gone").change(vacate(kind)).send(
            "datagram",
            &request,
            Send(EGRESS),
            &kind.forwarded(&request, 2, 1),
        ),
    ]
}

/// A frontend with a cap on its flows.
fn capped(kind: Kind) -> Case {
    let (first, second) = (kind.request(0, SYN), kind.request(1, SYN));
    let cap = move |rows: &Rows<'_>| rows.flows.frontends[kind.frontend() as usize].set_max_flows(1);
    Case::new(format!("{}: cap of one flow", kind.name()))
        .change(cap)
        // Some 17 million seconds since the last sweep are fine by this clock rate.
        .change(|rows| rows.control.hz.store(u32::MAX >> 4))
        .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
        .untouched("second", &second, Drop(Reason::FRONTEND_CAP))
        .send("first again", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
        .change(|rows| rows.control.hz.store(0))
        .send(
            "second, now that nobody sweeps",
            &second,
            Send(EGRESS),
            &kind.forwarded(&second, 1, 1),
        )
}

/// One port and two clients.
fn exhausted(kind: Kind) -> Case {
    let (first, second) = (kind.request(0, SYN), kind.request(1, SYN));
    let mut case = Case::new(format!("{}: no SNAT port left", kind.name()));
    case.scene.ports = 1;
    case.send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
        .untouched("second", &second, Drop(Reason::SNAT_EXHAUSTED))
        .send("first again", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::super::world::TCP4;
    use super::elsewhere;

    #[test]
    fn the_other_port_is_another() {
        assert_ne!(elsewhere(TCP4).bytes(), TCP4.request(0, super::SYN).bytes());
    }
}
