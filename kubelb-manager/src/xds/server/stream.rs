//! One stream of a peer: a session, driven by requests, snapshots and time.
//!
//! Owns the order of these and what is logged, counted and noted of the session's events. Decides nothing of what is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kubelb_runtime::or_never::or_never;
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use kubelb_xds::server::{Config, Event, Output, Refusal, Response, Session, Variant};
use kubelb_xds::{ResourceType, Snapshot};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::codec::Streaming;

use super::connection::Connection;
use super::frame::{Gone, Responses};
use super::registry::{Behind, Entry, MAX_BEHIND, Peer, PeerRejection, Protocol};
use super::{Count, clock, wall_clock};
use crate::identity::Identity;

/// Label of the time from a change to a peer's having all of it.
const WHOLE: &str = "snapshot";
/// Longest life of a credential that a timer is set for; beyond it the connection's age ends the stream.
const FAR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A stream that may be served.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) identity: Identity,
    pub(super) protocol: Protocol,
    pub(super) connection: Arc<Connection>,
    pub(super) responses: Responses,
    pub(super) place: OwnedSemaphorePermit,
}

/// A message of a peer.
pub(super) trait Request: Send + 'static {
    fn type_url(&self) -> &str;
    /// Who the peer says that it is: in the first message of a stream, as a rule.
    fn node(&self) -> Option<&Node>;
    fn deliver(self, session: &mut Session, now: Instant) -> Output;
}

impl Request for DeltaDiscoveryRequest {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn deliver(self, session: &mut Session, now: Instant) -> Output {
        session.on_delta_request(self, now)
    }
}

impl Request for DiscoveryRequest {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn deliver(self, session: &mut Session, now: Instant) -> Output {
        session.on_sotw_request(&self, now)
    }
}

/// Serves the stream to its end.
pub(super) async fn run<R: Request>(open: Open, requests: Streaming<R>) {
    let Open {
        identity,
        protocol,
        connection,
        responses,
        place,
    } = open;
    let server = &connection.server;
    let entry = server.registry.enter(Peer {
        identity: identity.clone(),
        connection: connection.id,
        address: connection.address,
        protocol,
        node: String::new(),
        since: wall_clock(),
        types: [].into(),
        snapshot: std::sync::Weak::new(),
        synced: false,
        behind: Behind::Everything,
        rejections: Arc::default(),
    });
    let variant = match protocol {
        Protocol::Delta => Variant::Delta,
        Protocol::Sotw => Variant::StateOfTheWorld,
    };
    tracing::info!(address = %connection.address, peer = identity.subject, scope = %identity.scope, protocol = protocol.word(), "xDS stream opened");
    let mut stream = Stream {
        session: Session::new(variant, identity.scope.clone(), Config::default(), clock()),
        connection: &connection,
        responses: &responses,
        identity: &identity,
        entry,
        sent: BTreeMap::new(),
        changed: None,
    };
    let status = stream.serve(requests).await;
    drop(stream);
    tracing::info!(address = %connection.address, peer = identity.subject, status = status.message(), "xDS stream ended");
    responses.end(status);
    drop(place);
}

struct Stream<'a> {
    session: Session,
    connection: &'a Connection,
    responses: &'a Responses,
    identity: &'a Identity,
    entry: Entry,
    /// When the last response of each type was sent, until it is answered.
    sent: BTreeMap<ResourceType, Instant>,
    /// When the oldest change came that the peer does not have all of yet.
    changed: Option<Instant>,
}

