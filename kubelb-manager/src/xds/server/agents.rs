//! Agents that report, and those that did until lately: when each was last heard, and what it told.
//!
//! Written by the reports' streams, read by anybody. A heartbeat notes the time and wakes nobody; what changes something is told to the
//! [`Registry`], whose watch wakes those who make statuses. Time is an argument.

mod figures;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kubelb_xds::contract::reports::Report;
use kubelb_xds::reports::{Fault, Limits, Received};
use prost::Message as _;

pub use figures::total;

use super::clock;
use super::registry::Registry;
use crate::identity::Identity;

/// An agent that was not heard for this long is silent. Heartbeats come every 500 ms.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Agents that have gone are remembered for this long.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// Agents that have gone, at most; the earliest are forgotten first.
const MAX_GONE: usize = 4_096;

/// All of them.
#[derive(Clone, Debug)]
pub struct Agents {
    registry: Registry,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// By node.
    gone: BTreeMap<String, Gone>,
    figures: figures::Figures,
}

#[derive(Debug)]
struct Open {
    node: Option<String>,
    subject: String,
    connection: u64,
    since: Instant,
    last_heard: Instant,
    received: Arc<Received>,
}

#[derive(Clone, Debug)]
struct Gone {
    subject: String,
    connection: u64,
    since: Instant,
    last_heard: Instant,
    presence: Presence,
}

/// An agent, as it is at some time.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its node, by its certificate or token; `None`: neither tells.
    pub node: Option<String>,
    /// Who it is, for logs.
    pub subject: String,
    /// The connection's number, which its configuration stream has too.
    pub connection: u64,
    /// Since when it reports.
    pub since: Instant,
    /// When it was heard last.
    pub last_heard: Instant,
    /// Whether it is there.
    pub presence: Presence,
    /// What it told; of one that has gone, nothing.
    pub received: Arc<Received>,
}

/// Whether an agent is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was heard within [`SILENCE`].
    Heard,
    /// Its stream is open, and it was not: its node may be lost.
    Silent,
    /// Its stream ended while it was heard, by its own end, a reset or this server's: a restart, or a move to another manager.
    Closed(Instant),
    /// Its stream ended when it had been silent.
    Lost(Instant),
}

impl Agents {
    /// None yet.
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            state: Arc::default(),
        }
    }

    /// Those that report, and those that did until lately; each node once.
    #[must_use]
    pub fn view(&self, now: Instant) -> Vec<Agent> {
        let state = self.lock();
        let mut newest: BTreeMap<(Option<&str>, u64), Agent> = BTreeMap::new();
        for (id, open) in &state.open {
            // Of two streams of one node, the later one counts: the earlier one is about to end.
            let key = (open.node.as_deref(), if open.node.is_some() { 0 } else { *id });
            newest.insert(key, open.view(now));
        }
        for (node, gone) in &state.gone {
            let is_kept = |until: Instant| now.saturating_duration_since(until) < REMEMBERED;
            let key = (Some(node.as_str()), 0);
            if is_kept(gone.last_heard) && !newest.contains_key(&key) {
                newest.insert(key, gone.view(node));
            }
        }
        newest.into_values().collect()
    }

    /// What the agent of a connection told, if it reports, and whether it is heard.
    #[must_use]
    pub fn by_connection(&self, now: Instant) -> BTreeMap<u64, (Presence, Arc<Received>)> {
        let state = self.lock();
        let all = state.open.values();
        all.map(|open| (open.connection, (open.presence(now), Arc::clone(&open.received))))
            .collect()
    }

    /// Its figures, as Prometheus metrics.
    #[must_use]
    pub fn render_metrics(&self, now: Instant) -> String {
        let agents = self.view(now);
        let figures = self.lock().figures.clone();
        figures.render(&agents, now)
    }

    /// An agent begins to report.
    pub(super) fn enter(&self, identity: &Identity, connection: u64, now: Instant) -> Entry {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        if let Some(node) = &identity.node {
            state.gone.remove(node);
        }
        let open = Open {
            node: identity.node.clone(),
            subject: identity.subject.clone(),
            connection,
            since: now,
            last_heard: now,
            received: Arc::new(Received::new(Limits::default())),
        };
        state.open.insert(id, open);
        drop(state);
        Entry {
            agents: self.clone(),
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn presence(&self, now: Instant) -> Presence {
        if now.saturating_duration_since(self.last_heard) < SILENCE {
            Presence::Heard
        } else {
            Presence::Silent
        }
    }

    fn view(&self, now: Instant) -> Agent {
        Agent {
            node: self.node.clone(),
            subject: self.subject.clone(),
            connection: self.connection,
            since: self.since,
            last_heard: self.last_heard,
            presence: self.presence(now),
            received: Arc::clone(&self.received),
        }
    }
}

impl Gone {
    fn view(&self, node: &str) -> Agent {
        Agent {
            node: Some(node.to_owned()),
            subject: self.subject.clone(),
            connection: self.connection,
            since: self.since,
            last_heard: self.last_heard,
            presence: self.presence,
            received: Arc::default(),
        }
    }
}

/// An agent's place, until its stream ends.
#[derive(Debug)]
pub(super) struct Entry {
    agents: Agents,
    id: u64,
}

impl Entry {
    /// Takes a report in.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub(super) fn take(&self, report: Report, now: Instant) -> Result<(), Fault> {
        let bytes = report.encoded_len();
        let mut state = self.agents.lock();
        let State { open, figures, .. } = &mut *state;
        let Some(open) = open.get_mut(&self.id) else {
            return Ok(());
        };
        let was_silent = open.presence(now) == Presence::Silent;
        open.last_heard = now;
        let taken = Arc::make_mut(&mut open.received).take(report);
        figures.note(bytes, &taken);
        drop(state);
        let changes = taken?;
        if changes.completed || was_silent {
            self.agents.registry.concern_everything();
        } else if !changes.standings.is_empty() {
            self.agents.registry.reported(changes.standings);
        }
        Ok(())
    }

    fn leave(&self, now: Instant) {
        let mut state = self.agents.lock();
        if let Some(open) = state.open.remove(&self.id) {
            let presence = match open.presence(now) {
                Presence::Silent => Presence::Lost(now),
                Presence::Heard | Presence::Closed(_) | Presence::Lost(_) => Presence::Closed(now),
            };
            let is_back = state.open.values().any(|other| other.node == open.node);
            if let Some(node) = open.node.filter(|_| !is_back) {
                let gone = Gone {
                    subject: open.subject,
                    connection: open.connection,
                    since: open.since,
                    last_heard: open.last_heard,
                    presence,
                };
                state.gone.insert(node, gone);
                forget(&mut state.gone, now);
            }
        }
        drop(state);
        self.agents.registry.concern_everything();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.leave(clock());
    }
}

fn forget(gone: &mut BTreeMap<String, Gone>, now: Instant) {
    gone.retain(|_, gone| now.saturating_duration_since(gone.last_heard) < REMEMBERED);
    while gone.len() > MAX_GONE {
        let earliest = gone.iter().min_by_key(|(_, gone)| gone.last_heard);
        let Some(node) = earliest.map(|(node, _)| node.clone()) else {
            return;
        };
        gone.remove(&node);
    }
}

#[cfg(test)]
mod tests;
