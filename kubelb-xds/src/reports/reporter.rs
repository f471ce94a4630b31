//! The agent's end: the state to tell goes in as a whole, reports of a bounded size and pace come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::contract::reports::{ListenerReport, Report, Standing, Traffic};
use crate::telling::{Pace, Sending, differing};

/// Of an agent's reports.
pub const PACE: Pace = Pace {
    spacing: Duration::from_millis(250),
    heartbeat: Duration::from_millis(500),
    message_bytes: 256 << 10,
};

/// What is to be told, and what the manager does not know of it yet.
#[derive(Debug)]
pub struct Reporter {
    instance: u64,
    sending: Sending,
    /// Those that are not plain.
    standings: BTreeMap<String, Standing>,
    /// Those with any.
    traffic: BTreeMap<String, Traffic>,
    untold_standings: BTreeSet<String>,
    untold_traffic: BTreeSet<String>,
}

impl Reporter {
    /// Has nothing to tell yet. `instance` is another one for each process, and not 0.
    #[must_use]
    pub fn new(instance: u64, pace: Pace) -> Self {
        Self {
            instance,
            sending: Sending::new(pace),
            standings: BTreeMap::new(),
            traffic: BTreeMap::new(),
            untold_standings: BTreeSet::new(),
            untold_traffic: BTreeSet::new(),
        }
    }

    /// How all listeners are; until it is called, reports say that more is to come. Those that are left out are as they should be; so are plain ones, which need not be left out. `since` of a
    /// backend that was unhealthy before stays what it was.
    pub fn set_standings(&mut self, standings: BTreeMap<String, Standing>) {
        let mut next: BTreeMap<String, Standing> = standings;
        next.retain(|_, standing| !standing.is_plain());
        for (name, standing) in &mut next {
            if let Some(before) = self.standings.get(name) {
                keep_times(before, standing);
            }
        }
        self.untold_standings.extend(differing(&self.standings, &next).cloned());
        self.standings = next;
        self.sending.set_known();
    }

    /// What traffic all listeners have had. Those that are left out have had none.
    pub fn set_traffic(&mut self, traffic: BTreeMap<String, Traffic>) {
        let mut next = traffic;
        next.retain(|_, traffic| !traffic.is_none());
        self.untold_traffic.extend(differing(&self.traffic, &next).cloned());
        self.traffic = next;
    }

    /// There is a new stream, whose other end knows nothing.
    pub fn connect(&mut self, now: Instant) {
        self.untold_standings = self.standings.keys().cloned().collect();
        self.untold_traffic = self.traffic.keys().cloned().collect();
        self.sending.connect(now);
    }

    /// The stream has ended.
    pub fn disconnect(&mut self) {
        self.sending.disconnect();
    }

    /// When to call [`Self::on_timeout`]; `None` without a stream.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sending
            .due(|_| !self.untold_standings.is_empty() || !self.untold_traffic.is_empty())
    }

    /// What is to be sent now, if anything.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Report> {
        if self.poll_timeout()? > now {
            return None;
        }
        let mut report = Report {
            instance: self.instance,
            ..Report::default()
        };
        self.fill(&mut report);
        let place = self.sending.send(!self.untold_standings.is_empty(), now)?;
        (report.sequence, report.full, report.more) = (place.sequence, place.full, place.more);
        Some(report)
    }

    /// Moves what fits from what is untold into the report: what is wrong first, figures last.
    fn fill(&mut self, report: &mut Report) {
        let mut room = self.sending.room();
        while let Some(name) = self.untold_standings.pop_first() {
            // What is no longer out of the ordinary may still have had traffic, which the removal would take away.
            let standing = self.standings.get(&name).cloned();
            let traffic = self.traffic.get(&name);
            if standing.is_none() && traffic.is_none() {
                self.untold_traffic.remove(&name);
                room = room.saturating_sub(name.len());
                report.removed.push(name);
            } else {
                let has_figures = self.untold_traffic.remove(&name);
                let entry = ListenerReport {
                    standing: Some(standing.unwrap_or_default()),
                    traffic: has_figures.then(|| traffic.cloned().unwrap_or_default()),
                    name,
                };
                room = room.saturating_sub(entry.encoded_len());
                report.listeners.push(entry);
            }
            if room == 0 {
                return;
            }
        }
        while room > 0
            && let Some(name) = self.untold_traffic.pop_first()
        {
            match self.traffic.get(&name).cloned() {
                None if !self.standings.contains_key(&name) => {
                    room = room.saturating_sub(name.len());
                    report.removed.push(name);
                }
                traffic => {
                    let entry = ListenerReport {
                        name,
                        standing: None,
                        traffic: Some(traffic.unwrap_or_default()),
                    };
                    room = room.saturating_sub(entry.encoded_len());
                    report.listeners.push(entry);
                }
            }
        }
    }
}

/// A backend that stays unhealthy was found so when it was first.
fn keep_times(before: &Standing, after: &mut Standing) {
    let known: BTreeMap<(&str, u32), u64> = before
        .unhealthy
        .iter()
        .map(|backend| ((backend.address.as_str(), backend.port), backend.since))
        .collect();
    for backend in &mut after.unhealthy {
        if let Some(since) = known.get(&(backend.address.as_str(), backend.port)) {
            backend.since = *since;
        }
    }
}
