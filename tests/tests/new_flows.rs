//! Whose connections are let in, and which backend they get: over both families, both transports and both attach modes.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::agent::config::{Frontend, QUICK_CHECK};
use kubelb_tests::agent::{Agent, Config};
use kubelb_tests::traffic::{Conversations, Transport, ask, ask_many, client};
use kubelb_tests::wait;
use kubelb_tests::world::{Mode, Way, World, ensure_round_robin};

const SOON: Duration = Duration::from_secs(20);
const FLOWS: usize = 20;
const CONVERSATIONS: usize = 5;
/// Long enough for an answer; silence is what is waited for.
const SILENCE: Duration = Duration::from_secs(1);

fn with(frontends: &[Frontend], line: impl Fn(&Frontend) -> String) -> Config {
    Config::new(frontends.iter().map(|one| one.clone().with(&line(one))).collect())
}

fn admitting(world: &World, frontends: &[Frontend], length: [u8; 2]) -> Config {
    with(frontends, |frontend| {
        let client = world.net.client_address(frontend.address.ip());
        let length = length[usize::from(client.is_ipv6())];
        let network = ipnet::IpNet::new(client, length).expect("a length").trunc();
        let other = if client.is_ipv6() {
            "2001:db8:dead::/48"
        } else {
            "192.0.2.0/24"
        };
        format!("sourceRanges: [\"{other}\", \"{network}\"]")
    })
}

fn nobody_we_know(frontends: &[Frontend]) -> Config {
    with(frontends, |frontend| {
        let other = if frontend.address.is_ipv6() {
            "2001:db8:dead::/48"
        } else {
            "192.0.2.0/24"
        };
        format!("sourceRanges: [\"{other}\"]")
    })
}

fn until_served(world: &World) {
    wait::until(SOON, || {
        for way in Way::ALL {
            ask(&world.net.client, way.transport, way.address())?;
        }
        Ok(())
    })
    .expect("served");
}

/// Nothing comes back: no answer, no reset, no error.
fn ensure_silence(world: &World, transport: Transport, to: SocketAddr) -> anyhow::Result<()> {
    let asked = world
        .net
        .client
        .run(|| client::ask_here(transport, to, "hello", SILENCE))?;
    let error = match asked {
        Ok(name) => anyhow::bail!("{to} was served by {name}"),
        Err(error) => error,
    };
    let kinds: Vec<std::io::ErrorKind> = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
        .collect();
    ensure!(
        !kinds.contains(&std::io::ErrorKind::ConnectionRefused)
            && !kinds.contains(&std::io::ErrorKind::ConnectionReset),
        "{to} answered: {error:#}"
    );
    Ok(())
}

fn refused(agent: &Agent<'_>, way: Way) -> u64 {
    let status = agent.status().expect("a status");
    let frontend = status.frontend(&way.name()).expect("a frontend");
    frontend.dropped("source-refused")
}

fn source_ranges(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let all = world.frontends();
    let agent = world.agent(&admitting(&world, &all, [24, 64])).expect("an agent");
    until_served(&world);
    let flows = Way::ALL
        .map(|way| Conversations::open(&world.net.client, way.transport, way.address(), CONVERSATIONS).expect("flows"));

    // Other ranges that hold the client too: nobody notices.
    agent
        .write_config(&admitting(&world, &all, [32, 128]).yaml())
        .expect("written");
    wait::until(SOON, || {
        let status = agent.status()?;
        let text = format!("{:?}", status.get("/frontends"));
        ensure!(text.contains("/32") && text.contains("/128"), "{text}");
        Ok(())
    })
    .expect("the status tells the ranges");
    for (way, flows) in Way::ALL.into_iter().zip(&flows) {
        flows.keep_talking(3).with_context(|| way.name()).expect("life");
    }

    // And some that don't: new flows meet silence, and those that there are end.
    agent.write_config(&nobody_we_know(&all).yaml()).expect("written");
    for (way, flows) in Way::ALL.into_iter().zip(&flows) {
        wait::until(SOON, || ensure_silence(&world, way.transport, way.address()))
            .with_context(|| way.name())
            .expect("silence");
        wait::until(SOON, || {
            let failures = flows.ledger().failures.len();
            ensure!(failures == CONVERSATIONS, "{}: {failures} of them ended", way.name());
            Ok(())
        })
        .expect("they end");
        assert!(refused(&agent, way) > 0, "{}", way.name());
    }
    drop(flows);

    agent.write_config(&Config::new(all).yaml()).expect("written");
    until_served(&world);
}

