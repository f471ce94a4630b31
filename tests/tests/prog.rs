//! The data path in the kernel, frame by frame: the same cases as on the host, and what only several CPUs show.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use kubelb_common::announce::AnnounceRow;
use kubelb_common::flow::tag;
use kubelb_common::flow_table::{FlowTables as _, slot};
use kubelb_common::frontend::{Policy, timeout};
use kubelb_common::stats::Reason;
use kubelb_ebpf::model::scene::{self, SERVICE, Scene, Store as _, VIP};
use kubelb_ebpf::model::{Cpu, Frame, Rows};
use kubelb_ebpf::outcome::Outcome;
use kubelb_ebpf::process::process;
use kubelb_tests::cases::{self, Case, Step};
use kubelb_tests::kernel::{Kernel, Program};
use kubelb_tests::netns::Namespace;
use kubelb_tests::packet::{self, Packet, Tcp};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
const TC_UNSPEC: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// What the program returns for an outcome; frames come in on interface 1.
fn verdict(program: Program, outcome: Outcome) -> u32 {
    match (program, outcome) {
        (Program::Xdp, Outcome::Pass | Outcome::HandOver) => XDP_PASS,
        (Program::Xdp, Outcome::Drop(_)) => XDP_DROP,
        (Program::Xdp, Outcome::Send(1) | Outcome::Answer) => XDP_TX,
        (Program::Xdp, Outcome::Send(_)) => XDP_REDIRECT,
        (Program::Xdp, Outcome::SendToNeighbour(_)) => panic!("XDP cannot resolve neighbours"),
        (Program::Tc, Outcome::Pass | Outcome::HandOver) => TC_UNSPEC,
        (Program::Tc, Outcome::Drop(_)) => TC_SHOT,
        (Program::Tc, Outcome::Send(_) | Outcome::SendToNeighbour(_) | Outcome::Answer) => TC_REDIRECT,
    }
}

/// Runs on this CPU from now on.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("these tests need CPUs 0 and 1");
}

fn run_on_host(program: Program, cpu: &Cpu<'_>, frame: &[u8], segment: u32) -> (Outcome, Vec<u8>) {
    let segment = usize::try_from(segment).expect("small");
    match program {
        Program::Xdp => {
            let mut frame = Frame::<false>::new(frame.to_vec(), 1);
            (process(&mut frame, cpu), frame.bytes)
        }
        Program::Tc => {
            let mut frame = Frame::<true>::new(frame.to_vec(), 1);
            frame.segment = segment;
            (process(&mut frame, cpu), frame.bytes)
        }
    }
}

/// Runs a case in the kernel and beside it on the host; both must do as the case says, and count the same.
fn run_case(kernel: &Kernel, program: Program, case: &Case) -> Vec<String> {
    let model = case.scene.model();
    let cpu = model.cpu(0, 0);
    let mut failures = Vec::new();
    for step in &case.steps {
        let send = match step {
            Step::Change(change) => {
                change(&kernel.rows());
                change(&model.rows());
                continue;
            }
            Step::Send(send) => send,
        };
        if send.segment != 0 && program == Program::Xdp {
            continue;
        }
        let (outcome, bytes) = match program {
            Program::Xdp => &send.xdp,
            Program::Tc => &send.tc,
        };
        let on_host = run_on_host(program, &cpu, &send.frame, send.segment);
        let as_expected = on_host.0 == *outcome && on_host.1 == *bytes;
        let (found, after) = kernel.run(program, &send.frame, send.segment).expect("a run");
        // The kernel makes no room in merged frames of no known kind, and a test run cannot say the kind.
        let refused = (Outcome::Drop(Reason::TOO_BIG), send.frame.clone());
        let (outcome, bytes) = if send.segment != 0 && *outcome == Outcome::Answer {
            (&refused.0, &refused.1)
        } else {
            (outcome, bytes)
        };
        let mut complain = |what: String| failures.push(format!("{} ({program:?}), {}: {what}", case.name, send.what));
        if !as_expected {
            complain(format!("the host says {:?}", on_host.0));
        }
        if found != verdict(program, *outcome) || after != *bytes {
            complain(format!(
                "\n    in   {}\n    want {outcome:?} {}\n    got  {found} {}",
                cases::hex(&send.frame),
                cases::hex(bytes),
                cases::hex(&after)
            ));
        }
        let sent = !matches!(outcome, Outcome::Pass | Outcome::HandOver | Outcome::Drop(_));
        if sent && let Err(error) = packet::verify(&after) {
            complain(error.to_string());
        }
    }
    let (counted, expected) = (kernel.counters().expect("counters"), cpu.counters());
    if counted != expected {
        failures.push(format!(
            "{} ({program:?}): counted {counted:?}, the host {expected:?}",
            case.name
        ));
    }
    let announced = |rows: &Rows<'_>| rows.announced.iter().map(AnnounceRow::view).collect::<Vec<_>>();
    let (found, expected) = (announced(&kernel.rows()), announced(&model.rows()));
    if found != expected {
        failures.push(format!(
            "{} ({program:?}): announced {found:?}, on the host {expected:?}",
            case.name
        ));
    }
    let scratch = cpu.scratch();
    let handed_over = match program {
        Program::Xdp => case.handed_over(),
        Program::Tc => 0,
    };
    let found = kernel.handed_over_and_echoes().expect("counters");
    if found != (handed_over, scratch.echoes) {
        failures.push(format!("{} ({program:?}): {found:?} handed over and echoes", case.name));
    }
    failures
}

