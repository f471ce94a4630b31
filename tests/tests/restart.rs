//! The agent dies, is killed, restarted and asked to leave: the kernel goes on forwarding.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use kubelb_tests::agent::config::QUICK_CHECK;
use kubelb_tests::agent::{Agent, Config, Setup};
use kubelb_tests::tool;
use kubelb_tests::traffic::{Conversations, Iperf, ask_many, client};
use kubelb_tests::world::{BULK_PORT, Mode, Way, World, ensure_round_robin};

const RESTARTS: usize = 20;
/// Of each way: a hundred in all.
const CONNECTIONS: usize = 25;

/// Kills and restarts, each of which also replaces the programs, under open flows and bulk data.
fn restarts(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let mut frontends: Vec<_> = world
        .frontends()
        .into_iter()
        .map(|frontend| frontend.checked(QUICK_CHECK))
        .collect();
    frontends.extend(world.bulk_frontends());
    let mut agent = world.agent(&Config::new(frontends)).expect("an agent");
    let open =
        |way: Way| Conversations::open(&world.net.client, way.transport, way.address(), CONNECTIONS).expect("flows");
    let flows = Way::ALL.map(open);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One run after the other, so that some are also begun while there is no agent.
        let bulk = scope.spawn(|| -> anyhow::Result<u32> {
            let mut runs = 0;
            while !over.load(Ordering::Relaxed) {
                let way = Way::ALL[usize::try_from(runs)? % 2];
                let to = SocketAddr::new(way.vip, BULK_PORT);
                let server = &world.net.tenants[0].namespace;
                let run = Iperf::start(server, BULK_PORT, &world.net.client, way.transport, to, 4, 0)?;
                let report = run.finish().with_context(|| format!("iperf3 run {runs}"))?;
                anyhow::ensure!(report.silent_seconds == 0, "run {runs}: {report:?}");
                runs += 1;
            }
            Ok(runs)
        });
        for restart in 0..RESTARTS {
            agent.kill().expect("killed");
            for flows in &flows {
                flows
                    .keep_talking(3)
                    .with_context(|| format!("restart {restart}"))
                    .expect("life without the agent");
            }
            agent.restart().expect("an agent");
        }
        for flows in &flows {
            flows.keep_talking(3).expect("life after all of it");
        }
        over.store(true, Ordering::Relaxed);
        let drops = agent.status().expect("a status").drops();
        assert!(drops.is_empty(), "{drops:?}");
        let runs = bulk.join().expect("no panic").expect("bulk data flows");
        assert!(runs > 0);
    });
    for (flows, way) in flows.into_iter().zip(Way::ALL) {
        let ledger = flows.finish().expect("they were open");
        assert!(ledger.failures.is_empty(), "{}: {:#?}", way.name(), ledger.failures);
    }
}

#[test]
fn twenty_kills_and_restarts_break_no_flow_in_xdp() {
    restarts(Mode::Xdp);
}

#[test]
fn twenty_kills_and_restarts_break_no_flow_in_tcx() {
    restarts(Mode::Tcx);
}

#[test]
fn new_flows_go_round_while_no_agent_runs() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let mut agent = world.agent(&Config::new(world.frontends())).expect("an agent");
        agent.kill().expect("killed");
        for way in Way::ALL {
            let counts = ask_many(&world.net.client, way.transport, way.address(), 9).expect("answers");
            ensure_round_robin(&counts, 3)
                .with_context(|| way.name())
                .expect("equal turns");
        }
        let status = agent.status().expect("a status without an agent");
        assert_eq!(status.get("/agent/running"), Some(&false.into()));
        assert_eq!(status.frontend_names().len(), Way::ALL.len());
    }
}

#[test]
fn sigterm_leaves_forwarding_on_and_says_so() {
    let world = World::new(Mode::Xdp).expect("a world");
    let mut agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    let flows =
        Way::ALL.map(|way| Conversations::open(&world.net.client, way.transport, way.address(), 5).expect("flows"));
    let (status, log) = agent.terminate().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(
        log.contains("forward") && log.contains("detach"),
        "it says what goes on and how to end it: {log}"
    );
    for flows in flows {
        flows.keep_talking(3).expect("life");
    }
}

