//! The budget of half-open flows: the counts are those of the table whatever happens, and nobody who is open suffers.

use std::collections::BTreeMap;
use std::sync::Barrier;

use kubelb_common::addr::{Addr, TCP};
use kubelb_common::flow::{ClientHop, flag, tag};
use kubelb_common::flow_table::{self, FlowTables, slot};
use kubelb_common::frontend::timeout;
use kubelb_common::next_hop::MacWord;
use kubelb_common::stats::Reason;
use kubelb_common::tcp::{self, ACK, FIN, RST, SYN};
use proptest::prelude::*;

use super::frames::Mk;
use crate::model::scene::{self, BACKEND_PORT, SERVICE, SNAT, Scene, VIP, backend_address};
use crate::model::{Cpu, Frame, Model};
use crate::outcome::Outcome;
use crate::process::process;

/// Jiffies per second; a quarter of them protects a handshake.
const HZ: u32 = 100;

fn scene() -> Scene {
    Scene {
        flows: 4_096,
        ports: 4_000,
        hz: HZ,
        half_open_budget: 64,
        ..Scene::default()
    }
}

/// Its maps, with a way back to the clients that get as far as that.
fn model(scene: &Scene) -> Model {
    let mut model = scene.model();
    let hop = ClientHop {
        destination: MacWord::new([2, 0, 0, 0, 0, 1], 1),
        source: MacWord::new([2, 0, 0, 0, 0, 2], 0),
        interface: 1,
    };
    for family in 0..2 {
        for n in (0..1_000).chain((2 << 20)..(2 << 20) + 50).chain([3 << 20]) {
            model.set_route(client(family, n).0, hop.with(1_400, true));
        }
    }
    model
}

/// Address and port of client `n`.
fn client(family: usize, n: u32) -> (Addr, u16) {
    let [_, a, b, c] = n.to_be_bytes();
    let address = if family == 0 {
        Addr::v4([10, a, b, c])
    } else {
        Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c])
    };
    (address, 1_000)
}

/// What a backend says first, made up from the port that it is asked from.
fn backend_sequence(snat_port: u16) -> u32 {
    u32::from(snat_port).wrapping_mul(0x9e37_79b1)
}

fn send(cpu: &Cpu<'_>, family: usize, n: u32, flags: u8, acknowledgement: u32) -> Outcome {
    let mut packet = Mk::new(TCP, client(family, n), (VIP[family], SERVICE[0].1));
    (packet.flags, packet.acknowledgement) = (flags, acknowledgement);
    process(&mut Frame::<true>::new(packet.frame(), 1), cpu)
}

/// Backend and SNAT port of a client's flow.
fn found(model: &Model, family: usize, n: u32) -> Option<(u32, u16)> {
    let rows = model.rows().flows;
    let (address, port) = client(family, n);
    (0..rows.layout().buckets() * 4).find_map(|index| {
        let (word, flow) = slot(&rows, index)?;
        let binding = flow.binding();
        let is_it = tag::state(word.load()) == tag::LIVE
            && (binding.client, u16::from_be(binding.client_port)) == (address, port)
            && binding.flags & flag::UDP == 0;
        is_it.then_some((binding.backend, u16::from_be(binding.snat_port)))
    })
}

/// What a flow's backend says.
fn reply(cpu: &Cpu<'_>, family: usize, (backend, port): (u32, u16), flags: u8) -> Outcome {
    let n = u8::try_from((backend - 1) % scene::BACKENDS).unwrap();
    let mut packet = Mk::new(TCP, (backend_address(family, n), BACKEND_PORT[0]), (SNAT[family], port));
    (packet.flags, packet.sequence) = (flags, backend_sequence(port));
    process(&mut Frame::<true>::new(packet.frame(), 1), cpu)
}

/// A whole handshake; false when the SYN is not let in.
fn connect(cpu: &Cpu<'_>, model: &Model, family: usize, n: u32) -> bool {
    if !matches!(send(cpu, family, n, SYN, 0), Outcome::Send(_)) {
        return false;
    }
    let flow = found(model, family, n).unwrap();
    reply(cpu, family, flow, SYN | ACK);
    let acknowledgement = backend_sequence(flow.1).wrapping_add(1);
    assert!(matches!(send(cpu, family, n, ACK, acknowledgement), Outcome::Send(_)));
    true
}

