//! The delta stream to the managers: connects, subscribes, answers, keeps the last good configuration on the disk.
//!
//! Owns reconnecting and when a configuration is complete enough to be carried out; what resources mean is [`super::decode`]'s. What the
//! kernel forwards never depends on a manager being there: an outage changes nothing.

mod addresses;
mod asking;
mod connect;
mod credential;
mod kept;
mod reporting;
mod shown;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kubelb_runtime::or_never::or_never;
use kubelb_xds::client::{Change, Outcome, Session};
use kubelb_xds::contract::NodeId;
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kubelb_xds::{ResourceType, contract::Rejection};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Decoded, Here, Resources, decode};
use crate::feedback::Feedback;
use crate::model::Snat;
use crate::source::Update;
use crate::status::xds::XdsReport;
use addresses::Addresses;
use asking::Asking;
use connect::Connection;
pub use connect::{Credential, Manager};
use kept::Kept;
use reporting::{Reporting, Waiting};
pub use shown::read as read_shown;
use standing::Standing;

/// How to reach managers, and what this agent is called.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Managers, in the order in which they are tried.
    pub managers: Vec<Manager>,
    /// The Kubernetes node: a name in logs, not a credential.
    pub node: String,
    /// Where the last good configuration is kept; `None`: nowhere.
    pub state_dir: Option<std::path::PathBuf>,
    /// Source addresses and ports: the node's own matter, not the managers'.
    pub snat: Snat,
}

impl Settings {
    fn here(&self) -> Here<'_> {
        Here {
            node: &self.node,
            snat: &self.snat,
        }
    }
}

/// First and longest pause before another manager is tried.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A stream that lived this long was a good one: the next pause is short again.
const LASTING: Duration = Duration::from_secs(10);
/// After the first answers, time without a message that means that the first configuration is whole.
const QUIET: Duration = Duration::from_millis(200);
/// Longest wait for a first configuration to be whole (Envoy's initial_fetch_timeout).
const INITIAL: Duration = Duration::from_secs(15);
/// Time between two writes of what is kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Rejections and waiting listeners that are told; the rest is counted.
const TOLD: usize = 20;

/// Starts a task that delivers configurations until `shutdown`, or until the receiver is dropped. While the receiver is busy, changes collapse
/// into the last one. Beside them, how the managers are doing. The manager that configures is told what `feedback` says.
#[must_use]
pub fn watch(
    settings: Settings,
    feedback: Feedback,
    shutdown: CancellationToken,
) -> (mpsc::Receiver<Update>, watch::Receiver<XdsReport>) {
    let (updates, receiver) = mpsc::channel(1);
    let state_dir = settings.state_dir.clone();
    let (connection_out, connection) = watch::channel(None);
    let (waiting_out, waiting) = watch::channel(Waiting::default());
    let mut follower = Follower::new(settings, updates.clone(), connection_out, waiting_out);
    let standing = follower.standing.watch();
    if let Some(directory) = state_dir {
        tokio::spawn(shown::keep(standing.clone(), directory));
    }
    let reporting = Reporting {
        feedback,
        waiting,
        connection,
    };
    // Ends when the follower, which has the other ends, does.
    tokio::spawn(reporting.run());
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = updates.closed() => {}
            () = follower.follow() => {}
        }
        follower.keep_now().await;
    });
    (receiver, standing)
}

/// What became of a stream.
enum End {
    Receiver,
    Stream(Status),
}

struct Follower {
    settings: Settings,
    updates: mpsc::Sender<Update>,
    session: Session,
    resources: Resources,
    rejected: BTreeMap<(ResourceType, String), String>,
    kept: Kept,
    /// A configuration has been whole once: from here on every state is carried out.
    is_whole: bool,
    /// Something is not yet delivered.
    is_dirty: bool,
    /// For those who report.
    connection: watch::Sender<Option<Connection>>,
    waiting: watch::Sender<Waiting>,
    /// Why there is no stream, by manager. Empty while there is one.
    outage: BTreeMap<String, String>,
    keep_at: Option<Instant>,
    standing: Standing,
    asking: Asking,
    /// By manager.
    addresses: BTreeMap<usize, Addresses>,
    /// The manager of this stream has said who announces what.
    is_live: bool,
}

