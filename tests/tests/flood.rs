//! SYN floods against the programs in the kernel: what is open goes on, other frontends notice nothing, and whoever is let in is left
//! the time for a handshake.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use kubelb_agent::sweep::{PARTS, Sweeper};
use kubelb_common::flow::{ClientHop, flag, tag};
use kubelb_common::flow_table::{FlowTables as _, slot};
use kubelb_common::frontend::timeout;
use kubelb_common::next_hop::MacWord;
use kubelb_common::stats::Reason;
use kubelb_common::tcp;
use kubelb_ebpf::model::scene::{self, BACKEND_PORT, SERVICE, SNAT, Scene, Store as _, VIP, backend_address};
use kubelb_tests::kernel::{Kernel, Program};
use kubelb_tests::packet::{Body, Packet, Tcp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const BUDGET: u32 = 32;

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("these tests need CPUs 0 and 1");
}

fn scene() -> Scene {
    Scene {
        flows: 8_192,
        ports: 4_000,
        half_open_budget: BUDGET,
        ..Scene::default()
    }
}

/// The maps as the agent leaves them, at this kernel's clock rate.
fn load(program: Program) -> Kernel {
    let kernel = Kernel::load(&scene(), program).expect("the object loads");
    let hz = kubelb_tests::kernel::hz(&kernel).expect("the clock");
    kernel.rows().control.hz.store(hz);
    kernel
}

fn client(family: usize, n: u32) -> (IpAddr, u16) {
    let [_, a, b, c] = n.to_be_bytes();
    let address = if family == 0 {
        [10, a, b, c].into()
    } else {
        [0xfd00, 0, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])].into()
    };
    (address, 1_000)
}

fn from_client(family: usize, n: u32, flags: u8, acknowledgement: u32) -> Vec<u8> {
    let mut packet = Packet::tcp(client(family, n), (VIP[family].into(), SERVICE[0].1), flags);
    if let Body::Tcp(tcp) = &mut packet.body {
        tcp.acknowledgement = acknowledgement;
    }
    packet.bytes()
}

/// What the backend of a flow says first, made up from the port that it is asked from.
fn sequence(snat_port: u16) -> u32 {
    u32::from(snat_port).wrapping_mul(0x9e37_79b1)
}

fn from_backend(family: usize, (backend, port): (u32, u16), flags: u8) -> Vec<u8> {
    let n = u8::try_from((backend - 1) % scene::BACKENDS).expect("few");
    let from = (backend_address(family, n).into(), BACKEND_PORT[0]);
    let mut packet = Packet::tcp(from, (SNAT[family].into(), port), flags);
    if let Body::Tcp(tcp) = &mut packet.body {
        tcp.sequence = sequence(port);
    }
    packet.bytes()
}

/// Backend and SNAT port of a client's flow, to which the way back is made known.
fn found(kernel: &Kernel, family: usize, n: u32) -> Option<(u32, u16)> {
    let rows = kernel.rows();
    let (address, _) = client(family, n);
    let hop = ClientHop {
        destination: MacWord::new([2, 0, 0, 0, 0, 1], rows.control.route_revision()),
        source: MacWord::new([2, 0, 0, 0, 0, 2], 0),
        interface: 1,
    };
    (0..rows.flows.layout().buckets() * 4).find_map(|index| {
        let (word, flow) = slot(&rows.flows, index)?;
        let binding = flow.binding();
        if tag::state(word.load()) != tag::LIVE || IpAddr::from(binding.client) != address {
            return None;
        }
        flow.set_client_hop(&hop.with(1_400, true));
        Some((binding.backend, u16::from_be(binding.snat_port)))
    })
}

fn sent(program: Program) -> u32 {
    match program {
        Program::Xdp => 4,
        Program::Tc => 7,
    }
}

fn back(program: Program) -> u32 {
    match program {
        Program::Xdp => 3,
        Program::Tc => 7,
    }
}

/// A SYN is let in.
fn knock(kernel: &Kernel, program: Program, family: usize, n: u32) -> bool {
    let frame = from_client(family, n, Tcp::SYN, 0);
    kernel.run(program, &frame, 0).expect("a run").0 == sent(program)
}

/// The rest of the handshake.
fn finish(kernel: &Kernel, program: Program, family: usize, n: u32) {
    let flow = found(kernel, family, n).expect("a flow");
    let answer = from_backend(family, flow, Tcp::SYN | Tcp::ACK);
    assert_eq!(kernel.run(program, &answer, 0).expect("a run").0, back(program));
    let acknowledgement = sequence(flow.1).wrapping_add(1);
    let frame = from_client(family, n, Tcp::ACK, acknowledgement);
    assert_eq!(kernel.run(program, &frame, 0).expect("a run").0, sent(program));
}

/// The counts are those of the table.
fn assert_counts(kernel: &Kernel) {
    let rows = kernel.rows().flows;
    let mut walked: BTreeMap<u32, u32> = BTreeMap::new();
    for index in 0..rows.layout().buckets() * 4 {
        let (word, flow) = slot(&rows, index).expect("a slot");
        let binding = flow.binding();
        let half_open = binding.flags & flag::UDP == 0 && tcp::is_half_open(flow.state());
        if tag::state(word.load()) == tag::LIVE && half_open {
            *walked.entry(binding.frontend).or_default() += 1;
        }
    }
    for row in 1..=4u32 {
        let counted = rows.frontend(row).expect("a row").half_open().load();
        assert_eq!(counted, walked.get(&row).copied().unwrap_or(0), "frontend {row}");
    }
}

