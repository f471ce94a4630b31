//! Backends that die and come back.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kubelb_tests::agent::config::QUICK_CHECK;
use kubelb_tests::agent::{Agent, Config};
use kubelb_tests::traffic::client::ask_here;
use kubelb_tests::traffic::{Conversations, Transport, ask_many};
use kubelb_tests::wait;
use kubelb_tests::world::{Mode, Way, World, ensure_round_robin};

const INTERVAL: Duration = Duration::from_secs(1);
/// Two failed checks decide that a backend is dead, one that passes that it is back. The port is that of the TCP server,
/// also for UDP.
const CHECK: &str =
    "{type: TCP, port: 30700, interval: 1s, timeout: 500ms, healthyThreshold: 1, unhealthyThreshold: 2}";
/// Jitter of the checks (they spread over a tenth of the interval), and a busy machine.
const SLACK: Duration = Duration::from_millis(500);
const VICTIM: usize = 1;

fn checked(world: &World, check: &str) -> Config {
    Config::new(
        world
            .frontends()
            .into_iter()
            .map(|frontend| frontend.checked(check))
            .collect(),
    )
}

/// Flows that the data path has opened to `backend`.
fn flows_to(agent: &Agent<'_>, way: Way, backend: SocketAddr) -> u64 {
    let status = agent.status().expect("a status");
    status.frontend(&way.name()).expect("a frontend").flows_by_backend()[&backend]
}

/// Between two flows: their SNAT ports must last for the test, since UDP flows keep theirs for minutes.
const PACE: Duration = Duration::from_millis(3);

/// Opens one flow after the other while `work` goes on; some of them may fail.
fn under_load<T>(world: &World, way: Way, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            world.net.client.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(ask_here(
                        way.transport,
                        way.address(),
                        "hello",
                        Duration::from_millis(100),
                    ));
                    wait::pause(PACE);
                }
            })
        });
        let result = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        client.join().expect("no panic").expect("a thread");
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Watches for `time` and returns when flows to `backend` were seen last.
fn last_flow(agent: &Agent<'_>, way: Way, backend: SocketAddr, time: Duration) -> Instant {
    let start = wait::now();
    let (mut seen, mut last) = (flows_to(agent, way, backend), start);
    while wait::now() - start < time {
        let now = flows_to(agent, way, backend);
        if now > seen {
            (seen, last) = (now, wait::now());
        }
    }
    last
}

fn dead_and_back(transport: Transport) {
    let world = World::new(Mode::Xdp).expect("a world");
    let agent = world.agent(&checked(&world, CHECK)).expect("an agent");
    for way in Way::ALL.into_iter().filter(|way| way.transport == transport) {
        let backend = world.backends(way.vip)[VICTIM];
        under_load(&world, way, || {
            world.kill(VICTIM).expect("killed");
            let dead = wait::now();
            let last = last_flow(&agent, way, backend, INTERVAL * 6);
            // The first failed check comes within one interval of the death, the second one interval later.
            assert!(
                last - dead <= INTERVAL * 2 + INTERVAL + SLACK,
                "{}: {:?}",
                way.name(),
                last - dead
            );
            assert!(last > dead, "{}: it got flows until it was found dead", way.name());

            let before = flows_to(&agent, way, backend);
            world.revive(VICTIM).expect("revived");
            let (_, took) = wait::until(INTERVAL * 6, || {
                ensure!(
                    flows_to(&agent, way, backend) > before,
                    "no flows to the revived backend"
                );
                Ok(())
            })
            .expect("it comes back");
            assert!(took <= INTERVAL + INTERVAL + SLACK, "{}: {took:?}", way.name());
        });
        let counts = ask_many(&world.net.client, way.transport, way.address(), 9).expect("answers");
        ensure_round_robin(&counts, 3)
            .with_context(|| way.name())
            .expect("equal turns again");
    }
}

#[test]
fn tcp_leaves_a_dead_backend_within_an_interval_of_its_threshold_and_comes_back() {
    dead_and_back(Transport::Tcp);
}

#[test]
fn udp_leaves_a_dead_backend_within_an_interval_of_its_threshold_and_comes_back() {
    dead_and_back(Transport::Udp);
}

/// That so many backends of each way are healthy.
fn until_healthy(agent: &Agent<'_>, count: usize, within: Duration) -> anyhow::Result<Duration> {
    agent.until_status(within, |status| {
        for way in Way::ALL {
            let healths = status.frontend(&way.name())?.healths();
            let found = healths.values().filter(|health| *health == "healthy").count();
            ensure!(found == count, "{}: {healths:?}", way.name());
        }
        Ok(())
    })
}

