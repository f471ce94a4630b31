//! Follows what peers tell, and says when it is time to look at it. Owns the pace: a burst of changes is one look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::Snapshot;
use tokio::sync::watch;

use crate::ir::Ir;
use crate::object::ObjectName;
use crate::standing::{Board, View};
use crate::status::Reports;
use crate::xds::server::agents::Presence;
use crate::xds::server::{Server, clock};

/// Shortest time between two looks; a look that takes long is followed by a pause of several times that, so that it is never most of the work.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_OF_LOOK: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time between two looks at whether all agents are heard.
const LISTEN: Duration = Duration::from_secs(1);

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

    async fn due(&mut self) {
        loop {
            if self.is_due {
                tokio::time::sleep_until(self.not_before.into()).await;
                return;
            }
            let listen = self.listened + LISTEN;
            let timeout = self.board.poll_timeout().map_or(listen, |at| at.min(listen));
            tokio::select! {
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.is_due = true,
                    // No more will come.
                    Err(_ended) => std::future::pending().await,
                },
                () = tokio::time::sleep_until(timeout.into()) => {
                    let now = clock();
                    let is_time = self.board.poll_timeout().is_some_and(|at| at <= now);
                    // What is heard otherwise concerns everything.
                    if self.listened + LISTEN <= now && self.listen(now) {
                        self.server.registry().concern_everything();
                    }
                    self.is_due |= is_time;
                }
            }
        }
    }
}

/// When there is something to look at.
pub(super) async fn due(telling: Option<&mut Telling>) {
    match telling {
        Some(telling) => telling.due().await,
        None => std::future::pending().await,
    }
}