/// Half-open TCP flows in the table, by frontend.
fn walked(model: &Model) -> BTreeMap<u32, u32> {
    let rows = model.rows().flows;
    let mut counts = BTreeMap::new();
    for index in 0..rows.layout().buckets() * 4 {
        let (word, flow) = slot(&rows, index).unwrap();
        let binding = flow.binding();
        if tag::state(word.load()) == tag::LIVE && binding.flags & flag::UDP == 0 && tcp::is_half_open(flow.state()) {
            *counts.entry(binding.frontend).or_default() += 1;
        }
    }
    counts
}

fn assert_counts(model: &Model) {
    let walked = walked(model);
    for row in 1..=4 {
        let counted = model.rows().flows.frontend(row).unwrap().half_open().load();
        assert_eq!(counted, walked.get(&row).copied().unwrap_or(0), "frontend {row}");
    }
}

fn half_open(model: &Model, family: u32) -> u32 {
    let rows = model.rows().flows;
    rows.frontend(scene::frontend(family, 0)).unwrap().half_open().load()
}

#[test]
fn a_flood_spends_its_frontends_budget_and_nothing_else() {
    for family in 0..2 {
        let other = 1 - family;
        let model = model(&scene());
        let cpu = model.cpu(0, 0);
        for n in 0..100 {
            assert!(connect(&cpu, &model, family, n));
        }
        assert_eq!(half_open(&model, 0) + half_open(&model, 1), 0);
        let mut admitted = 0;
        for n in 0..10_000 {
            let outcome = send(&cpu, family, 1 << 20 | n, SYN, 0);
            if outcome != Outcome::Drop(Reason::HALF_OPEN_BUDGET) {
                assert!(matches!(outcome, Outcome::Send(_)), "{outcome:?}");
                admitted += 1;
            }
            if n % 1_000 == 0 {
                cpu.set_now(n / 100);
            }
        }
        // 100 jiffies went by: the budget at first, and again for each quarter of a second.
        assert_eq!(admitted, 64 * 4, "{:?}", walked(&model));
        assert_eq!(half_open(&model, u32::try_from(family).unwrap()), 64);
        for n in 0..100 {
            assert!(
                matches!(send(&cpu, family, n, ACK, 2), Outcome::Send(_)),
                "open flow {n}"
            );
        }
        for n in 0..50 {
            assert!(connect(&cpu, &model, other, 2 << 20 | n), "the other frontend");
        }
        // Whoever is in has a quarter of a second, whatever else comes.
        cpu.set_now(200);
        let n = 3 << 20;
        assert!(matches!(send(&cpu, family, n, SYN, 0), Outcome::Send(_)));
        let flow = found(&model, family, n).unwrap();
        for m in 0..1_000 {
            send(&cpu, family, 4 << 20 | m, SYN, 0);
        }
        cpu.set_now(224);
        reply(&cpu, family, flow, SYN | ACK);
        send(&cpu, family, n, ACK, backend_sequence(flow.1).wrapping_add(1));
        for m in 0..1_000 {
            cpu.set_now(300 + m);
            send(&cpu, family, 5 << 20 | m, SYN, 0);
        }
        assert_eq!(found(&model, family, n), Some(flow), "it is open, and stays");
        assert_counts(&model);
    }
}

#[test]
fn after_a_flood_new_clients_get_in_with_nobody_sweeping() {
    let model = model(&scene());
    let cpu = model.cpu(0, 0);
    for n in 0..1_000 {
        send(&cpu, 0, 1 << 20 | n, SYN, 0);
    }
    cpu.set_now(HZ);
    for n in 0..500 {
        assert!(connect(&cpu, &model, 0, n), "client {n}");
    }
    assert_counts(&model);
    assert!(
        half_open(&model, 0) <= 32,
        "each took the place of one, as long as there were many"
    );
}

