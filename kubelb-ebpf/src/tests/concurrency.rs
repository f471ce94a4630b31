//! Several CPUs at once: one record per flow, exact turns, no port lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

use kubelb_common::addr::Addr;
use kubelb_common::flow::tag;
use kubelb_common::flow_table::{FlowTables, slot};
use kubelb_common::frontend::{Policy, timeout};
use kubelb_common::stats::Reason;

use super::frames::Mk;
use crate::model::scene::{self, EGRESS, SERVICE, Scene, VIP};
use crate::model::{Cpu, Frame, Model};
use crate::outcome::Outcome;
use crate::process::process;

/// First packet of client `n`.
fn first_packet(family: usize, protocol: usize, n: u32) -> Vec<u8> {
    let [_, a, b, c] = n.to_be_bytes();
    let client = if family == 0 {
        Addr::v4([10, a, b, c])
    } else {
        Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c])
    };
    let (kind, port) = SERVICE[protocol];
    Mk::new(kind, (client, 1_000), (VIP[family], port)).frame()
}

fn run(cpu: &Cpu<'_>, frame: Vec<u8>) -> Outcome {
    process(&mut Frame::<true>::new(frame, 1), cpu)
}

/// Backend and SNAT port of every live flow.
fn live(model: &Model) -> Vec<(u32, (u8, u16, bool))> {
    let rows = model.rows().flows;
    (0..rows.layout().buckets() * 4)
        .filter_map(|index| {
            let (word, flow) = slot(&rows, index).unwrap();
            let binding = flow.binding();
            (tag::state(word.load()) == tag::LIVE).then_some((
                binding.backend,
                (binding.snat_slot, binding.snat_port, binding.flags != 0),
            ))
        })
        .collect()
}

fn free_ports(model: &Model) -> u32 {
    model.rows().flows.pools.iter().map(|pool| pool.free()).sum()
}

#[test]
fn the_same_new_flow_on_several_cpus_gets_one_record() {
    const CPUS: u32 = 4;
    const FLOWS: u32 = 400;
    let model = Scene {
        cpus: CPUS,
        ..Scene::default()
    }
    .model();
    let barrier = Barrier::new(usize::try_from(CPUS).unwrap());
    let contended: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CPUS)
            .map(|number| {
                let (model, barrier) = (&model, &barrier);
                scope.spawn(move || {
                    let cpu = model.cpu(number, 0);
                    for n in 0..FLOWS {
                        barrier.wait();
                        let outcome = run(&cpu, first_packet(0, (n % 2).try_into().unwrap(), n));
                        assert!(
                            matches!(outcome, Outcome::Send(EGRESS) | Outcome::Drop(Reason::CONTENDED)),
                            "{outcome:?}"
                        );
                    }
                    cpu.counters().drops.values().sum::<u64>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let flows = live(&model);
    assert_eq!(u32::try_from(flows.len()).unwrap(), FLOWS, "{contended} contended");
    let ports: BTreeSet<_> = flows.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), flows.len());
    assert_eq!(free_ports(&model), 4 * 1_000 - FLOWS);
}

/// How many live flows each backend has.
fn shares(model: &Model) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for (backend, _) in live(model) {
        *shares.entry(backend).or_insert(0) += 1;
    }
    shares
}

#[test]
fn turns_are_exact_for_each_family_and_protocol() {
    for family in 0..2 {
        for protocol in 0..2 {
            for flows in [1, 2, 3, 4, 100, 299, 300] {
                let model = Scene::default().model();
                let cpu = model.cpu(0, 0);
                for n in 0..flows {
                    assert_eq!(run(&cpu, first_packet(family, protocol, n)), Outcome::Send(EGRESS));
                }
                let number = scene::frontend(u32::try_from(family).unwrap(), u32::try_from(protocol).unwrap());
                let shares = shares(&model);
                for n in 0..3 {
                    let share = shares.get(&scene::backend(number, n)).copied().unwrap_or(0);
                    let least = usize::try_from(flows / 3).unwrap();
                    assert!((least..=least + 1).contains(&share), "{flows} flows: {shares:?}");
                }
            }
        }
    }
}

#[test]
fn turns_are_exact_over_all_cpus_together() {
    const CPUS: u32 = 4;
    let model = Scene {
        flows: 4_096,
        ports: 4_000,
        cpus: CPUS,
        ..Scene::default()
    }
    .model();
    let barrier = Barrier::new(usize::try_from(CPUS).unwrap());
    std::thread::scope(|scope| {
        for number in 0..CPUS {
            let (model, barrier) = (&model, &barrier);
            scope.spawn(move || {
                let cpu = model.cpu(number, 0);
                barrier.wait();
                for n in 0..600 {
                    let frame = first_packet(0, 0, number << 16 | n);
                    // A contended claim takes no turn; the client would send again.
                    while run(&cpu, frame.clone()) != Outcome::Send(EGRESS) {}
                }
            });
        }
    });
    let shares = shares(&model);
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [800, 800, 800]);
}

#[test]
fn weights_are_shares_of_the_turns() {
    let model = Scene::default().model();
    let number = scene::frontend(0, 1);
    scene::publish(&model.rows(), number, &[0, 1, 0, 2, 0, 0]);
    let cpu = model.cpu(0, 0);
    for n in 0..600 {
        assert_eq!(run(&cpu, first_packet(0, 1, n)), Outcome::Send(EGRESS));
    }
    let shares = shares(&model);
    let share = |n| shares[&scene::backend(number, n)];
    assert_eq!((share(0), share(1), share(2)), (400, 100, 100));
}

