//! One Pod: its worker does what [`super::state`] decides, and writes what [`super::status`] says.

mod last_message;
mod sandbox;
mod tasks;
mod writing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::container::{self, Refusal, Request, Running};
use super::downward::Facts;
use super::files::Volumes;
use super::log_file;
use super::probe::Purpose;
use super::registry::{ContainerEntry, PodEntry};
use super::state::{BackOff, Ended, Kind, Phase, State};
use super::stop::Stop;
use super::{Kubelet, clock};
use last_message::last_message;
use sandbox::Sandbox;

/// Pause after something that the Pod needs was missing, or the API server did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Grace of a Pod whose object is gone already.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
/// Grace when nobody says.
const GRACE_SECONDS: i64 = 30;
/// Things that may happen before the worker looks.
const WAITING: usize = 256;

/// What happens to a Pod from inside.
enum Happened {
    Ended {
        index: usize,
        run: i32,
        code: i32,
    },
    Probed {
        index: usize,
        run: i32,
        purpose: Purpose,
        failure: Option<String>,
        verdict: Option<bool>,
    },
    Stopped {
        index: usize,
        hook_failure: Option<String>,
    },
    /// An object that a volume shows.
    ObjectChanged,
}

/// The task of one Pod.
pub(super) struct Worker {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    changes: watch::Receiver<Option<Pod>>,
    state: State,
    running: BTreeMap<usize, Running>,
    happened: mpsc::Receiver<Happened>,
    tell: mpsc::Sender<Happened>,
    volumes: Volumes,
    volumes_stale: bool,
    sandbox: Option<Sandbox>,
    facts: Facts,
    hostname: String,
    directory: PathBuf,
    logs: PathBuf,
    deadline: watch::Sender<Instant>,
    /// Watches over the objects of volumes.
    watches: JoinSet<()>,
    entries: BTreeMap<String, Option<ContainerEntry>>,
    sent: Option<PodStatus>,
    wake: Option<Timestamp>,
}

impl Worker {
    pub(super) fn new(kubelet: Arc<Kubelet>, pod: Pod, changes: watch::Receiver<Option<Pod>>) -> Self {
        let options = &kubelet.options;
        let back_off = BackOff::new(options.back_off, options.back_off_max);
        let state = State::new(&pod, back_off, clock::now());
        let (uid, name, namespace) = (
            pod.uid().unwrap_or_default(),
            pod.name_any(),
            pod.namespace().unwrap_or_default(),
        );
        let directory = options.data.join("pods").join(&uid);
        let logs = options.data.join("logs").join(format!("{namespace}_{name}_{uid}"));
        let spec = pod.spec.clone().unwrap_or_default();
        let hostname = match (spec.host_network, spec.hostname) {
            (Some(true), _) => options.node.clone(),
            (_, Some(hostname)) if !hostname.is_empty() => hostname,
            _ => name.chars().take(63).collect(),
        };
        let facts = Facts {
            pod_ips: Vec::new(),
            host_ips: options.addresses.clone(),
            node: options.node.clone(),
            allocatable: kubelet.allocatable.clone(),
        };
        let (tell, happened) = mpsc::channel(WAITING);
        let entry = |record: &super::state::Record| {
            let ran = record.id.is_some() || record.ended().is_some();
            let entry = ContainerEntry {
                run: record.restarts,
                output: None,
                inside: None,
                stdin_once: record.spec.stdin_once == Some(true),
            };
            (record.spec.name.clone(), ran.then_some(entry))
        };
        Self {
            entries: state.records.iter().map(entry).collect(),
            volumes: Volumes::new(directory.join("volumes")),
            volumes_stale: true,
            running: BTreeMap::new(),
            sandbox: None,
            deadline: watch::Sender::new(Instant::now()),
            watches: JoinSet::new(),
            sent: None,
            wake: None,
            kubelet,
            pod,
            changes,
            state,
            happened,
            tell,
            facts,
            hostname,
            directory,
            logs,
        }
    }

    pub(super) async fn run(mut self) {
        self.register();
        while !self.is_leaving() {
            let now = clock::now();
            self.wake = None;
            self.sync(now).await;
            self.publish().await;
            self.wait().await;
        }
        self.leave().await;
    }

    fn is_leaving(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some() || self.changes.borrow().is_none()
    }