#[test]
fn a_flood_of_syn_and_ack_and_of_syn_and_rst_spends_the_budget_too() {
    for second in [ACK, RST] {
        let model = model(&scene());
        let cpu = model.cpu(0, 0);
        for n in 0..1_000 {
            if let Outcome::Send(_) = send(&cpu, 0, n, SYN, 0) {
                let flow = found(&model, 0, n).unwrap();
                reply(&cpu, 0, flow, SYN | ACK);
                send(&cpu, 0, n, second, 0x6789_abcd);
            }
        }
        assert!(
            half_open(&model, 0) > 60,
            "{} after SYN and {second:#x}",
            half_open(&model, 0)
        );
        assert_counts(&model);
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Client(u32, u8, bool),
    Backend(u32, u8),
    Wait(u32),
    Sweep,
    Budget(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop::sample::select(vec![SYN, SYN, SYN, ACK, ACK, ACK | FIN, RST]);
    let answers = prop::sample::select(vec![SYN | ACK, SYN | ACK, ACK, ACK | FIN, RST | ACK]);
    prop_oneof![
        4 => (0u32..24, flags, any::<bool>()).prop_map(|(n, flags, hears)| Event::Client(n, flags, hears)),
        3 => (0u32..24, answers).prop_map(|(n, flags)| Event::Backend(n, flags)),
        1 => (1u32..40).prop_map(Event::Wait),
        1 => Just(Event::Sweep),
        1 => (0u32..10).prop_map(Event::Budget),
    ]
}

fn sweep(model: &Model, now: u32) {
    let rows = model.rows().flows;
    for index in 0..rows.layout().buckets() * 4 {
        let (word, _) = slot(&rows, index).unwrap();
        flow_table::expire(&rows, index, word.load(), now);
    }
}

proptest! {
    #[test]
    fn the_count_is_that_of_the_table_at_any_time(events in prop::collection::vec(event(), 1..120)) {
        let scene = Scene { half_open_budget: 4, timeouts: [60; timeout::COUNT], flows: 128, ..scene() };
        let model = model(&scene);
        let cpu = model.cpu(0, 0);
        let rows = model.rows().flows;
        let row = rows.frontend(scene::frontend(0, 0)).unwrap();
        let (mut now, mut budget) = (0, 4);
        for event in events {
            match event {
                Event::Client(n, flags, hears) => {
                    let right = found(&model, 0, n).map_or(0, |flow| backend_sequence(flow.1).wrapping_add(1));
                    let before = row.half_open().load();
                    send(&cpu, 0, n, flags, if hears { right } else { right ^ 0x55_5555 });
                    let after = row.half_open().load();
                    prop_assert!(after <= before || budget == 0 || after <= budget, "{before} {after} of {budget}");
                }
                Event::Backend(n, flags) => {
                    if let Some(flow) = found(&model, 0, n) {
                        reply(&cpu, 0, flow, flags);
                    }
                }
                Event::Wait(time) => {
                    now += time;
                    cpu.set_now(now);
                }
                Event::Sweep => sweep(&model, now),
                Event::Budget(flows) => {
                    budget = flows;
                    row.set_half_open_budget(flows);
                }
            }
            assert_counts(&model);
        }
    }
}

#[test]
fn the_count_is_exact_over_several_cpus_and_a_sweep() {
    const CPUS: u32 = 4;
    let model = model(&Scene {
        cpus: CPUS,
        timeouts: [20; timeout::COUNT],
        ..scene()
    });
    let barrier = Barrier::new(usize::try_from(CPUS).unwrap() + 1);
    std::thread::scope(|scope| {
        for number in 0..CPUS {
            let (model, barrier) = (&model, &barrier);
            scope.spawn(move || {
                let cpu = model.cpu(number, 0);
                barrier.wait();
                for n in 0..3_000u32 {
                    cpu.set_now(n / 30);
                    // Clients of all CPUs are the same few, so that they meet.
                    let (client, family) = (n * 7 % 97, usize::try_from(n % 2).unwrap());
                    send(&cpu, family, client, SYN, 0);
                    if n % 3 == 0
                        && let Some(flow) = found(model, family, client)
                    {
                        reply(&cpu, family, flow, if n % 5 == 0 { RST | ACK } else { SYN | ACK });
                        send(&cpu, family, client, ACK, backend_sequence(flow.1).wrapping_add(1));
                    }
                }
            });
        }
        let (model, barrier) = (&model, &barrier);
        scope.spawn(move || {
            barrier.wait();
            for now in 0..100 {
                sweep(model, now);
            }
        });
    });
    assert_counts(&model);
}
