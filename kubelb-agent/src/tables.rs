//! From what is desired to what the maps should hold.
//!
//! [`Tables`] is a plain image of the rows in use. [`build`] is pure: the same inputs give the same rows, rows that
//! exist keep their numbers, and what one frontend lacks is that frontend's [`Problem`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::backend::flag;
use kubelb_common::frontend::{FrontendKey, Policy, Selection, timeout};
use kubelb_common::maps as size;
use kubelb_common::next_hop::{MacWord, NextHopView, flag as hop_flag};

use crate::model::{
    Algorithm, Backend, Desired, Frontend, FrontendCheck, Health, HealthView, NextHop, OnUnhealthy, Protocol, Timeouts,
};

mod maglev;
mod read_back;
mod rows;
mod sources;
mod turn;

pub use read_back::{Kept, read_back};
pub use rows::Room;
use rows::Rows;
pub use sources::{SourceSet, Span};
use turn::Takers;

/// What the maps hold, or should: rows in use only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Frontends by what clients dial.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// Frontend rows that are out of service and still have flows: not to be given out.
    pub leaving: BTreeSet<u32>,
    /// Frontend rows in service that no key leads to: what a death between two operations left. Never wanted.
    pub stray: BTreeSet<u32>,
    /// Backends by row number.
    pub backends: BTreeMap<u32, BackendRow>,
    /// Next hops by row number.
    pub hops: BTreeMap<u32, NextHopView>,
    /// Addresses that answer echo requests.
    pub vips: BTreeSet<Addr>,
}

/// A frontend in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// Its row.
    pub number: u32,
    /// For people.
    pub name: String,
    /// Idle timeouts in jiffies.
    pub timeouts: [u32; timeout::COUNT],
    /// Most flows at a time.
    pub max_flows: u32,
    /// Half-open flows at a time; 0: no budget.
    pub half_open_budget: u32,
    /// What it does with new flows.
    pub policy: Policy,
    /// Who may open flows; `None`: everybody.
    pub sources: Option<SourceSet>,
    /// Backend rows in the order of the turn, or a Maglev table.
    pub turn: Vec<u32>,
    /// Where the turn begins in the slots array.
    pub offset: u32,
}

/// A backend in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Row of its frontend.
    pub frontend: u32,
    /// Its address.
    pub address: Addr,
    /// Its port, raw.
    pub port: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Share of new flows.
    pub weight: u16,
    /// SNAT row to use; `None`: any of the family.
    pub snat: Option<u8>,
    /// Row of its next hop.
    pub next_hop: u32,
}

/// Why a frontend is not served, or not fully.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// All rows of a map are taken.
    #[error("frontend {frontend}: no room in {map} ({capacity} rows)")]
    Full {
        /// Name of the frontend.
        frontend: String,
        /// The map.
        map: &'static str,
        /// Its rows.
        capacity: u32,
    },
    /// A SNAT address that a backend is to be reached from gives out no ports.
    #[error("frontend {frontend}: SNAT address {address} is not in use")]
    NoSnatAddress {
        /// Name of the frontend.
        frontend: String,
        /// The address.
        address: IpAddr,
    },
}

impl Problem {
    /// The frontend.
    #[must_use]
    pub fn frontend(&self) -> &str {
        match self {
            Self::Full { frontend, .. } | Self::NoSnatAddress { frontend, .. } => frontend,
        }
    }
}

/// What the rows depend on besides the configuration.
pub struct Context<'a> {
    /// What the checks say.
    pub health: &'a HealthView,
    /// The ways to the backends.
    pub hops: &'a BTreeMap<IpAddr, NextHop>,
    /// Interfaces that XDP may redirect to.
    pub xdp_interfaces: &'a BTreeSet<u32>,
    /// SNAT row to use towards a backend; absent: any of the family.
    pub snat: &'a BTreeMap<IpAddr, u8>,
    /// SNAT row of each address that gives out ports.
    pub snat_addresses: &'a BTreeMap<IpAddr, u8>,
    /// Jiffies per second.
    pub hz: u32,
    /// Most flows of one frontend.
    pub max_flows: u32,
    /// Half-open flows of a frontend that says nothing else.
    pub half_open_budget: u32,
    /// Rows of removed backends whose time is up.
    pub drained: &'a BTreeSet<u32>,
    /// Rows of the maps.
    pub room: Room,
}

