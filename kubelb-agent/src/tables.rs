//! From what is desired to what the maps should hold.
//!
//! [`Tables`] is a plain image of the rows in use. [`build`] is pure: the same inputs give the same rows, rows that
//! exist keep their numbers, and what one frontend lacks is that frontend's [`Problem`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::backend::flag;
use kubelb_common::frontend::{FrontendKey, timeout};
use kubelb_common::maps as size;
use kubelb_common::next_hop::{MacWord, NextHopView, flag as hop_flag};

use crate::model::{Backend, Desired, Frontend, Health, HealthView, NextHop, Protocol, Timeouts};

mod turn;

/// What the maps hold, or should: rows in use only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Frontends by what clients dial.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// Frontend rows that are out of service and still have flows: not to be given out.
    pub leaving: BTreeSet<u32>,
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
    /// Backend rows in the order of the turn.
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
    /// Jiffies per second.
    pub hz: u32,
    /// Most flows of one frontend.
    pub max_flows: u32,
    /// Rows of removed backends whose time is up.
    pub drained: &'a BTreeSet<u32>,
}

/// Where the search for free rows goes on, so that a row that was freed just now is given out last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    frontend: u32,
    backend: u32,
    hop: u32,
    slot: u32,
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

/// What the maps should hold, given what they hold.
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
        if let Err(problem) = builder.add(name, frontend) {
            problems.push(problem);
        }
    }
    (builder.tables, problems)
}

struct Builder<'a, 'b> {
    context: &'a Context<'a>,
    actual: &'a Tables,
    cursors: &'b mut Cursors,
    tables: Tables,
    /// Rows that are taken, before or after.
    frontend_rows: BTreeSet<u32>,
    hop_rows: BTreeMap<NextHopView, u32>,
    /// Ranges of slots that are published, before or after: start to end.
    slots: BTreeMap<u32, u32>,
    /// Rows in use by each frontend, by backend.
    known: BTreeMap<u32, BTreeMap<(Addr, u16), u32>>,
}

