//! The configuration file changes under a running agent.
#![expect(clippy::expect_used, reason = "tests say what they expect")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::agent::config::Frontend;
use kubelb_tests::agent::{Agent, Config};
use kubelb_tests::traffic::{Conversations, Kind, Server, Transport, ask, ask_many, client};
use kubelb_tests::world::{Mode, Way, World, ensure_round_robin};

const SOON: Duration = Duration::from_secs(10);

fn until_frontends(agent: &Agent<'_>, wanted: &[Frontend]) {
    let applied = |status: &kubelb_tests::agent::Status| {
        let mut names: Vec<&str> = wanted.iter().map(|frontend| frontend.name.as_str()).collect();
        let mut found = status.frontend_names();
        names.sort_unstable();
        found.sort_unstable();
        ensure!(names == found, "frontends {found:?}, not {names:?}");
        for frontend in wanted {
            let states = status.frontend(&frontend.name)?.states();
            let active: Vec<SocketAddr> = states
                .into_iter()
                .filter_map(|(address, state)| (state == "active").then_some(address))
                .collect();
            let mut backends = frontend.backends.clone();
            backends.sort_unstable();
            ensure!(
                active == backends,
                "{}: backends {active:?}, not {backends:?}",
                frontend.name
            );
        }
        Ok(())
    };
    agent.until_status(SOON, applied).expect("applied");
}

#[test]
fn frontends_come_change_and_go_and_the_others_flows_go_on() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let all = world.frontends();
        let agent = world.agent(&Config::new(all.clone())).expect("an agent");
        let flows = Way::ALL
            .map(|way| Conversations::open(&world.net.client, way.transport, way.address(), 10).expect("flows"));
        let servers: Vec<Server> = world
            .net
            .tenants
            .iter()
            .map(|tenant| Server::start(&tenant.namespace, Kind::Tcp, "new", 30_800).expect("a server"))
            .collect();
        for vip in [Way::ALL[0].vip, Way::ALL[1].vip] {
            let address = SocketAddr::new(vip, 8_000);
            let backends: Vec<SocketAddr> = world
                .net
                .tenants
                .iter()
                .map(|tenant| SocketAddr::new(tenant.address(vip), servers[0].port()))
                .collect();
            // Added, with the name before all others so that nothing may depend on the order; changed; removed.
            for count in [1, 3, 2] {
                let mut frontends = all.clone();
                frontends.insert(0, Frontend::new("a/first", address, "TCP", &backends[..count]));
                agent
                    .write_config(&Config::new(frontends.clone()).yaml())
                    .expect("written");
                until_frontends(&agent, &frontends);
                let counts = ask_many(&world.net.client, Transport::Tcp, address, 3).expect("answers");
                assert_eq!(counts.keys().collect::<Vec<_>>(), ["new"]);
            }
            agent.write_config(&Config::new(all.clone()).yaml()).expect("written");
            until_frontends(&agent, &all);
            assert!(ask(&world.net.client, Transport::Tcp, address).is_err());
        }
        for (flows, way) in flows.into_iter().zip(Way::ALL) {
            flows.keep_talking(3).with_context(|| way.name()).expect("life");
            let ledger = flows.finish().expect("they were open");
            assert!(ledger.failures.is_empty(), "{}: {:#?}", way.name(), ledger.failures);
        }
    }
}

#[test]
fn backends_that_are_added_get_their_turn_and_flows_stay_where_they_are() {
    let world = World::new(Mode::Xdp).expect("a world");
    let all = world.frontends();
    let mut one = all.clone();
    one.iter_mut().for_each(|frontend| frontend.backends.truncate(1));
    let agent = world.agent(&Config::new(one)).expect("an agent");
    let flows =
        Way::ALL.map(|way| Conversations::open(&world.net.client, way.transport, way.address(), 10).expect("flows"));
    agent.write_config(&Config::new(all.clone()).yaml()).expect("written");
    until_frontends(&agent, &all);
    for (flows, way) in flows.into_iter().zip(Way::ALL) {
        let counts = ask_many(&world.net.client, way.transport, way.address(), 9).expect("answers");
        ensure_round_robin(&counts, 3)
            .with_context(|| way.name())
            .expect("equal turns");
        flows.keep_talking(3).with_context(|| way.name()).expect("life");
        let ledger = flows.finish().expect("they were open");
        assert_eq!(
            (ledger.servers["tenant1"], ledger.failures),
            (10, Vec::new()),
            "{}",
            way.name()
        );
    }
}