/// Where the search for free rows goes on, so that a row that was freed just now is given out last; and tables that are costly to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    frontend: u32,
    backend: u32,
    hop: u32,
    slot: u32,
    source: u32,
    maglev: maglev::Memo,
}

/// The IP protocol number.
#[must_use]
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// The key of a frontend.
#[must_use]
pub fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(
        frontend.vip.into(),
        frontend.port.get().to_be(),
        protocol_number(frontend.protocol),
    )
}

/// What the maps should hold, given what they hold. A frontend for which there is no room is left out, or stays as it is.
#[must_use]
pub fn build(
    desired: &Desired,
    context: &Context<'_>,
    actual: &Tables,
    cursors: &mut Cursors,
) -> (Tables, Vec<Problem>) {
    let mut builder = Builder::new(context, actual, cursors);
    let mut problems = Vec::new();
    // Frontends that exist keep their rows before new ones look for theirs.
    let (old, new): (Vec<_>, Vec<_>) = desired
        .frontends
        .iter()
        .partition(|(_, frontend)| actual.frontends.contains_key(&key_of(frontend)));
    for (name, frontend) in old.into_iter().chain(new) {
        let mut taken = Taken::default();
        if let Err(problem) = builder.add(name, frontend, &mut taken) {
            builder.give_back(taken);
            builder.keep(key_of(frontend));
            problems.push(problem);
        }
    }
    let tables = builder.tables;
    cursors.maglev.end_round();
    (tables, problems)
}

struct Builder<'a, 'b> {
    context: &'a Context<'a>,
    actual: &'a Tables,
    cursors: &'b mut Cursors,
    tables: Tables,
    /// Rows that are in use, before or after.
    frontend_rows: Rows,
    backend_rows: Rows,
    next_hop_rows: Rows,
    /// Ranges of slots that are published, before or after: start to end.
    slots: BTreeMap<u32, u32>,
    /// Sets of source ranges that are published, before or after.
    sources: sources::Places,
    /// Rows of next hops, before or after.
    hops: BTreeMap<NextHopView, u32>,
    /// Rows in use by each frontend, by backend.
    known: BTreeMap<u32, BTreeMap<(Addr, u16), u32>>,
}

/// What one frontend was given while it was added.
#[derive(Default)]
struct Taken {
    frontend: Option<u32>,
    backends: Vec<u32>,
}

impl<'a, 'b> Builder<'a, 'b> {
    fn new(context: &'a Context<'a>, actual: &'a Tables, cursors: &'b mut Cursors) -> Self {
        let serving = actual.frontends.values().map(|row| row.number);
        let frontends = serving.chain(actual.leaving.iter().chain(&actual.stray).copied());
        let mut builder = Self {
            context,
            actual,
            cursors,
            tables: Tables {
                leaving: actual.leaving.clone(),
                ..Tables::default()
            },
            frontend_rows: Rows::new(context.room.frontends, frontends),
            backend_rows: Rows::new(context.room.backends, actual.backends.keys().copied()),
            next_hop_rows: Rows::new(context.room.hops, actual.hops.keys().copied()),
            slots: BTreeMap::new(),
            sources: sources::Places::default(),
            hops: BTreeMap::new(),
            known: BTreeMap::new(),
        };
        for row in actual.frontends.values() {
            builder.occupy_slots(row.offset, row.turn.len());
            if let Some(set) = &row.sources {
                builder.sources.occupy(set);
            }
        }
        for (number, hop) in &actual.hops {
            builder.hops.entry(*hop).or_insert(*number);
        }
        for (number, row) in &actual.backends {
            builder
                .known
                .entry(row.frontend)
                .or_default()
                .insert((row.address, row.port), *number);
        }
        builder
    }