impl<'a, 'b> Builder<'a, 'b> {
    fn new(context: &'a Context<'a>, actual: &'a Tables, cursors: &'b mut Cursors) -> Self {
        let mut builder = Self {
            context,
            actual,
            cursors,
            tables: Tables {
                leaving: actual.leaving.clone(),
                ..Tables::default()
            },
            frontend_rows: actual.leaving.clone(),
            hop_rows: BTreeMap::new(),
            slots: BTreeMap::new(),
            known: BTreeMap::new(),
        };
        for row in actual.frontends.values() {
            builder.frontend_rows.insert(row.number);
            builder.occupy_slots(row.offset, row.turn.len());
        }
        for (number, hop) in &actual.hops {
            builder.hop_rows.entry(*hop).or_insert(*number);
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

    fn add(&mut self, name: &str, frontend: &Frontend) -> Result<(), Problem> {
        let key = key_of(frontend);
        let full = |map, capacity| Problem::Full {
            frontend: name.to_owned(),
            map,
            capacity,
        };
        let before = self.actual.frontends.get(&key);
        let number = match before {
            Some(row) => row.number,
            None => self
                .free_frontend()
                .ok_or_else(|| full(size::FRONTENDS, size::MAX_FRONTENDS))?,
        };
        let mut rows = BTreeMap::new();
        let mut known = if before.is_some() {
            self.known.remove(&number).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        for backend in &frontend.backends {
            let identity = (Addr::from(backend.address.ip()), backend.address.port().to_be());
            let row = match known.remove(&identity) {
                Some(row) => row,
                None => self
                    .free_backend(&rows)
                    .ok_or_else(|| full(size::BACKENDS, size::MAX_BACKENDS))?,
            };
            let backend_row = self.backend_row(number, frontend, backend, identity);
            rows.insert(
                row,
                backend_row.ok_or_else(|| full(size::NEXT_HOPS, size::MAX_NEXT_HOPS))?,
            );
        }
        let turn = turn::of(&rows);
        let offset = match before {
            Some(row) if row.turn == turn => row.offset,
            _ => self
                .free_slots(turn.len())
                .ok_or_else(|| full(size::BACKEND_SLOTS, size::MAX_BACKEND_SLOTS))?,
        };
        // What is no longer wanted drains for a while.
        for row in known.into_values() {
            if let Some(gone) = self.actual.backends.get(&row)
                && !self.context.drained.contains(&row)
            {
                rows.insert(
                    row,
                    BackendRow {
                        flags: gone.flags | flag::DRAINING,
                        ..gone.clone()
                    },
                );
            }
        }
        self.tables.backends.extend(rows);
        self.tables.vips.insert(key.vip());
        let timeouts = jiffies(&frontend.timeouts, self.context.hz);
        let max_flows = self.context.max_flows;
        let row = FrontendRow {
            number,
            name: name.to_owned(),
            timeouts,
            max_flows,
            turn,
            offset,
        };
        self.tables.frontends.insert(key, row);
        Ok(())
    }

    fn backend_row(
        &mut self,
        number: u32,
        frontend: &Frontend,
        backend: &Backend,
        identity: (Addr, u16),
    ) -> Option<BackendRow> {
        let target = frontend.check_target(backend);
        let health = target
            .as_ref()
            .map(|target| self.context.health.get(target).copied().unwrap_or_default());
        let flags = flag::IN_USE
            | match health {
                None => 0,
                Some(Health::Unknown) => flag::HAS_CHECK,
                Some(Health::Healthy) => flag::HAS_CHECK | flag::CHECKED,
                Some(Health::Unhealthy) => flag::HAS_CHECK | flag::CHECKED | flag::UNHEALTHY,
            };
        let ip = backend.address.ip();
        Some(BackendRow {
            frontend: number,
            address: identity.0,
            port: identity.1,
            flags,
            weight: backend.weight,
            snat: self.context.snat.get(&ip).copied(),
            next_hop: self.hop_row(ip)?,
        })
    }

    fn hop_row(&mut self, ip: IpAddr) -> Option<u32> {
        let Some(hop) = self.context.hops.get(&ip) else {
            return Some(kubelb_common::next_hop::NONE);
        };
        let view = hop_view(hop, self.context.xdp_interfaces.contains(&hop.ifindex));
        let row = match self.hop_rows.get(&view) {
            Some(row) => *row,
            None => {
                let taken = |row: u32| self.actual.hops.contains_key(&row) || self.tables.hops.contains_key(&row);
                next_free(&mut self.cursors.hop, size::MAX_NEXT_HOPS, taken)?
            }
        };
        self.hop_rows.insert(view, row);
        self.tables.hops.insert(row, view);
        Some(row)
    }

    fn free_frontend(&mut self) -> Option<u32> {
        let row = next_free(&mut self.cursors.frontend, size::MAX_FRONTENDS, |row| {
            self.frontend_rows.contains(&row)
        })?;
        self.frontend_rows.insert(row);
        Some(row)
    }

    fn free_backend(&mut self, more: &BTreeMap<u32, BackendRow>) -> Option<u32> {
        let taken = |row: u32| {
            self.actual.backends.contains_key(&row)
                || self.tables.backends.contains_key(&row)
                || more.contains_key(&row)
        };
        next_free(&mut self.cursors.backend, size::MAX_BACKENDS, taken)
    }

    /// Room for a turn that overlaps with no published one, nor with one that was published until now.
    fn free_slots(&mut self, length: usize) -> Option<u32> {
        let wanted = u32::try_from(length).ok()?;
        let found = turn::gap(&self.slots, self.cursors.slot, wanted, size::MAX_BACKEND_SLOTS)
            .or_else(|| turn::gap(&self.slots, 0, wanted, size::MAX_BACKEND_SLOTS))?;
        self.cursors.slot = found + wanted;
        self.occupy_slots(found, length);
        Some(found)
    }
}

/// The first free row after the last one given out; row 0 is nobody's.
fn next_free(cursor: &mut u32, rows: u32, taken: impl Fn(u32) -> bool) -> Option<u32> {
    for step in 1..rows {
        let row = (*cursor + step - 1) % (rows - 1) + 1;
        if !taken(row) {
            *cursor = row;
            return Some(row);
        }
    }
    None
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

/// Timeouts in jiffies, rounded up, in the order of [`timeout`].
fn jiffies(timeouts: &Timeouts, hz: u32) -> [u32; timeout::COUNT] {
    let of = |duration: std::time::Duration| {
        let ticks = (duration.as_millis() * u128::from(hz)).div_ceil(1_000);
        u32::try_from(ticks).unwrap_or(u32::MAX / 2).min(u32::MAX / 2)
    };
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
