//! A peer's stream as the server sees it, delta or state of the world: what it asked for, what it has, what it must be sent next.
//!
//! No I/O and no clock: requests, snapshots and timeouts come in with the time, responses and events go out. Everything is level-triggered: a
//! session compares what its peer should have with what it has, so a snapshot that comes in the middle of a push only changes what is still to be sent.
//!
//! - One response of a type is unacknowledged at a time. What changes meanwhile waits, as names.
//! - Clusters go first, each with its endpoints right behind; a listener or route goes when the peer has acknowledged every cluster that it
//!   leads to; what is gone goes last, when nothing that the peer may have names it any more.
//! - What is rejected is found (by the peer's word for it, else by sending smaller and smaller parts), kept from this peer until its contents change, and
//!   reported; the peer keeps the last good version.
//!
//! Must not know: transports, other peers, and where the snapshot comes from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::resource::{Owner, Version};
use crate::resource_type::{PerType, ResourceType};
use crate::snapshot::{Scope, Snapshot};

mod awaited;
mod peer;
mod push;
mod response;
mod subscription;
mod verdict;

use peer::{InFlight, PeerType};
pub use response::Response;

/// Bounds of a session.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long others wait for a cluster that a peer does not acknowledge, and from when on a response counts as stalled. After it, only what leads to that
    /// cluster waits.
    pub phase_wait: Duration,
    /// A delta response is not longer than this, unless one resource alone is. Bytes.
    pub response_bytes: usize,
    /// Names that a peer may ask for, of each type.
    pub names: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            phase_wait: Duration::from_secs(5),
            // gRPC libraries take 4 MiB unless told otherwise.
            response_bytes: 3 << 20,
            names: 200_000,
        }
    }
}

/// Which of the two forms of the protocol a stream speaks: each is a method of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`.
    StateOfTheWorld,
}

/// What to send, in this order, and what to tell.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent in this order.
    pub responses: Vec<Response>,
    /// For logs, metrics and status.
    pub events: Vec<Event>,
}

/// Something that others than the peer want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has taken these over (removed ones included).
    Acked {
        /// Their type.
        kind: ResourceType,
        /// Their names.
        names: Vec<Arc<str>>,
    },
    /// The peer rejected a response. Which resource of it was meant, if not known yet, is found out, and then [`Event::Quarantined`].
    Nacked {
        /// Type of the response.
        kind: ResourceType,
        /// Everything that was in it.
        names: Vec<Arc<str>>,
        /// The peer's words, cut to 4 KiB.
        text: String,
    },
    /// This peer is not sent this version again; it keeps what it had.
    Quarantined {
        /// Type of the resource.
        kind: ResourceType,
        /// Its name.
        name: Arc<str>,
        /// What was rejected.
        version: Version,
        /// Whose it is.
        owner: Owner,
        /// The peer's words, cut to 4 KiB.
        reason: String,
    },
    /// A request was not, or not wholly, met.
    Refused(Refusal),
    /// A response has not been acknowledged for [`Config::phase_wait`].
    Stalled {
        /// Type of the response.
        kind: ResourceType,
        /// Everything that was in it.
        names: Vec<Arc<str>>,
    },
}

/// Why a request was not met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It exists, and not for this peer. The peer is told what it would be told of a name that does not exist.
    #[error("{kind} {name:?} is outside the peer's scope")]
    OutOfScope {
        /// Type that was asked for.
        kind: ResourceType,
        /// Name that was asked for.
        name: Arc<str>,
    },
    /// There is nothing of this type for a peer of this scope, which is told so. Said once for a stream.
    #[error("nothing of type {0} is for a peer of this scope")]
    ForeignType(ResourceType),
    /// Nobody serves this type.
    #[error("type {0:?} is not served")]
    UnknownType(String),
    /// More names than [`Config::names`]; the rest is not answered.
    #[error("the peer asks for too many names of type {0}")]
    TooManyNames(ResourceType),
}

/// One peer's stream.
#[derive(Debug)]
pub struct Session {
    config: Config,
    variant: Variant,
    scope: Scope,
    node: Option<Node>,
    snapshot: Option<Arc<Snapshot>>,
    types: PerType<PeerType>,
    /// Listeners that the peer has acknowledged and may not serve yet.
    awaited: BTreeSet<Arc<str>>,
    last_nonce: u64,
    opened: Instant,
    now: Instant,
    /// A removal waits for the peer to ask for what might name it.
    waits_for_referrers: bool,
}

impl Session {
    /// A stream that has just been opened by a peer that has proven this scope.
    #[must_use]
    pub fn new(variant: Variant, scope: Scope, config: Config, now: Instant) -> Self {
        Self {
            config,
            variant,
            scope,
            node: None,
            snapshot: None,
            types: PerType::default(),
            awaited: BTreeSet::new(),
            last_nonce: 0,
            opened: now,
            now,
            waits_for_referrers: false,
        }
    }