    fn occupy_slots(&mut self, offset: u32, length: usize) {
        if length > 0 {
            self.slots
                .insert(offset, offset.saturating_add(u32::try_from(length).unwrap_or(u32::MAX)));
        }
    }

    fn add(&mut self, name: &str, frontend: &Frontend, taken: &mut Taken) -> Result<(), Problem> {
        let key = key_of(frontend);
        let full = |map, capacity| Problem::Full {
            frontend: name.to_owned(),
            map,
            capacity,
        };
        let room = self.context.room;
        let before = self.actual.frontends.get(&key);
        let number = match before {
            Some(row) => row.number,
            None => self
                .frontend_rows
                .take(&mut self.cursors.frontend)
                .inspect(|row| taken.frontend = Some(*row))
                .ok_or_else(|| full(size::FRONTENDS, room.frontends))?,
        };
        let mut known = before
            .and_then(|row| self.known.get(&row.number))
            .cloned()
            .unwrap_or_default();
        let mut rows = BTreeMap::new();
        let mut to_reset = BTreeSet::new();
        let check = frontend.check();
        for backend in &frontend.backends {
            let identity = identity_of(backend);
            let row = match known.remove(&identity) {
                Some(row) => row,
                None => self
                    .backend_rows
                    .take(&mut self.cursors.backend)
                    .inspect(|row| taken.backends.push(*row))
                    .ok_or_else(|| full(size::BACKENDS, room.backends))?,
            };
            let snat = self.snat_row(name, backend)?;
            let backend_row = self.backend_row(number, check.as_ref(), backend, snat);
            rows.insert(row, backend_row.ok_or_else(|| full(size::NEXT_HOPS, room.hops))?);
            if backend.on_unhealthy == OnUnhealthy::Reset {
                to_reset.insert(row);
            }
        }
        end_flows(&mut rows, &to_reset);
        let takers = turn::takers(&rows);
        let (offset, turn) = self
            .turn(frontend.algorithm, &takers, before)
            .ok_or_else(|| full(size::BACKEND_SLOTS, room.slots))?;
        let sources = self
            .source_set(frontend, before)
            .ok_or_else(|| full(size::SOURCE_RANGES, size::MAX_SOURCE_RANGES))?;
        let policy = Policy {
            selection: selection(frontend.algorithm),
            fail_open: takers.fail_open,
            affinity: frontend
                .affinity
                .map_or(0, |timeout| ticks(timeout, self.context.hz).max(1)),
        };
        // What is no longer wanted drains for a while.
        for row in known.into_values().filter(|row| !self.context.drained.contains(row)) {
            if let Some(gone) = self.actual.backends.get(&row) {
                let draining = BackendRow {
                    flags: gone.flags | flag::DRAINING,
                    next_hop: self
                        .hop_of_draining(gone)
                        .ok_or_else(|| full(size::NEXT_HOPS, room.hops))?,
                    ..gone.clone()
                };
                rows.insert(row, draining);
            }
        }
        self.tables.backends.extend(rows);
        self.tables.vips.insert(key.vip());
        let row = FrontendRow {
            number,
            name: stored_name(name).to_owned(),
            timeouts: jiffies(&frontend.timeouts, self.context.hz),
            max_flows: self.context.max_flows,
            half_open_budget: match frontend.protocol {
                Protocol::Tcp => frontend
                    .half_open_budget
                    .map_or(self.context.half_open_budget, NonZeroU32::get),
                Protocol::Udp => 0,
            },
            policy,
            sources,
            turn,
            offset,
        };
        self.tables.frontends.insert(key, row);
        Ok(())
    }

    /// Undoes what a frontend took that found no room after all.
    fn give_back(&mut self, taken: Taken) {
        if let Some(row) = taken.frontend {
            self.frontend_rows.release(row);
        }
        for row in taken.backends {
            self.backend_rows.release(row);
        }
    }

