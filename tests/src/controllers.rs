//! What kube-controller-manager and kube-scheduler do, as small as tests need it: an API client over any server.
//!
//! [`watch`] tells what there is into [`world`]; [`routes`] says which work a change asks for and [`queue`] when; each
//! controller is a pure function from the world to a plan of [`action`]s; [`execute`] carries them out, and what it is
//! answered goes into the world at once, so that the next decision knows of it. Only this file ties them together. Everything is
//! level-triggered: killed at any point, the next start goes on from what the server holds.

mod accounts;
mod action;
mod clock;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod execute;
mod garbage;
mod namespace;
mod node;
mod placement;
mod pods;
mod queue;
mod replica_set;
mod routes;
mod scheduler;
mod template;
mod watch;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use action::{Action, Plan};
use execute::{Executor, Told};
use queue::{Controller, Queue, Work};
use world::{Change, Kind, Source, World};

/// Messages that may wait for the loop; who sends more waits.
const CHANNEL: usize = 1024;

/// Pieces of work that talk to the server at a time.
const WORKERS: usize = 16;

/// How long one plan may take, all its requests together.
const PLAN_TIME: Duration = Duration::from_secs(30);

/// How the controllers behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What clients inside the cluster shall trust, PEM: goes into `kube-root-ca.crt` and tokens' Secrets.
    pub api_ca: String,
    /// How long a node may be silent before its Pods count as lost.
    pub node_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_ca: String::new(),
            node_grace: Duration::from_secs(40),
        }
    }
}

/// Something for the loop.
enum Message {
    Watched(Arc<Source>, Box<Event<DynamicObject>>),
    Discovered(Vec<Arc<Source>>),
    Told(Vec<Told>),
    Finished(Work, bool),
}

/// Runs all controllers until `shutdown`.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) {
    let (sender, mut receiver) = mpsc::channel(CHANNEL);
    let mut running = Loop::start(client, options, sender);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut batch = Vec::new();
    loop {
        let wait = running.wait();
        let messages = tokio::time::timeout(wait, receiver.recv_many(&mut batch, CHANNEL));
        tokio::select! {
            () = &mut shutdown => return,
            // Either something came, or something is due.
            messages = messages => if messages == Ok(0) { return },
        }
        let now = clock::now();
        for message in batch.drain(..) {
            running.take(message, now);
        }
        running.dispatch(now);
    }
}

/// The state of the loop. Its tasks end with it.
struct Loop {
    world: World,
    queue: Queue,
    executor: Executor,
    sender: mpsc::Sender<Message>,
    tasks: JoinSet<()>,
    watches: BTreeMap<(String, String), (Arc<Source>, AbortHandle)>,
    redefined: Arc<Notify>,
    /// Kinds that have not been listed: without them every decision would be wrong.
    unlisted: BTreeSet<Kind>,
    busy: usize,
}

impl Loop {
    fn start(client: Client, options: Options, sender: mpsc::Sender<Message>) -> Self {
        let mut this = Self {
            world: World {
                api_ca: options.api_ca.clone(),
                node_grace: SignedDuration::try_from(options.node_grace).unwrap_or(SignedDuration::MAX),
                ..World::default()
            },
            queue: Queue::default(),
            executor: Executor {
                client: client.clone(),
                api_ca: options.api_ca.into(),
            },
            sender: sender.clone(),
            tasks: JoinSet::new(),
            watches: BTreeMap::new(),
            redefined: Arc::new(Notify::new()),
            unlisted: Kind::ALL.iter().copied().collect(),
            busy: 0,
        };
        for kind in Kind::ALL {
            this.follow(Source::typed(*kind));
        }
        let redefined = Arc::clone(&this.redefined);
        this.tasks.spawn(watch::discover(client, redefined, sender));
        this
    }

    fn follow(&mut self, source: Arc<Source>) {
        let client = self.executor.client.clone();
        let task = watch::follow(client, Arc::clone(&source), self.sender.clone());
        let handle = self.tasks.spawn(task);
        self.world.sources.insert(source.id(), Arc::clone(&source));
        self.watches.insert(source.id(), (source, handle));
    }

    /// How long nothing is due.
    fn wait(&self) -> Duration {
        let idle = Duration::from_secs(3600);
        if self.busy >= WORKERS || !self.unlisted.is_empty() {
            return idle;
        }
        let due = self.queue.next().map(|at| at.duration_since(clock::now()));
        due.map_or(idle, |due| Duration::try_from(due).unwrap_or_default().min(idle))
    }

    fn take(&mut self, message: Message, now: Timestamp) {
        while self.tasks.try_join_next().is_some() {}
        match message {
            Message::Watched(source, event) => self.watched(&source, *event, now),
            Message::Discovered(sources) => self.discovered(sources, now),
            Message::Told(told) => {
                for told in told {
                    let changes = match told {
                        Told::Is(source, object) => self.world.apply(&source, &object),
                        Told::Gone(source, uid) => self.world.remove(&source, &uid),
                    };
                    self.changed(&changes, now);
                }
            }
            Message::Finished(work, succeeded) => {
                self.busy = self.busy.saturating_sub(1);
                self.queue.finished(work, succeeded, now);
            }
        }
    }

