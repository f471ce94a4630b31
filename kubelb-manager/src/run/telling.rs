//! Follows what peers tell, here and to other managers, and says when it is time to look at it. Owns the pace: a burst of changes is one look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_api::names::TenantName;
use kubelb_runtime::lease::Vacated;
use kubelb_xds::Snapshot;
use kubelb_xds::contract::limits::ProcessLimits;
use tokio::sync::watch;

use crate::ir::Ir;
use crate::ir::http::ProcessSettings;
use crate::object::ObjectName;
use crate::owners::Nodes;
use crate::relay::sighting::{self, Arrival, How, Sighting};
use crate::relay::{Digests, Outgoing, digest, layer7};
use crate::standing::{Board, View};
use crate::status::Reports;
use crate::xds::server::agents::{Agent, Presence};
use crate::xds::server::relays::Phase;
use crate::xds::server::{Server, clock};

/// Shortest time between two looks; a look that takes long is followed by a pause of several times that, so that it is never most of the work.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_OF_LOOK: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time between two looks at whether all agents are heard.
const LISTEN: Duration = Duration::from_millis(250);
/// After the start of this manager, nodes that announce something and were not heard yet are about to come for so long.
const ARRIVAL: Duration = Duration::from_secs(10);

/// What there is to look at.
pub(super) enum Due {
    /// What peers tell.
    Reports,
    /// Other nodes are here than before.
    Nodes,
}

/// See the module.
pub(super) struct Telling {
    server: Arc<Server>,
    board: Board,
    changes: watch::Receiver<u64>,
    /// What peers are to be brought to.
    published: Arc<Snapshot>,
    digests: Arc<Digests>,
    /// For the manager that leads, when that is another one.
    outgoing: watch::Sender<Option<Outgoing>>,
    leads: bool,
    changed: BTreeSet<ObjectName>,
    is_due: bool,
    not_before: Instant,
    listened: Instant,
    silent: BTreeSet<u64>,
    /// Other managers, as last looked at.
    relays: BTreeMap<u64, Phase>,
    /// Of this manager's start, then of its beginning to lead.
    arrivals: Vec<Arrival>,
    /// When nodes were last looked for.
    counted: Instant,
    /// Nodes that announce something, whether they are here or not.
    owners: BTreeSet<String>,
    /// As last told.
    nodes: Nodes,
}

impl Telling {
    pub(super) fn new(server: Arc<Server>) -> Self {
        let now = clock();
        Self {
            changes: server.registry().changes(),
            published: server.snapshot(),
            digests: Arc::default(),
            outgoing: watch::Sender::new(None),
            leads: false,
            server,
            board: Board::new(now),
            changed: BTreeSet::new(),
            is_due: false,
            not_before: now,
            listened: now,
            silent: BTreeSet::new(),
            relays: BTreeMap::new(),
            arrivals: vec![Arrival::of_start(now, ARRIVAL)],
            counted: now,
            owners: BTreeSet::new(),
            nodes: Nodes::new(),
        }
    }

    /// What there is to tell the manager that leads, when that is another one. It is found out only where somebody has this.
    pub(super) fn outgoing(&self) -> watch::Receiver<Option<Outgoing>> {
        self.outgoing.subscribe()
    }

    /// This manager begins, or ends, to lead; `vacated` is what is known of the one before.
    pub(super) fn lead(&mut self, leads: bool, vacated: Option<Vacated>) {
        self.leads = leads;
        self.server.relays().lead(leads);
        let Some(vacated) = vacated.filter(|_| leads) else {
            return;
        };
        let now = clock();
        let arrival = Arrival::of_leader(vacated.at.into_std(), now);
        if vacated.was_held {
            // Agents were connected to the one before, or are to this one: nobody has to come from far.
            self.arrivals.clear();
        }
        self.arrivals.retain(|arrival| arrival.lasts(now));
        self.arrivals.push(arrival);
        // Nothing is said of peers before those of other managers are known: the leader before knew them, and has said so.
        self.board = Board::new(arrival.until);
        self.not_before = arrival.until;
        self.server.registry().concern_everything();
        self.counted = now.checked_sub(LISTEN).unwrap_or(now);
    }

    /// What Envoys are told that start from now on.
    pub(super) fn limit(&self, settings: ProcessSettings) {
        self.server.limit(ProcessLimits {
            max_connections: settings.connections.unwrap_or_default(),
            max_heap_bytes: settings.heap.unwrap_or_default(),
        });
    }

    /// There is another configuration, which differs in these objects, and in layer 7 of these tenants.
    pub(super) fn published(
        &mut self,
        snapshot: &Arc<Snapshot>,
        changed: BTreeSet<ObjectName>,
        tenants: &BTreeSet<TenantName>,
    ) {
        self.published = Arc::clone(snapshot);
        if changed.is_empty() && tenants.is_empty() {
            return;
        }
        self.is_due = true;
        let digests = Arc::make_mut(&mut self.digests);
        for name in &changed {
            match digest(snapshot, name) {
                Some(digest) => digests.insert(name.clone(), digest),
                None => digests.remove(name),
            };
        }
        for tenant in tenants {
            self.changed.extend(layer7::follow(digests, snapshot, tenant));
        }
        self.changed.extend(changed);
    }

