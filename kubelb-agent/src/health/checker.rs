//! When each target is checked and what its results mean: a state machine that is told the time.
//!
//! Owns schedule, thresholds and jitter. The same seed, targets and results give the same schedule.
//!
//! Spacing, from the start of one check to the start of the next, each with ±10 % jitter so that checks of many targets
//! and nodes do not beat in step:
//! - first check of a new target: within the smaller of its interval and one second, spread evenly;
//! - healthy or unknown: the interval;
//! - unhealthy: half the interval, and after a first success the rest of `healthyThreshold` within 0.4 intervals, so that
//!   a backend is back at most one interval after it recovered (0.55 + 0.44) unless a check hangs over its recovery.
//!
//! A check that runs past its next due time is not started twice: the next one starts when it ends.
//!
//! Where the targets together ask for more checks than the node may run, the spacing of those whose health is settled stretches, and the
//! first checks spread over a longer time. One that has just failed, or just passed again, is asked at its own pace: few are in doubt, and
//! they are what matters. When many are, no more are started than the budget has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::probe::ProbeError;
use crate::model::{CheckTarget, Health, HealthView, Probe};

/// Longest wait for the first check of a target.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(1);
/// Shortest time between two checks of a target, whatever the thresholds ask for.
const MIN_SPACING: Duration = Duration::from_millis(10);
/// Longest one; guards the clock's arithmetic against absurd intervals.
const MAX_SPACING: Duration = Duration::from_secs(86_400);
/// Largest deviation from a spacing, as a fraction.
const JITTER: f64 = 0.1;
/// Spacing of an unhealthy target, in intervals.
const UNHEALTHY_SPACING: f64 = 0.5;
/// Time for the successes after the first that make it healthy again, in intervals.
const CONFIRMATION: f64 = 0.4;

/// Names a started check; a target that was removed and added again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// A check to start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// To be given back with the result.
    pub token: Token,
    /// What to check.
    pub target: CheckTarget,
}

/// A target's health changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose.
    pub target: CheckTarget,
    /// Health before.
    pub from: Health,
    /// Health now.
    pub to: Health,
}

/// The state of all targets.
#[derive(Debug)]
pub struct Checker {
    rng: fastrand::Rng,
    next_token: u64,
    tokens: BTreeMap<CheckTarget, Token>,
    entries: BTreeMap<Token, Entry>,
    due: BTreeSet<(Instant, Token)>,
    view: HealthView,
    budget: Budget,
}

#[derive(Debug)]
struct Entry {
    target: CheckTarget,
    /// Results in a row that speak against the present health.
    streak: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Waiting { due: Instant },
    Running { started: Instant },
}

