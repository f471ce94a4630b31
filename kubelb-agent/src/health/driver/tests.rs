//! The driver under tokio's paused clock, with backends made of an atomic.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::model::{HealthCheck, PortRange};

/// Ports that are down; each check takes `latency`.
#[derive(Clone, Default)]
struct Fake(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    latency: Mutex<Duration>,
    down: Mutex<BTreeSet<u16>>,
    running: Mutex<(usize, usize)>,
    probes: Mutex<BTreeMap<u16, usize>>,
}

impl Prober for Fake {
    async fn probe(&self, target: CheckTarget, _: ProbeBind) -> Result<(), ProbeError> {
        let state = &self.0;
        let port = target.address.port();
        {
            let mut running = state.running.lock().unwrap();
            *running = (running.0 + 1, running.1.max(running.0 + 1));
            *state.probes.lock().unwrap().entry(port).or_default() += 1;
        }
        let latency = *state.latency.lock().unwrap();
        // The paused clock jumps over it.
        drop(tokio::time::timeout(latency, std::future::pending::<()>()).await);
        state.running.lock().unwrap().0 -= 1;
        assert!(port != 666, "a prober that panics");
        if state.down.lock().unwrap().contains(&port) {
            Err(ProbeError::Timeout)
        } else {
            Ok(())
        }
    }
}

fn target(port: u16) -> CheckTarget {
    CheckTarget {
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        check: Arc::new(HealthCheck::tcp()),
    }
}

fn assignment(ports: impl IntoIterator<Item = u16>) -> Assignment {
    Assignment {
        targets: ports.into_iter().map(target).collect(),
        bind: ProbeBind {
            exclude: PortRange::NODE_DEFAULT,
        },
    }
}

struct Bench {
    fake: Fake,
    assignments: watch::Sender<Assignment>,
    results: watch::Receiver<HealthView>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(ports: impl IntoIterator<Item = u16>, concurrency: usize, latency: Duration) -> Bench {
    let fake = Fake::default();
    *fake.0.latency.lock().unwrap() = latency;
    let (assignments, receiver) = watch::channel(assignment(ports));
    let (sender, results) = watch::channel(HealthView::new());
    let counters = Arc::new(Counters::default());
    let shutdown = CancellationToken::new();
    let settings = Settings {
        seed: 1,
        concurrency: NonZeroUsize::new(concurrency).unwrap(),
        per_second: 1_000_000,
    };
    let task = tokio::spawn(run(
        settings,
        fake.clone(),
        receiver,
        HealthView::new(),
        sender,
        Arc::clone(&counters),
        shutdown.clone(),
    ));
    Bench {
        fake,
        assignments,
        results,
        counters,
        shutdown,
        task,
    }
}

impl Bench {
    /// Waits until the view says so, and how long that took.
    async fn until(&mut self, condition: impl FnMut(&HealthView) -> bool) -> Duration {
        let start = Instant::now();
        tokio::time::timeout(Duration::from_secs(120), self.results.wait_for(condition))
            .await
            .unwrap()
            .unwrap();
        start.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn failover_and_return_keep_the_promised_times() {
    let mut bench = start([80, 81], 8, Duration::from_millis(1));
    let known = bench.until(|view| view.len() == 2).await;
    assert!(known <= Duration::from_millis(1_010), "first results after {known:?}");

    bench.fake.0.down.lock().unwrap().insert(80);
    let out = bench
        .until(|view| view.get(&target(80)) == Some(&Health::Unhealthy))
        .await;
    assert!(
        out <= Duration::from_secs(5).mul_f64(3.3) + Duration::from_millis(10),
        "out after {out:?}"
    );
    assert_eq!(bench.results.borrow().get(&target(81)), Some(&Health::Healthy));

    bench.fake.0.down.lock().unwrap().clear();
    let back = bench
        .until(|view| view.get(&target(80)) == Some(&Health::Healthy))
        .await;
    assert!(back <= Duration::from_secs(5), "back after {back:?}");
}

#[tokio::test(start_paused = true)]
async fn thousands_of_checks_share_a_few_places_and_none_is_lost() {
    let mut bench = start(1001..=4000, 50, Duration::from_millis(20));
    bench.until(|view| view.len() == 3000).await;
    assert_eq!(bench.fake.0.running.lock().unwrap().1, 50, "the limit is used and kept");
    assert!(bench.counters.delayed.load(Ordering::Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn targets_follow_the_assignment() {
    let mut bench = start([80], 8, Duration::from_millis(1));
    bench.until(|view| view.contains_key(&target(80))).await;
    bench.assignments.send_replace(assignment([81]));
    bench
        .until(|view| view.len() == 1 && view.contains_key(&target(81)))
        .await;
    let probes = bench.fake.0.probes.lock().unwrap()[&80];
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(
        bench.fake.0.probes.lock().unwrap()[&80],
        probes,
        "a removed target is not checked"
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_check_is_this_nodes_fault_and_the_target_is_checked_again() {
    let mut bench = start([80, 666], 8, Duration::from_millis(1));
    bench.until(|view| view.contains_key(&target(80))).await;
    let counters = Arc::clone(&bench.counters);
    let again = async {
        while counters.local_errors.load(Ordering::Relaxed) < 3 {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.unwrap();
    assert!(!bench.results.borrow().contains_key(&target(666)));
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_it_with_checks_running() {
    let bench = start([80], 8, Duration::from_secs(1000));
    tokio::time::advance(Duration::from_secs(2)).await;
    bench.shutdown.cancel();
    bench.task.await.unwrap();
}