/// Runs `work` in a namespace with nothing but a loopback interface: there is no route to anywhere.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let namespace = Namespace::new("prog").expect("a namespace");
    namespace.run(work).expect("the namespace is entered")
}

fn every_case(program: Program) {
    let failures = alone(|| {
        pin(0);
        // Loading takes longer than a case, so cases of one size share the object and start from emptied maps.
        let mut kernels: BTreeMap<u32, Kernel> = BTreeMap::new();
        let mut failures = Vec::new();
        for case in cases::all() {
            let kernel = kernels
                .entry(case.scene.ports)
                .and_modify(|kernel| kernel.reset(&case.scene).expect("the maps can be emptied"))
                .or_insert_with(|| Kernel::load(&case.scene, program).expect("the object loads"));
            failures.extend(run_case(kernel, program, &case));
        }
        failures
    });
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_case_comes_out_as_expected_in_xdp() {
    every_case(Program::Xdp);
}

#[test]
fn every_case_comes_out_as_expected_in_tc() {
    every_case(Program::Tc);
}

/// First packet of client `n`.
fn first_packet(family: usize, protocol: usize, n: u32) -> Vec<u8> {
    let [_, a, b, c] = n.to_be_bytes();
    let client = if family == 0 {
        [10, a, b, c].into()
    } else {
        [0xfd00, 0, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])].into()
    };
    let vip = (VIP[family].into(), SERVICE[protocol].1);
    if protocol == 0 {
        Packet::tcp((client, 1_000), vip, Tcp::SYN).bytes()
    } else {
        Packet::udp((client, 1_000), vip, b"x").bytes()
    }
}

/// Backend and SNAT port of every live flow.
fn live(kernel: &Kernel) -> Vec<(u32, (u8, u16, u16))> {
    let rows = kernel.rows().flows;
    (0..rows.layout().buckets() * 4)
        .filter_map(|index| {
            let (word, flow) = slot(&rows, index).expect("a slot");
            let binding = flow.binding();
            (tag::state(word.load()) == tag::LIVE)
                .then_some((binding.backend, (binding.snat_slot, binding.snat_port, binding.flags)))
        })
        .collect()
}

fn free_ports(kernel: &Kernel) -> u32 {
    kernel.rows().flows.pools.iter().map(|pool| pool.free()).sum()
}

/// Every port is free or some flow's, no port is two flows', and the reverse index says the same.
fn assert_ports_accounted_for(kernel: &Kernel, scene: &Scene) {
    let flows = live(kernel);
    let ports: BTreeSet<_> = flows.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), flows.len(), "no two flows share a port");
    let held = u32::try_from(flows.len()).expect("few");
    assert_eq!(held + free_ports(kernel), 4 * scene.ports, "no port is lost");
    let rows = kernel.rows().flows;
    let named = (0..4 * scene.ports)
        .filter(|index| rows.reverse(*index).is_some_and(|word| word.load() != 0))
        .count();
    assert_eq!(named, flows.len(), "the reverse index names the live flows");
    let counted: u32 = (1..=4).map(|row| rows.frontends[row].flows().load()).sum();
    assert_eq!(counted, held, "frontends count their flows");
}

fn sent(program: Program) -> u32 {
    verdict(program, Outcome::Send(scene::EGRESS))
}

fn dropped(program: Program) -> u32 {
    verdict(program, Outcome::Drop(Reason::CONTENDED))
}

