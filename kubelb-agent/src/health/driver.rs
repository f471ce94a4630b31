//! Runs the checks: a timer, a bounded number of sockets, and results as they come.
//!
//! Owns the one task that reads the clock for health. Decides nothing: that is the [`Checker`]'s.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kubelb_runtime::error_chain::chain;
use kubelb_runtime::or_never::or_never;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::checker::{Checker, Start, Token, Transition};
use super::probe::{ProbeBind, ProbeError, probe, report_overlap};
use crate::model::{CheckTarget, Health, HealthView};

/// Checks at once unless told otherwise: one socket each, which leaves half of the usual 1,024 open files to the rest.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);
/// Checks started in a second unless told otherwise: what a part of one CPU does.
pub const DEFAULT_CHECKS_PER_SECOND: u32 = 4_000;

/// What to check, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// All targets; what is absent is no longer checked.
    pub targets: BTreeSet<CheckTarget>,
    /// Local ports to keep clear of.
    pub bind: ProbeBind,
}

/// How the driver behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides all jitter; give each node its own.
    pub seed: u64,
    /// Most checks at once; more wait their turn.
    pub concurrency: NonZeroUsize,
    /// Most checks started in a second; where targets ask for more, intervals stretch.
    pub per_second: u32,
}

/// What the driver did, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Checks that a backend passed.
    pub passed: AtomicU64,
    /// Checks that found a backend not answering as it should.
    pub failed: AtomicU64,
    /// Checks that told nothing, for want of something on this node.
    pub local_errors: AtomicU64,
    /// Checks that started late because too many were running.
    pub delayed: AtomicU64,
    /// Targets that are checked now.
    pub targets: AtomicU64,
    /// By how much their intervals are longer than asked for, in thousandths: 1,000 when they are not.
    pub stretch: AtomicU64,
}

/// Asks a backend; [`SocketProber`] in the agent, something quicker in tests.
pub trait Prober: Clone + Send + Sync + 'static {
    /// Runs one check.
    fn probe(&self, target: CheckTarget, bind: ProbeBind) -> impl Future<Output = Result<(), ProbeError>> + Send;
}

/// Checks over sockets of this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketProber;

impl Prober for SocketProber {
    async fn probe(&self, target: CheckTarget, bind: ProbeBind) -> Result<(), ProbeError> {
        probe(&target, bind).await
    }
}

/// Checks what `assignments` says until `shutdown` or until its sender is gone. `initial` is what was known before the
/// agent started. `results` gets the whole view after each change and nothing in between.
pub async fn run(
    settings: Settings,
    prober: impl Prober,
    mut assignments: watch::Receiver<Assignment>,
    initial: HealthView,
    results: watch::Sender<HealthView>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
) {
    let mut driver = Driver {
        checker: Checker::new(settings.seed).with_budget(settings.per_second),
        prober,
        counters,
        limit: settings.concurrency.get(),
        bind: None,
        waiting: VecDeque::new(),
        running: JoinSet::new(),
        tokens: HashMap::new(),
        changes: Vec::new(),
    };
    if driver.assign(&assignments.borrow_and_update(), &initial) {
        results.send_replace(driver.checker.view().clone());
    }
    loop {
        let changes = std::mem::take(&mut driver.changes);
        if !changes.is_empty() {
            // In place: a copy of the view for every result would be most of the work where there are many targets.
            results.send_modify(|view| view.extend(changes));
        }
        driver.start_waiting();
        let due = driver.checker.poll_timeout().map(Instant::from_std);
        tokio::select! {
            () = shutdown.cancelled() => return,
            assigned = assignments.changed() => {
                if assigned.is_err() {
                    return;
                }
                if driver.assign(&assignments.borrow_and_update(), &HealthView::new()) {
                    results.send_replace(driver.checker.view().clone());
                }
            }
            Some(ended) = driver.running.join_next_with_id() => driver.take_results(ended),
            () = or_never(due.map(sleep_until)) => driver.start_due(),
        }
    }
}

type Ended = Result<(Id, Result<(), ProbeError>), JoinError>;

