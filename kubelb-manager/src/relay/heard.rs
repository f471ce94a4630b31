//! The end that listens: what is known of another manager's peers by its messages on one stream. Bounded, whatever it sends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::contract::relay::{NodePresence, Relayed, RelayedNode, RelayedPeer, RelayedView};
use kubelb_xds::reports::{self, Received};
use kubelb_xds::telling::{OutOfPlace, Place, Receiving, differing};
use prost::Message as _;

use super::{Digests, Presences, object};
use crate::object::ObjectName;
use crate::standing::View;

/// How much of one manager is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Peers.
    pub peers: usize,
    /// Nodes.
    pub nodes: usize,
    /// Objects.
    pub objects: usize,
    /// Longest name, in bytes.
    pub name_bytes: usize,
    /// All that is told of peers, as it is encoded. Bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers: 8_192,
            nodes: 16_384,
            objects: 200_000,
            name_bytes: 512,
            bytes: 128 << 20,
        }
    }
}

/// Why a stream cannot go on: the other manager opens another, and tells everything again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message is missing, or is not the one that was to come.
    #[error(transparent)]
    OutOfPlace(#[from] OutOfPlace),
    /// More than [`Limits`] say.
    #[error("too much is told: more than {1} {0}")]
    TooMany(&'static str, usize),
    /// A name that is empty, too long, or of another form.
    #[error("{0:?} is no name")]
    Name(String),
    /// Something is told of a peer that is not there.
    #[error("peer {0} is not known")]
    Peer(u64),
    /// What an agent told cannot be followed.
    #[error("what an agent told cannot be followed: {0}")]
    Report(reports::Fault),
}

impl Fault {
    /// A fixed word for each variant, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutOfPlace(fault) => fault.reason(),
            Self::TooMany(..) => "too_many",
            Self::Name(_) => "name",
            Self::Peer(_) => "peer",
            Self::Report(_) => "report",
        }
    }
}

/// Of what a message tells something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Peers are others, or see something else: of all objects.
    pub everything: bool,
    /// Of these objects.
    pub objects: BTreeSet<ObjectName>,
    /// Of these listeners.
    pub listeners: BTreeSet<Arc<str>>,
}

/// What a manager has told on one stream.
#[derive(Debug, Default)]
pub struct Heard {
    limits: Limits,
    receiving: Receiving,
    digests: Digests,
    peers: BTreeMap<u64, Peer>,
    nodes: Presences,
}

#[derive(Debug)]
struct Peer {
    told: RelayedView,
    view: View,
    bytes: usize,
    received: Option<Arc<Received>>,
}

impl Heard {
    /// Of a stream on which nothing has come yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes a message in.
    ///
    /// # Errors
    /// When the stream cannot go on; what is known is not to be relied on any more.
    pub fn take(&mut self, message: Relayed, now: Instant) -> Result<Changes, Fault> {
        let place = Place {
            sequence: message.sequence,
            full: message.full,
            more: message.more,
        };
        self.receiving.check(place)?;
        let mut changes = Changes::default();
        for name in &message.nodes_gone {
            self.nodes.remove(name);
        }
        for node in message.nodes {
            self.take_node(node, now)?;
        }
        for id in &message.peers_gone {
            changes.everything |= self.peers.remove(id).is_some();
        }
        for peer in message.peers {
            self.take_peer(peer, &mut changes)?;
        }
        for told in message.objects {
            let name = object(self.name(&told.name)?).ok_or_else(|| Fault::Name(told.name.clone()))?;
            if told.digest == 0 {
                self.digests.remove(&name);
            } else {
                self.digests.insert(name.clone(), told.digest);
            }
            changes.objects.insert(name);
        }
        self.check()?;
        changes.everything |= self.receiving.taken(place);
        Ok(changes)
    }

