//! Peers that are connected now, and what each has taken and refused: what status is made from.
//!
//! Written by the streams' tasks, read by anybody; a watch tells that something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::identity::Identity;
use crate::object::ObjectName;
use crate::relay::Changes;
use kubelb_xds::{ResourceType, Scope, Snapshot};

/// Rejections kept for each peer; a session quarantines no more either.
const MAX_REJECTIONS: usize = 1024;
/// Resources that are kept by name of what a peer does not have yet; with more, it is all of them.
pub(super) const MAX_BEHIND: usize = 1024;
/// Names kept until somebody asks what has changed; with more, it is all of them.
const MAX_CONCERNED: usize = 65_536;

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A node's agent.
    Agent,
    /// An Envoy.
    Fleet,
}

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

impl PeerKind {
    /// For labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Fleet => "fleet",
        }
    }
}

impl Protocol {
    /// For labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// A peer, as it is now.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Its connection's number, which the agent's reports have too.
    pub connection: u64,
    /// Where it connects from.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it calls itself: a name, never an authority. Empty until it says.
    pub node: String,
    /// Since when it is connected.
    pub since: SystemTime,
    /// What it has asked for so far.
    pub types: BTreeSet<ResourceType>,
    /// The snapshot that it is brought to.
    pub snapshot: Weak<Snapshot>,
    /// Whether it has taken everything of that snapshot that it has asked for, but for what it refused.
    pub synced: bool,
    /// What of that snapshot it has not taken yet.
    pub behind: Behind,
    /// What it refuses, by type and name.
    pub rejections: Arc<BTreeMap<(ResourceType, Arc<str>), PeerRejection>>,
}

/// What a peer has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Perhaps all.
    Everything,
    /// These.
    Names(Arc<BTreeSet<(ResourceType, Arc<str>)>>),
}

impl From<Option<BTreeSet<(ResourceType, Arc<str>)>>> for Behind {
    fn from(names: Option<BTreeSet<(ResourceType, Arc<str>)>>) -> Self {
        names.map_or(Self::Everything, |names| Self::Names(Arc::new(names)))
    }
}

/// Resources of which peers may tell something else than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerned {
    /// All of them.
    pub everything: bool,
    /// These, by name, of whatever type.
    pub names: BTreeSet<Arc<str>>,
    /// All resources of these objects.
    pub objects: BTreeSet<ObjectName>,
}

impl Concerned {
    fn add(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        if !self.everything {
            self.names.extend(names);
            if self.names.len() + self.objects.len() > MAX_CONCERNED {
                self.add_everything();
            }
        }
    }

    fn add_everything(&mut self) {
        self.everything = true;
        self.names.clear();
        self.objects.clear();
    }

    /// What differs between what a peer has not taken before and after.
    fn add_difference(&mut self, before: &Behind, after: &Behind) {
        match (before, after) {
            (Behind::Names(before), Behind::Names(after)) => {
                let differing = before.symmetric_difference(after);
                self.add(differing.map(|(_, name)| Arc::clone(name)));
            }
            (Behind::Everything, Behind::Everything) => {}
            (Behind::Everything, Behind::Names(_)) | (Behind::Names(_), Behind::Everything) => self.add_everything(),
        }
    }
}

impl Peer {
    /// Whether it has taken everything of this very snapshot that it has asked for, but for what it refused.
    #[must_use]
    pub fn has(&self, snapshot: &Arc<Snapshot>) -> bool {
        self.synced && std::ptr::eq(self.snapshot.as_ptr(), Arc::as_ptr(snapshot))
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> PeerKind {
        match self.identity.scope {
            Scope::Agent => PeerKind::Agent,
            Scope::Fleet(_) => PeerKind::Fleet,
        }
    }
}

/// A version of a resource that a peer refuses; it keeps the last good one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerRejection {
    /// Which.
    pub version: String,
    /// Why, in the peer's words.
    pub reason: String,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peers: Mutex<Peers>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Peers {
    next: u64,
    peers: BTreeMap<u64, Peer>,
    concerned: Concerned,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                peers: Mutex::default(),
                changes: watch::Sender::new(0),
            }),
        }
    }
}