struct Driver<P> {
    checker: Checker,
    prober: P,
    counters: Arc<Counters>,
    limit: usize,
    bind: Option<ProbeBind>,
    /// Checks that are due while `limit` are running; holds each target at most once.
    waiting: VecDeque<Start>,
    running: JoinSet<Result<(), ProbeError>>,
    tokens: HashMap<Id, (Token, CheckTarget)>,
    /// Of health, since the results were told last.
    changes: Vec<(CheckTarget, Health)>,
}

impl<P: Prober> Driver<P> {
    fn assign(&mut self, assignment: &Assignment, initial: &HealthView) -> bool {
        if self.bind.replace(assignment.bind) != Some(assignment.bind) {
            report_overlap(assignment.bind);
        }
        let changed = self
            .checker
            .set_targets(&assignment.targets, initial, Instant::now().into_std());
        let targets = u64::try_from(self.checker.targets()).unwrap_or(u64::MAX);
        self.counters.targets.store(targets, Ordering::Relaxed);
        let stretch = thousandths(self.checker.stretch());
        if self.counters.stretch.swap(stretch, Ordering::Relaxed) != stretch && stretch > 1_000 {
            tracing::warn!(
                targets,
                stretch = %format_args!("{}.{:03}", stretch / 1_000, stretch % 1_000),
                "there is more to check than this node may check: intervals are longer by this factor (--max-checks-per-second)"
            );
        }
        changed
    }

    /// Queues what is due.
    fn start_due(&mut self) {
        let due = self.checker.handle_timeout(Instant::now().into_std());
        let places = self.limit.saturating_sub(self.running.len() + self.waiting.len());
        let late = u64::try_from(due.len().saturating_sub(places)).unwrap_or(u64::MAX);
        self.counters.delayed.fetch_add(late, Ordering::Relaxed);
        self.waiting.extend(due);
    }

    fn start_waiting(&mut self) {
        let Some(bind) = self.bind else { return };
        while self.running.len() < self.limit {
            let Some(Start { token, target }) = self.waiting.pop_front() else {
                return;
            };
            if self.checker.is_current(token) {
                let (prober, probed) = (self.prober.clone(), target.clone());
                let handle = self.running.spawn(async move { prober.probe(probed, bind).await });
                self.tokens.insert(handle.id(), (token, target));
            }
        }
    }

    /// Takes every result that is there, so that an outage of many backends is one change of the view.
    fn take_results(&mut self, first: Ended) {
        self.take_result(first);
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.take_result(ended);
        }
    }

    fn take_result(&mut self, ended: Ended) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            // A panic must not leave the target running forever.
            Err(error) => (error.id(), Err(ProbeError::Local(io::Error::other(error)))),
        };
        let Some((token, target)) = self.tokens.remove(&id) else {
            return;
        };
        let counter = match &result {
            Ok(()) => &self.counters.passed,
            Err(error) if error.is_local() => &self.counters.local_errors,
            Err(_) => &self.counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::debug!(address = %target.address, error = %chain(error), "check failed");
        }
        let Some(transition) = self
            .checker
            .on_result(token, Instant::now().into_std(), result.as_ref().copied())
        else {
            return;
        };
        log(&transition, result.as_ref().err());
        self.changes.push((transition.target, transition.to));
    }
}

/// Of a factor, which is 1 or more.
fn thousandths(factor: f64) -> u64 {
    // A second's worth for each, so that the conversion is the standard library's.
    let scaled = std::time::Duration::try_from_secs_f64(factor).unwrap_or(std::time::Duration::MAX);
    u64::try_from(scaled.as_millis()).unwrap_or(u64::MAX)
}

fn log(Transition { target, from, to }: &Transition, error: Option<&ProbeError>) {
    let address = target.address;
    match (to, error) {
        (Health::Unhealthy, Some(error)) => {
            tracing::warn!(%address, ?from, error = %chain(error), "backend is unhealthy: it gets no new flows");
        }
        // The first result of each: thousands at every start.
        (Health::Healthy, _) if *from == Health::Unknown => tracing::debug!(%address, "backend is healthy"),
        (Health::Unhealthy | Health::Healthy | Health::Unknown, _) => {
            tracing::info!(%address, ?from, ?to, "backend health changed");
        }
    }
}

#[cfg(test)]
mod tests;