impl Checker {
    /// No targets yet. `seed` decides all jitter; give each node its own.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            next_token: 0,
            tokens: BTreeMap::new(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            view: HealthView::new(),
            budget: Budget::UNLIMITED,
        }
    }

    /// Starts no more checks in a second than this.
    #[must_use]
    pub fn with_budget(mut self, checks_per_second: u32) -> Self {
        self.budget = Budget::new(checks_per_second);
        self
    }

    /// By how much the intervals of targets are longer than they ask for, 1 or more.
    #[must_use]
    pub fn stretch(&self) -> f64 {
        self.budget.stretch()
    }

    /// Number of targets.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.tokens.len()
    }

    /// Makes `targets` the ones to check, and says whether [`Self::view`] changed. Targets that stay keep state and
    /// schedule. A new one starts from `initial`, else from what was known of the same probe to the same address under
    /// other times or thresholds, else unknown.
    pub fn set_targets(&mut self, targets: &BTreeSet<CheckTarget>, initial: &HealthView, now: Instant) -> bool {
        let before = self.view.len();
        let mut changed = false;
        let mut left: BTreeMap<(SocketAddr, Probe), Health> = BTreeMap::new();
        let gone: Vec<CheckTarget> = self
            .tokens
            .keys()
            .filter(|target| !targets.contains(target))
            .cloned()
            .collect();
        for target in gone {
            self.remove(&target);
            if let Some(health) = self.view.remove(&target) {
                changed = true;
                left.insert((target.address, target.check.probe.clone()), health);
            }
        }
        let stretched = self.budget.stretch();
        self.budget.ask(targets.iter().map(|target| target.check.interval));
        self.catch_up(stretched, now);
        let new = targets
            .iter()
            .filter(|target| !self.tokens.contains_key(*target))
            .count();
        let first_within = self.budget.time_for(new).max(MAX_FIRST_WAIT);
        for target in targets {
            if self.tokens.contains_key(target) {
                continue;
            }
            let known = initial.get(target).copied().filter(|health| *health != Health::Unknown);
            let known = known.or_else(|| left.get(&(target.address, target.check.probe.clone())).copied());
            if let Some(health) = known {
                self.view.insert(target.clone(), health);
                changed = true;
            }
            self.add(target.clone(), first_within, now);
        }
        changed || before != self.view.len()
    }

    /// When [`Self::handle_timeout`] wants to be called next; `None` while every check is running or there is none.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        Some(self.budget.next().map_or(*due, |affordable| affordable.max(*due)))
    }

    /// The checks that are due. Each is running until [`Self::on_result`].
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Start> {
        let mut starts = Vec::new();
        while let Some((due, token)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            if !self.budget.take(now) {
                break;
            }
            self.due.remove(&(due, token));
            if let Some(entry) = self.entries.get_mut(&token) {
                entry.phase = Phase::Running { started: now };
                starts.push(Start {
                    token,
                    target: entry.target.clone(),
                });
            }
        }
        starts
    }

    /// Takes the result of a started check. Results of removed targets are ignored, and so are errors that tell about
    /// this node alone ([`ProbeError::is_local`]).
    pub fn on_result(&mut self, token: Token, now: Instant, result: Result<(), &ProbeError>) -> Option<Transition> {
        let entry = self.entries.get_mut(&token)?;
        let Phase::Running { started } = entry.phase else {
            return None;
        };
        let check = &entry.target.check;
        let from = self.view.get(&entry.target).copied().unwrap_or_default();
        let evidence = match result {
            Ok(()) => Some(Health::Healthy),
            Err(error) if error.is_local() => None,
            Err(_) => Some(Health::Unhealthy),
        };
        let mut to = from;
        if let Some(seen) = evidence {
            let threshold = match from {
                Health::Unknown => 1,
                Health::Healthy => check.unhealthy_threshold,
                Health::Unhealthy => check.healthy_threshold,
            };
            entry.streak = if seen == from {
                0
            } else {
                entry.streak.saturating_add(1)
            };
            if seen != from && entry.streak >= threshold {
                entry.streak = 0;
                to = seen;
            }
        }
        let is_settled = entry.streak == 0 && (from == to || to == Health::Healthy);
        let stretch = if is_settled { self.budget.stretch() } else { 1.0 };
        let spacing = spacing(check.interval, check.healthy_threshold, to, entry.streak);
        let spacing = spacing.mul_f64(stretch * (1.0 - JITTER + 2.0 * JITTER * self.rng.f64()));
        let due = (started + spacing).max(now);
        entry.phase = Phase::Waiting { due };
        self.due.insert((due, token));
        if from == to {
            return None;
        }
        let target = entry.target.clone();
        self.view.insert(target.clone(), to);
        Some(Transition { target, from, to })
    }

    /// What is known; targets without a result yet are absent.
    #[must_use]
    pub fn view(&self) -> &HealthView {
        &self.view
    }

    /// Whether a result for `token` still counts.
    #[must_use]
    pub fn is_current(&self, token: Token) -> bool {
        self.entries.contains_key(&token)
    }

    /// Brings checks forward whose turn was set when there were more targets.
    fn catch_up(&mut self, stretched: f64, now: Instant) {
        let share = self.budget.stretch() / stretched;
        if share > 0.99 {
            return;
        }
        for (due, token) in std::mem::take(&mut self.due) {
            let sooner = now + due.saturating_duration_since(now).mul_f64(share);
            if let Some(entry) = self.entries.get_mut(&token) {
                entry.phase = Phase::Waiting { due: sooner };
                self.due.insert((sooner, token));
            }
        }
    }

    fn add(&mut self, target: CheckTarget, first_within: Duration, now: Instant) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let within = if first_within > MAX_FIRST_WAIT {
            first_within
        } else {
            target.check.interval.min(MAX_FIRST_WAIT)
        };
        let due = now + within.mul_f64(self.rng.f64());
        self.due.insert((due, token));
        self.tokens.insert(target.clone(), token);
        let phase = Phase::Waiting { due };
        self.entries.insert(
            token,
            Entry {
                target,
                streak: 0,
                phase,
            },
        );
    }

    fn remove(&mut self, target: &CheckTarget) {
        let Some(token) = self.tokens.remove(target) else {
            return;
        };
        if let Some(Entry {
            phase: Phase::Waiting { due },
            ..
        }) = self.entries.remove(&token)
        {
            self.due.remove(&(due, token));
        }
    }
}

/// Time from the start of a check to the next, before jitter.
fn spacing(interval: Duration, healthy_threshold: u32, health: Health, streak: u32) -> Duration {
    let intervals = match health {
        Health::Healthy | Health::Unknown => 1.0,
        Health::Unhealthy if streak == 0 => UNHEALTHY_SPACING,
        Health::Unhealthy => CONFIRMATION / f64::from(healthy_threshold.saturating_sub(1).max(1)),
    };
    interval.min(MAX_SPACING).mul_f64(intervals).max(MIN_SPACING)
}

#[cfg(test)]
mod tests;