    /// Waits for whatever comes next.
    async fn wait(&mut self) {
        let pause = self.wake.map_or(Duration::from_secs(3600), |at| {
            at.duration_since(clock::now()).try_into().unwrap_or_default()
        });
        tokio::select! {
            changed = self.changes.changed() => {
                if changed.is_ok() && let Some(pod) = self.changes.borrow_and_update().clone() {
                    self.volumes_stale |= pod.metadata.labels != self.pod.metadata.labels
                        || pod.metadata.annotations != self.pod.metadata.annotations;
                    self.pod = pod;
                }
            }
            Some(what) = self.happened.recv() => self.on_happened(what),
            () = clock::pause(pause) => {}
        }
        while let Ok(what) = self.happened.try_recv() {
            self.on_happened(what);
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    async fn sync(&mut self, now: Timestamp) {
        self.check_deadline(now);
        if self.state.is_over() {
            let plan = self.state.plan(now);
            self.begin_stopping(&plan.stop, None);
            if self.running.is_empty() {
                self.end_sandbox().await;
            }
            return;
        }
        self.volumes_stale |= self.volumes.renew_at().is_some_and(|at| at <= now);
        if self.volumes_stale {
            if let Err(error) = self.volumes.set_up(&self.kubelet, &self.pod, &self.facts, now).await {
                self.kubelet.events.warning(&self.pod, None, "FailedMount", error);
                self.wake_at(now.saturating_add(AGAIN).unwrap_or(Timestamp::MAX));
                if self.sandbox.is_none() {
                    return;
                }
            } else {
                self.volumes_stale = false;
                self.watch_objects();
            }
        }
        if let Some(at) = self.volumes.renew_at() {
            self.wake_at(at);
        }
        if self.sandbox.is_none()
            && let Err(error) = self.start_sandbox().await
        {
            let message = format!("Failed to create pod sandbox: {error:#}");
            self.kubelet
                .events
                .warning(&self.pod, None, "FailedCreatePodSandBox", message);
            self.wake_at(now.saturating_add(AGAIN).unwrap_or(Timestamp::MAX));
            return;
        }
        let plan = self.state.plan(now);
        for index in plan.backing_off {
            let Some(record) = self.state.records.get(index) else {
                continue;
            };
            let message = format!(
                "Back-off restarting failed container {} in pod {}",
                record.spec.name, self.state.title
            );
            self.kubelet
                .events
                .warning(&self.pod, Some(&record.spec.name), "BackOff", message);
        }
        if let Some(at) = plan.wake {
            self.wake_at(at);
        }
        for index in plan.start {
            self.start(index).await;
        }
    }

    fn check_deadline(&mut self, now: Timestamp) {
        let seconds = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let since = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0);
        if let (Some(seconds), Some(since), None) = (seconds, since, &self.state.failure) {
            let allowed = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let at = since.saturating_add(allowed).unwrap_or(Timestamp::MAX);
            if at > now {
                self.wake_at(at);
            } else {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.kubelet
                    .events
                    .normal(&self.pod, None, "DeadlineExceeded", message.clone());
                self.state.failure = Some(("DeadlineExceeded".to_owned(), message));
            }
        }
    }

    async fn start(&mut self, index: usize) {
        let Some(record) = self.state.records.get(index) else {
            return;
        };
        let Some(sandbox) = self.sandbox.as_ref().map(|sandbox| sandbox.pid) else {
            return;
        };
        let container = record.spec.clone();
        let name = container.name.clone();
        let known = self.entries.get(&name).and_then(Option::as_ref).map(|entry| entry.run);
        let run = known.map_or(0, |run| run + 1).max(record.restarts);
        let request = Request {
            kubelet: &self.kubelet,
            pod: &self.pod,
            container: &container,
            facts: &self.facts,
            volumes: &self.volumes.paths,
            hostname: &self.hostname,
            directory: &self.directory,
            sandbox,
            run,
            log: self.logs.join(&name).join(format!("{run}.log")),
        };
        if let Err(error) = std::fs::create_dir_all(self.directory.join("containers").join(&name)) {
            return self.on_refusal(index, run, Refusal::Start(error.to_string()));
        }
        let (running, exit) = match container::start(&request).await {
            Ok(started) => started,
            Err(refusal) => return self.on_refusal(index, run, refusal),
        };
        let events = &self.kubelet.events;
        let image = container.image.clone().unwrap_or_default();
        events.normal(
            &self.pod,
            Some(&name),
            "Pulled",
            format!("Container image \"{image}\" already present on machine"),
        );
        events.normal(&self.pod, Some(&name), "Created", format!("Created container: {name}"));
        events.normal(&self.pod, Some(&name), "Started", format!("Started container {name}"));
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let code = exit.await.unwrap_or(137);
            // A worker that has ended does not want to know.
            drop(tell.send(Happened::Ended { index, run, code }).await);
        });
        if let Some(record) = self.state.records.get_mut(index) {
            record.on_started(running.id.clone(), clock::now());
            running.started.send_replace(record.started);
        }
        self.entries
            .insert(name.clone(), Some(tasks::entry(&container, &running)));
        // Two runs are kept: this one and the previous.
        let forgotten = self.logs.join(&name).join(format!("{}.log", run - 2));
        drop((
            std::fs::remove_file(log_file::old(&forgotten)),
            std::fs::remove_file(forgotten),
        ));
        self.register();
        let hook = container.lifecycle.and_then(|lifecycle| lifecycle.post_start);
        let (place, mut ended) = (running.place.clone(), running.output.ended.subscribe());
        self.running.insert(index, running);
        if let Some(hook) = hook {
            let mut changes = self.changes.clone();
            let leaving =
                changes.wait_for(|pod| pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
            let result = tokio::select! {
                result = place.hook(&hook) => result,
                _ = ended.wait_for(|ended| *ended) => Ok(()),
                _ = leaving => Ok(()),
            };
            if let Err(message) = result {
                self.kubelet.events.warning(
                    &self.pod,
                    Some(&name),
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {message}"),
                );
                self.begin_stopping(&[index], None);
                return;
            }
        }
        self.begin_probing(index);
    }