impl Registry {
    /// Those that are connected, in the order of their coming.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.lock().peers.values().cloned().collect()
    }

    /// How many there are of each sort.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(PeerKind, Protocol), usize> {
        let mut counts = BTreeMap::new();
        for peer in self.lock().peers.values() {
            *counts.entry((peer.kind(), peer.protocol)).or_default() += 1;
        }
        counts
    }

    /// Notified with every change; the number only grows.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Of what peers may tell something else since this was asked last.
    #[must_use]
    pub fn take_concerned(&self) -> Concerned {
        std::mem::take(&mut self.lock().concerned)
    }

    /// An agent's report tells something else of these.
    pub(super) fn reported(&self, names: impl IntoIterator<Item = Arc<str>>) {
        self.lock().concerned.add(names);
        self.notify();
    }

    /// Peers of another manager tell something else.
    pub(super) fn relayed(&self, changes: Changes) {
        let mut peers = self.lock();
        if changes.everything {
            peers.concerned.add_everything();
        } else if !peers.concerned.everything {
            peers.concerned.objects.extend(changes.objects);
            peers.concerned.add(changes.listeners);
        }
        drop(peers);
        self.notify();
    }

    /// All peers are to be looked at again: an agent's reports begin to count, or end, or do not come.
    pub(crate) fn concern_everything(&self) {
        self.lock().concerned.add_everything();
        self.notify();
    }

    /// Adds a peer, until the entry is dropped.
    pub(super) fn enter(&self, peer: Peer) -> Entry {
        let id = {
            let mut peers = self.lock();
            let id = peers.next;
            peers.next += 1;
            peers.peers.insert(id, peer);
            peers.concerned.add_everything();
            id
        };
        self.notify();
        Entry {
            registry: self.clone(),
            id,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Peers> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}

/// A peer's place in the registry.
#[derive(Debug)]
pub(super) struct Entry {
    registry: Registry,
    id: u64,
}

impl Entry {
    /// Changes what is known of the peer; notifies when `change` says that it did.
    pub(super) fn update(&self, change: impl FnOnce(&mut Peer) -> bool) {
        self.change(|peer, _| change(peer));
    }

    /// It is to be brought to `snapshot`, of which it has not taken `behind` yet.
    pub(super) fn bring_to(&self, snapshot: &Arc<Snapshot>, behind: Behind) {
        self.change(|peer, concerned| {
            peer.snapshot = Arc::downgrade(snapshot);
            peer.synced = false;
            concerned.add_difference(&peer.behind, &behind);
            peer.behind = behind;
            true
        });
    }

    /// It has taken all but `behind`, and nothing is on its way when it is `synced`.
    pub(super) fn progressed(&self, synced: bool, behind: Behind) {
        self.change(|peer, concerned| {
            let changed = peer.synced != synced || peer.behind != behind;
            peer.synced = synced;
            concerned.add_difference(&peer.behind, &behind);
            peer.behind = behind;
            changed
        });
    }

    /// It refuses this version.
    pub(super) fn rejected(&self, kind: ResourceType, name: &Arc<str>, rejection: PeerRejection) {
        self.change(|peer, concerned| {
            let key = (kind, Arc::clone(name));
            let known = peer.rejections.get(&key);
            if known == Some(&rejection) || (known.is_none() && peer.rejections.len() >= MAX_REJECTIONS) {
                return false;
            }
            Arc::make_mut(&mut peer.rejections).insert(key, rejection);
            concerned.add([Arc::clone(name)]);
            true
        });
    }

    /// It has taken some version of these, or they are gone.
    pub(super) fn accepted(&self, kind: ResourceType, names: &[Arc<str>]) {
        self.change(|peer, concerned| {
            if peer.rejections.is_empty() {
                return false;
            }
            let mut changed = false;
            for name in names {
                let key = (kind, Arc::clone(name));
                if peer.rejections.contains_key(&key) {
                    Arc::make_mut(&mut peer.rejections).remove(&key);
                    concerned.add([Arc::clone(name)]);
                    changed = true;
                }
            }
            changed
        });
    }

    /// Forgets the rejections of which `is_past` says so, by type, name and version.
    pub(super) fn forget_rejections(&self, is_past: impl Fn(ResourceType, &str, &str) -> bool) {
        self.change(|peer, concerned| {
            let all = peer.rejections.iter();
            let past = all.filter(|((kind, name), rejection)| is_past(*kind, name, &rejection.version));
            let past: Vec<(ResourceType, Arc<str>)> = past.map(|(key, _)| key.clone()).collect();
            for key in &past {
                Arc::make_mut(&mut peer.rejections).remove(key);
            }
            let changed = !past.is_empty();
            concerned.add(past.into_iter().map(|(_, name)| name));
            changed
        });
    }

    fn change(&self, change: impl FnOnce(&mut Peer, &mut Concerned) -> bool) {
        let changed = {
            let mut peers = self.registry.lock();
            let Peers { peers, concerned, .. } = &mut *peers;
            peers.get_mut(&self.id).is_some_and(|peer| change(peer, concerned))
        };
        if changed {
            self.registry.notify();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut peers = self.registry.lock();
        peers.peers.remove(&self.id);
        peers.concerned.add_everything();
        drop(peers);
        self.registry.notify();
    }
}
