//! The end that tells: the state goes in as a whole, messages of a bounded size and pace come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::contract::relay::{Relayed, RelayedNode, RelayedObject, RelayedPeer, RelayedView};
use kubelb_xds::reports::Reporter;
use kubelb_xds::telling::{Pace, Sending, differing};
use prost::Message as _;

use super::{Digests, Outgoing, OutgoingPeer, Presences};
use crate::object::ObjectName;

/// Of a manager's messages.
pub const PACE: Pace = Pace {
    spacing: Duration::from_millis(50),
    heartbeat: Duration::from_millis(400),
    message_bytes: 256 << 10,
};

/// Reports of one peer as parts of messages: their pace is the messages'.
const REPORTS: Pace = Pace {
    spacing: Duration::ZERO,
    heartbeat: Duration::from_secs(24 * 60 * 60),
    message_bytes: 64 << 10,
};

/// What is to be told, and what the other manager does not know of it yet.
#[derive(Debug)]
pub struct Teller {
    sending: Sending,
    digests: Arc<Digests>,
    peers: BTreeMap<u64, Peer>,
    nodes: Presences,
    untold_objects: BTreeSet<ObjectName>,
    /// Those that are new, other, or gone.
    untold_peers: BTreeSet<u64>,
    untold_nodes: BTreeSet<String>,
}

#[derive(Debug)]
struct Peer {
    view: RelayedView,
    reporter: Option<Reporter>,
}

impl Teller {
    /// Has nothing to tell yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            sending: Sending::new(pace),
            digests: Arc::default(),
            peers: BTreeMap::new(),
            nodes: Presences::new(),
            untold_objects: BTreeSet::new(),
            untold_peers: BTreeSet::new(),
            untold_nodes: BTreeSet::new(),
        }
    }

    /// How peers are; until it is called, messages say that more is to come.
    pub fn set(&mut self, outgoing: &Outgoing, now: Instant) {
        self.sending.set_known();
        if !Arc::ptr_eq(&self.digests, &outgoing.digests) {
            self.untold_objects
                .extend(differing(&self.digests, &outgoing.digests).cloned());
            self.digests = Arc::clone(&outgoing.digests);
        }
        let untold = &mut self.untold_peers;
        self.peers.retain(|id, _| {
            let stays = outgoing.peers.contains_key(id);
            if !stays {
                untold.insert(*id);
            }
            stays
        });
        for (id, OutgoingPeer { view, standings }) in &outgoing.peers {
            let peer = self.peers.entry(*id).or_insert_with(|| {
                untold.insert(*id);
                Peer {
                    view: view.clone(),
                    reporter: None,
                }
            });
            if peer.view != *view {
                untold.insert(*id);
                peer.view = view.clone();
            }
            let Some(standings) = standings else {
                peer.reporter = None;
                continue;
            };
            let reporter = peer.reporter.get_or_insert_with(|| {
                let mut reporter = Reporter::new(*id + 1, REPORTS);
                reporter.connect(now);
                reporter
            });
            reporter.set_standings(standings.clone());
        }
    }

    /// How nodes are.
    pub fn set_nodes(&mut self, nodes: Presences) {
        self.untold_nodes.extend(differing(&self.nodes, &nodes).cloned());
        self.nodes = nodes;
    }

    /// There is a new stream, whose other end knows nothing.
    pub fn connect(&mut self, now: Instant) {
        self.untold_objects = self.digests.keys().cloned().collect();
        self.untold_peers = self.peers.keys().copied().collect();
        self.untold_nodes = self.nodes.keys().cloned().collect();
        for peer in self.peers.values_mut() {
            if let Some(reporter) = &mut peer.reporter {
                reporter.connect(now);
            }
        }
        self.sending.connect(now);
    }

    /// The stream has ended.
    pub fn disconnect(&mut self) {
        self.sending.disconnect();
    }

    /// When to call [`Self::on_timeout`]; `None` without a stream.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sending.due(|sent| self.has_news(sent))
    }

    /// What is to be sent now, if anything.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Relayed> {
        if self.poll_timeout()? > now {
            return None;
        }
        let mut message = Relayed::default();
        self.fill(&mut message, now);
        let place = self.sending.send(self.has_news(now), now)?;
        (message.sequence, message.full, message.more) = (place.sequence, place.full, place.more);
        Some(message)
    }

    fn has_news(&self, now: Instant) -> bool {
        let reports = |peer: &Peer| peer.reporter.as_ref().is_some_and(|reporter| is_due(reporter, now));
        !self.untold_nodes.is_empty()
            || !self.untold_peers.is_empty()
            || !self.untold_objects.is_empty()
            || self.peers.values().any(reports)
    }

    /// Moves what fits from what is untold into the message: who is there first.
    fn fill(&mut self, message: &mut Relayed, now: Instant) {
        let mut room = self.sending.room();
        while room > 0
            && let Some(name) = self.untold_nodes.pop_first()
        {
            room = room.saturating_sub(name.len() + 16);
            match self.nodes.get(&name) {
                Some((presence, since)) => {
                    let age = now.saturating_duration_since(*since).as_millis();
                    message.nodes.push(RelayedNode {
                        name,
                        presence: (*presence).into(),
                        age: u64::try_from(age).unwrap_or(u64::MAX),
                    });
                }
                None => message.nodes_gone.push(name),
            }
        }
        while room > 0
            && let Some(id) = self.untold_peers.pop_first()
        {
            match self.peers.get(&id) {
                Some(peer) => {
                    let told = RelayedPeer {
                        id,
                        view: Some(peer.view.clone()),
                        report: None,
                    };
                    room = room.saturating_sub(told.encoded_len() + 8);
                    message.peers.push(told);
                }
                None => {
                    room = room.saturating_sub(10);
                    message.peers_gone.push(id);
                }
            }
        }
        while room > 0
            && let Some(name) = self.untold_objects.pop_first()
        {
            let told = RelayedObject {
                digest: self.digests.get(&name).copied().unwrap_or_default(),
                name: name.to_string(),
            };
            room = room.saturating_sub(told.encoded_len() + 4);
            message.objects.push(told);
        }
        for (id, peer) in &mut self.peers {
            // A report is nothing before the peer is known.
            if self.untold_peers.contains(id) {
                continue;
            }
            let Some(reporter) = &mut peer.reporter else { continue };
            while room > 0
                && is_due(reporter, now)
                && let Some(report) = reporter.on_timeout(now)
            {
                let told = RelayedPeer {
                    id: *id,
                    view: None,
                    report: Some(report),
                };
                room = room.saturating_sub(told.encoded_len() + 8);
                message.peers.push(told);
            }
        }
    }
}

fn is_due(reporter: &Reporter, now: Instant) -> bool {
    reporter.poll_timeout().is_some_and(|at| at <= now)
}