    fn on_refusal(&mut self, index: usize, run: i32, refusal: Refusal) {
        let now = clock::now();
        let Some(record) = self.state.records.get_mut(index) else {
            return;
        };
        let name = record.spec.name.clone();
        let events = &self.kubelet.events;
        let soon = now.saturating_add(AGAIN).unwrap_or(Timestamp::MAX);
        match refusal {
            Refusal::Config(message) => {
                events.warning(&self.pod, Some(&name), "Failed", format!("Error: {message}"));
                record.on_not_started("CreateContainerConfigError", &message, soon);
                self.wake_at(soon);
            }
            Refusal::Image(message) => {
                let image = record.spec.image.clone().unwrap_or_default();
                let again = matches!(&record.phase, Phase::Waiting { reason, .. } if reason == "ErrImagePull");
                if again {
                    record.back_off.lengthen();
                    let until = record.back_off.over(now);
                    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {message}");
                    events.normal(
                        &self.pod,
                        Some(&name),
                        "BackOff",
                        format!("Back-off pulling image \"{image}\""),
                    );
                    record.on_not_started("ImagePullBackOff", &message, until);
                    self.wake_at(until);
                } else {
                    events.warning(
                        &self.pod,
                        Some(&name),
                        "Failed",
                        format!("Failed to pull image \"{image}\": {message}"),
                    );
                    events.warning(&self.pod, Some(&name), "Failed", "Error: ErrImagePull");
                    record.on_not_started("ErrImagePull", &message, soon);
                    self.wake_at(soon);
                }
            }
            Refusal::Start(message) => {
                events.warning(&self.pod, Some(&name), "Failed", format!("Error: {message}"));
                let id = container::id(&self.pod.uid().unwrap_or_default(), &name, run);
                record.on_started(id.clone(), now);
                record.on_ended(Ended {
                    code: 128,
                    reason: "StartError".to_owned(),
                    message,
                    started: Some(now),
                    finished: now,
                    id: Some(id),
                });
                self.wake_at(now);
            }
        }
    }

    fn on_happened(&mut self, what: Happened) {
        match what {
            Happened::Ended { index, run, code } => self.on_ended(index, run, code),
            Happened::ObjectChanged => self.volumes_stale = true,
            Happened::Stopped { index, hook_failure } => {
                if let (Some(message), Some(record)) = (hook_failure, self.state.records.get(index)) {
                    let message = format!("PreStopHook failed: {message}");
                    self.kubelet
                        .events
                        .warning(&self.pod, Some(&record.spec.name), "FailedPreStopHook", message);
                }
            }
            Happened::Probed {
                index,
                run,
                purpose,
                failure,
                verdict,
            } => {
                let Some(running) = self.running.get(&index).filter(|running| running.run == run) else {
                    return;
                };
                let Some(record) = self.state.records.get_mut(index) else {
                    return;
                };
                let name = record.spec.name.clone();
                if let Some(failure) = failure {
                    let message = format!("{} probe failed: {failure}", purpose.word());
                    self.kubelet
                        .events
                        .warning(&self.pod, Some(&name), "Unhealthy", message);
                }
                match (purpose, verdict) {
                    (_, None) => {}
                    (Purpose::Startup, Some(true)) => {
                        record.started = true;
                        record.ready = record.spec.readiness_probe.is_none();
                        running.started.send_replace(true);
                    }
                    (Purpose::Readiness, Some(verdict)) => record.ready = verdict && record.started,
                    (Purpose::Liveness, Some(true)) => {}
                    (Purpose::Startup | Purpose::Liveness, Some(false)) => {
                        let word = purpose.word().to_lowercase();
                        let message = format!("Container {name} failed {word} probe, will be restarted");
                        let grace = purpose
                            .of(&record.spec)
                            .and_then(|probe| probe.termination_grace_period_seconds);
                        self.kubelet.events.normal(&self.pod, Some(&name), "Killing", message);
                        self.begin_stopping(&[index], grace);
                    }
                }
            }
        }
    }

