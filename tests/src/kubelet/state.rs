//! What is known of a Pod's containers, and what to do next. Pure: time is an argument.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

/// Exit code of a container that ended with its kubelet: that of SIGKILL.
const KILLED: i32 = 137;

/// When a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To its end, before the next.
    Init,
    /// Started before the next, for as long as the Pod lives.
    Sidecar,
    /// When all of the above are through.
    Main,
}

/// A Pod's `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(super) fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// The end of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Timestamp,
    pub(super) id: Option<String>,
}

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// `until`: not to be tried before.
    Waiting {
        reason: String,
        message: String,
        until: Option<Timestamp>,
    },
    Running {
        since: Timestamp,
    },
    Ended(Ended),
}

/// Longer and longer pauses between restarts; none before the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub(super) base: Duration,
    pub(super) max: Duration,
    delay: Option<Duration>,
}

impl BackOff {
    pub(super) fn new(base: Duration, max: Duration) -> Self {
        let delay = None;
        Self { base, max, delay }
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay.unwrap_or_default()
    }

    /// After a restart, or a failed attempt at a start.
    pub(super) fn lengthen(&mut self) {
        self.delay = Some(
            self.delay
                .map_or(self.base, |delay| delay.saturating_mul(2).min(self.max)),
        );
    }

    /// A run that was long enough is no crash.
    fn on_end(&mut self, ended: &Ended) {
        let ran = ended.started.map(|started| ended.finished.duration_since(started));
        if ran.is_some_and(|ran| ran.unsigned_abs() > self.max.saturating_mul(2)) {
            self.delay = None;
        }
    }

    /// When the pause that began at `since` ends.
    pub(super) fn over(&self, since: Timestamp) -> Timestamp {
        since.saturating_add(self.delay()).unwrap_or(Timestamp::MAX)
    }
}

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) spec: Container,
    pub(super) phase: Phase,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    pub(super) id: Option<String>,
    /// The startup probe has succeeded, or there is none and it runs.
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) back_off: BackOff,
}

impl Record {
    fn new(spec: &Container, kind: Kind, back_off: BackOff, first: bool) -> Self {
        let reason = if first { "ContainerCreating" } else { "PodInitializing" };
        Self {
            kind,
            spec: spec.clone(),
            phase: waiting(reason, "", None),
            last: None,
            restarts: 0,
            id: None,
            started: false,
            ready: false,
            back_off,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        match &self.phase {
            Phase::Ended(ended) => Some(ended),
            Phase::Waiting { .. } | Phase::Running { .. } => None,
        }
    }

    /// A container that failed before it could run waits until `until`, and says why.
    pub(super) fn on_not_started(&mut self, reason: &str, message: &str, until: Timestamp) {
        self.remember();
        self.phase = waiting(reason, message, Some(until));
    }

    /// Its number of restarts counts the runs before this one.
    pub(super) fn on_started(&mut self, id: String, now: Timestamp) {
        self.remember();
        if self.id.is_some() || self.last.is_some() {
            self.restarts = self.restarts.saturating_add(1);
            self.back_off.lengthen();
        }
        self.id = Some(id);
        self.started = self.spec.startup_probe.is_none();
        self.ready = self.started && self.spec.readiness_probe.is_none();
        self.phase = Phase::Running { since: now };
    }

    pub(super) fn on_ended(&mut self, ended: Ended) {
        self.back_off.on_end(&ended);
        (self.started, self.ready) = (false, false);
        self.phase = Phase::Ended(ended);
    }

    fn on_back_off(&mut self, pod: &str, until: Timestamp) {
        self.remember();
        let (delay, name) = (self.back_off.delay().as_secs(), &self.spec.name);
        let message = format!("back-off {delay}s restarting failed container={name} pod={pod}");
        self.phase = waiting("CrashLoopBackOff", &message, Some(until));
    }

    fn remember(&mut self) {
        if let Phase::Ended(ended) = &self.phase {
            self.last = Some(ended.clone());
        }
    }

    fn restarts_after(&self, ended: &Ended, policy: RestartPolicy) -> bool {
        match (self.kind, policy) {
            (Kind::Sidecar, _) | (Kind::Main, RestartPolicy::Always) => true,
            (Kind::Main, RestartPolicy::Never) => false,
            (Kind::Main, RestartPolicy::OnFailure) => ended.code != 0,
            (Kind::Init, RestartPolicy::Never) => false,
            (Kind::Init, _) => ended.code != 0,
        }
    }
}

fn waiting(reason: &str, message: &str, until: Option<Timestamp>) -> Phase {
    Phase::Waiting {
        reason: reason.to_owned(),
        message: message.to_owned(),
        until,
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Containers to start, by their index.
    pub(super) start: Vec<usize>,
    /// Containers to stop.
    pub(super) stop: Vec<usize>,
    /// Containers that have just begun to wait for their restart.
    pub(super) backing_off: Vec<usize>,
    /// When to look again though nothing has happened.
    pub(super) wake: Option<Timestamp>,
}

/// All containers of a Pod.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) records: Vec<Record>,
    pub(super) policy: RestartPolicy,
    /// `name_namespace(uid)`, as messages have it.
    pub(super) title: String,
    /// Namespaces and network are there.
    pub(super) sandbox: bool,
    /// Why the Pod as a whole has failed.
    pub(super) failure: Option<(String, String)>,
}

impl State {
    /// The containers of `pod` as its status describes them: what ran has ended with the kubelet that ran it.
    pub(super) fn new(pod: &Pod, back_off: BackOff, now: Timestamp) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let mut records = Vec::new();
        for container in inits {
            let always = container.restart_policy.as_deref() == Some("Always");
            let kind = if always { Kind::Sidecar } else { Kind::Init };
            records.push(Record::new(container, kind, back_off, false));
        }
        for container in &spec.containers {
            records.push(Record::new(container, Kind::Main, back_off, inits.is_empty()));
        }
        let status = pod.status.clone().unwrap_or_default();
        let old = status
            .init_container_statuses
            .into_iter()
            .chain(status.container_statuses)
            .flatten();
        for old in old {
            if let Some(record) = records.iter_mut().find(|record| record.spec.name == old.name) {
                take_up(record, &old, now);
            }
        }
        let meta = &pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let title = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
        let mut state = Self {
            records,
            policy: RestartPolicy::of(&spec),
            title,
            sandbox: false,
            failure: None,
        };
        if !state.is_over() {
            // A new sandbox is initialized again.
            for record in state.records.iter_mut().filter(|record| record.kind == Kind::Init) {
                record.remember();
                record.phase = waiting("PodInitializing", "", None);
            }
        }
        state
    }

