//! Other managers that tell this one, as long as it leads, of their peers: what each has told, and when it was last heard.
//!
//! Written by the relays' streams, read by those who make statuses and choose among nodes. Time is an argument. Must not know: what is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kubelb_xds::contract::relay::Relayed;
use tokio::sync::watch;

use super::agents::{REMEMBERED, SILENCE};
use super::registry::Registry;
use crate::relay::sighting::{RECONNECT, Sighting};
use crate::relay::{Digests, Fault, Heard, Limits};
use crate::standing::View;

/// Managers that tell something, at once; more are refused.
const MAX_STREAMS: usize = 16;
/// Streams that have ended and are remembered, at most.
const MAX_ENDED: usize = 32;

/// All of them.
#[derive(Clone, Debug)]
pub struct Relays {
    registry: Registry,
    leads: watch::Sender<bool>,
    state: Arc<Mutex<State>>,
    /// Whether this manager tells another one.
    is_telling: Arc<AtomicBool>,
    told: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    streams: BTreeMap<u64, Stream>,
    messages: u64,
    faults: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Stream {
    manager: String,
    heard: Heard,
    /// When something was last heard.
    last: Instant,
    is_open: bool,
}

/// Whether a stream counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its manager is there.
    Alive,
    /// It is not, and those that it told of are about to come elsewhere.
    Gone,
    /// They had the time to.
    Over,
}

impl Stream {
    fn phase(&self, now: Instant) -> Phase {
        let quiet = now.saturating_duration_since(self.last);
        if self.is_open && quiet < SILENCE {
            Phase::Alive
        } else if quiet < RECONNECT {
            Phase::Gone
        } else {
            Phase::Over
        }
    }
}

/// Why a manager is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declined {
    /// This one does not lead.
    NotLeading,
    /// There are too many.
    TooMany,
}