    fn on_ended(&mut self, index: usize, run: i32, code: i32) {
        let Some(running) = self.running.remove(&index) else {
            return;
        };
        let Some(record) = self.state.records.get_mut(index) else {
            return;
        };
        let now = clock::now();
        let name = record.spec.name.clone();
        let message = last_message(&self.directory, &self.logs, &record.spec, run, code);
        let started = match record.phase {
            Phase::Running { since } => Some(since),
            Phase::Waiting { .. } | Phase::Ended(_) => None,
        };
        record.on_ended(Ended {
            code,
            reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
            message,
            started,
            finished: now,
            id: Some(running.id),
        });
        if let Some(Some(entry)) = self.entries.get_mut(&name) {
            (entry.output, entry.inside) = (None, None);
        }
        self.register();
    }

    /// Begins to stop containers, each within `grace` seconds or what the Pod says.
    fn begin_stopping(&mut self, indices: &[usize], grace: Option<i64>) {
        let own = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let grace = grace.or(own).unwrap_or(GRACE_SECONDS);
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let (_keep, deadline) = watch::channel(deadline);
        for index in indices {
            self.stop(*index, deadline.clone());
        }
    }

    fn stop(&mut self, index: usize, deadline: watch::Receiver<Instant>) {
        let (Some(running), Some(record)) = (self.running.get_mut(&index), self.state.records.get(index)) else {
            return;
        };
        if running.stopping {
            return;
        }
        running.stopping = true;
        running.probes.abort_all();
        let name = &record.spec.name;
        self.kubelet
            .events
            .normal(&self.pod, Some(name), "Killing", format!("Stopping container {name}"));
        let stop = Stop {
            place: running.place.clone(),
            pre_stop: record
                .spec
                .lifecycle
                .as_ref()
                .and_then(|lifecycle| lifecycle.pre_stop.clone()),
            signals: running.signals.clone(),
            ended: running.output.ended.subscribe(),
            deadline,
        };
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let hook_failure = stop.run().await;
            // A worker that has ended does not want to know.
            drop(tell.send(Happened::Stopped { index, hook_failure }).await);
        });
    }

    /// Ends everything, writes the last status and lets the object go.
    async fn leave(mut self) {
        let grace = if self.changes.borrow().is_none() {
            ORPHAN_GRACE
        } else {
            seconds(self.pod.metadata.deletion_grace_period_seconds.unwrap_or(GRACE_SECONDS))
        };
        self.deadline.send_replace(Instant::now() + grace);
        let mains: Vec<usize> = self.indices(|kind| kind != Kind::Sidecar);
        let mut rounds = vec![mains];
        rounds.extend(
            self.indices(|kind| kind == Kind::Sidecar)
                .into_iter()
                .rev()
                .map(|index| vec![index]),
        );
        for round in rounds {
            for index in &round {
                self.stop(*index, self.deadline.subscribe());
            }
            while round.iter().any(|index| self.running.contains_key(index)) {
                let before = self.pod.metadata.deletion_grace_period_seconds;
                self.wake = None;
                self.wait().await;
                let after = self.pod.metadata.deletion_grace_period_seconds;
                if self.changes.has_changed().is_err() || after < before {
                    self.deadline.send_replace(Instant::now() + seconds(after.unwrap_or(0)));
                }
                self.publish().await;
            }
        }
        self.end_sandbox().await;
        self.publish().await;
        self.release().await;
    }

    fn indices(&self, wanted: impl Fn(Kind) -> bool) -> Vec<usize> {
        let records = self.state.records.iter().enumerate();
        records
            .filter(|(_, record)| wanted(record.kind))
            .map(|(index, _)| index)
            .collect()
    }

    fn register(&self) {
        let entry = PodEntry {
            uid: self.pod.uid().unwrap_or_default(),
            logs: self.logs.clone(),
            sandbox: self.sandbox.as_ref().map(|sandbox| sandbox.pid),
            containers: self.entries.clone(),
        };
        self.kubelet
            .registry
            .put(&self.pod.namespace().unwrap_or_default(), &self.pod.name_any(), entry);
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
