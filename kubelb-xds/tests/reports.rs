//! Both ends of agents' reports: whatever happens to streams, in the end the manager knows what the agent does, and no more is sent than may be.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kubelb_xds::contract::reports::{Drops, ListenerReport, Report, Standing, Traffic, UnhealthyBackend};
use kubelb_xds::reports::{Fault, Limits, PACE, Received, Reporter};
use kubelb_xds::telling::{OutOfPlace, Pace};
use proptest::prelude::*;
use prost::Message as _;

const SPACING: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_millis(500);

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
    Instant::now()
}

fn name(number: u8) -> String {
    format!("tenant-a/web-{number}/203.0.113.10/80-tcp")
}

fn standing(problem: &str, pending: u32, unhealthy: u8) -> Standing {
    Standing {
        problem: problem.to_owned(),
        healthy: 3,
        pending,
        unhealthy: (0..unhealthy)
            .map(|last| UnhealthyBackend {
                address: format!("10.0.0.{last}"),
                port: 30_080,
                since: 7,
            })
            .collect(),
        ..Standing::default()
    }
}

fn traffic(flows: u64) -> Traffic {
    let drops = Drops {
        reason: "no_port".to_owned(),
        packets: flows / 2,
    };
    Traffic {
        new_flows: flows,
        packets_in: flows * 3,
        drops: (flows > 1).then_some(drops).into_iter().collect(),
        ..Traffic::default()
    }
}

/// An agent, a manager, and between them a stream or none.
struct Both {
    now: Instant,
    reporter: Reporter,
    received: Option<Received>,
    standings: BTreeMap<String, Standing>,
    traffic: BTreeMap<String, Traffic>,
    sent: Vec<(Instant, Report)>,
}

impl Both {
    fn new(pace: Pace) -> Self {
        let mut reporter = Reporter::new(1, pace);
        reporter.set_standings(BTreeMap::new());
        Self {
            now: start(),
            reporter,
            received: None,
            standings: BTreeMap::new(),
            traffic: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    fn connect(&mut self) {
        self.reporter.connect(self.now);
        self.received = Some(Received::new(Limits::default()));
        self.sent.clear();
    }

    fn disconnect(&mut self) {
        self.reporter.disconnect();
        self.received = None;
    }

    fn set(&mut self, number: u8, standing: Standing) {
        self.standings.insert(name(number), standing);
        self.reporter.set_standings(self.standings.clone());
    }

    fn count(&mut self, number: u8, flows: u64) {
        self.traffic.insert(name(number), traffic(flows));
        self.reporter.set_traffic(self.traffic.clone());
    }

    /// Lets time pass; every report arrives.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.reporter.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let report = self.reporter.on_timeout(self.now).unwrap();
            self.sent.push((self.now, report.clone()));
            self.received.as_mut().unwrap().take(report).unwrap();
        }
        self.now = until;
    }