    /// What the peer says of itself, once it has. No authority.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// What the peer may see.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether the peer has acknowledged everything that it asked for and may see, but for what it rejected, and its listeners serve.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let settled = ResourceType::ALL
            .into_iter()
            .all(|kind| self.types.get(kind).is_settled());
        settled && self.awaited.iter().all(|listener| self.serves(listener))
    }

    /// What the peer has not acknowledged yet, by type and name; `None` when it is more than `limit`. What it rejected is not among it, but what
    /// waits for that is.
    #[must_use]
    pub fn outstanding(&self, limit: usize) -> Option<BTreeSet<(ResourceType, Arc<str>)>> {
        let mut names = BTreeSet::new();
        for kind in ResourceType::ALL {
            let peer = self.types.get(kind);
            let sent = peer.in_flight.iter().flat_map(InFlight::names);
            for name in peer.dirty.iter().cloned().chain(sent) {
                names.insert((kind, name));
                if names.len() > limit {
                    return None;
                }
            }
        }
        Some(names)
    }

    /// The version of a resource that the peer has acknowledged.
    #[must_use]
    pub fn acked(&self, kind: ResourceType, name: &str) -> Option<Version> {
        self.types.get(kind).acked(name)
    }

    /// A message of a delta stream.
    pub fn on_delta_request(&mut self, request: DeltaDiscoveryRequest, now: Instant) -> Output {
        self.now = now;
        let mut output = Output::default();
        self.identify(request.node.as_ref());
        let Some(kind) = self.served(&request.type_url, &mut output) else {
            return output;
        };
        self.verdict(
            kind,
            &request.response_nonce,
            request.error_detail.as_ref(),
            &mut output,
        );
        self.subscribe_delta(kind, &request, &mut output);
        self.push(&mut output);
        output
    }

    /// A message of a state-of-the-world stream.
    pub fn on_sotw_request(&mut self, request: &DiscoveryRequest, now: Instant) -> Output {
        self.now = now;
        let mut output = Output::default();
        self.identify(request.node.as_ref());
        let Some(kind) = self.served(&request.type_url, &mut output) else {
            return output;
        };
        // Of two requests, one may answer a response that was not the last one: it says what the peer wanted before it saw the last one.
        if !request.response_nonce.is_empty() && !self.types.get(kind).is_latest(&request.response_nonce) {
            return output;
        }
        self.verdict(
            kind,
            &request.response_nonce,
            request.error_detail.as_ref(),
            &mut output,
        );
        self.subscribe_sotw(kind, &request.resource_names, &mut output);
        self.push(&mut output);
        output
    }

    /// A new configuration.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>, now: Instant) -> Output {
        self.now = now;
        let old = self.snapshot.replace(Arc::clone(&snapshot));
        match old {
            Some(old) => {
                let diff = snapshot.diff_since(&old);
                for kind in ResourceType::ALL {
                    for name in diff.names(kind) {
                        self.touch(kind, name);
                    }
                }
            }
            None => self.touch_all(),
        }
        let mut output = Output::default();
        self.push(&mut output);
        output
    }

    /// Another scope: the peer's credential was found to stand for something else.
    pub fn on_scope(&mut self, scope: Scope, now: Instant) -> Output {
        self.now = now;
        self.scope = scope;
        self.touch_all();
        let mut output = Output::default();
        self.push(&mut output);
        output
    }

    /// When to call [`Self::on_timeout`], unless something else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let types = ResourceType::ALL.into_iter().flat_map(|kind| {
            let peer = self.types.get(kind);
            let stalls = peer.in_flight.as_ref().map(|in_flight| in_flight.sent);
            [stalls, peer.gated_since]
        });
        let referrers = self.waits_for_referrers.then_some(self.opened);
        types
            .chain([referrers])
            .flatten()
            .filter_map(|since| since.checked_add(self.config.phase_wait))
            .filter(|deadline| *deadline > self.now)
            .min()
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) -> Output {
        self.now = now;
        let mut output = Output::default();
        self.push(&mut output);
        output
    }

    fn report_stalled(&mut self, output: &mut Output) {
        for kind in ResourceType::ALL {
            let in_flight = self.types.get_mut(kind).in_flight.as_mut();
            let wait = self.config.phase_wait;
            if let Some(stalled) =
                in_flight.filter(|in_flight| !in_flight.reported && in_flight.sent + wait <= self.now)
            {
                stalled.reported = true;
                output.events.push(Event::Stalled {
                    kind,
                    names: stalled.names(),
                });
            }
        }
    }

    fn identify(&mut self, node: Option<&Node>) {
        if self.node.is_none() {
            self.node = node.cloned();
        }
    }

    fn served(&self, type_url: &str, output: &mut Output) -> Option<ResourceType> {
        let kind = ResourceType::from_type_url(type_url);
        if kind.is_none() {
            let shown = type_url.chars().take(256).collect();
            output.events.push(Event::Refused(Refusal::UnknownType(shown)));
        }
        kind
    }

    /// Has another look at a name.
    fn touch(&mut self, kind: ResourceType, name: &Arc<str>) {
        let peer = self.types.get_mut(kind);
        if peer.requested && peer.covers(name) {
            let wanted = self
                .snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.visible(&self.scope, kind, name));
            peer.recognise(name, wanted);
            peer.dirty.insert(Arc::clone(name));
        }
    }

    fn touch_all(&mut self) {
        for kind in ResourceType::ALL {
            self.touch_type(kind);
        }
    }

    /// Has another look at all that the peer should have or has of a type.
    fn touch_type(&mut self, kind: ResourceType) {
        let peer = self.types.get(kind);
        let mut names: BTreeSet<Arc<str>> = peer.names.clone();
        names.extend(peer.known.keys().chain(peer.unsure.keys()).cloned());
        names.extend(peer.in_flight.iter().flat_map(InFlight::names));
        if peer.wildcard
            && let Some(snapshot) = &self.snapshot
        {
            names.extend(
                snapshot
                    .view(&self.scope, kind)
                    .map(|resource| Arc::clone(resource.name())),
            );
        }
        for name in &names {
            self.touch(kind, name);
        }
    }
}

#[cfg(test)]
mod tests;
