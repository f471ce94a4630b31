//! Who may open flows, and which backend they get.

use std::net::IpAddr;

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::backend::flag;
use kubelb_common::frontend::{Frontend, Policy, Selection};
use kubelb_common::hash;
use kubelb_common::stats::Reason;
use kubelb_ebpf::model::Rows;
use kubelb_ebpf::model::scene::{EGRESS, backend, publish};
use kubelb_ebpf::outcome::Outcome::{Drop, Send};

use super::Case;
use super::world::{ACK, ALL, INGRESS, Kind, RST, SYN, TCPS, know_clients};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ALL {
        cases.extend(source_ranges(kind));
        cases.extend(affinity(kind));
        cases.extend(maglev(kind));
    }
    cases.extend(TCPS.map(silent));
    cases
}

fn frontend<'a>(rows: &Rows<'a>, kind: Kind) -> &'a Frontend {
    &rows.flows.frontends[kind.frontend() as usize]
}

/// First and last address, each as a distance from the client's.
type Spans = &'static [(i8, i8)];

/// Lets in only whose address lies in one of these spans, which are relative to the client's.
fn admit(kind: Kind, spans: Spans) -> impl Fn(&Rows<'_>) {
    move |rows| {
        let near = |by: i8| {
            let mut bytes = Addr::from(kind.client(0).0).bytes();
            bytes[15] = bytes[15].wrapping_add_signed(by);
            Addr::v6(bytes)
        };
        let offset = 40;
        for (row, (first, last)) in spans.iter().enumerate() {
            rows.flows.source_ranges[offset + row].replace(near(*first), near(*last));
        }
        let place = (
            u32::try_from(offset).unwrap_or(0),
            u32::try_from(spans.len()).unwrap_or(0),
        );
        frontend(rows, kind).publish_sources(Some(place));
    }
}

fn source_ranges(kind: Kind) -> Vec<Case> {
    let name = |what: &str| format!("{}: source ranges, {what}", kind.name());
    let (first, second) = (kind.request(0, SYN), kind.request(1, SYN));
    let refused = Drop(Reason::SOURCE_REFUSED);
    let inside: [(&str, Spans); 5] = [
        ("exactly the client", &[(0, 0)]),
        ("first of a range", &[(0, 3)]),
        ("last of a range", &[(-3, 0)]),
        ("last of several", &[(-9, -9), (-7, -5), (-1, 1)]),
        ("first of several", &[(0, 0), (2, 2), (4, 4), (6, 6)]),
    ];
    let mut cases: Vec<Case> = inside
        .into_iter()
        .map(|(what, spans)| {
            Case::new(name(what)).change(admit(kind, spans)).send(
                "from inside",
                &first,
                Send(EGRESS),
                &kind.forwarded(&first, 0, 0),
            )
        })
        .collect();
    let outside: [(&str, Spans); 4] = [
        ("nobody", &[]),
        ("others below", &[(-5, -1)]),
        ("others above", &[(1, 5)]),
        ("a gap", &[(-9, -8), (-3, -1), (1, 2), (5, 9)]),
    ];
    for (what, spans) in outside {
        cases.push(
            Case::new(name(what))
                .change(admit(kind, spans))
                .untouched("from outside", &first, refused)
                .change(move |rows| frontend(rows, kind).publish_sources(None))
                .send(
                    "after the filter is gone",
                    &first,
                    Send(EGRESS),
                    &kind.forwarded(&first, 0, 0),
                ),
        );
    }
    let (more, answer) = (kind.request(0, ACK), kind.response(0, 0, SYN | ACK));
    cases.push(
        Case::new(name("flows that exist go on until they are swept"))
            .send("first", &first, Send(EGRESS), &kind.forwarded(&first, 0, 0))
            .change(know_clients)
            .change(admit(kind, &[]))
            .send("answer", &answer, Send(INGRESS), &kind.returned(&answer, 0))
            .send("more", &more, Send(EGRESS), &kind.forwarded(&more, 0, 0))
            .untouched("another flow", &second, refused),
    );
    cases
}

/// Who is not let in learns nothing, whatever is sent.
fn silent(kind: Kind) -> Case {
    let refused = Drop(Reason::SOURCE_REFUSED);
    let mut case = Case::new(format!(
        "{}: source ranges, a client from outside gets no reset",
        kind.name()
    ))
    .change(admit(kind, &[(1, 1)]))
    .change(move |rows| publish(rows, kind.frontend(), &[]));
    for flags in [SYN, ACK, RST, SYN | ACK] {
        case = case.untouched("segment", &kind.request(0, flags), refused);
    }
    case
}