impl Follower {
    fn new(
        settings: Settings,
        updates: mpsc::Sender<Update>,
        connection: watch::Sender<Option<Connection>>,
        waiting: watch::Sender<Waiting>,
    ) -> Self {
        let node = Node {
            id: NodeId::Agent(settings.node.clone()).to_string(),
            user_agent_name: env!("CARGO_PKG_NAME").to_owned(),
            ..Node::default()
        };
        let mut session = Session::new(node);
        // Nothing is sent yet: there is no stream.
        for kind in [
            ResourceType::Cluster,
            ResourceType::Listener,
            ResourceType::VirtualAddress,
        ] {
            drop(session.subscribe(kind, ["*".to_owned()]));
        }
        // Not every control plane knows this type: the others come first.
        session.hold(ResourceType::VirtualAddress);
        let kept = Kept::new(settings.state_dir.clone());
        let written = kept.written_at().map(unix);
        let mut follower = Self {
            kept,
            standing: Standing::new(&settings.node, &settings.managers, written, unix_now()),
            asking: Asking::default(),
            addresses: BTreeMap::new(),
            is_live: false,
            settings,
            updates,
            session,
            resources: Resources::default(),
            rejected: BTreeMap::new(),
            is_whole: false,
            is_dirty: false,
            connection,
            waiting,
            outage: BTreeMap::new(),
            keep_at: None,
        };
        follower.restore();
        follower
    }

    /// Takes up what an earlier agent kept.
    fn restore(&mut self) {
        let mut count = 0_usize;
        for (kind, name, version, value) in self.kept.read() {
            if let Ok(decoded) = decode(kind, &name, &value, self.settings.here()) {
                self.resources.set(name.clone(), decoded);
                self.session.restore(kind, name, version);
                count += 1;
            }
        }
        if count > 0 {
            drop(self.want_endpoints());
            for kind in ResourceType::ALL {
                self.standing.has(kind, self.session.versions(kind).len(), unix_now());
            }
            self.is_whole = true;
            self.is_dirty = true;
            tracing::info!(
                resources = count,
                "last good configuration taken up; managers are asked for what has changed"
            );
        }
    }

