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
use kubelb_xds::{ResourceType, Scope, Snapshot};

/// Rejections kept for each peer; a session quarantines no more either.
const MAX_REJECTIONS: usize = 1024;

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
    /// What it refuses, by type and name.
    pub rejections: BTreeMap<(ResourceType, Arc<str>), PeerRejection>,
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

    /// Adds a peer, until the entry is dropped.
    pub(super) fn enter(&self, peer: Peer) -> Entry {
        let id = {
            let mut peers = self.lock();
            let id = peers.next;
            peers.next += 1;
            peers.peers.insert(id, peer);
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
        let changed = self.registry.lock().peers.get_mut(&self.id).is_some_and(change);
        if changed {
            self.registry.notify();
        }
    }

    /// It is to be brought to `snapshot`.
    pub(super) fn bring_to(&self, snapshot: &Arc<Snapshot>) {
        self.update(|peer| {
            peer.snapshot = Arc::downgrade(snapshot);
            peer.synced = false;
            true
        });
    }

    /// It refuses this version.
    pub(super) fn rejected(&self, kind: ResourceType, name: &Arc<str>, rejection: PeerRejection) {
        self.update(|peer| {
            let key = (kind, Arc::clone(name));
            let known = peer.rejections.get(&key);
            if known == Some(&rejection) || (known.is_none() && peer.rejections.len() >= MAX_REJECTIONS) {
                return false;
            }
            peer.rejections.insert(key, rejection);
            true
        });
    }

    /// It has taken some version of these, or they are gone.
    pub(super) fn accepted(&self, kind: ResourceType, names: &[Arc<str>]) {
        self.update(|peer| {
            let before = peer.rejections.len();
            if before > 0 {
                for name in names {
                    peer.rejections.remove(&(kind, Arc::clone(name)));
                }
            }
            peer.rejections.len() != before
        });
    }

    /// Forgets the rejections of which `is_past` says so, by type, name and version.
    pub(super) fn forget_rejections(&self, is_past: impl Fn(ResourceType, &str, &str) -> bool) {
        self.update(|peer| {
            let before = peer.rejections.len();
            peer.rejections
                .retain(|(kind, name), rejection| !is_past(*kind, name, &rejection.version));
            peer.rejections.len() != before
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().peers.remove(&self.id);
        self.registry.notify();
    }
}