fn set_policy(kind: Kind, policy: Policy) -> impl Fn(&Rows<'_>) {
    move |rows| frontend(rows, kind).set_policy(policy)
}

const LONG: u32 = 1 << 30;

fn affinity(kind: Kind) -> Vec<Case> {
    let name = |what: &str| format!("{}: affinity, {what}", kind.name());
    let sticky = Policy {
        affinity: LONG,
        ..Policy::default()
    };
    let fail_open = Policy {
        fail_open: true,
        ..sticky
    };
    let to = |case: Case, what, flow: u16, backend: u8| {
        let request = kind.request(flow, SYN);
        case.send(what, &request, Send(EGRESS), &kind.forwarded(&request, backend, flow))
    };
    let row = move |n: u32| backend(kind.frontend(), n) as usize;
    let kept = |what: &str| {
        let mut case = Case::new(name(what)).change(set_policy(kind, sticky));
        for flow in 0..3 {
            case = to(case, "a flow of the same client", flow, 0);
        }
        case
    };
    let moved = |case: Case, backend| {
        let case = to(case, "the next flow", 3, backend);
        to(case, "and one more", 4, backend)
    };
    vec![
        to(
            kept("a client keeps its backend").change(set_policy(kind, Policy::default())),
            "without it the turn goes on where it was",
            3,
            1,
        ),
        moved(
            kept("an unhealthy backend gives its clients away")
                .change(move |rows| rows.backends[row(0)].change_flags(flag::UNHEALTHY, 0)),
            1,
        ),
        moved(
            kept("a draining backend gives its clients away")
                .change(move |rows| rows.backends[row(0)].change_flags(flag::DRAINING, 0)),
            1,
        ),
        moved(
            kept("a backend of weight 0 gives its clients away")
                .change(move |rows| rows.backends[row(0)].set_share(0, None)),
            1,
        ),
        moved(
            kept("a row that has another owner does not inherit").change(move |rows| {
                let view = rows.backends[row(0)].view();
                rows.backends[row(0)].occupy(view.address, view.port, kind.frontend(), view.next_hop);
                rows.backends[row(0)].set_share(1, None);
            }),
            1,
        ),
        moved(
            kept("unhealthy ones are as good as any when all are")
                .change(move |rows| rows.backends[row(0)].change_flags(flag::UNHEALTHY, 0))
                .change(set_policy(kind, fail_open)),
            0,
        ),
        {
            let alone = kept("no backend, no flow").change(move |rows| {
                rows.backends[row(0)].change_flags(flag::DRAINING, 0);
                publish(rows, kind.frontend(), &[1]);
            });
            moved(alone, 1)
        },
    ]
}

fn addr(ip: IpAddr) -> Addr {
    ip.into()
}

fn maglev(kind: Kind) -> Vec<Case> {
    let slots = [2, 0, 1, 1, 0, 2, 0];
    let protocol = if kind.udp { UDP } else { TCP };
    let vip = kind.vip();
    let length = u64::try_from(slots.len()).unwrap_or(1);
    let slot = |hash: u64| u8::try_from(slots[usize::try_from(hash % length).unwrap_or(0)]).unwrap_or(0);
    let by_flow = |n: u16| {
        let (client, port) = kind.client(n);
        slot(hash::choice(
            addr(client),
            addr(vip.0),
            port.to_be(),
            vip.1.to_be(),
            protocol,
        ))
    };
    let by_source = |_: u16| slot(hash::choice_of_client(addr(kind.client(0).0)));
    let case = |selection, what: &str, choice: &dyn Fn(u16) -> u8| {
        let policy = Policy {
            selection,
            ..Policy::default()
        };
        let mut case = Case::new(format!("{}: Maglev by {what}", kind.name()))
            .change(move |rows| publish(rows, kind.frontend(), &slots))
            .change(set_policy(kind, policy));
        for flow in 0..8 {
            let request = kind.request(flow, SYN);
            let after = kind.forwarded(&request, choice(flow), flow);
            case = case.send("a flow", &request, Send(EGRESS), &after);
        }
        case
    };
    vec![
        case(Selection::Maglev, "5-tuple", &by_flow),
        case(Selection::MaglevBySource, "source address", &by_source),
    ]
}
