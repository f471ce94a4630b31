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
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checker::{Checker, Start, Token, Transition};
use super::probe::{ProbeBind, ProbeError, probe, report_overlap};
use crate::model::{CheckTarget, Health, HealthView};

/// Checks at once unless told otherwise: one socket each, which leaves half of the usual 1,024 open files to the rest.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

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
        checker: Checker::new(settings.seed),
        prober,
        counters,
        limit: settings.concurrency.get(),
        bind: None,
        waiting: VecDeque::new(),
        running: JoinSet::new(),
        tokens: HashMap::new(),
    };
    let mut changed = driver.assign(&assignments.borrow_and_update(), &initial);
    loop {
        if changed {
            results.send_replace(driver.checker.view().clone());
        }
        driver.start_waiting();
        let due = driver.checker.poll_timeout().map(Instant::from_std);
        changed = tokio::select! {
            () = shutdown.cancelled() => return,
            assigned = assignments.changed() => {
                if assigned.is_err() {
                    return;
                }
                driver.assign(&assignments.borrow_and_update(), &HealthView::new())
            }
            Some(ended) = driver.running.join_next_with_id() => driver.take_results(ended),
            () = sleep_until(due) => driver.start_due(),
        };
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
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
}

impl<P: Prober> Driver<P> {
    fn assign(&mut self, assignment: &Assignment, initial: &HealthView) -> bool {
        if self.bind.replace(assignment.bind) != Some(assignment.bind) {
            report_overlap(assignment.bind);
        }
        self.checker
            .set_targets(&assignment.targets, initial, Instant::now().into_std())
    }

    /// Queues what is due; health does not change by it.
    fn start_due(&mut self) -> bool {
        let due = self.checker.handle_timeout(Instant::now().into_std());
        let places = self.limit.saturating_sub(self.running.len() + self.waiting.len());
        let late = u64::try_from(due.len().saturating_sub(places)).unwrap_or(u64::MAX);
        self.counters.delayed.fetch_add(late, Ordering::Relaxed);
        self.waiting.extend(due);
        false
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
    fn take_results(&mut self, first: Ended) -> bool {
        let mut changed = self.take_result(first);
        while let Some(ended) = self.running.try_join_next_with_id() {
            changed |= self.take_result(ended);
        }
        changed
    }

    fn take_result(&mut self, ended: Ended) -> bool {
        let (id, result) = match ended {
            Ok(ended) => ended,
            // A panic must not leave the target running forever.
            Err(error) => (error.id(), Err(ProbeError::Local(io::Error::other(error)))),
        };
        let Some((token, target)) = self.tokens.remove(&id) else {
            return false;
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
            return false;
        };
        log(&transition, result.as_ref().err());
        true
    }
}

fn log(Transition { target, from, to }: &Transition, error: Option<&ProbeError>) {
    let address = target.address;
    match (to, error) {
        (Health::Unhealthy, Some(error)) => {
            tracing::warn!(%address, ?from, error = %chain(error), "backend is unhealthy: it gets no new flows");
        }
        (Health::Unhealthy | Health::Healthy | Health::Unknown, _) => {
            tracing::info!(%address, ?from, ?to, "backend health changed");
        }
    }
}

#[cfg(test)]
mod tests;