    fn watched(&mut self, source: &Arc<Source>, event: Event<DynamicObject>, now: Timestamp) {
        if !self.watches.contains_key(&source.id()) {
            return;
        }
        let changes = match event {
            Event::Init => {
                self.world.relist(source);
                Vec::new()
            }
            Event::Apply(object) | Event::InitApply(object) => self.world.apply(source, &object),
            Event::Delete(object) => match &object.metadata.uid {
                Some(uid) => self.world.remove(source, uid),
                None => Vec::new(),
            },
            Event::InitDone => {
                if let Some(kind) = source.kind {
                    self.unlisted.remove(&kind);
                }
                self.world.listed(source)
            }
        };
        if !changes.is_empty() && watch::is_definition(source) {
            self.redefined.notify_one();
        }
        self.changed(&changes, now);
    }

    fn discovered(&mut self, sources: Vec<Arc<Source>>, now: Timestamp) {
        let served: BTreeSet<_> = sources.iter().map(|source| source.id()).collect();
        let gone = self
            .watches
            .iter()
            .filter(|(id, (source, _))| source.kind.is_none() && !served.contains(*id));
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            if let Some((source, handle)) = self.watches.remove(&id) {
                handle.abort();
                self.world.sources.remove(&id);
                let changes = self.world.unserved(&source);
                self.changed(&changes, now);
            }
        }
        for source in sources {
            let known = self.watches.get(&source.id());
            if known.is_some_and(|(known, _)| *known == source || source.kind.is_some()) {
                continue;
            }
            if let Some((_, handle)) = known {
                // Another version is served.
                handle.abort();
            }
            self.follow(source);
        }
    }

    fn changed(&mut self, changes: &[Change], now: Timestamp) {
        for change in changes {
            for work in routes::affected(&self.world, change) {
                self.queue.add(work, now);
            }
        }
    }

    /// Decides what is due, and has it carried out.
    fn dispatch(&mut self, now: Timestamp) {
        while self.unlisted.is_empty() && self.busy < WORKERS {
            let Some(work) = self.queue.take(now) else { return };
            let plan = decide(&self.world, &work, now);
            if let Some(at) = plan.again {
                self.queue.add(work.clone(), at);
            }
            if plan.actions.is_empty() {
                self.queue.finished(work, true, now);
                continue;
            }
            self.busy += 1;
            let (executor, sender) = (self.executor.clone(), self.sender.clone());
            self.tasks.spawn(async move {
                let carried_out = carry_out(&executor, plan.actions, &sender);
                let succeeded = tokio::time::timeout(PLAN_TIME, carried_out).await.unwrap_or(false);
                // The loop has ended when nobody listens.
                drop(sender.send(Message::Finished(work, succeeded)).await);
            });
        }
    }
}

/// The decision of the controller that a piece of work belongs to.
fn decide(world: &World, work: &Work, now: Timestamp) -> Plan {
    let (namespace, name) = (work.namespace.as_str(), work.name.as_str());
    match work.controller {
        Controller::Accounts => accounts::reconcile(world, namespace),
        Controller::DaemonSet => daemon_set::reconcile(world, namespace, name, now),
        Controller::Deployment => deployment::reconcile(world, namespace, name, now),
        Controller::EndpointSlice => endpoint_slice::reconcile(world, namespace, name),
        Controller::Disruption => disruption::reconcile(world, namespace, name, now),
        Controller::Garbage => garbage::reconcile(world, name, now),
        Controller::Namespace => namespace::reconcile(world, name, now),
        Controller::Node => node::reconcile(world, name, now),
        Controller::ReplicaSet => replica_set::reconcile(world, namespace, name, now),
        Controller::Scheduler => scheduler::reconcile(world, now),
        Controller::Token => accounts::token(world, namespace, name),
        Controller::Job | Controller::StatefulSet => Plan::default(),
    }
}

/// One action after the other. One that fails does not stop the others, except that no more is made after a refusal.
async fn carry_out(executor: &Executor, actions: Vec<Action>, sender: &mpsc::Sender<Message>) -> bool {
    let mut succeeded = true;
    let mut refused = false;
    for action in actions {
        let creates = matches!(action, Action::Create { .. });
        if creates && refused {
            continue;
        }
        let mut told = Vec::new();
        if let Err(error) = executor.run(action, &mut told).await {
            succeeded = false;
            refused |= creates;
            report(&error);
        }
        if !told.is_empty() {
            drop(sender.send(Message::Told(told)).await);
        }
    }
    succeeded
}

/// Conflicts are everyday; the rest is for the log.
fn report(error: &kube::Error) {
    if !matches!(error, kube::Error::Api(status) if status.code == 409) {
        eprintln!("controllers: {error}");
    }
}

/// The certificate authority that a kubeconfig's current context trusts, PEM; empty when it names none.
///
/// # Errors
/// When it names a file that can't be read, or holds something that is not base64 of text.
pub fn authority(kubeconfig: &kube::config::Kubeconfig) -> anyhow::Result<String> {
    use anyhow::Context as _;
    use base64::Engine as _;
    let current = kubeconfig.current_context.as_deref();
    let context = kubeconfig
        .contexts
        .iter()
        .find(|context| Some(context.name.as_str()) == current);
    let name = context
        .and_then(|context| context.context.as_ref())
        .map(|context| context.cluster.as_str());
    let cluster = kubeconfig
        .clusters
        .iter()
        .find(|cluster| Some(cluster.name.as_str()) == name);
    let Some(cluster) = cluster.and_then(|cluster| cluster.cluster.as_ref()) else {
        return Ok(String::new());
    };
    if let Some(data) = &cluster.certificate_authority_data {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data);
        return String::from_utf8(bytes.context("certificate-authority-data")?).context("certificate-authority-data");
    }
    match &cluster.certificate_authority {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}")),
        None => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests;