#[test]
fn a_dead_machine_is_left_too_and_nobody_else_notices() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let agent = world.agent(&checked(&world, QUICK_CHECK)).expect("an agent");
        let healthy = |count| until_healthy(&agent, count, Duration::from_secs(10));
        healthy(3).expect("all are well");
        let flows =
            Way::ALL.map(|way| Conversations::open(&world.net.client, way.transport, way.address(), 6).expect("flows"));
        world.net.set_tenant_link(VICTIM, false).expect("down");
        healthy(2).expect("it is found dead");
        for way in Way::ALL {
            let counts = ask_many(&world.net.client, way.transport, way.address(), 6).expect("answers");
            ensure_round_robin(&counts, 2)
                .with_context(|| way.name())
                .expect("equal turns of the others");
        }
        world.net.set_tenant_link(VICTIM, true).expect("up");
        healthy(3).expect("it is found alive");
        for way in Way::ALL {
            let counts = ask_many(&world.net.client, way.transport, way.address(), 6).expect("answers");
            ensure_round_robin(&counts, 3)
                .with_context(|| way.name())
                .expect("equal turns of all");
        }
        for (flows, way) in flows.into_iter().zip(Way::ALL) {
            let ledger = flows.finish().expect("they were open");
            let strangers: BTreeSet<&String> = ledger
                .failures
                .iter()
                .filter(|line| !line.contains("tenant2"))
                .collect();
            assert!(strangers.is_empty(), "{}: {strangers:?}", way.name());
        }
    }
}

/// Who answers on a connection that stays open.
fn converse(stream: &mut TcpStream, said: &str) -> std::io::Result<String> {
    stream.write_all(format!("{said}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The same of a UDP socket that stays open.
fn exchange(socket: &UdpSocket, said: &str) -> std::io::Result<String> {
    socket.send(said.as_bytes())?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(answer.split_whitespace().next().unwrap_or_default().to_owned())
}

#[test]
fn connections_to_a_dead_machine_are_reset_where_that_is_asked_for_and_datagrams_move() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let frontends = world
            .frontends()
            .into_iter()
            .map(|frontend| frontend.checked(QUICK_CHECK).with("onUnhealthy: Reset"))
            .collect();
        let agent = world.agent(&Config::new(frontends)).expect("an agent");
        let healthy = |count| until_healthy(&agent, count, Duration::from_secs(20));
        healthy(3).expect("all are well");
        let on_client = |work: &mut (dyn FnMut() + Send)| world.net.client.run(work).expect("the namespace is entered");
        let mut connections: Vec<(String, TcpStream)> = Vec::new();
        let mut sockets: Vec<(String, UdpSocket)> = Vec::new();
        on_client(&mut || {
            for way in Way::ALL {
                for _ in 0..3 {
                    if way.transport == Transport::Tcp {
                        let mut stream = TcpStream::connect(way.address()).expect("a connection");
                        stream
                            .set_read_timeout(Some(Duration::from_secs(20)))
                            .expect("an option");
                        connections.push((converse(&mut stream, "hello").expect("an answer"), stream));
                    } else {
                        let any: std::net::IpAddr =
                            if way.vip.is_ipv4() { "0.0.0.0" } else { "::" }.parse().expect("any");
                        let socket = UdpSocket::bind((any, 0)).expect("a socket");
                        socket.connect(way.address()).expect("an address");
                        socket
                            .set_read_timeout(Some(Duration::from_secs(10)))
                            .expect("an option");
                        sockets.push((exchange(&socket, "hello").expect("an answer"), socket));
                    }
                }
            }
        });
        world.net.set_tenant_link(VICTIM, false).expect("down");
        healthy(2).expect("it is found dead");
        let mut reset = 0;
        on_client(&mut || {
            for (name, stream) in &mut connections {
                if name == "tenant2" {
                    // It waits, and says nothing.
                    let error = stream.read(&mut [0]).expect_err("nobody is there");
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                    reset += 1;
                } else {
                    let same = converse(stream, "still there?").expect("an answer");
                    assert_eq!(same, *name, "a connection moves to nobody");
                }
            }
            for (name, socket) in &sockets {
                let now = exchange(socket, "still there?").expect("somebody answers");
                assert_eq!(now == *name, name != "tenant2", "{name}, then {now}");
            }
        });
        assert_eq!(reset, 2, "one of each family, in turn");
    }
}

#[test]
fn when_every_backend_is_dead_all_get_traffic() {
    let world = World::new(Mode::Xdp).expect("a world");
    // A port that nobody listens on: the checks are wrong, the backends are well.
    let check = QUICK_CHECK.replace("30700", "9");
    let agent = world.agent(&checked(&world, &check)).expect("an agent");
    agent
        .until_status(Duration::from_secs(10), |status| {
            for way in Way::ALL {
                let condition = status.frontend(&way.name())?.condition();
                ensure!(condition == "fail-open", "{}: {condition}", way.name());
            }
            Ok(())
        })
        .expect("fail open");
    for way in Way::ALL {
        let counts = ask_many(&world.net.client, way.transport, way.address(), 6).expect("answers");
        ensure_round_robin(&counts, 3)
            .with_context(|| way.name())
            .expect("equal turns of all");
    }
}