#[test]
fn tcp_flows_of_a_removed_backend_are_let_finish() {
    let world = World::new(Mode::Xdp).expect("a world");
    let all = world.frontends();
    let agent = world.agent(&Config::new(all.clone())).expect("an agent");
    let ways: Vec<Way> = Way::ALL
        .into_iter()
        .filter(|way| way.transport == Transport::Tcp)
        .collect();
    let flows: Vec<Conversations> = ways
        .iter()
        .map(|way| Conversations::open(&world.net.client, way.transport, way.address(), 9).expect("flows"))
        .collect();
    let mut fewer = all;
    fewer.iter_mut().for_each(|frontend| frontend.backends.truncate(1));
    agent.write_config(&Config::new(fewer.clone()).yaml()).expect("written");
    until_frontends(&agent, &fewer);
    for (flows, way) in flows.into_iter().zip(ways) {
        let counts = ask_many(&world.net.client, way.transport, way.address(), 6).expect("answers");
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["tenant1"], "{}", way.name());
        flows.keep_talking(3).with_context(|| way.name()).expect("life");
        let ledger = flows.finish().expect("they were open");
        assert!(ledger.failures.is_empty(), "{}: {:#?}", way.name(), ledger.failures);
    }
}

#[test]
fn an_invalid_change_is_refused_whole_and_named() {
    let world = World::new(Mode::Xdp).expect("a world");
    let agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    let good = Config::new(world.frontends()).yaml();
    let error = |wanted: Option<&str>| {
        agent.until_status(SOON, |status| {
            let error = status.get("/agent/config_error").and_then(|error| error.as_str());
            ensure!(
                error.is_some() == wanted.is_some() && error.unwrap_or_default().contains(wanted.unwrap_or_default()),
                "{error:?} instead of {wanted:?}"
            );
            Ok(())
        })
    };
    let cases = [
        // The first frontend is valid and new in each: it must not be taken either.
        ("port: 700\n", "port: 0\n", "frontends[1].port:"),
        ("protocol: UDP", "protocol: SCTP", ".protocol:"),
        ("algorithm: RoundRobin", "algorithm: Roundrobin", ".algorithm:"),
        ("weight: 1", "weigth: 1", "weigth"),
        ("frontends:", "frontends: [", "YAML"),
    ];
    for (from, to, named) in cases {
        let frontends = world.frontends().into_iter();
        let mut config = Config::new(frontends.map(|one| one.with("algorithm: RoundRobin")).collect());
        config.frontends.insert(
            0,
            Frontend::new("new/one", "203.0.113.99:1".parse().expect("valid"), "TCP", &[]),
        );
        let text = config.yaml();
        assert!(text.contains(from), "{from} is not in {text}");
        agent.write_config(&text.replace(from, to)).expect("written");
        error(Some(named)).expect("refused");
        error(Some("/config.yaml:")).expect("with file and line");
        let status = agent.status().expect("a status");
        assert!(!status.frontend_names().contains(&"new/one"), "{to} was taken in part");
        let said = status.get("/agent/config_error").and_then(|error| error.as_str());
        assert!(
            said.is_some_and(|said| said.contains(named)),
            "the command says {said:?}"
        );
        for way in Way::ALL {
            let counts = ask_many(&world.net.client, way.transport, way.address(), 3).expect("answers");
            ensure_round_robin(&counts, 3)
                .with_context(|| way.name())
                .expect("equal turns");
        }
        agent.write_config(&good).expect("written");
        error(None).expect("in force again");
    }
}

#[test]
fn a_frontend_without_backends_refuses_at_once() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let mut frontends = world.frontends();
        frontends.iter_mut().for_each(|frontend| frontend.backends.clear());
        let agent = world.agent(&Config::new(frontends)).expect("an agent");
        for way in Way::ALL {
            client::expect_refused(&world.net.client, way.transport, way.address())
                .with_context(|| way.name())
                .expect("a refusal");
            let condition = agent
                .status()
                .expect("a status")
                .frontend(&way.name())
                .expect("a frontend")
                .condition();
            assert_eq!(condition, "no-backends", "{}", way.name());
        }
    }
}

#[test]
fn a_vip_answers_ping() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let _agent = world.agent(&Config::new(world.frontends())).expect("an agent");
        for way in Way::ALL {
            for size in [0, 56, 1_400] {
                client::ping(&world.net.client, way.vip, size)
                    .with_context(|| format!("{mode:?}"))
                    .expect("an echo");
            }
        }
    }
}