/// Runs `work(CPU)` on CPUs 0 and 1 at once.
fn on_two_cpus(work: impl Fn(u32) + Sync) {
    std::thread::scope(|scope| {
        for cpu in 0..2u32 {
            let work = &work;
            scope.spawn(move || {
                pin(usize::try_from(cpu).expect("0 or 1"));
                work(cpu);
            });
        }
    });
}

/// Lets two threads start each round at the same moment.
#[derive(Default)]
struct Gate(AtomicU32);

impl Gate {
    fn pass(&self, round: u32) {
        self.0.fetch_add(1, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) < 2 * (round + 1) {
            std::hint::spin_loop();
        }
    }
}

fn race(program: Program, rounds: u32) {
    let scene = Scene {
        flows: 8_192,
        ports: 4_000,
        ..Scene::default()
    };
    let kernel = Kernel::load(&scene, program).expect("the object loads");
    let gate = Gate::default();
    on_two_cpus(|_| {
        for round in 0..rounds {
            let [family, protocol] = [round / 2 % 2, round % 2].map(|n| usize::try_from(n).expect("0 or 1"));
            let frame = first_packet(family, protocol, round);
            gate.pass(round);
            for _ in 0..2 {
                let (found, _) = kernel.run(program, &frame, 0).expect("a run");
                assert!(found == sent(program) || found == dropped(program), "{found}");
            }
        }
    });
    let drops = kernel.counters().expect("counters").drops;
    assert!(
        drops.keys().all(|(_, reason)| *reason == Reason::CONTENDED),
        "{drops:?}"
    );
    assert_eq!(
        live(&kernel).len(),
        usize::try_from(rounds).expect("few"),
        "one record for each flow"
    );
    assert_ports_accounted_for(&kernel, &scene);
}

#[test]
fn the_same_new_flow_on_two_cpus_gets_one_record_in_tc() {
    race(Program::Tc, 4_000);
}

#[test]
fn the_same_new_flow_on_two_cpus_gets_one_record_in_xdp() {
    race(Program::Xdp, 60);
}

#[test]
fn turns_are_exact_over_both_cpus() {
    for family in 0..2 {
        for protocol in 0..2 {
            let scene = Scene {
                flows: 8_192,
                ports: 4_000,
                ..Scene::default()
            };
            let kernel = Kernel::load(&scene, Program::Tc).expect("the object loads");
            let gate = Gate::default();
            on_two_cpus(|cpu| {
                gate.pass(0);
                for n in 0..600 {
                    let frame = first_packet(family, protocol, cpu << 16 | n);
                    // A contended claim takes no turn; the client would send again.
                    while kernel.run(Program::Tc, &frame, 0).expect("a run").0 != sent(Program::Tc) {}
                }
            });
            let mut shares: BTreeMap<u32, u32> = BTreeMap::new();
            for (backend, _) in live(&kernel) {
                *shares.entry(backend).or_default() += 1;
            }
            assert_eq!(shares.into_values().collect::<Vec<_>>(), [400, 400, 400]);
            assert_ports_accounted_for(&kernel, &scene);
        }
    }
}

#[test]
fn ports_run_out_cleanly_and_come_back_from_idle_flows_with_no_agent() {
    let scene = Scene {
        ports: 100,
        ..Scene::default()
    };
    for program in [Program::Xdp, Program::Tc] {
        let kernel = Kernel::load(&scene, program).expect("the object loads");
        pin(0);
        for n in 0..100 {
            let (found, _) = kernel.run(program, &first_packet(0, 0, n), 0).expect("a run");
            assert_eq!(found, sent(program), "flow {n}");
        }
        let (found, _) = kernel.run(program, &first_packet(0, 0, 100), 0).expect("a run");
        assert_eq!(found, dropped(program));
        let drops = kernel.counters().expect("counters").drops;
        assert_eq!(
            drops,
            BTreeMap::from([((scene::frontend(0, 0), Reason::SNAT_EXHAUSTED), 1)])
        );
        assert_ports_accounted_for(&kernel, &scene);
        kernel.rows().flows.frontends[1].set_timeouts([1; timeout::COUNT]);
        for round in 1..=3 {
            kernel.let_pass(2).expect("the clock");
            for n in 0..100 {
                let (found, _) = kernel
                    .run(program, &first_packet(0, 0, round << 16 | n), 0)
                    .expect("a run");
                assert_eq!(found, sent(program), "round {round}, flow {n}");
            }
            assert_ports_accounted_for(&kernel, &scene);
        }
    }
}