#[test]
fn ports_run_out_cleanly_and_come_back_from_idle_flows_with_nobody_sweeping() {
    let scene = Scene {
        ports: 100,
        timeouts: [50; timeout::COUNT],
        ..Scene::default()
    };
    for protocol in 0..2 {
        let model = scene.model();
        let cpu = model.cpu(0, 0);
        for n in 0..100 {
            assert_eq!(run(&cpu, first_packet(0, protocol, n)), Outcome::Send(EGRESS));
        }
        assert_eq!(
            run(&cpu, first_packet(0, protocol, 100)),
            Outcome::Drop(Reason::SNAT_EXHAUSTED)
        );
        for round in 1..=3 {
            cpu.set_now(round * 51);
            for n in 0..100 {
                assert_eq!(
                    run(&cpu, first_packet(0, protocol, round << 16 | n)),
                    Outcome::Send(EGRESS),
                    "round {round}, flow {n}"
                );
            }
        }
        let flows = live(&model);
        let ports: BTreeSet<_> = flows.iter().map(|(_, port)| *port).collect();
        assert_eq!((flows.len(), ports.len()), (100, 100));
        assert_eq!(free_ports(&model), 300, "those of the other family and protocol");
    }
}

#[test]
fn several_cpus_use_up_the_ports_three_times_without_loss() {
    const CPUS: u32 = 4;
    const PORTS: u32 = 1_000;
    let model = Scene {
        flows: 8_192,
        ports: PORTS,
        cpus: CPUS,
        timeouts: [50; timeout::COUNT],
        ..Scene::default()
    }
    .model();
    let barrier = Barrier::new(usize::try_from(CPUS).unwrap());
    std::thread::scope(|scope| {
        for number in 0..CPUS {
            let (model, barrier) = (&model, &barrier);
            scope.spawn(move || {
                let cpu = model.cpu(number, 0);
                for round in 0..4 {
                    cpu.set_now(round * 51);
                    barrier.wait();
                    for n in 0..PORTS / CPUS {
                        let outcome = run(&cpu, first_packet(0, 0, number << 20 | round << 16 | n));
                        assert!(
                            matches!(
                                outcome,
                                Outcome::Send(EGRESS) | Outcome::Drop(Reason::CONTENDED | Reason::SNAT_EXHAUSTED)
                            ),
                            "{outcome:?}"
                        );
                    }
                }
            });
        }
    });
    let flows = live(&model);
    let ports: BTreeSet<_> = flows.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), flows.len(), "no two flows share a port");
    let live = u32::try_from(flows.len()).unwrap();
    assert_eq!(live + free_ports(&model), 4 * PORTS, "no port is lost");
    assert!(live > PORTS / 2, "{live} flows");
    let counted = model
        .rows()
        .flows
        .frontend(scene::frontend(0, 0))
        .unwrap()
        .flows()
        .load();
    assert_eq!(counted, live);
}

#[test]
fn a_client_that_several_cpus_meet_at_once_gets_one_backend() {
    const CPUS: u16 = 4;
    const CLIENTS: u32 = 400;
    let model = Scene {
        flows: 8_192,
        ports: 8_000,
        cpus: u32::from(CPUS),
        ..Scene::default()
    }
    .model();
    let policy = Policy {
        affinity: 100,
        ..Policy::default()
    };
    let row = scene::frontend(0, 1);
    model.rows().flows.frontend(row).unwrap().set_policy(policy);
    let barrier = Barrier::new(usize::from(CPUS));
    // The second time, records have had their day, and all have to agree on another one.
    for (now, first_port) in [(0, 1_000), (1_000, 1_000 + CPUS)] {
        std::thread::scope(|scope| {
            for number in 0..CPUS {
                let (model, barrier) = (&model, &barrier);
                scope.spawn(move || {
                    let cpu = model.cpu(u32::from(number), now);
                    let (kind, port) = SERVICE[1];
                    for n in 0..CLIENTS {
                        let [_, a, b, c] = n.to_be_bytes();
                        let from = (Addr::v4([10, a, b, c]), first_port + number);
                        let frame = Mk::new(kind, from, (VIP[0], port)).frame();
                        barrier.wait();
                        // One that finds its bucket busy is sent again.
                        let mut outcome = run(&cpu, frame.clone());
                        while outcome == Outcome::Drop(Reason::CONTENDED) {
                            outcome = run(&cpu, frame.clone());
                        }
                    }
                });
            }
        });
        let rows = model.rows().flows;
        let mut backends: BTreeMap<Addr, Vec<u32>> = BTreeMap::new();
        for index in 0..rows.layout().buckets() * 4 {
            let (word, flow) = slot(&rows, index).unwrap();
            let binding = flow.binding();
            if tag::state(word.load()) == tag::LIVE && u16::from_be(binding.client_port) >= first_port {
                backends.entry(binding.client).or_default().push(binding.backend);
            }
        }
        assert_eq!(backends.len(), usize::try_from(CLIENTS).unwrap());
        for (client, backends) in backends {
            let agreed = [backends[0]; CPUS as usize];
            assert_eq!(backends, agreed, "{client:?} at {now}");
        }
    }
}