    /// Leaves a frontend that exists just as it is.
    fn keep(&mut self, key: FrontendKey) {
        let Some(row) = self.actual.frontends.get(&key) else {
            return;
        };
        self.tables.frontends.insert(key, row.clone());
        self.tables.vips.insert(key.vip());
        for number in self.known.get(&row.number).into_iter().flat_map(BTreeMap::values) {
            if let Some(backend) = self.actual.backends.get(number) {
                self.tables.backends.insert(*number, backend.clone());
                if let Some(hop) = self.actual.hops.get(&backend.next_hop) {
                    self.tables.hops.insert(backend.next_hop, *hop);
                }
            }
        }
    }

    fn snat_row(&self, name: &str, backend: &Backend) -> Result<Option<u8>, Problem> {
        match backend.snat {
            None => Ok(self.context.snat.get(&backend.address.ip()).copied()),
            Some(address) => match self.context.snat_addresses.get(&address) {
                Some(row) => Ok(Some(*row)),
                None => Err(Problem::NoSnatAddress {
                    frontend: name.to_owned(),
                    address,
                }),
            },
        }
    }

    fn backend_row(
        &mut self,
        number: u32,
        check: Option<&FrontendCheck>,
        backend: &Backend,
        snat: Option<u8>,
    ) -> Option<BackendRow> {
        let target = check.map(|check| check.target(backend));
        let health = target.map(|target| self.context.health.get(&target).copied().unwrap_or_default());
        let flags = flag::IN_USE
            | match health {
                None => 0,
                Some(Health::Unknown) => flag::HAS_CHECK,
                Some(Health::Healthy) => flag::HAS_CHECK | flag::CHECKED,
                Some(Health::Unhealthy) => flag::HAS_CHECK | flag::CHECKED | flag::UNHEALTHY,
            };
        let ip = backend.address.ip();
        let (address, port) = identity_of(backend);
        Some(BackendRow {
            frontend: number,
            address,
            port,
            flags,
            weight: backend.weight,
            snat,
            next_hop: self.hop_row(ip)?,
        })
    }

    fn hop_row(&mut self, ip: IpAddr) -> Option<u32> {
        let Some(hop) = self.context.hops.get(&ip) else {
            return Some(kubelb_common::next_hop::NONE);
        };
        let view = hop_view(hop, self.context.xdp_interfaces.contains(&hop.ifindex));
        let row = match self.hops.get(&view) {
            Some(row) => *row,
            None => self.next_hop_rows.take(&mut self.cursors.hop)?,
        };
        self.hops.insert(view, row);
        self.tables.hops.insert(row, view);
        Some(row)
    }

    /// A draining backend follows its next hop too; where nothing is known of the way any more, the last known one stays.
    fn hop_of_draining(&mut self, gone: &BackendRow) -> Option<u32> {
        let ip = IpAddr::from(gone.address);
        if self.context.hops.contains_key(&ip) {
            return self.hop_row(ip);
        }
        if let Some(hop) = self.actual.hops.get(&gone.next_hop) {
            self.tables.hops.insert(gone.next_hop, *hop);
        }
        Some(gone.next_hop)
    }

    /// The turn and where it is, or is to be: the best for which there is room.
    fn turn(&mut self, algorithm: Algorithm, takers: &Takers, before: Option<&FrontendRow>) -> Option<(u32, Vec<u32>)> {
        let place = |builder: &mut Self, turn: Vec<u32>| {
            let offset = match before {
                Some(row) if row.turn == turn => row.offset,
                _ => builder.free_slots(turn.len())?,
            };
            Some((offset, turn))
        };
        match algorithm {
            Algorithm::RoundRobin => place(self, turn::of(&takers.shares)),
            Algorithm::Maglev | Algorithm::MaglevBySource => maglev::sizes(&takers.configured).find_map(|size| {
                let turn = self.maglev_table(takers, size);
                place(self, turn)
            }),
        }
    }

    fn maglev_table(&mut self, takers: &Takers, size: u32) -> Vec<u32> {
        let mut entries: Vec<(maglev::Entry, u32)> = takers
            .shares
            .iter()
            .zip(&takers.identities)
            .map(|((row, weight), (address, port))| ((*address, *port, *weight), *row))
            .collect();
        entries.sort_unstable();
        let known = entries.iter().map(|(entry, _)| *entry).collect();
        let table = self.cursors.maglev.table(known, size);
        let row = |index: &u16| entries.get(usize::from(*index)).map(|(_, row)| *row);
        table.iter().filter_map(row).collect()
    }

