//! The manager's end: what is known of an agent by its reports on one stream. Bounded, whatever the agent sends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prost::Message as _;

use crate::contract::reports::{Drops, ListenerReport, Report, Standing, Traffic, UnhealthyBackend};
use crate::telling::{OutOfPlace, Place, Receiving};

/// How much of one agent is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Listeners of which something is told.
    pub names: usize,
    /// Longest name, in bytes.
    pub name_bytes: usize,
    /// All that is told, as it is encoded. Bytes.
    pub bytes: usize,
    /// Longest text of a problem; more is cut off. Bytes.
    pub problem_bytes: usize,
    /// Reasons of drops of one listener; more are left out.
    pub reasons: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names: 200_000,
            name_bytes: 512,
            bytes: 32 << 20,
            problem_bytes: 1_024,
            reasons: 64,
        }
    }
}

/// Why a stream cannot go on: the agent opens another, and tells everything again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A report is missing, or is not the one that was to come.
    #[error(transparent)]
    OutOfPlace(#[from] OutOfPlace),
    /// Another process goes on where one was.
    #[error("instance {got} reports on the stream of instance {expected}")]
    Instance {
        /// Whose stream it is.
        expected: u64,
        /// Who reports.
        got: u64,
    },
    /// More listeners than [`Limits::names`].
    #[error("reports of more than {0} listeners")]
    TooManyNames(usize),
    /// More than [`Limits::bytes`].
    #[error("reports of more than {0} bytes")]
    TooManyBytes(usize),
    /// A name that is empty or longer than [`Limits::name_bytes`].
    #[error("a listener's name must have 1 to {0} bytes")]
    Name(usize),
    /// A backend that is none.
    #[error("{0:?} is no address of a backend")]
    Backend(String),
}

impl Fault {
    /// A fixed word for each variant, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutOfPlace(fault) => fault.reason(),
            Self::Instance { .. } => "instance",
            Self::TooManyNames(_) => "too_many_names",
            Self::TooManyBytes(_) => "too_many_bytes",
            Self::Name(_) => "name",
            Self::Backend(_) => "backend",
        }
    }
}

/// How a listener is that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Why the node does not forward it as it is configured; empty: it does.
    pub problem: Box<str>,
    /// Backends that answer their checks.
    pub healthy: u32,
    /// Backends that nobody asked to check.
    pub unchecked: u32,
    /// Backends whose checks have no result yet.
    pub pending: u32,
    /// Backends that take no new flows.
    pub draining: u32,
    /// Each that does not answer.
    pub unhealthy: Box<[UnhealthySince]>,
}

impl Known {
    /// As it was told, for whoever passes it on.
    #[must_use]
    pub fn to_standing(&self) -> Standing {
        let unhealthy = self.unhealthy.iter().map(|backend| UnhealthyBackend {
            address: backend.address.ip().to_string(),
            port: backend.address.port().into(),
            since: backend.since,
        });
        Standing {
            problem: self.problem.to_string(),
            healthy: self.healthy,
            unchecked: self.unchecked,
            pending: self.pending,
            draining: self.draining,
            unhealthy: unhealthy.collect(),
        }
    }
}

/// A backend that does not answer its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnhealthySince {
    /// Which.
    pub address: SocketAddr,
    /// When it was first found so, in seconds since 1970.
    pub since: u64,
}

/// What one report changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners whose standing is another one now.
    pub standings: BTreeSet<Arc<str>>,
    /// Everything has been told for the first time: what is not named is as it should be.
    pub completed: bool,
}

/// What an agent has told on one stream.
#[derive(Clone, Debug, Default)]
pub struct Received {
    limits: Limits,
    instance: u64,
    receiving: Receiving,
    standings: BTreeMap<Arc<str>, Entry<Known>>,
    traffic: BTreeMap<Arc<str>, Entry<Traffic>>,
    bytes: usize,
}

/// A value, and what it counts for.
#[derive(Clone, Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
}

impl Received {
    /// Of a stream on which nothing has come yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes a report in.
    ///
    /// # Errors
    /// When the stream cannot go on; what is known is not to be relied on any more.
    pub fn take(&mut self, report: Report) -> Result<Changes, Fault> {
        let place = Place {
            sequence: report.sequence,
            full: report.full,
            more: report.more,
        };
        self.check(place, report.instance)?;
        self.instance = report.instance;
        let mut changes = Changes::default();
        for name in &report.removed {
            self.set_standing(name, None, &mut changes);
            self.set_traffic(name, None);
        }
        for entry in report.listeners {
            self.take_listener(entry, &mut changes)?;
        }
        let told = self.standings.len().max(self.traffic.len());
        if told > self.limits.names {
            return Err(Fault::TooManyNames(self.limits.names));
        }
        if self.bytes > self.limits.bytes {
            return Err(Fault::TooManyBytes(self.limits.bytes));
        }
        changes.completed = self.receiving.taken(place);
        Ok(changes)
    }