    /// No container will run any more, but for sidecars that are still to be stopped.
    pub(super) fn is_over(&self) -> bool {
        if self.failure.is_some() || self.init_failed() {
            return true;
        }
        let done = |record: &Record| {
            record
                .ended()
                .is_some_and(|ended| !record.restarts_after(ended, self.policy))
        };
        let mut mains = self.of_kind(Kind::Main).peekable();
        mains.peek().is_some() && mains.all(done)
    }

    pub(super) fn init_failed(&self) -> bool {
        let failed = |record: &Record| record.ended().is_some_and(|ended| ended.code != 0);
        self.policy == RestartPolicy::Never && self.of_kind(Kind::Init).any(failed)
    }

    /// All init containers are through.
    pub(super) fn initialized(&self) -> bool {
        self.records.iter().all(|record| match record.kind {
            Kind::Init => record.ended().is_some_and(|ended| ended.code == 0),
            Kind::Sidecar => record.started || record.last.is_some(),
            Kind::Main => true,
        })
    }

    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.kind == kind)
    }

    /// What to do at `now`. Containers that begin to wait for a restart are marked so.
    pub(super) fn plan(&mut self, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let indices = || 0..self.records.len();
        if self.is_over() {
            let running = |index: &usize| self.records.get(*index).is_some_and(Record::is_running);
            // Sidecars stop in the opposite order of their start.
            plan.stop = indices().filter(running).rev().collect();
            return plan;
        }
        for index in indices() {
            let Some(record) = self.records.get_mut(index) else {
                break;
            };
            let through = match (record.kind, &record.phase) {
                (Kind::Init, Phase::Ended(ended)) if ended.code == 0 => continue,
                (Kind::Init, _) => false,
                (Kind::Sidecar, _) => record.is_running() && record.started,
                (Kind::Main, _) => true,
            };
            let at = match &record.phase {
                Phase::Running { .. } => None,
                Phase::Waiting { until, .. } => Some(until.unwrap_or(now)),
                Phase::Ended(ended) => record
                    .restarts_after(ended, self.policy)
                    .then(|| record.back_off.over(ended.finished)),
            };
            match at {
                Some(at) if at <= now => plan.start.push(index),
                Some(at) => {
                    plan.wake = Some(plan.wake.map_or(at, |wake| wake.min(at)));
                    if record.ended().is_some() {
                        record.on_back_off(&self.title, at);
                        plan.backing_off.push(index);
                    }
                }
                None => {}
            }
            if !through {
                break;
            }
        }
        plan
    }
}

fn take_up(record: &mut Record, old: &ContainerStatus, now: Timestamp) {
    record.restarts = old.restart_count;
    record.id = old.container_id.clone().filter(|id| !id.is_empty());
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        let ended = state.as_ref()?.terminated.as_ref()?;
        Some(Ended {
            code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
            started: ended.started_at.as_ref().map(|time| time.0),
            finished: ended.finished_at.as_ref().map_or(now, |time| time.0),
            id: ended.container_id.clone(),
        })
    };
    record.last = ended(&old.last_state);
    if let Some(ended) = ended(&old.state) {
        record.phase = Phase::Ended(ended);
    } else if let Some(running) = old.state.as_ref().and_then(|state| state.running.as_ref()) {
        record.phase = Phase::Ended(Ended {
            code: KILLED,
            reason: "Error".to_owned(),
            message: "The container ended with the kubelet that ran it".to_owned(),
            started: running.started_at.as_ref().map(|time| time.0),
            finished: now,
            id: record.id.clone(),
        });
    }
}

#[cfg(test)]
mod tests;