    async fn follow(&mut self) {
        let mut pause = BACK_OFF.0;
        let mut turn = 0_usize;
        while let Some(manager) = self.settings.managers.get(turn).cloned() {
            let started = now();
            let expires_at = credential::expires_at(&manager.credential).await;
            self.standing.tries(turn, expires_at, unix_now());
            match self.stream(&manager, turn).await {
                End::Receiver => return,
                End::Stream(status) => {
                    self.session.disconnect();
                    self.asking.ended(turn, now());
                    self.is_dirty |= std::mem::take(&mut self.is_live);
                    self.connection.send_replace(None);
                    let text = said(&status);
                    self.standing.ended(turn, &text, unix_now());
                    // Once for each manager and reason: an outage may last for days.
                    if self.outage.get(&manager.url) != Some(&text) {
                        tracing::warn!("no stream, forwarding goes on as it is: {manager}: {text}");
                        self.outage.insert(manager.url.clone(), text);
                        self.is_dirty = true;
                    }
                }
            }
            if now().duration_since(started) >= LASTING {
                pause = BACK_OFF.0;
            }
            // Other managers of the same name come before other names.
            let stays = self.addresses.entry(turn).or_default().ended(now());
            if !stays {
                turn = (turn + 1) % self.settings.managers.len().max(1);
            }
            let next = jittered(pause);
            self.standing.pauses(milliseconds(next), unix_now());
            if self.settle(now() + next).await.is_err() {
                return;
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// One stream, from connecting to its end.
    async fn stream(&mut self, manager: &Manager, turn: usize) -> End {
        let (requests, outgoing) = mpsc::channel::<DeltaDiscoveryRequest>(64);
        // Before the manager has answered, the stream's first messages have to be on their way.
        for request in self.session.connect() {
            // Six types at most, and room for 64.
            drop(requests.try_send(request));
        }
        // Out of the way of what is delivered meanwhile.
        let mut addresses = self.addresses.remove(&turn).unwrap_or_default();
        let opened = tokio::select! {
            opened = connect::open(manager, &mut addresses, outgoing) => opened,
            end = self.deliver_forever() => return end,
        };
        self.addresses.insert(turn, addresses);
        let mut incoming = match opened {
            Ok((incoming, connection)) => {
                self.connection.send_replace(Some(connection));
                incoming
            }
            Err(status) => return End::Stream(status),
        };
        self.standing.opened(turn, unix_now());
        let patience = now() + INITIAL;
        let mut quiet: Option<Instant> = None;
        let mut answered = BTreeSet::new();
        loop {
            let is_deliverable = self.is_dirty && self.is_whole;
            let updates = self.updates.clone();
            let keep_at = self.keep_at;
            tokio::select! {
                biased;
                message = incoming.message() => {
                    let response = match message {
                        Ok(Some(response)) => response,
                        Ok(None) => return End::Stream(Status::unavailable("the manager ended the stream")),
                        Err(status) => return End::Stream(status),
                    };
                    if !std::mem::take(&mut self.outage).is_empty() {
                        self.is_dirty = true;
                        tracing::info!(%manager, "the stream is back");
                    }
                    answered.extend(ResourceType::from_type_url(&response.type_url));
                    let kind = ResourceType::from_type_url(&response.type_url);
                    let mut requests_now = self.take(response);
                    if kind == Some(ResourceType::VirtualAddress) {
                        self.asking.answered(turn);
                        self.is_live = true;
                    } else if kind == Some(ResourceType::Listener) && self.asking.may_ask(turn, now()) {
                        requests_now.extend(self.session.release(ResourceType::VirtualAddress));
                    }
                    for request in requests_now {
                        if requests.send(request).await.is_err() {
                            return End::Stream(Status::unavailable("the stream takes no requests"));
                        }
                    }
                    let is_answered = self.is_answered(&answered);
                    self.standing.stands(is_answered, &self.rejected, unix_now());
                    quiet = is_answered.then(|| now() + QUIET);
                }
                () = or_never(quiet.map(sleep_until)), if !self.is_whole => self.is_whole = true,
                () = sleep_until(patience), if !self.is_whole && !answered.is_empty() => self.is_whole = true,
                permit = updates.reserve(), if is_deliverable => match permit {
                    Ok(permit) => permit.send(self.update()),
                    Err(_closed) => return End::Receiver,
                },
                () = or_never(keep_at.map(sleep_until)) => self.keep_now().await,
            }
        }
    }

    /// Whether everything that was asked for has been answered on this stream.
    fn is_answered(&self, answered: &BTreeSet<ResourceType>) -> bool {
        let has_lists = [ResourceType::Cluster, ResourceType::Listener]
            .iter()
            .all(|kind| answered.contains(kind));
        let known = self.session.versions(ResourceType::Endpoints);
        has_lists && self.resources.wanted_endpoints().all(|name| known.contains_key(name))
    }

    /// Takes a response over; what to send in answer.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let mut values = BTreeMap::new();
        if response.type_url == ResourceType::VirtualAddress.type_url() {
            self.resources.know_addresses();
        }
        let here = self.settings.here();
        let Outcome {
            changes,
            rejections,
            reply,
        } = self.session.on_response(response, |kind, name, bytes| {
            let decoded = decode(kind, name, bytes, here).map_err(|refusal| refusal.to_string())?;
            values.insert((kind, name.to_owned()), bytes.to_vec());
            Ok(decoded)
        });
        for change in changes {
            self.apply(change, &mut values);
        }
        for rejection in rejections {
            self.note(rejection);
        }
        if let Some(kind) = ResourceType::from_type_url(&reply.type_url) {
            let resources = self.session.versions(kind).len();
            let is_ack = reply.error_detail.is_none();
            self.standing.answered(kind, is_ack, resources, unix_now());
        }
        self.is_dirty = true;
        self.keep_at = self.keep_at.or_else(|| Some(now() + KEEP_EVERY));
        let mut requests = vec![reply];
        requests.extend(self.want_endpoints());
        requests
    }

    fn apply(&mut self, change: Change<Decoded>, values: &mut BTreeMap<(ResourceType, String), Vec<u8>>) {
        match change {
            Change::Updated { kind, name, value } => {
                let key = (kind, name.clone());
                self.rejected.remove(&key);
                let version = self.session.version(kind, &name).unwrap_or_default().to_owned();
                self.kept
                    .set(kind, &name, version, values.remove(&key).unwrap_or_default());
                self.resources.set(name, value);
            }
            Change::Removed { kind, name } => {
                self.resources.remove(kind, &name);
                self.kept.remove(kind, &name);
                self.rejected.remove(&(kind, name));
            }
        }
    }

    fn note(&mut self, rejection: Rejection) {
        let Some(kind) = ResourceType::from_type_url(&rejection.type_url) else {
            return;
        };
        tracing::warn!(
            kind = kind.label(),
            name = rejection.name,
            "resource refused, its last good version stays: {}",
            rejection.reason
        );
        self.rejected.insert((kind, rejection.name), rejection.reason);
    }

    /// Subscribes to the endpoints that clusters name now, and to no others.
    fn want_endpoints(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let wanted: BTreeSet<String> = self.resources.wanted_endpoints().map(str::to_owned).collect();
        let gone: Vec<String> = self.resources.endpoints_beyond(&wanted);
        for name in &gone {
            self.resources.remove(ResourceType::Endpoints, name);
            self.kept.remove(ResourceType::Endpoints, name);
        }
        // First what is wanted: versions that were kept are forgotten with the subscription.
        let joined = self.session.subscribe(ResourceType::Endpoints, wanted.iter().cloned());
        let left = self.session.unsubscribe(
            ResourceType::Endpoints,
            self.session.beyond(ResourceType::Endpoints, &wanted),
        );
        left.into_iter().chain(joined).collect()
    }

    fn update(&mut self) -> Update {
        self.is_dirty = false;
        let (desired, waiting) = self.resources.desired(self.settings.snat.clone());
        self.standing.announces(desired.addresses.as_ref());
        self.tell_waiting(&waiting);
        let refused = self
            .rejected
            .iter()
            .map(|((kind, name), reason)| format!("{} {name}: {reason}", kind.label()));
        let outages = self.outage.iter().map(|(url, reason)| format!("{url}: {reason}"));
        let troubles = outages.chain(refused);
        let mut lines: Vec<String> = troubles.chain(waiting.iter().map(ToString::to_string)).collect();
        if let Some(more) = lines.len().checked_sub(TOLD).filter(|more| *more > 0) {
            lines.truncate(TOLD);
            lines.push(format!("and {more} more"));
        }
        Update {
            desired: Some(desired),
            is_live: self.is_live,
            problem: (!lines.is_empty()).then(|| lines.join("\n")),
        }
    }

    /// Says which listeners are not served, if these are others than before.
    fn tell_waiting(&self, waiting: &[super::Waiting]) {
        let reasons = waiting
            .iter()
            .map(|waiting| (waiting.listener.clone(), waiting.to_string()));
        let next: BTreeMap<String, String> = reasons.collect();
        self.waiting.send_if_modified(|now| {
            let changed = **now != next;
            *now = next.into();
            changed
        });
    }

    /// Delivers what there is while there is no stream. Ends with the receiver only.
    async fn deliver_forever(&mut self) -> End {
        loop {
            if !(self.is_dirty && self.is_whole) {
                return std::future::pending().await;
            }
            let Ok(permit) = self.updates.clone().reserve_owned().await else {
                return End::Receiver;
            };
            permit.send(self.update());
        }
    }

    /// The same until a time. An error is the end of the receiver.
    async fn settle(&mut self, until: Instant) -> Result<(), End> {
        tokio::select! {
            end = self.deliver_forever() => Err(end),
            () = sleep_until(until) => Ok(()),
        }
    }

    async fn keep_now(&mut self) {
        self.keep_at = None;
        if let Err(error) = self.kept.write().await {
            tracing::warn!("the configuration is not kept: a restart without a manager would have none: {error}");
            self.keep_at = Some(now() + KEEP_EVERY * 60);
        }
    }
}

fn said(status: &Status) -> String {
    let source =
        std::error::Error::source(status).map(|source| format!(" ({})", kubelb_runtime::error_chain::chain(source)));
    format!("{}: {}{}", status.code(), status.message(), source.unwrap_or_default())
}

fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: what is told to people has a time of day"
)]
fn unix_now() -> u64 {
    unix(SystemTime::now())
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn milliseconds(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

/// 50 to 100 % of `pause`, so that agents don't come back in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
