//! The budget of half-open flows: who gives way, and who never does.

use kubelb_common::stats::Reason;
use kubelb_ebpf::model::scene::EGRESS;
use kubelb_ebpf::outcome::Outcome::{Answer, Drop, Pass, Send};

use super::Case;
use super::backends::reset;
use super::world::{ACK, INGRESS, Kind, RST, SYN, TCPS, know_clients};
use crate::packet::{Body, Packet};

pub(super) fn cases() -> Vec<Case> {
    TCPS.into_iter().flat_map(cases_of).collect()
}

/// With a clock rate of 0 every flow is old enough to give way, with this one none ever is.
const NEVER_OLD: u32 = u32::MAX >> 4;

fn budget(kind: Kind, name: &str, flows: u32, hz: u32) -> Case {
    let mut case = Case::new(format!("{}: half-open budget, {name}", kind.name()));
    case.scene.half_open_budget = flows;
    case.scene.hz = hz;
    case
}

fn cases_of(kind: Kind) -> Vec<Case> {
    let syn = |n| kind.request(n, SYN);
    let ack = |n| kind.request(n, ACK);
    let answer = |backend, port| kind.response(backend, port, SYN | ACK);
    let (open, data) = (ack(0), kind.response(0, 0, ACK));
    let mut deaf = ack(0);
    set_acknowledgement(&mut deaf, 0x7f12_3456);
    let opening =
        |case: Case, n: u16, backend: u8| case.send("SYN", &syn(n), Send(EGRESS), &kind.forwarded(&syn(n), backend, n));
    let answered = |case: Case, n: u16, backend: u8| {
        let answer = answer(backend, n);
        case.change(know_clients)
            .send("SYN-ACK", &answer, Send(INGRESS), &kind.returned(&answer, n))
    };
    let acknowledged =
        |case: Case, n: u16, backend: u8| case.send("ACK", &ack(n), Send(EGRESS), &kind.forwarded(&ack(n), backend, n));
    let refused = |case: Case, n: u16| case.untouched("one too many", &syn(n), Drop(Reason::HALF_OPEN_BUDGET));
    vec![
        {
            let case = opening(opening(budget(kind, "young ones stay", 2, NEVER_OLD), 0, 0), 1, 1);
            let case = refused(case, 2).send("SYN again", &syn(0), Send(EGRESS), &kind.forwarded(&syn(0), 0, 0));
            let case = acknowledged(answered(case, 0, 0), 0, 0);
            let case = refused(opening(case, 2, 2), 3);
            case.send("data of the first", &open, Send(EGRESS), &kind.forwarded(&open, 0, 0))
        },
        {
            let case = opening(opening(budget(kind, "the oldest gives way", 1, 0), 0, 0), 1, 1);
            case.change(know_clients)
                .untouched("SYN-ACK to the one that gave way", &answer(0, 0), Pass)
                .send("its ACK", &open, Answer, &reset(&open))
        },
        {
            let case = opening(budget(kind, "an open flow never gives way", 1, 0), 0, 0);
            let case = acknowledged(answered(case, 0, 0), 0, 0);
            let case = opening(opening(opening(case, 1, 1), 2, 2), 3, 0);
            case.send("data of the first", &open, Send(EGRESS), &kind.forwarded(&open, 0, 0))
                .send("answer", &data, Send(INGRESS), &kind.returned(&data, 0))
        },
        {
            let case = opening(
                budget(kind, "who does not hear the answer does not complete", 1, NEVER_OLD),
                0,
                0,
            );
            let case = acknowledged(case, 0, 0);
            let case = answered(refused(case, 1), 0, 0);
            let case = case.send("ACK", &deaf, Send(EGRESS), &kind.forwarded(&deaf, 0, 0));
            let case = acknowledged(refused(case, 1), 0, 0);
            opening(case, 1, 1)
        },
        {
            let case = opening(budget(kind, "data of the backend completes", 1, NEVER_OLD), 0, 0);
            let case = answered(case, 0, 0).send("data", &data, Send(INGRESS), &kind.returned(&data, 0));
            opening(case, 1, 1)
        },
        {
            let refusal = kind.response(0, 0, RST | ACK);
            let case = opening(budget(kind, "one that was reset gives way at once", 1, NEVER_OLD), 0, 0);
            let case = case
                .change(know_clients)
                .send("RST", &refusal, Send(INGRESS), &kind.returned(&refusal, 0));
            refused(opening(case, 1, 1), 2)
        },
    ]
}

fn set_acknowledgement(packet: &mut Packet, acknowledgement: u32) {
    if let Body::Tcp(tcp) = &mut packet.body {
        tcp.acknowledgement = acknowledgement;
    }
}