    /// Source ranges of a frontend; the outer `None`: there is no room for them.
    fn source_set(&mut self, frontend: &Frontend, before: Option<&FrontendRow>) -> Option<Option<SourceSet>> {
        let networks = frontend.source_ranges.as_deref();
        let Some(spans) = networks.and_then(|networks| sources::spans(frontend.vip, networks)) else {
            return Some(None);
        };
        if let Some(set) = before
            .and_then(|row| row.sources.as_ref())
            .filter(|set| set.spans == spans)
        {
            return Some(Some(set.clone()));
        }
        self.sources
            .place(spans, &mut self.cursors.source, size::MAX_SOURCE_RANGES)
            .map(Some)
    }

    /// Room for a turn that overlaps with no published one, nor with one that was published until now.
    fn free_slots(&mut self, length: usize) -> Option<u32> {
        let wanted = u32::try_from(length).ok()?;
        let capacity = self.context.room.slots;
        let found = turn::gap(&self.slots, self.cursors.slot, wanted, capacity)
            .or_else(|| turn::gap(&self.slots, 0, wanted, capacity))?;
        self.cursors.slot = found + wanted;
        self.occupy_slots(found, length);
        Some(found)
    }
}

/// Says of which backends the flows are ended: of unhealthy ones that are to be reset, as long as another takes new flows. Nobody is
/// cut off when the checks find all of them unhealthy.
fn end_flows(rows: &mut BTreeMap<u32, BackendRow>, to_reset: &BTreeSet<u32>) {
    let unhealthy = |row: &BackendRow| row.flags & flag::UNHEALTHY != 0;
    if !rows.values().any(|row| row.weight > 0 && !unhealthy(row)) {
        return;
    }
    for (_, row) in rows
        .iter_mut()
        .filter(|(number, row)| to_reset.contains(number) && unhealthy(row))
    {
        row.flags |= flag::FLOWS_ENDED;
    }
}

/// What tells a frontend's backends apart: address and raw port.
fn identity_of(backend: &Backend) -> (Addr, u16) {
    (backend.address.ip().into(), backend.address.port().to_be())
}

/// As much of a name as its row holds, cut between characters.
fn stored_name(name: &str) -> &str {
    name.get(..name.floor_char_boundary(size::NAME_BYTES - 1))
        .unwrap_or(name)
}

fn hop_view(hop: &NextHop, xdp: bool) -> NextHopView {
    let mut flags = hop_flag::ROUTED;
    if xdp {
        flags |= hop_flag::XDP;
    }
    if hop.neighbour_mac.is_some() {
        flags |= hop_flag::RESOLVED;
    }
    let mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
    NextHopView {
        destination: MacWord::new(hop.neighbour_mac.unwrap_or_default(), mtu),
        source: MacWord::new(hop.source_mac, flags),
        interface: hop.ifindex,
    }
}

fn selection(algorithm: Algorithm) -> Selection {
    match algorithm {
        Algorithm::RoundRobin => Selection::RoundRobin,
        Algorithm::Maglev => Selection::Maglev,
        Algorithm::MaglevBySource => Selection::MaglevBySource,
    }
}

/// A duration in jiffies, rounded up.
fn ticks(duration: std::time::Duration, hz: u32) -> u32 {
    let ticks = (duration.as_millis() * u128::from(hz)).div_ceil(1_000);
    u32::try_from(ticks).unwrap_or(u32::MAX / 2).min(u32::MAX / 2)
}

/// Timeouts in jiffies, rounded up, in the order of [`timeout`].
fn jiffies(timeouts: &Timeouts, hz: u32) -> [u32; timeout::COUNT] {
    let of = |duration| ticks(duration, hz);
    [
        of(timeouts.tcp_half_open),
        of(timeouts.tcp_established),
        of(timeouts.tcp_closing),
        of(timeouts.udp_unreplied),
        of(timeouts.udp_replied),
    ]
}

#[cfg(test)]
mod tests;