/// Programs on the node's interfaces, as the kernel has them: XDP, and tcx in both directions.
fn attached(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for interface in world.net.node_interfaces() {
        let mut show = world.net.node.command("ip");
        let shown = tool::output(show.args(["-json", "link", "show", "dev", interface])).expect("ip");
        let link: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        if link.pointer("/0/xdp").is_some() {
            found.push(format!("{interface} xdp"));
        }
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let query = || SchedClassifier::query_tcx(interface, direction);
            let (_, programs) = world.net.node.run(query).expect("a thread").expect("an answer");
            found.extend(
                programs
                    .iter()
                    .map(|program| format!("{interface} tcx {}", program.id())),
            );
        }
    }
    found
}

#[test]
fn detach_removes_everything() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let mut agent = world.agent(&Config::new(world.frontends())).expect("an agent");
        assert!(attached(&world).len() >= world.net.node_interfaces().len());
        agent.terminate().expect("it ends");
        agent.detach().expect("detached");
        assert_eq!(attached(&world), Vec::<String>::new());
        let left = std::fs::read_dir(agent.bpffs()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "pins in {}", agent.bpffs().display());
        for way in Way::ALL {
            assert!(
                client::ask(&world.net.client, way.transport, way.address()).is_err(),
                "{}",
                way.name()
            );
        }
        agent.detach().expect("detaching nothing is no error");
        agent.restart().expect("an agent that starts from nothing");
        for way in Way::ALL {
            client::ask(&world.net.client, way.transport, way.address()).expect("an answer");
        }
    }
}

/// Restarts with more room for backends, and with less again, under open flows.
#[test]
fn tables_of_backends_grow_under_open_flows() {
    let world = World::new(Mode::Tcx).expect("a world");
    let frontends: Vec<_> = world
        .frontends()
        .into_iter()
        .map(|frontend| frontend.checked(QUICK_CHECK))
        .collect();
    let setup = Setup {
        more: vec!["--max-backends=1024".to_owned()],
        ..Setup::new(&world.net.node_interfaces(), Mode::Tcx.flag())
    };
    let config = Config::new(frontends).yaml();
    let mut agent = Agent::start(&world.net.node, setup, &config).expect("an agent");
    let rows = |agent: &Agent<'_>| {
        let status = agent.status().expect("a status");
        let maps = status.get("/maps").and_then(serde_json::Value::as_array).cloned();
        let maps = maps.expect("maps");
        let backends = maps.iter().find(|map| map["name"] == "BACKENDS").expect("the backends");
        (backends["used"].as_u64(), backends["capacity"].as_u64())
    };
    assert_eq!(rows(&agent), (Some(12), Some(1_024)));
    let way = Way::ALL[0];
    let flows = Conversations::open(&world.net.client, way.transport, way.address(), CONNECTIONS).expect("flows");
    let answered = |agent: &Agent<'_>| {
        let status = agent.status().expect("a status");
        let frontends = status.get("/frontends").and_then(serde_json::Value::as_array).cloned();
        let frontends = frontends.expect("frontends");
        let found = frontends
            .iter()
            .find(|frontend| frontend["name"] == way.name().as_str());
        found.expect("a frontend")["flows_total"].as_u64().expect("a number")
    };
    let before = answered(&agent);
    let mut asked = 0;
    for (room, capacity) in [("4096", 4_096), ("2048", 4_096)] {
        agent.kill().expect("killed");
        flows.keep_talking(3).expect("life without the agent");
        agent.set_flags(&["--max-backends", room]);
        agent.restart().expect("an agent");
        assert_eq!(rows(&agent), (Some(12), Some(capacity)), "asked for {room}");
        flows.keep_talking(3).expect("life with other tables");
        let counts = ask_many(&world.net.client, way.transport, way.address(), 6).expect("new flows");
        ensure_round_robin(&counts, 3).expect("each has its turn");
        asked += u64::try_from(counts.values().sum::<usize>()).expect("few");
    }
    assert_eq!(answered(&agent), before + asked, "what was counted is kept");
    let ledger = flows.finish().expect("they were open");
    assert!(ledger.failures.is_empty(), "{:#?}", ledger.failures);
}
