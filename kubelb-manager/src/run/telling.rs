//! Follows what peers tell, and says when it is time to look at it. Owns the pace: a burst of changes is one look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::Snapshot;
use tokio::sync::watch;

use crate::ir::Ir;
use crate::object::ObjectName;
use crate::owners::{Nodes, Standing};
use crate::standing::{Board, View};
use crate::status::Reports;
use crate::xds::server::agents::Presence;
use crate::xds::server::{Server, clock};

/// Shortest time between two looks; a look that takes long is followed by a pause of several times that, so that it is never most of the work.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_OF_LOOK: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time between two looks at whether all agents are heard.
const LISTEN: Duration = Duration::from_millis(250);
/// A node whose agent ended its stream in good order is about to come back for so long: a restart, or an upgrade.
const RESTART: Duration = Duration::from_secs(60);
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
    changed: BTreeSet<ObjectName>,
    is_due: bool,
    not_before: Instant,
    listened: Instant,
    silent: BTreeSet<u64>,
    started: Instant,
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
            server,
            board: Board::new(now),
            changed: BTreeSet::new(),
            is_due: false,
            not_before: now,
            listened: now,
            silent: BTreeSet::new(),
            started: now,
            counted: now,
            owners: BTreeSet::new(),
            nodes: Nodes::new(),
        }
    }

    /// There is another configuration, which differs in these objects.
    pub(super) fn published(&mut self, snapshot: &Arc<Snapshot>, changed: BTreeSet<ObjectName>) {
        self.published = Arc::clone(snapshot);
        self.is_due |= !changed.is_empty();
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
        let views: Vec<View> = peers
            .iter()
            .filter_map(|peer| View::new(peer, reports.get(&peer.connection), &self.published))
            .collect();
        let changed = std::mem::take(&mut self.changed);
        let answer = self.board.look(ir, &views, &concerned, &changed, started);
        let now = clock();
        let took = now.saturating_duration_since(started);
        self.not_before = now + (took * PAUSE_OF_LOOK).clamp(PAUSE, LONGEST_PAUSE);
        answer
    }

    /// Whether other agents than before are silent.
    fn listen(&mut self, now: Instant) -> bool {
        self.listened = now;
        let all = self.server.agents().by_connection(now).into_iter();
        let silent = all.filter(|(_, (presence, _))| *presence != Presence::Heard);
        let silent: BTreeSet<u64> = silent.map(|(connection, _)| connection).collect();
        let differs = silent != self.silent;
        self.silent = silent;
        differs
    }

    /// The nodes, for those who choose among them.
    pub(super) fn nodes(&mut self, ir: &Ir) -> Nodes {
        let now = clock();
        if self.is_arriving(now) {
            let owners = ir.addresses.values().filter_map(|address| address.owner.as_ref());
            self.owners = owners.map(|owner| owner.node.clone()).collect();
        }
        self.nodes = self.find_nodes(now);
        self.nodes.clone()
    }

    fn is_arriving(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < ARRIVAL
    }

    fn find_nodes(&self, now: Instant) -> Nodes {
        let mut nodes = Nodes::new();
        if self.is_arriving(now) {
            nodes.extend(self.owners.iter().map(|node| (node.clone(), Standing::Away)));
        }
        for agent in self.server.agents().view(now) {
            let Some(node) = agent.node else { continue };
            match agent.presence {
                Presence::Heard => nodes.insert(node, Standing::Here),
                Presence::Closed(at) if now.saturating_duration_since(at) < RESTART => {
                    nodes.insert(node, Standing::Away)
                }
                Presence::Silent | Presence::Closed(_) | Presence::Lost(_) => nodes.remove(&node),
            };
        }
        nodes
    }

    async fn due(&mut self) -> Due {
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

/// When there is something to look at.
pub(super) async fn due(telling: Option<&mut Telling>) -> Due {
    match telling {
        Some(telling) => telling.due().await,
        None => std::future::pending().await,
    }
}
