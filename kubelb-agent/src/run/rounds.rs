//! The loop: waits for whatever changes, and has the engine carry it out. The one task that the engine belongs to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use kubelb_runtime::error_chain;
use kubelb_runtime::or_never::or_never;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::desk::Shared;
use super::standing::listed;
use super::voice::Voice;
use crate::engine::Engine;
use crate::feedback::State;
use crate::health::probe::ProbeBind;
use crate::health::{self, Assignment, Settings, SocketProber};
use crate::model::{Desired, HealthView};
use crate::net::NextHopView;
use crate::source::Update;
use crate::sysctl::{self, Forwarding};

/// Time between two steps of the sweep; a whole walk is 16 of them.
const SWEEP: Duration = Duration::from_millis(250);
/// Time between two rounds while something drains, and after a round that left something undone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A round that takes longer than this is followed by a pause.
const LONG_ROUND: Duration = Duration::from_millis(20);
/// A change of the configuration waits for this part of such a pause only: traffic is to go another way.
const BRIEF: u32 = 4;

/// Health checks, once there is something to check.
struct Checks {
    assignment: watch::Sender<Assignment>,
    results: watch::Receiver<HealthView>,
    task: JoinHandle<()>,
}

/// See the module.
pub(super) struct Rounds {
    engine: Engine,
    shared: Arc<Shared>,
    source: mpsc::Receiver<Update>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    hops: watch::Receiver<NextHopView>,
    checks: Option<Checks>,
    checks_per_second: u32,
    desired: Option<Arc<Desired>>,
    /// Who decides about owners of addresses can be heard.
    is_live: bool,
    voice: Voice,
    /// What was carried out last, for those who report it.
    state: watch::Sender<Option<State>>,
    shutdown: CancellationToken,
}