impl Stream<'_> {
    async fn serve<R: Request>(&mut self, mut requests: Streaming<R>) -> Status {
        let mut snapshots = self.connection.server.snapshots.clone();
        let first = Arc::clone(&snapshots.borrow_and_update());
        self.entry.bring_to(&first, Behind::Everything);
        let output = self.session.on_snapshot(first, clock());
        let mut delivered = self.deliver(output).await;
        let mut expiry = std::pin::pin!(tokio::time::sleep(left(self.identity.expires)));
        while delivered == Ok(()) {
            let timeout = self.session.poll_timeout();
            let timer = or_never(timeout.map(|at| tokio::time::sleep_until(at.into())));
            let output = tokio::select! {
                biased;
                () = self.responses.gone() => return Status::cancelled("the peer has gone"),
                () = self.connection.ending.cancelled() => return Status::unavailable("this server ends the connection; open another"),
                () = expiry.as_mut() => {
                    self.count(Count::Refused, "expired");
                    tracing::warn!(address = %self.connection.address, peer = self.identity.subject, "xDS stream ended: its credential has expired");
                    return Status::unauthenticated("the credential has expired");
                }
                request = requests.message() => match request {
                    Ok(Some(request)) => match self.request(request) {
                        Ok(output) => output,
                        Err(status) => return status,
                    },
                    Ok(None) => return Status::ok("the peer has no more to ask"),
                    Err(status) => return status,
                },
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Status::unavailable("this server ends");
                    }
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    self.snapshot(snapshot)
                }
                () = timer => self.session.on_timeout(clock()),
            };
            delivered = self.deliver(output).await;
        }
        Status::cancelled("the peer has gone")
    }

    fn request(&mut self, request: impl Request) -> Result<Output, Status> {
        let kind = ResourceType::from_type_url(request.type_url());
        self.count(Count::Requests, kind.map_or("unknown", ResourceType::label));
        if let Some(node) = request.node() {
            self.verify_name(&node.id)?;
        }
        let known_node = self.session.node().is_some();
        let output = request.deliver(&mut self.session, clock());
        let node = self.session.node().filter(|_| !known_node);
        self.entry.update(|peer| {
            let new_type = kind.is_some_and(|kind| peer.types.insert(kind));
            if let Some(node) = node {
                peer.node = shown(&node.id);
            }
            new_type || node.is_some()
        });
        Ok(output)
    }

    /// Nobody is served under a name that is another's. No honest peer does that: its name and its proof come from one place.
    fn verify_name(&self, node_id: &str) -> Result<(), Status> {
        if self.identity.may_be_called(node_id) {
            return Ok(());
        }
        let (address, peer, node) = (&self.connection.address, &self.identity.subject, shown(node_id));
        self.count(Count::Refused, "node_id");
        tracing::warn!(%address, peer, node, reason = "node_id", "xDS stream refused: its node id is another's");
        let told =
            format!("the node id {node:?} is not one of {peer}: start with what `kubelb-manager bootstrap` writes");
        Err(Status::permission_denied(told))
    }

    fn snapshot(&mut self, snapshot: Arc<Snapshot>) -> Output {
        let now = clock();
        self.changed.get_or_insert(now);
        let output = self.session.on_snapshot(Arc::clone(&snapshot), now);
        self.entry.bring_to(&snapshot, self.behind());
        self.entry.forget_rejections(|kind, name, version| {
            let current = snapshot.get(kind, name);
            current.is_none_or(|current| current.version().to_string() != version)
        });
        output
    }

    /// What the peer has not taken yet. One that has not asked for anything has nothing.
    fn behind(&self) -> Behind {
        if self.session.node().is_none() {
            return Behind::Everything;
        }
        self.session.outstanding(MAX_BEHIND).into()
    }

    /// Sends what there is, and notes what happened.
    async fn deliver(&mut self, output: Output) -> Result<(), Gone> {
        for event in output.events {
            self.note(event);
        }
        for response in output.responses {
            self.send(&response).await?;
        }
        let settled = self.session.is_settled();
        if settled && let Some(since) = self.changed.take() {
            self.connection
                .server
                .metrics
                .pushed(WHOLE, clock().saturating_duration_since(since));
        }
        let behind = self.behind();
        self.entry.progressed(settled, behind);
        Ok(())
    }

    async fn send(&mut self, response: &Response) -> Result<(), Gone> {
        let label = response.kind().label();
        self.count(Count::Responses, label);
        let metrics = &self.connection.server.metrics;
        metrics.add_many(Count::Resources, label, response.resources().len());
        metrics.add_many(Count::Removals, label, response.removed().len());
        metrics.add_many(Count::Bytes, label, response.encoded_len());
        self.sent.insert(response.kind(), clock());
        if self.responses.is_full() {
            self.count(Count::SlowReaders, "");
        }
        let slot = tokio::select! {
            biased;
            // The loop sees why, and says so.
            () = self.connection.ending.cancelled() => return Ok(()),
            slot = self.responses.ready() => slot?,
        };
        slot.send(response.to_pieces());
        Ok(())
    }

    fn note(&mut self, event: Event) {
        let (address, peer) = (&self.connection.address, &self.identity.subject);
        match event {
            Event::Acked { kind, names } => {
                self.count(Count::Acks, kind.label());
                self.answered(kind);
                self.entry.accepted(kind, &names);
            }
            Event::Nacked { kind, names, text } => {
                self.count(Count::Nacks, kind.label());
                self.answered(kind);
                tracing::warn!(%address, peer, %kind, resources = names.len(), text, "xDS response rejected");
            }
            Event::Quarantined {
                kind,
                name,
                version,
                owner,
                reason,
            } => {
                tracing::warn!(%address, peer, %kind, %name, %version, ?owner, reason, "xDS resource rejected; the peer keeps what it had");
                let version = version.to_string();
                self.entry.rejected(kind, &name, PeerRejection { version, reason });
            }
            Event::Refused(refusal) => {
                let (count, label) = match &refusal {
                    Refusal::OutOfScope { kind, .. } => (Count::OutOfScope, kind.label()),
                    Refusal::ForeignType(_) => (Count::Refused, "foreign_type"),
                    Refusal::UnknownType(_) => (Count::Refused, "unknown_type"),
                    Refusal::TooManyNames(_) => (Count::Refused, "too_many_names"),
                };
                self.count(count, label);
                tracing::warn!(%address, peer, %refusal, "xDS request refused");
            }
            Event::Stalled { kind, names } => {
                self.count(Count::Stalls, kind.label());
                let first = names.first();
                tracing::warn!(%address, peer, %kind, resources = names.len(), ?first, "xDS response is not acknowledged");
            }
        }
    }

    fn answered(&mut self, kind: ResourceType) {
        if let Some(sent) = self.sent.remove(&kind) {
            let took = clock().saturating_duration_since(sent);
            self.connection.server.metrics.pushed(kind.label(), took);
        }
    }

    fn count(&self, count: Count, label: &'static str) {
        self.connection.server.metrics.add(count, label);
    }
}

/// Longest node id that is kept, in characters.
const MAX_NODE_ID: usize = 256;

fn shown(node_id: &str) -> String {
    node_id.chars().take(MAX_NODE_ID).collect()
}

pub(super) fn left(until: SystemTime) -> Duration {
    until.duration_since(wall_clock()).unwrap_or_default().min(FAR)
}