#[test]
fn two_cpus_use_up_the_ports_three_times_with_no_agent_and_lose_none() {
    let scene = Scene {
        flows: 4_096,
        ports: 500,
        timeouts: [1; timeout::COUNT],
        ..Scene::default()
    };
    let kernel = Kernel::load(&scene, Program::Tc).expect("the object loads");
    let gate = Gate::default();
    on_two_cpus(|cpu| {
        for round in 0..4 {
            kernel.let_pass(2).expect("the clock");
            gate.pass(round);
            for n in 0..250 {
                let frame = first_packet(0, 0, cpu << 20 | round << 16 | n);
                let (found, _) = kernel.run(Program::Tc, &frame, 0).expect("a run");
                assert!(found == sent(Program::Tc) || found == dropped(Program::Tc), "{found}");
            }
        }
    });
    assert_ports_accounted_for(&kernel, &scene);
    let counters = kernel.counters().expect("counters");
    let flows = counters
        .frontends
        .get(&scene::frontend(0, 0))
        .map_or(0, |row| row.flows);
    let refused: u64 = counters.drops.values().sum();
    assert_eq!(flows + refused, 2_000);
    assert!(flows > 1_500, "{flows} flows, refused {:?}", counters.drops);
}

#[test]
fn affinity_ends_with_its_timeout_since_the_last_new_flow() {
    for program in [Program::Xdp, Program::Tc] {
        let kernel = Kernel::load(&Scene::default(), program).expect("the object loads");
        pin(0);
        let number = scene::frontend(0, 0);
        let row = &kernel.rows().flows.frontends[1];
        let open = |flow: u32, affinity: u32| {
            row.set_policy(Policy {
                affinity,
                ..Policy::default()
            });
            let client = [10, 0, 0, 7].into();
            let port = 1_000 + u16::try_from(flow).expect("few");
            let frame = Packet::tcp((client, port), (VIP[0].into(), SERVICE[0].1), Tcp::SYN).bytes();
            let (found, _) = kernel.run(program, &frame, 0).expect("a run");
            assert_eq!(found, sent(program), "flow {flow}");
            let flows: BTreeMap<u32, u64> = kernel
                .counters()
                .expect("counters")
                .backends
                .into_iter()
                .map(|(backend, traffic)| (backend, traffic.flows))
                .collect();
            (0..scene::BACKENDS)
                .map(|n| flows.get(&scene::backend(number, n)).copied().unwrap_or(0))
                .collect::<Vec<_>>()
        };
        assert_eq!(open(0, 1 << 20), [1, 0, 0]);
        assert_eq!(open(1, 1 << 20), [2, 0, 0], "still young");
        kernel.let_pass(3).expect("the clock");
        assert_eq!(open(2, 1), [2, 1, 0], "too old by now, and the turn goes on");
        kernel.let_pass(3).expect("the clock");
        assert_eq!(open(3, 1 << 20), [2, 2, 0], "what came last counts");
        assert_eq!(row.affinity_failures().load(), 0);
    }
}

#[test]
fn clients_of_both_cpus_keep_their_backends() {
    let scene = Scene {
        flows: 8_192,
        ports: 4_000,
        ..Scene::default()
    };
    let kernel = Kernel::load(&scene, Program::Tc).expect("the object loads");
    let policy = Policy {
        affinity: 1 << 30,
        ..Policy::default()
    };
    kernel
        .rows()
        .flows
        .frontends
        .iter()
        .for_each(|row| row.set_policy(policy));
    let gate = Gate::default();
    on_two_cpus(|cpu| {
        gate.pass(0);
        for n in 0..600 {
            // The same 200 clients on both CPUs, of which each meets half of them first.
            let client = [10, 0, 0, u8::try_from((n + cpu * 100) % 200).expect("small")].into();
            let port = 1_000 + u16::try_from(cpu * 1_000 + n).expect("small");
            let frame = Packet::tcp((client, port), (VIP[0].into(), SERVICE[0].1), Tcp::SYN).bytes();
            while kernel.run(Program::Tc, &frame, 0).expect("a run").0 != sent(Program::Tc) {}
        }
    });
    let rows = kernel.rows().flows;
    let mut backends: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for index in 0..rows.layout().buckets() * 4 {
        let (word, flow) = slot(&rows, index).expect("a slot");
        if tag::state(word.load()) == tag::LIVE {
            let binding = flow.binding();
            backends.entry(binding.client).or_default().insert(binding.backend);
        }
    }
    assert_eq!(backends.len(), 200);
    // Where both CPUs meet a client for the first time at once, each may choose.
    let several = backends.values().filter(|backends| backends.len() > 1).count();
    assert!(several < 20, "{several} of 200 clients have several backends");
}

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const WAY_BACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc0];