impl Relays {
    /// None yet.
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            leads: watch::Sender::new(false),
            state: Arc::default(),
            is_telling: Arc::default(),
            told: Arc::default(),
        }
    }

    /// Whether this manager leads from now on. When that ends, so do the streams, and what they told is forgotten.
    pub fn lead(&self, leads: bool) {
        self.leads
            .send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if !leads {
            self.lock().streams.clear();
        }
    }

    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// This manager begins, or ends, to tell another one.
    pub fn tells(&self, tells: bool) {
        self.is_telling.store(tells, Ordering::Relaxed);
    }

    /// It has sent a message.
    pub fn sent(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    /// Peers of other managers, as they are for one that serves `ours`. An agent whose node is one of `nodes` is connected here, or was heard
    /// elsewhere, and counts there; so does what has the name of one that is here, as soon as its manager has gone.
    #[must_use]
    pub fn views(&self, ours: &Digests, here: &[View], now: Instant) -> Vec<View> {
        let mut nodes: BTreeSet<String> = here.iter().filter_map(View::node).map(str::to_owned).collect();
        let mut names: BTreeSet<String> = here.iter().map(|view| view.name().to_owned()).collect();
        let state = self.lock();
        let mut streams: Vec<(Phase, &Stream)> = state
            .streams
            .values()
            .map(|stream| (stream.phase(now), stream))
            .filter(|(phase, _)| *phase != Phase::Over)
            .collect();
        // Those of managers that are there, then those that were heard last.
        streams.sort_by_key(|(phase, stream)| (*phase, std::cmp::Reverse(stream.last)));
        let mut views = Vec::new();
        for (phase, stream) in streams {
            let told = stream.heard.views(ours).into_iter();
            let told: Vec<View> = told
                .filter(|view| match view.node() {
                    Some(node) => !nodes.contains(node),
                    None => phase == Phase::Alive || !names.contains(view.name()),
                })
                .collect();
            nodes.extend(told.iter().filter_map(View::node).map(str::to_owned));
            names.extend(told.iter().map(|view| view.name().to_owned()));
            views.extend(told);
        }
        views
    }

    /// What other managers know, and have known, of nodes.
    #[must_use]
    pub fn sightings(&self, now: Instant) -> Vec<(String, Sighting)> {
        let state = self.lock();
        let mut sightings = Vec::new();
        for stream in state.streams.values() {
            let is_gone = stream.phase(now) != Phase::Alive;
            let nodes = stream.heard.nodes().iter();
            sightings.extend(nodes.map(|(node, (presence, since))| {
                let sighting = Sighting::relayed(*presence, *since, stream.last, is_gone);
                (node.clone(), sighting)
            }));
        }
        sightings
    }

    /// How the streams are: another one than before means that peers are to be looked at.
    #[must_use]
    pub fn phases(&self, now: Instant) -> BTreeMap<u64, Phase> {
        let state = self.lock();
        state
            .streams
            .iter()
            .map(|(id, stream)| (*id, stream.phase(now)))
            .collect()
    }

    /// A manager begins to tell.
    pub(super) fn enter(&self, manager: &str, now: Instant) -> Result<Entry, Declined> {
        if !*self.leads.borrow() {
            return Err(Declined::NotLeading);
        }
        let mut state = self.lock();
        if state.streams.values().filter(|stream| stream.is_open).count() >= MAX_STREAMS {
            return Err(Declined::TooMany);
        }
        let is_remembered = |stream: &Stream| now.saturating_duration_since(stream.last) < REMEMBERED;
        state
            .streams
            .retain(|_, stream| stream.is_open || is_remembered(stream));
        while state.streams.len() >= MAX_STREAMS + MAX_ENDED {
            let ended = state.streams.iter().filter(|(_, stream)| !stream.is_open);
            let Some(earliest) = ended.min_by_key(|(_, stream)| stream.last).map(|(id, _)| *id) else {
                break;
            };
            state.streams.remove(&earliest);
        }
        let id = state.next;
        state.next += 1;
        let stream = Stream {
            manager: manager.to_owned(),
            heard: Heard::new(Limits::default()),
            last: now,
            is_open: true,
        };
        state.streams.insert(id, stream);
        Ok(Entry {
            relays: self.clone(),
            id,
        })
    }

    /// Its figures, as Prometheus metrics.
    #[must_use]
    pub fn render_metrics(&self, now: Instant) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _infallible = self.write(now, &mut text);
        text
    }

    fn write(&self, now: Instant, text: &mut String) -> std::fmt::Result {
        let state = self.lock();
        let alive = || {
            state
                .streams
                .values()
                .filter(|stream| stream.phase(now) == Phase::Alive)
        };
        let peers: usize = alive().map(|stream| stream.heard.peers()).sum();
        let is_telling = self.is_telling.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            (
                "relay_streams",
                "gauge",
                "Managers that tell this one of their peers.",
                number(alive().count()),
            ),
            (
                "relay_peers",
                "gauge",
                "Peers that other managers tell of.",
                number(peers),
            ),
            (
                "relay_messages_total",
                "counter",
                "Messages of other managers.",
                state.messages,
            ),
            (
                "relay_stands",
                "gauge",
                "Whether this manager tells the one that leads.",
                u64::from(is_telling),
            ),
            (
                "relay_sent_total",
                "counter",
                "Messages to the manager that leads.",
                self.told.load(Ordering::Relaxed),
            ),
        ] {
            writeln!(
                text,
                "# HELP kubelb_manager_{name} {help}\n# TYPE kubelb_manager_{name} {kind}"
            )?;
            writeln!(text, "kubelb_manager_{name} {value}")?;
        }
        let name = "kubelb_manager_relay_faults_total";
        writeln!(
            text,
            "# HELP {name} Relays that could not go on.\n# TYPE {name} counter"
        )?;
        for (reason, many) in &state.faults {
            writeln!(text, "{name}{{reason=\"{reason}\"}} {many}")?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A manager's place, until its stream ends.
#[derive(Debug)]
pub(super) struct Entry {
    relays: Relays,
    id: u64,
}

impl Entry {
    /// Takes a message in; whether it was the first with which all has been told.
    ///
    /// # Errors
    /// When the stream cannot go on.
    pub(super) fn take(&self, message: Relayed, now: Instant) -> Result<bool, Fault> {
        let mut state = self.relays.lock();
        state.messages += 1;
        let State { streams, faults, .. } = &mut *state;
        let Some(stream) = streams.get_mut(&self.id) else {
            return Ok(false);
        };
        let was_complete = stream.heard.is_complete();
        stream.last = now;
        let taken = stream.heard.take(message, now);
        let completes = stream.heard.is_complete() && !was_complete;
        let manager = stream.manager.clone();
        if let Err(fault) = &taken {
            *faults.entry(fault.reason()).or_default() += 1;
        }
        let changes = taken?;
        if completes {
            // What it said of peers on an earlier stream, it says better now. Nodes that it heard then may still be on their way.
            let earlier = streams
                .iter_mut()
                .filter(|(id, other)| **id != self.id && !other.is_open && other.manager == manager);
            earlier.for_each(|(_, other)| other.heard.forget_peers());
        }
        let is_dull = !changes.everything && changes.objects.is_empty() && changes.listeners.is_empty();
        let tells = streams.get(&self.id).is_some_and(|stream| stream.heard.is_complete());
        drop(state);
        if tells && !is_dull {
            self.relays.registry.relayed(changes);
        }
        Ok(completes)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.relays.lock();
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.is_open = false;
        }
        drop(state);
        self.relays.registry.concern_everything();
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock;
    use super::*;

    #[test]
    fn a_stream_counts_while_its_manager_is_heard_and_its_peers_as_long_as_they_may_be_on_their_way() {
        let now = clock();
        let mut stream = Stream {
            manager: "m".to_owned(),
            heard: Heard::default(),
            last: now,
            is_open: true,
        };
        assert_eq!(stream.phase(now), Phase::Alive);
        assert_eq!(stream.phase(now + SILENCE), Phase::Gone);
        assert_eq!(stream.phase(now + RECONNECT), Phase::Over);
        stream.is_open = false;
        assert_eq!(stream.phase(now), Phase::Gone);
    }
}