impl Rounds {
    pub(super) fn new(
        engine: Engine,
        shared: Arc<Shared>,
        source: mpsc::Receiver<Update>,
        (wanted, hops): (watch::Sender<BTreeSet<IpAddr>>, watch::Receiver<NextHopView>),
        voice: Voice,
        state: watch::Sender<Option<State>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            engine,
            shared,
            source,
            wanted,
            hops,
            checks: None,
            checks_per_second: health::DEFAULT_CHECKS_PER_SECOND,
            desired: None,
            is_live: false,
            voice,
            state,
            shutdown,
        }
    }

    /// Starts no more health checks in a second than this.
    pub(super) fn with_checks_per_second(mut self, checks: u32) -> Self {
        self.checks_per_second = checks;
        self
    }

    /// Runs until the shutdown, or until something that it cannot do without has ended.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        for interface in self.engine.interfaces() {
            look_at_forwarding(interface);
        }
        let ended = self.rounds().await;
        // Without an assignment the checks end; what they died of, if they did, is the better reason.
        if let Some(Checks { assignment, task, .. }) = self.checks {
            drop(assignment);
            task.await.context("the health checks failed")?;
        }
        ended
    }

    async fn rounds(&mut self) -> anyhow::Result<()> {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again: Option<tokio::time::Instant> = None;
        let mut dirty = false;
        let mut patient = true;
        // A round takes longer the more there is. So that results of checks that trickle in do not take all of a CPU, as long a pause follows.
        let mut resting: Option<tokio::time::Instant> = None;
        let mut brief: Option<tokio::time::Instant> = None;
        // The configuration is another one.
        let mut urgent = false;
        loop {
            self.beat();
            let is_ready = dirty && if urgent { brief.is_none() } else { resting.is_none() };
            // A round without the ways to the backends would take from the data path what it has from the agent before.
            if is_ready && (!patient || covers(&self.hops.borrow(), &self.wanted.borrow())) {
                (dirty, urgent, patient) = (false, false, true);
                let started = tokio::time::Instant::now();
                again = self.round().then(|| tokio::time::Instant::now() + LOOK_AGAIN);
                let taken = started.elapsed();
                let pause = taken.min(LOOK_AGAIN);
                let is_long = taken > LONG_ROUND;
                resting = is_long.then(|| tokio::time::Instant::now() + pause);
                brief = is_long.then(|| tokio::time::Instant::now() + pause / BRIEF);
            } else if is_ready && again.is_none() {
                again = Some(tokio::time::Instant::now() + LOOK_AGAIN);
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                update = self.source.recv() => match update {
                    Some(update) => {
                        let is_new = self.take(update);
                        dirty |= is_new;
                        urgent |= is_new;
                    }
                    None => return self.ended("the configuration source"),
                },
                changed = self.hops.changed() => match changed {
                    Ok(()) => dirty = true,
                    // Its own task says why.
                    Err(_) => return Ok(()),
                },
                changed = or_never(self.checks.as_mut().map(|checks| checks.results.changed())) => match changed {
                    Ok(()) => dirty = true,
                    Err(_) => return self.ended("the health checks"),
                },
                () = or_never(resting.map(sleep_until)), if resting.is_some() => resting = None,
                () = or_never(brief.map(sleep_until)), if brief.is_some() => brief = None,
                () = or_never(again.map(sleep_until)) => {
                    again = None;
                    patient = !dirty;
                    dirty = true;
                }
                _ = sweep.tick() => {
                    self.engine.sweep()?;
                    if self.engine.must_announce() {
                        self.announce();
                    }
                }
            }
        }
    }

    fn ended(&self, what: &str) -> anyhow::Result<()> {
        if self.shutdown.is_cancelled() {
            Ok(())
        } else {
            Err(anyhow!("{what} ended"))
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the edge: the sign of life has a time")]
    fn beat(&self) {
        self.shared.standing().beat(Instant::now());
    }

    /// Takes an update over; true when there is something to apply.
    fn take(&mut self, update: Update) -> bool {
        let Update {
            desired,
            is_live,
            problem,
        } = update;
        self.is_live = is_live;
        self.engine.note(problem.as_deref());
        if let Some(text) = problem
            .as_ref()
            .filter(|text| self.shared.standing().config_error.as_ref() != Some(*text))
        {
            let kept = if desired.is_none() {
                "configuration refused, the one before stays in force"
            } else {
                "not all of the configuration is in force"
            };
            tracing::error!("{kept}:\n{text}");
        }
        self.shared.standing().config_error = problem;
        let Some(desired) = desired else { return false };
        if self.desired.as_ref().is_none_or(|before| before.snat != desired.snat) {
            look_at_ports(&desired);
        }
        self.assign(&desired);
        tracing::info!(frontends = desired.frontends.len(), "configuration accepted");
        self.desired = Some(Arc::new(desired));
        self.want_hops();
        true
    }

    /// Says whose next hops are to be followed: those of all backends, removed ones included while they drain.
    fn want_hops(&self) {
        let frontends = self.desired.iter().flat_map(|desired| desired.frontends.values());
        let backends = frontends.flat_map(|frontend| &frontend.backends);
        let mut wanted: BTreeSet<IpAddr> = backends.map(|backend| backend.address.ip()).collect();
        wanted.extend(self.engine.draining_addresses());
        self.wanted.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
    }

    fn assign(&mut self, desired: &Desired) {
        let checked = desired
            .frontends
            .values()
            .filter_map(|frontend| Some((frontend.check()?, frontend)));
        let mut targets = BTreeSet::new();
        for (check, frontend) in checked {
            targets.extend(frontend.backends.iter().map(|backend| check.target(backend)));
        }
        let assignment = Assignment {
            targets,
            bind: ProbeBind {
                exclude: desired.snat.ports,
            },
        };
        if let Some(checks) = &self.checks {
            checks.assignment.send_replace(assignment);
            return;
        }
        let initial = self.engine.known_health(desired);
        let (assignment_out, assignment_in) = watch::channel(assignment);
        let (results_out, results_in) = watch::channel(initial.clone());
        let settings = Settings {
            seed: fastrand::u64(..),
            concurrency: health::DEFAULT_CONCURRENCY,
            per_second: self.checks_per_second,
        };
        let task = tokio::spawn(health::run(
            settings,
            SocketProber,
            assignment_in,
            initial,
            results_out,
            Arc::clone(&self.shared.counters),
            self.shutdown.clone(),
        ));
        self.checks = Some(Checks {
            assignment: assignment_out,
            results: results_in,
            task,
        });
    }

    /// One round; true when another is due after a while. Tens of milliseconds at thousands of frontends.
    fn round(&mut self) -> bool {
        let hops = self.hops.borrow_and_update().clone();
        let attached = self.follow_links(&hops);
        let reconciled = self.reconcile(&hops);
        // After what is behind the addresses is in place.
        self.announce();
        self.want_hops();
        !attached || !reconciled
    }

    /// True when the programs are where they should be.
    fn follow_links(&mut self, hops: &NextHopView) -> bool {
        let before: BTreeSet<String> = self.engine.interfaces().map(str::to_owned).collect();
        let done = self.engine.follow_links(&hops.links).unwrap_or_else(|error| {
            let error = error_chain::chain(&error).to_string();
            tracing::error!(error, "cannot follow interfaces that came or went, to be tried again");
            false
        });
        for interface in self.engine.interfaces().filter(|name| !before.contains(*name)) {
            look_at_forwarding(interface);
        }
        done
    }

    /// Announces what is this node's, if anybody has said what is.
    #[expect(clippy::disallowed_methods, reason = "the edge: reads the clocks for the pure parts")]
    fn announce(&mut self) {
        let Some(addresses) = self.desired.as_ref().and_then(|desired| desired.addresses.as_ref()) else {
            return;
        };
        let links = &self.hops.borrow().links;
        if links.is_empty() {
            return;
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = (Instant::now(), unix.map_or(0, |since| since.as_secs()));
        match self.engine.announce(addresses, links, self.is_live, now) {
            Ok(plan) => self.voice.follow(&plan, links, self.engine.interfaces()),
            Err(error) => {
                let error = error_chain::chain(&error).to_string();
                tracing::error!(error, "cannot announce addresses, to be tried again at the next change");
            }
        }
    }

    /// True when all is as it should be and nothing drains.
    #[expect(clippy::disallowed_methods, reason = "the edge: reads the clock for the pure parts")]
    fn reconcile(&mut self, hops: &NextHopView) -> bool {
        let Some(desired) = &self.desired else { return true };
        let results = self
            .checks
            .as_mut()
            .map(|checks| checks.results.borrow_and_update().clone());
        let health = Arc::new(results.unwrap_or_default());
        match self.engine.reconcile(desired, &health, hops, Instant::now()) {
            Ok(problems) => {
                let is_done = problems.is_empty() && !self.engine.is_draining();
                let mut standing = self.shared.standing();
                if !problems.is_empty() && standing.problems() != problems {
                    tracing::error!("not everything can be served:\n{}", listed(&problems));
                }
                if standing.carried_out(problems) {
                    tracing::info!(snat = ?self.engine.capacity().snat, "configuration applied");
                }
                self.state.send_replace(Some(State {
                    desired: Arc::clone(desired),
                    health,
                    problems: Arc::new(self.engine.unserved().clone()),
                }));
                is_done
            }
            Err(error) => {
                let text = error_chain::chain(&error).to_string();
                tracing::error!("applying the configuration failed, to be tried again: {text}");
                self.shared.standing().broke_off(text);
                false
            }
        }
    }
}

/// True when every wanted destination has been looked up.
fn covers(view: &NextHopView, wanted: &BTreeSet<IpAddr>) -> bool {
    let is_known = |address: &IpAddr| view.hops.contains_key(address) || view.unroutable.contains_key(address);
    !view.links.is_empty() && wanted.iter().all(is_known)
}

fn look_at_forwarding(interface: &str) {
    let root = Path::new(sysctl::PROC_SYS);
    match sysctl::forward_v4(root, interface) {
        Forwarding::On => {}
        Forwarding::TurnedOn => {
            tracing::info!(
                interface,
                "turned IPv4 forwarding on: the way back to clients is looked up with it"
            );
        }
        Forwarding::Off(advice) => {
            tracing::warn!(
                interface,
                "IPv4 clients will get no answers unless forwarding is on: {advice}"
            );
        }
    }
    if let Forwarding::Off(advice) = sysctl::forward_v6(root, interface) {
        tracing::warn!(
            interface,
            "IPv6 clients will get no answers unless forwarding is on: {advice}"
        );
    }
}

/// Sockets of the node share the ports of its own addresses.
fn look_at_ports(desired: &Desired) {
    if desired.snat.addresses.is_empty()
        && let Some(advice) = sysctl::contested_ports(Path::new(sysctl::PROC_SYS), desired.snat.ports)
    {
        tracing::warn!("SNAT {advice}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Link, NoHop};

    #[test]
    fn a_view_counts_once_it_says_something_of_every_destination() {
        let [known, other] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse::<IpAddr>().unwrap());
        let mut view = NextHopView::default();
        assert!(!covers(&view, &BTreeSet::new()), "nothing has been read yet");
        let link = Link {
            name: "eth0".to_owned(),
            mac: None,
            mtu: 1_500,
            up: true,
        };
        view.links.insert(1, link);
        assert!(covers(&view, &BTreeSet::new()));
        assert!(!covers(&view, &[known].into()));
        view.unroutable.insert(known, NoHop::NoRoute);
        assert!(covers(&view, &[known].into()));
        assert!(!covers(&view, &[known, other].into()));
    }
}