fn half_open(kernel: &Kernel, family: usize) -> u32 {
    let row = scene::frontend(u32::try_from(family).expect("0 or 1"), 0);
    kernel.rows().flows.frontend(row).expect("a row").half_open().load()
}

fn flood(program: Program, spoofed: u32) {
    pin(0);
    for family in 0..2 {
        let kernel = load(program);
        for n in 0..20 {
            assert!(knock(&kernel, program, family, n));
            finish(&kernel, program, family, n);
        }
        assert_eq!(half_open(&kernel, family), 0);
        let mut admitted = 0;
        for n in 0..spoofed {
            admitted += u32::from(knock(&kernel, program, family, 1 << 20 | n));
        }
        assert!(admitted >= BUDGET, "{admitted} of {spoofed} let in");
        assert_eq!(half_open(&kernel, family), BUDGET);
        let drops = kernel.counters().expect("counters").drops;
        let row = scene::frontend(u32::try_from(family).expect("0 or 1"), 0);
        let refused = u64::from(spoofed - admitted);
        let expected = BTreeMap::from([((row, Reason::HALF_OPEN_BUDGET), refused)]);
        assert_eq!(drops, if refused == 0 { BTreeMap::new() } else { expected });
        for n in 0..20 {
            let data = from_client(family, n, Tcp::ACK, 7);
            assert_eq!(
                kernel.run(program, &data, 0).expect("a run").0,
                sent(program),
                "open flow {n}"
            );
            let flow = found(&kernel, family, n).expect("an open flow stays");
            let answer = from_backend(family, flow, Tcp::ACK);
            assert_eq!(
                kernel.run(program, &answer, 0).expect("a run").0,
                back(program),
                "answer {n}"
            );
        }
        assert!(knock(&kernel, program, 1 - family, 2 << 20), "the other frontend");
        // A quarter of a second later the oldest give way, and whoever takes a place keeps it for as long.
        let quarter = u64::from(kernel.rows().control.hz.load() / 4);
        kernel.let_pass(quarter).expect("the clock");
        let patient = 3 << 20;
        assert!(
            knock(&kernel, program, family, patient),
            "a client in the middle of the flood"
        );
        for n in 0..8 {
            knock(&kernel, program, family, 4 << 20 | n);
        }
        finish(&kernel, program, family, patient);
        assert_eq!(half_open(&kernel, family), BUDGET - 1);
        assert_counts(&kernel);

        kernel.rows().flows.frontends[usize::try_from(row).expect("few")].set_timeouts([1; timeout::COUNT]);
        kernel.let_pass(2).expect("the clock");
        let mut sweeper = Sweeper::default();
        for _ in 0..PARTS {
            let now = kernel.clock().expect("the clock").tick();
            sweeper.step(&kernel.rows().flows, |_| false, now);
        }
        assert_eq!(half_open(&kernel, family), 0, "they have ended");
    }
}

#[test]
fn a_flood_spends_its_frontends_budget_and_nothing_else_in_tc() {
    flood(Program::Tc, 20_000);
}

#[test]
fn a_flood_spends_its_frontends_budget_and_nothing_else_in_xdp() {
    flood(Program::Xdp, 100);
}

#[test]
fn counts_are_exact_over_both_cpus_while_flows_come_complete_expire_and_give_way() {
    let kernel = load(Program::Tc);
    kernel.rows().control.hz.store(4);
    for row in 1..=4u32 {
        let rows = kernel.rows().flows;
        rows.frontend(row).expect("a row").set_timeouts([1; timeout::COUNT]);
    }
    let gate = AtomicU32::new(0);
    let run = |frame: &[u8]| kernel.run(Program::Tc, frame, 0).expect("a run");
    std::thread::scope(|scope| {
        for cpu in 0..2u32 {
            let (gate, kernel) = (&gate, &kernel);
            scope.spawn(move || {
                pin(usize::try_from(cpu).expect("0 or 1"));
                gate.fetch_add(1, Ordering::SeqCst);
                while gate.load(Ordering::SeqCst) < 2 {
                    std::hint::spin_loop();
                }
                for n in 0..3_000u32 {
                    // The same few clients on both CPUs, so that they meet.
                    let (client, family) = (n * 7 % 97, usize::try_from(n % 2).expect("0 or 1"));
                    run(&from_client(family, client, Tcp::SYN, 0));
                    if n % 40 == 0
                        && let Some(flow) = found(kernel, family, client)
                    {
                        run(&from_backend(family, flow, Tcp::SYN | Tcp::ACK));
                        run(&from_client(family, client, Tcp::ACK, sequence(flow.1).wrapping_add(1)));
                    }
                }
            });
        }
    });
    assert_counts(&kernel);
    let flows = kernel.counters().expect("counters").frontends;
    // More than there are clients: some have expired and come again.
    assert!(flows.values().map(|row| row.flows).sum::<u64>() > 2 * 97, "{flows:?}");
}