    /// Whether everything has been told once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.receiving.is_complete()
    }

    /// Nodes, as they were when they were told of.
    #[must_use]
    pub fn nodes(&self) -> &Presences {
        &self.nodes
    }

    /// How many peers there are.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Peers, as they are for a manager that serves `ours`: where the two serve an object differently, a peer is behind.
    #[must_use]
    pub fn views(&self, ours: &Digests) -> Vec<View> {
        if !self.is_complete() {
            return Vec::new();
        }
        let differing: BTreeSet<ObjectName> = differing(&self.digests, ours).cloned().collect();
        let differing = Arc::new(differing);
        let all = self.peers.values();
        all.map(|peer| {
            let received = peer.received.clone().filter(|received| received.is_complete());
            peer.view.relayed_with(&differing, received)
        })
        .collect()
    }

    /// What was told of peers is told elsewhere by now.
    pub fn forget_peers(&mut self) {
        self.peers.clear();
    }

    fn name<'a>(&self, name: &'a str) -> Result<&'a str, Fault> {
        if name.is_empty() || name.len() > self.limits.name_bytes {
            return Err(Fault::Name(name.chars().take(64).collect()));
        }
        Ok(name)
    }

    fn take_node(&mut self, node: RelayedNode, now: Instant) -> Result<(), Fault> {
        self.name(&node.name)?;
        let presence = node.presence();
        if presence == NodePresence::Unspecified {
            self.nodes.remove(&node.name);
            return Ok(());
        }
        let since = now.checked_sub(Duration::from_millis(node.age)).unwrap_or(now);
        self.nodes.insert(node.name, (presence, since));
        Ok(())
    }

    fn take_peer(&mut self, told: RelayedPeer, changes: &mut Changes) -> Result<(), Fault> {
        let RelayedPeer { id, view, report } = told;
        if let Some(view) = view {
            self.name(&view.name)?;
            self.take_view(id, view, changes);
        }
        let Some(report) = report else { return Ok(()) };
        let peer = self.peers.get_mut(&id).ok_or(Fault::Peer(id))?;
        let received = peer.received.as_mut().ok_or(Fault::Peer(id))?;
        let told = Arc::make_mut(received).take(report).map_err(Fault::Report)?;
        changes.everything |= told.completed;
        changes.listeners.extend(told.standings);
        Ok(())
    }

    fn take_view(&mut self, id: u64, told: RelayedView, changes: &mut Changes) {
        let before = self.peers.remove(&id);
        match &before {
            Some(Peer { told: before, .. }) if is_same_but_behind(before, &told) => {
                let (old, new): (BTreeSet<&String>, BTreeSet<&String>) =
                    (before.behind.iter().collect(), told.behind.iter().collect());
                let differing = old.symmetric_difference(&new).filter_map(|name| object(name));
                changes.objects.extend(differing);
                if before.refusals != told.refusals {
                    let all = before.refusals.iter().chain(&told.refusals);
                    changes
                        .objects
                        .extend(all.filter_map(|refusal| object(&refusal.object)));
                }
            }
            Some(_) | None => changes.everything = true,
        }
        let received = before.and_then(|peer| peer.received).filter(|_| told.reports);
        let fresh = || {
            told.reports
                .then(|| Arc::new(Received::new(reports::Limits::default())))
        };
        let peer = Peer {
            received: received.or_else(fresh),
            view: View::relayed(&told),
            bytes: told.encoded_len(),
            told,
        };
        self.peers.insert(id, peer);
    }

    fn check(&self) -> Result<(), Fault> {
        let Limits {
            peers,
            nodes,
            objects,
            bytes,
            ..
        } = self.limits;
        let received = |peer: &Peer| peer.received.as_ref().map_or(0, |received| received.bytes());
        let told: usize = self.peers.values().map(|peer| peer.bytes + received(peer)).sum();
        for (what, limit, count) in [
            ("peers", peers, self.peers.len()),
            ("nodes", nodes, self.nodes.len()),
            ("objects", objects, self.digests.len()),
            ("bytes", bytes, told),
        ] {
            if count > limit {
                return Err(Fault::TooMany(what, limit));
            }
        }
        Ok(())
    }
}

/// Whether two differ at most in what of all is behind or refused.
fn is_same_but_behind(before: &RelayedView, after: &RelayedView) -> bool {
    let rest = |view: &RelayedView| RelayedView {
        behind: Vec::new(),
        refusals: Vec::new(),
        ..view.clone()
    };
    rest(before) == rest(after)
}