    fn ensure_equal(&self) {
        let received = self.received.as_ref().unwrap();
        assert!(received.is_complete());
        let known: BTreeMap<String, u32> = received
            .standings()
            .map(|(name, known)| (name.to_string(), known.pending))
            .collect();
        let wanted: BTreeMap<String, u32> = self
            .standings
            .iter()
            .filter(|(_, standing)| !standing.is_plain())
            .map(|(name, standing)| (name.clone(), standing.pending))
            .collect();
        assert_eq!(known, wanted);
        for (name, standing) in &self.standings {
            let known = received.standing(name);
            assert_eq!(known.map_or("", |known| &known.problem), standing.problem);
            let unhealthy = known.map_or(0, |known| known.unhealthy.len());
            assert_eq!(unhealthy, standing.unhealthy.len());
        }
        let known: BTreeMap<String, Traffic> = received
            .all_traffic()
            .map(|(name, traffic)| (name.to_string(), traffic.clone()))
            .collect();
        let mut wanted = self.traffic.clone();
        wanted.retain(|_, traffic| !traffic.is_none());
        assert_eq!(known, wanted);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Standing(u8, u32, u8),
    Forget(u8),
    Traffic(u8, u64),
    Wait(u16),
    Connect,
    Disconnect,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u8..8, 0_u32..3, 0_u8..3).prop_map(|(name, pending, unhealthy)| Op::Standing(name, pending, unhealthy)),
        2 => (0_u8..8).prop_map(Op::Forget),
        4 => (0_u8..8, 0_u64..4).prop_map(|(name, flows)| Op::Traffic(name, flows)),
        4 => (0_u16..600).prop_map(Op::Wait),
        1 => Just(Op::Connect),
        1 => Just(Op::Disconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_the_manager_knows_what_the_agent_does(
        ops in prop::collection::vec(ops(), 1..60),
        // So small that most states take several reports.
        message_bytes in prop_oneof![Just(1_usize), Just(150), Just(256 << 10)],
    ) {
        let mut both = Both::new(Pace { message_bytes, ..PACE });
        for op in ops {
            match op {
                Op::Standing(name, pending, unhealthy) => both.set(name, standing("", pending, unhealthy)),
                Op::Forget(number) => {
                    both.standings.remove(&name(number));
                    both.traffic.remove(&name(number));
                    both.reporter.set_standings(both.standings.clone());
                    both.reporter.set_traffic(both.traffic.clone());
                }
                Op::Traffic(name, flows) => both.count(name, flows),
                Op::Wait(milliseconds) => both.wait(Duration::from_millis(milliseconds.into())),
                Op::Connect => both.connect(),
                Op::Disconnect => both.disconnect(),
            }
            for pair in both.sent.windows(2) {
                let pause = pair[1].0 - pair[0].0;
                prop_assert!(pause >= SPACING && pause <= HEARTBEAT, "{pause:?} between two reports");
            }
        }
        if both.received.is_none() {
            both.connect();
        }
        both.wait(Duration::from_secs(20));
        both.ensure_equal();
        let many = both.sent.len();
        both.wait(Duration::from_secs(5));
        let idle = |(_, report): &(Instant, Report)| report.listeners.is_empty() && report.removed.is_empty();
        prop_assert!(both.sent[many..].iter().all(idle), "told again: {:?}", &both.sent[many..]);
    }
}

#[test]
fn a_stream_starts_with_everything_and_goes_on_with_what_changes() {
    let mut both = Both::new(PACE);
    both.set(1, standing("no room", 0, 0));
    both.set(2, standing("", 0, 0));
    both.count(3, 5);
    both.connect();
    both.wait(Duration::ZERO);
    let first = both.sent.pop().unwrap().1;
    assert_eq!((first.sequence, first.full, first.more), (1, true, false));
    let told: Vec<&str> = first.listeners.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(told, [name(1), name(3)], "the second is as it should be");
    both.set(1, standing("", 0, 1));
    both.wait(SPACING - Duration::from_millis(1));
    assert!(both.sent.is_empty(), "too soon");
    both.wait(Duration::from_millis(1));
    let second = both.sent.pop().unwrap().1;
    assert_eq!((second.sequence, second.full, second.listeners.len()), (2, false, 1));
    both.wait(HEARTBEAT);
    let beat = both.sent.pop().unwrap().1;
    assert!(beat.encoded_len() < 16, "a heartbeat of {} bytes", beat.encoded_len());
    both.set(1, standing("", 0, 0));
    both.wait(SPACING);
    assert_eq!(both.sent.pop().unwrap().1.removed, [name(1)]);
}

#[test]
fn an_agent_that_knows_nothing_yet_is_heard_and_says_so() {
    let mut both = Both::new(PACE);
    both.reporter = Reporter::new(1, PACE);
    both.connect();
    both.wait(HEARTBEAT * 3);
    assert_eq!(both.sent.len(), 4);
    assert!(!both.received.as_ref().unwrap().is_complete());
    both.set(1, standing("", 0, 0));
    both.wait(SPACING);
    both.ensure_equal();
}

#[test]
fn a_backend_is_unhealthy_since_it_was_first_found_so() {
    let mut both = Both::new(PACE);
    both.connect();
    both.set(1, standing("", 0, 1));
    let mut later = standing("", 0, 2);
    later.unhealthy.iter_mut().for_each(|backend| backend.since = 99);
    both.set(1, later);
    both.wait(SPACING * 2);
    let received = both.received.unwrap();
    let since: Vec<u64> = received
        .standing(&name(1))
        .unwrap()
        .unhealthy
        .iter()
        .map(|each| each.since)
        .collect();
    assert_eq!(since, [7, 99]);
}

#[test]
fn a_manager_does_not_go_on_after_a_gap_or_beyond_its_limits() {
    let report = |sequence, full| Report {
        instance: 1,
        sequence,
        full,
        ..Report::default()
    };
    let mut received = Received::new(Limits::default());
    assert_eq!(received.take(report(1, false)), Err(OutOfPlace::NotFull.into()));
    assert!(received.take(report(1, true)).unwrap().completed);
    assert_eq!(
        received.take(report(3, false)),
        Err(OutOfPlace::Sequence { expected: 2, got: 3 }.into())
    );
    assert_eq!(
        received.take(report(1, true)),
        Err(OutOfPlace::Sequence { expected: 2, got: 1 }.into())
    );
    let other = Report {
        instance: 2,
        ..report(2, false)
    };
    assert_eq!(received.take(other), Err(Fault::Instance { expected: 1, got: 2 }));

    let about = |name: &str, standing: Standing| Report {
        listeners: vec![ListenerReport {
            name: name.to_owned(),
            standing: Some(standing),
            traffic: None,
        }],
        ..report(1, true)
    };
    let limits = Limits {
        names: 1,
        name_bytes: 100,
        bytes: 1_000,
        problem_bytes: 10,
        reasons: 1,
    };
    let take = |report| Received::new(limits).take(report).unwrap_err();
    assert_eq!(take(about("", standing("", 1, 0))), Fault::Name(100));
    assert_eq!(take(about(&"x".repeat(101), standing("", 1, 0))), Fault::Name(100));
    assert_eq!(take(about("x", standing("", 1, 100))), Fault::TooManyBytes(1_000));
    let mut odd = standing("", 1, 1);
    odd.unhealthy[0].port = 65_536;
    assert_eq!(take(about("x", odd)), Fault::Backend("10.0.0.0 65536".to_owned()));
    let mut two = about("x", standing("", 1, 0));
    two.listeners.extend(about("y", standing("", 1, 0)).listeners);
    assert_eq!(take(two), Fault::TooManyNames(1));
    let mut received = Received::new(limits);
    received.take(about("x", standing("a problem ö", 1, 0))).unwrap();
    assert_eq!(&*received.standing("x").unwrap().problem, "a problem ");
}

#[test]
fn a_node_without_trouble_or_traffic_costs_nothing_however_much_it_forwards() {
    let mut both = Both::new(PACE);
    for number in 0..=u8::MAX {
        both.set(number, standing("", 0, 0));
    }
    both.connect();
    both.wait(Duration::from_secs(10));
    let bytes: usize = both.sent.iter().map(|(_, report)| report.encoded_len()).sum();
    assert!(bytes < 400, "{bytes} bytes in ten seconds");
    both.ensure_equal();
}