    /// What is to be told now, and of which objects.
    pub(super) fn look(&mut self, ir: &Ir) -> (Reports, BTreeSet<ObjectName>) {
        let started = clock();
        self.is_due = false;
        let mut concerned = self.server.registry().take_concerned();
        let peers = self.server.registry().peers();
        let reports = self.server.agents().by_connection(started);
        let heard_otherwise = self.listen(started);
        concerned.everything |= heard_otherwise;
        let own = peers.iter().filter_map(|peer| {
            let view = View::new(peer, reports.get(&peer.connection), &self.published)?;
            Some((peer.connection, view))
        });
        let (connections, mut views): (Vec<u64>, Vec<View>) = own.unzip();
        if !self.leads && self.outgoing.receiver_count() > 0 {
            let peers = connections.iter().zip(&views);
            self.outgoing.send_replace(Some(Outgoing {
                peers: peers.map(|(id, view)| (*id, view.to_outgoing())).collect(),
                digests: Arc::clone(&self.digests),
            }));
        }
        let relayed = self.server.relays().views(&self.digests, &views, started);
        views.extend(relayed);
        let changed = std::mem::take(&mut self.changed);
        let answer = self.board.look(ir, &views, &concerned, &changed, started);
        let now = clock();
        let took = now.saturating_duration_since(started);
        self.not_before = now + (took * PAUSE_OF_LOOK).clamp(PAUSE, LONGEST_PAUSE);
        answer
    }

    /// Whether other agents than before are silent, or other managers.
    fn listen(&mut self, now: Instant) -> bool {
        self.listened = now;
        let all = self.server.agents().by_connection(now).into_iter();
        let silent = all.filter(|(_, (presence, _))| *presence != Presence::Heard);
        let silent: BTreeSet<u64> = silent.map(|(connection, _)| connection).collect();
        let relays = self.server.relays().phases(now);
        let differs = silent != self.silent || relays != self.relays;
        self.silent = silent;
        self.relays = relays;
        differs
    }

    /// The nodes, for those who choose among them.
    pub(super) fn nodes(&mut self, ir: &Ir) -> Nodes {
        let now = clock();
        if self.arrival(now).is_some() {
            let owners = ir.addresses.values().filter_map(|address| address.owner.as_ref());
            self.owners = owners.map(|owner| owner.node.clone()).collect();
        }
        self.nodes = self.find_nodes(now);
        self.nodes.clone()
    }

    /// The latest that lasts, for as long as any does.
    fn arrival(&self, now: Instant) -> Option<Arrival> {
        let lasting = self.arrivals.iter().filter(|arrival| arrival.lasts(now));
        lasting.copied().reduce(|all, next| Arrival {
            since: next.since,
            until: all.until.max(next.until),
        })
    }

    fn find_nodes(&self, now: Instant) -> Nodes {
        let own = self.server.agents().view(now);
        let own = own
            .iter()
            .filter_map(|agent| Some((agent.node.clone()?, sighting(agent))));
        let relayed = self.server.relays().sightings(now);
        sighting::nodes(own.chain(relayed), self.arrival(now), &self.owners, now)
    }

    /// When there is something to look at.
    pub(super) async fn due(&mut self) -> Due {
        loop {
            let now = clock();
            // What is heard otherwise concerns everything.
            if self.listened + LISTEN <= now && self.listen(now) {
                self.server.registry().concern_everything();
            }
            if self.counted + LISTEN <= now {
                self.counted = now;
                if self.find_nodes(now) != self.nodes {
                    return Due::Nodes;
                }
            }
            if self.is_due && self.not_before <= now {
                return Due::Reports;
            }
            let due = self.is_due.then_some(self.not_before);
            let listen = self.listened + LISTEN;
            let timeout = [due, self.board.poll_timeout()]
                .into_iter()
                .flatten()
                .fold(listen.min(self.counted + LISTEN), Instant::min);
            tokio::select! {
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.is_due = true,
                    // No more will come.
                    Err(_ended) => std::future::pending().await,
                },
                () = tokio::time::sleep_until(timeout.into()) => {
                    let now = clock();
                    self.is_due |= self.board.poll_timeout().is_some_and(|at| at <= now);
                }
            }
        }
    }
}

fn sighting(agent: &Agent) -> Sighting {
    let (how, at) = match agent.presence {
        Presence::Heard => (How::Heard, agent.last_heard),
        Presence::Closed(at) => (How::Closed, at),
        Presence::Silent | Presence::Lost(_) => (How::Lost, agent.last_heard),
    };
    Sighting { how, at }
}