    /// Of the agent's process; 0 before the first report.
    #[must_use]
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// Reports that have come.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.receiving.sequence()
    }

    /// Whether everything has been told once: a listener that is not named is then as it should be.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.receiving.is_complete()
    }

    /// What is kept, as it is encoded. Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How a listener is, if it is not as it should be.
    #[must_use]
    pub fn standing(&self, listener: &str) -> Option<&Known> {
        self.standings.get(listener).map(|entry| &entry.value)
    }

    /// All listeners that are not as they should be.
    pub fn standings(&self) -> impl Iterator<Item = (&Arc<str>, &Known)> {
        self.standings.iter().map(|(name, entry)| (name, &entry.value))
    }

    /// What traffic a listener has had, if any.
    #[must_use]
    pub fn traffic(&self, listener: &str) -> Option<&Traffic> {
        self.traffic.get(listener).map(|entry| &entry.value)
    }

    /// All listeners with traffic.
    pub fn all_traffic(&self) -> impl Iterator<Item = (&Arc<str>, &Traffic)> {
        self.traffic.iter().map(|(name, entry)| (name, &entry.value))
    }

    fn check(&self, place: Place, instance: u64) -> Result<(), Fault> {
        self.receiving.check(place)?;
        if self.sequence() > 0 && instance != self.instance {
            return Err(Fault::Instance {
                expected: self.instance,
                got: instance,
            });
        }
        Ok(())
    }

    fn take_listener(&mut self, entry: ListenerReport, changes: &mut Changes) -> Result<(), Fault> {
        let ListenerReport {
            name,
            standing,
            traffic,
        } = entry;
        if name.is_empty() || name.len() > self.limits.name_bytes {
            return Err(Fault::Name(self.limits.name_bytes));
        }
        if let Some(standing) = standing {
            let known = if standing.is_plain() {
                None
            } else {
                let bytes = standing.encoded_len();
                Some((self.read(standing)?, bytes))
            };
            self.set_standing(&name, known, changes);
        }
        if let Some(mut traffic) = traffic {
            traffic.drops.truncate(self.limits.reasons);
            let is_short = |drops: &Drops| drops.reason.len() <= self.limits.name_bytes;
            traffic.drops.retain(is_short);
            let traffic = (!traffic.is_none()).then_some(traffic);
            self.set_traffic(&name, traffic);
        }
        Ok(())
    }

    fn read(&self, standing: Standing) -> Result<Known, Fault> {
        let backend = |backend: &UnhealthyBackend| {
            let shown = || Fault::Backend(format!("{} {}", shortened(&backend.address, 64), backend.port));
            let address: IpAddr = backend.address.parse().ok().ok_or_else(shown)?;
            let port = u16::try_from(backend.port).ok().filter(|port| *port != 0);
            Ok(UnhealthySince {
                address: SocketAddr::new(address, port.ok_or_else(shown)?),
                since: backend.since,
            })
        };
        let unhealthy: Result<Vec<UnhealthySince>, Fault> = standing.unhealthy.iter().map(backend).collect();
        Ok(Known {
            problem: shortened(&standing.problem, self.limits.problem_bytes).into(),
            healthy: standing.healthy,
            unchecked: standing.unchecked,
            pending: standing.pending,
            draining: standing.draining,
            unhealthy: unhealthy?.into(),
        })
    }

    fn set_standing(&mut self, name: &str, known: Option<(Known, usize)>, changes: &mut Changes) {
        let before = self.standings.remove_entry(name);
        let freed = before.as_ref().map_or(0, |(_, entry)| entry.bytes);
        let is_new = before.as_ref().map(|(_, entry)| &entry.value) != known.as_ref().map(|(value, _)| value);
        let name = before.map_or_else(|| Arc::from(name), |(name, _)| name);
        if is_new {
            changes.standings.insert(Arc::clone(&name));
        }
        self.bytes -= freed;
        if let Some((value, bytes)) = known {
            let bytes = bytes + name.len();
            self.bytes += bytes;
            self.standings.insert(name, Entry { value, bytes });
        }
    }

    fn set_traffic(&mut self, name: &str, traffic: Option<Traffic>) {
        let before = self.traffic.remove_entry(name);
        self.bytes -= before.as_ref().map_or(0, |(_, entry)| entry.bytes);
        if let Some(value) = traffic {
            // One copy of a name that is in both tables.
            let shared = || self.standings.get_key_value(name).map(|(name, _)| Arc::clone(name));
            let key = before.map(|(key, _)| key).or_else(shared);
            let key = key.unwrap_or_else(|| Arc::from(name));
            let bytes = value.encoded_len() + name.len();
            self.bytes += bytes;
            self.traffic.insert(key, Entry { value, bytes });
        }
    }
}

fn shortened(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