/// A namespace with a way to the client of [`first_packet`] number 7, over an interface with an MTU of 1300.
fn with_way_back() -> Namespace {
    let namespace = Namespace::new("prog-routes").expect("a namespace");
    for line in [
        "link add back type veth peer name client",
        "link set back address 02:00:00:00:00:c0 mtu 1300 up",
        "link set client up",
        "route add 10.0.0.0/24 dev back",
        "neigh add 10.0.0.7 lladdr 02:00:00:00:00:c1 dev back",
        "-6 route add fd00::/64 dev back",
        "neigh add fd00::7 lladdr 02:00:00:00:00:c1 dev back",
    ] {
        namespace.ip(&line.split(' ').collect::<Vec<_>>()).expect("ip");
    }
    for family in ["ipv4", "ipv6"] {
        namespace
            .sysctl(&format!("net/{family}/conf/all/forwarding"), "1")
            .expect("sysctl");
    }
    namespace
}

#[test]
fn the_way_back_is_what_the_kernel_says() {
    with_way_back()
        .run(|| {
            pin(0);
            for family in 0..2 {
                for program in [Program::Tc, Program::Xdp] {
                    find_the_way_back(family, program);
                }
            }
        })
        .expect("the namespace is entered");
}

fn find_the_way_back(family: usize, program: Program) {
    let kernel = Kernel::load(&Scene::default(), program).expect("the object loads");
    let run = |frame: &[u8]| kernel.run(program, frame, 0).expect("a run");
    assert_eq!(run(&first_packet(family, 1, 7)).0, sent(program));
    let backend = (scene::backend_address(family, 0).into(), scene::BACKEND_PORT[1]);
    let snat = (scene::SNAT[family].into(), scene::FIRST_PORT);
    let answer = Packet::udp(backend, snat, b"answer").bytes();
    let (found, after) = run(&answer);
    if program == Program::Xdp {
        // No XDP program is attached to the interface, so it takes no redirected frames.
        assert_eq!((found, after), (XDP_PASS, answer));
    } else {
        assert_eq!(found, TC_REDIRECT);
        assert_eq!(after[..12], [CLIENT_MAC, WAY_BACK_MAC].concat());
        packet::verify(&after).expect("checksums");
    }
    let rows = kernel.rows().flows;
    let hops: Vec<_> = (0..rows.layout().buckets() * 4)
        .filter_map(|index| slot(&rows, index))
        .filter(|(word, _)| tag::state(word.load()) == tag::LIVE)
        .map(|(_, flow)| flow.client_hop())
        .collect();
    let interface = nix::net::if_::if_nametoindex("back").expect("an interface");
    assert_eq!(hops.len(), 1);
    assert_eq!(
        (hops[0].interface, hops[0].mtu(), hops[0].xdp()),
        (interface, 1_300, false)
    );
    if program == Program::Tc {
        let large = Packet::udp(backend, snat, &[1; 1_290]).bytes();
        let (found, after) = run(&large);
        assert_eq!(found, TC_REDIRECT);
        assert!(after.len() < 200, "an ICMP error: {}", cases::hex(&after));
        packet::verify(&after).expect("checksums");
    }
}

#[test]
fn the_clock_program_reads_jiffies_and_the_monotonic_clock() {
    let kernel = Kernel::load(&Scene::default(), Program::Tc).expect("the object loads");
    let first = kernel.clock().expect("the clock");
    kernel.let_pass(2).expect("the clock");
    let second = kernel.clock().expect("the clock");
    let (ticks, nanoseconds) = (second.jiffies - first.jiffies, second.nanoseconds - first.nanoseconds);
    assert!(ticks >= 3);
    // A tick takes 1 to 10 ms; one more or less may fall into the interval.
    assert!(
        nanoseconds > (ticks - 1) * 1_000_000,
        "{ticks} ticks in {nanoseconds} ns"
    );
    assert!(
        nanoseconds < (ticks + 1) * 10_000_000,
        "{ticks} ticks in {nanoseconds} ns"
    );
    let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime");
    let seconds: f64 = uptime
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a number");
    let read = std::time::Duration::from_nanos(second.nanoseconds).as_secs_f64();
    assert!(
        (seconds - read).abs() < 10.0,
        "{read} s, and /proc/uptime says {seconds} s"
    );
}