#[test]
fn only_clients_from_the_source_ranges_are_let_in_in_xdp() {
    source_ranges(Mode::Xdp);
}

#[test]
fn only_clients_from_the_source_ranges_are_let_in_in_tcx() {
    source_ranges(Mode::Tcx);
}

fn until_status_says(agent: &Agent<'_>, pointer: &str, value: &serde_json::Value) {
    wait::until(SOON, || {
        let status = agent.status()?;
        let found = status.get(pointer);
        ensure!(found == Some(value), "{found:?}, not {value}");
        Ok(())
    })
    .expect("in force");
}

fn choices(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let all: Vec<Frontend> = world
        .frontends()
        .into_iter()
        .map(|frontend| frontend.checked(QUICK_CHECK))
        .collect();
    let mut agent = world
        .agent(&with(&all, |_| "affinityTimeout: 1h".to_owned()))
        .expect("an agent");
    let mut kept = Vec::new();
    for way in Way::ALL {
        let counts = ask_many(&world.net.client, way.transport, way.address(), FLOWS).expect("answers");
        assert_eq!(counts.len(), 1, "{}: one client, one backend: {counts:?}", way.name());
        kept.push(counts.into_keys().next().expect("one"));
    }
    // What clients had outlives the agent.
    agent.kill().expect("killed");
    agent.restart().expect("an agent");
    for (way, kept) in Way::ALL.into_iter().zip(&kept) {
        let counts = ask_many(&world.net.client, way.transport, way.address(), FLOWS).expect("answers");
        assert_eq!(counts.keys().collect::<Vec<_>>(), [kept], "{}", way.name());
    }
    // A backend that dies gives its clients away.
    let dead = world
        .net
        .tenants
        .iter()
        .position(|tenant| tenant.node_interface == kept[0])
        .expect("a tenant");
    world.kill(dead).expect("killed");
    wait::until(SOON, || {
        let counts = ask_many(&world.net.client, Way::ALL[0].transport, Way::ALL[0].address(), FLOWS)?;
        ensure!(counts.len() == 1 && !counts.contains_key(&kept[0]), "{counts:?}");
        Ok(())
    })
    .expect("another backend");
    world.revive(dead).expect("revived");

    for (line, name, everywhere) in [
        ("algorithm: Maglev", "Maglev", true),
        ("algorithm: MaglevBySource", "MaglevBySource", false),
    ] {
        agent
            .write_config(&with(&all, |_| line.to_owned()).yaml())
            .expect("written");
        until_status_says(&agent, "/frontends/3/algorithm", &name.into());
        for way in Way::ALL {
            wait::until(SOON, || {
                // Ephemeral ports are as good as chance: 80 flows miss one of three backends once in 10^13.
                let counts = ask_many(&world.net.client, way.transport, way.address(), 2 * FLOWS)?;
                let expected = if everywhere { 3 } else { 1 };
                ensure!(counts.len() == expected, "{line}: {counts:?}");
                Ok(())
            })
            .with_context(|| way.name())
            .expect("as many as expected");
        }
    }
    agent.write_config(&Config::new(all).yaml()).expect("written");
    wait::until(SOON, || {
        for way in Way::ALL {
            let counts = ask_many(&world.net.client, way.transport, way.address(), FLOWS)?;
            ensure_round_robin(&counts, 3)?;
        }
        Ok(())
    })
    .expect("in turn again");
}

#[test]
fn clients_keep_their_backends_and_hashes_spread_them_in_xdp() {
    choices(Mode::Xdp);
}

#[test]
fn clients_keep_their_backends_and_hashes_spread_them_in_tcx() {
    choices(Mode::Tcx);
}
