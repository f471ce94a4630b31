//! Virtual addresses that a LAN can reach: who answers for them, with agents stopped, killed and restarted, and how they move.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

mod managers;
mod proxies;
mod site;
mod world;

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use kubelb_tests::agent::config::{Config, Frontend};
use kubelb_tests::agent::{Agent, Setup, Status};
use kubelb_tests::capture::Capture;
use kubelb_tests::lan::INTERFACE;
use kubelb_tests::traffic::client::{expect_refused, ping};
use kubelb_tests::traffic::{Kind, Server, Transport, ask};
use kubelb_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use world::{PORT, SETTLED, SOON, World, addresses, load_balancer, mac, vips};

const MODES: [&str; 2] = ["tcx", "xdp"];

fn signal(agent: &Agent<'_>, signal: Signal) {
    let pid = agent.pid().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn is_served(world: &World) {
    for to in addresses() {
        for transport in [Transport::Tcp, Transport::Udp] {
            wait::until(SOON, || ask(&world.client.namespace, transport, to)).unwrap();
        }
    }
}

/// An address in a status, by the pinned maps.
fn entry(status: &Status, vip: IpAddr) -> Option<&Value> {
    let all = status.get("/addresses")?.as_array()?;
    all.iter().find(|entry| entry["address"] == vip.to_string())
}

/// Of an address's only link: whether it is answered for, and how many conflicts there were.
fn link(status: &Status, vip: IpAddr) -> Option<(bool, u64)> {
    let link = entry(status, vip)?["links"].as_array()?.first()?;
    Some((link["is_answering"].as_bool()?, link["conflicts"].as_u64()?))
}

#[test]
fn only_the_owner_answers_and_a_takeover_moves_the_clients() {
    for mode in MODES {
        let world = World::new();
        let [first, second] = [0, 1].map(|node| world.nodes[node].agent(mode));
        for vip in vips() {
            assert!(world.answerers(vip).is_empty(), "nobody owns {vip}");
        }
        world.give_to(0, 1);
        world.until_answered_by(0, SOON);
        is_served(&world);
        world.until_known_at(0);
        let shown = world.nodes[0].ip(&["address", "show"]);
        assert!(vips().iter().all(|vip| !shown.contains(&vip.to_string())), "{shown}");

        // The client's entries are fresh; they are not waited for.
        world.give_to(1, 2);
        let moved = world.until_known_at(1);
        eprintln!("{mode}: from the owner's change to the client's neighbour entries: {moved:?}");
        world.until_answered_by(1, SETTLED);
        is_served(&world);
        for (agent, is_ours) in [(&first, false), (&second, true)] {
            let shown = |status: &Status| {
                for vip in vips() {
                    let entry = entry(status, vip).ok_or_else(|| anyhow::anyhow!("no {vip}"))?;
                    ensure!(entry["owner"] == "node-2" && entry["epoch"] == 2 && entry["tenant"] == "x");
                    ensure!(entry["is_ours"] == is_ours);
                    ensure!(link(status, vip).map(|(answers, _)| answers) == is_ours.then_some(true));
                }
                Ok(())
            };
            agent.until_status(SOON, shown).unwrap();
        }
        let table = second.status_table().unwrap();
        assert!(table.contains("node-2 (this node)"), "{table}");
        let metrics = second.admin("/metrics").unwrap().1;
        let gauge = format!(
            "kubelb_address_answering{{address=\"{}\",interface=\"{INTERFACE}\"}} 1",
            vips()[0]
        );
        assert!(metrics.contains(&gauge), "{metrics}");

        // An owner that is nobody.
        for node in &world.nodes {
            node.write("owners.yaml", "");
        }
        wait::until(SOON, || {
            for vip in vips() {
                ensure!(world.answerers(vip).is_empty(), "{vip} is answered for");
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn exactly_one_answers_whatever_is_stopped_or_killed() {
    for mode in MODES {
        let world = World::new();
        let [mut first, mut second] = [0, 1].map(|node| world.nodes[node].agent(mode));
        world.give_to(0, 1);
        world.until_answered_by(0, SOON);
        is_served(&world);

        signal(&first, Signal::SIGSTOP);
        world.until_answered_by(0, SETTLED);
        is_served(&world);
        // The other takes over while this one can do nothing.
        world.give_to(1, 2);
        let taken = world.until_answered_by(1, SETTLED);
        eprintln!("{mode}: taken from an agent that is stopped within {taken:?}");
        let status = first.status().unwrap();
        for vip in vips() {
            assert_eq!(link(&status, vip), Some((false, 1)), "{status}");
        }
        is_served(&world);
        signal(&first, Signal::SIGCONT);
        wait::pause(SETTLED);
        world.until_answered_by(1, SETTLED);

        second.kill().unwrap();
        world.until_answered_by(1, SETTLED);
        is_served(&world);
        // A restart moves nothing, and says nothing.
        let quiet = Capture::start(&world.client.namespace, INTERFACE, "arp or icmp6").unwrap();
        second.restart().unwrap();
        world.until_answered_by(1, SETTLED);
        let frames = quiet.finish(1).unwrap();
        let announced = |frame: &&Vec<u8>| frame[6..12] == world.mac(1) && frame[0] & 1 == 1;
        let [v4, v6] = vips();
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
            unreachable!()
        };
        let about = |frame: &&Vec<u8>| {
            let has = |bytes: &[u8]| frame.windows(bytes.len()).any(|window| window == bytes);
            has(&v4.octets()) || has(&v6.octets())
        };
        assert_eq!(frames.iter().filter(announced).filter(about).count(), 0);

        second.kill().unwrap();
        world.give_to(0, 3);
        let taken = world.until_answered_by(0, SETTLED);
        eprintln!("{mode}: taken from an agent that is dead within {taken:?}");
        let status = second.status().unwrap();
        for vip in vips() {
            assert_eq!(link(&status, vip), Some((false, 1)), "{status}");
        }
        is_served(&world);
        // It comes back and learns that it has moved.
        second.restart().unwrap();
        wait::pause(SETTLED);
        world.until_answered_by(0, SETTLED);
        second
            .until_status(SOON, |status| {
                ensure!(
                    vips().iter().all(|vip| link(status, *vip).is_none()),
                    "it has rows still"
                );
                Ok(())
            })
            .unwrap();
        first.kill().unwrap();
        is_served(&world);
    }
}

#[test]
fn without_a_manager_addresses_stay_and_only_with_one_they_are_defended() {
    let world = World::new();
    let node = &world.nodes[0];
    let agent = node.agent("tcx");
    world.give_to(0, 1);
    world.until_answered_by(0, SOON);
    node.stop_manager();
    let is_current = |status: &Status, wanted: bool| {
        ensure!(status.get("/xds/is_current") == Some(&wanted.into()));
        Ok(())
    };
    agent.until_status(SOON, |status| is_current(status, false)).unwrap();
    world.until_answered_by(0, SETTLED);

    // Another machine says that it has them. Whether that is the new owner, nobody is there to say.
    world.usurp();
    let taken_from = |status: &Status, times: u64| {
        for vip in vips() {
            let found = link(status, vip);
            ensure!(
                found.is_some_and(|(_, conflicts)| conflicts == times),
                "{vip}: {found:?}"
            );
        }
        Ok(())
    };
    agent.until_status(SOON, |status| taken_from(status, 1)).unwrap();
    wait::pause(SETTLED);
    assert!(vips().iter().all(|vip| world.answerers(*vip).is_empty()));
    let status = agent.status().unwrap();
    let rival = &entry(&status, vips()[0]).unwrap()["links"][0]["last_rival"];
    let [a, b, c, d, e, f] = mac(&world.server);
    assert_eq!(*rival, format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));

    node.start_manager();
    world.until_answered_by(0, SOON);
    world.usurp();
    agent.until_status(SOON, |status| taken_from(status, 2)).unwrap();
    world.until_answered_by(0, SOON);
    is_served(&world);
    world.until_known_at(0);
}

/// Adds a LoadBalancer of the same addresses that only a proxy can serve (its TCP port).
const PROXIED: u16 = 9_090;

#[test]
fn ports_that_nobody_serves_are_refused_and_a_proxys_reach_it() {
    let world = World::new();
    let proxied = load_balancer(
        "proxied",
        PROXIED,
        "  annotations: {kubelb.k8c.io/proxy-protocol: v2}\n",
    );
    for node in &world.nodes {
        node.write("proxied.yaml", &proxied);
    }
    let [_first, _second] = [0, 1].map(|node| world.nodes[node].agent("tcx"));
    let node = &world.nodes[0].host;
    let _proxy = Server::start(&node.namespace, Kind::Tcp, "proxy", PROXIED).unwrap();
    // Something of the node's own, on all its addresses.
    let _shell = Server::start(&node.namespace, Kind::Tcp, "shell", 2_222).unwrap();
    world.give_to(0, 1);
    world.until_answered_by(0, SOON);
    is_served(&world);
    for vip in vips() {
        let proxied = SocketAddr::new(vip, PROXIED);
        let (name, _) = wait::until(SOON, || ask(&world.client.namespace, Transport::Tcp, proxied)).unwrap();
        assert_eq!(name, "proxy");
        for port in [2_222, 7] {
            for transport in [Transport::Tcp, Transport::Udp] {
                expect_refused(&world.client.namespace, transport, SocketAddr::new(vip, port)).unwrap();
            }
        }
        let own = SocketAddr::new(node.address(vip), 2_222);
        assert_eq!(ask(&world.client.namespace, Transport::Tcp, own).unwrap(), "shell");
        ping(&world.client.namespace, vip, 56).unwrap();
    }
    let has_them = |node: usize| {
        let shown = world.nodes[node].ip(&["address", "show", "dev", "lo"]);
        vips().map(|vip| shown.contains(&format!(" {vip}/")))
    };
    assert_eq!((has_them(0), has_them(1)), ([true; 2], [false; 2]));
    // The address on the loopback interface is no reason to answer; the data path's answer is the only one.
    world.until_answered_by(0, SETTLED);

    world.give_to(1, 2);
    world.until_answered_by(1, SETTLED);
    wait::until(SOON, || {
        ensure!((has_them(0), has_them(1)) == ([false; 2], [true; 2]));
        Ok(())
    })
    .unwrap();
    let refused = SocketAddr::new(vips()[0], PROXIED);
    wait::until(SOON, || {
        expect_refused(&world.client.namespace, Transport::Tcp, refused)
    })
    .unwrap();
    is_served(&world);
}

#[test]
fn questions_about_ipv6_addresses_are_heard_with_the_agent_dead() {
    let world = World::new();
    let node = &world.nodes[0];
    let mut agent = node.agent("tcx");
    world.give_to(0, 1);
    world.until_answered_by(0, SOON);
    is_served(&world);
    let groups = || node.ip(&["-6", "maddress", "show", "dev", INTERFACE]);
    // Of fd77::200, and the same as the interface's filter has it.
    let group = |shown: &str| shown.contains("inet6 ff02::1:ff00:200");
    let filter = || {
        node.ip(&["maddress", "show", "dev", INTERFACE])
            .contains("33:33:ff:00:02:00")
    };
    wait::until(SOON, || {
        ensure!(group(&groups()) && filter(), "{}", groups());
        Ok(())
    })
    .unwrap();
    agent.kill().unwrap();
    assert!(group(&groups()) && filter(), "{}", groups());
    world.until_answered_by(0, SETTLED);
    agent.restart().unwrap();
    assert!(group(&groups()), "{}", groups());
    // The group is no address of the node's for anybody to use.
    ping(&node.host.namespace, world.client.v6.into(), 56).unwrap();

    agent.kill().unwrap();
    agent.detach().unwrap();
    assert!(!group(&groups()) && !filter(), "{}", groups());
    assert!(vips().iter().all(|vip| world.answerers(*vip).is_empty()));
}

#[test]
fn a_file_can_name_addresses_to_announce() {
    let world = World::new();
    let node = &world.nodes[0].host;
    let backend = |vip: IpAddr| SocketAddr::new(world.server.address(vip), 30_700);
    let frontends = vips().map(|vip| {
        let name = if vip.is_ipv4() { "web/v4" } else { "web/v6" };
        Frontend::new(name, SocketAddr::new(vip, PORT), "TCP", &[backend(vip)])
    });
    let mut config = Config::new(frontends.to_vec());
    let quiet = config.yaml();
    config.announce = vips().to_vec();
    let agent = Agent::start(&node.namespace, Setup::new(&[INTERFACE], "tcx"), &config.yaml()).unwrap();
    world.until_answered_by(0, SOON);
    for to in addresses() {
        wait::until(SOON, || ask(&world.client.namespace, Transport::Tcp, to)).unwrap();
    }
    let table = agent.status_table().unwrap();
    assert!(table.contains("this node"), "{table}");
    agent.write_config(&quiet).unwrap();
    wait::until(SOON, || {
        ensure!(
            vips().iter().all(|vip| world.answerers(*vip).is_empty()),
            "still answered"
        );
        Ok(())
    })
    .unwrap();
}
