//! Reads the rows back and carries operations out.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use kubelb_common::addr::{Addr, ICMP, ICMPV6};
use kubelb_common::backend::Backend;
use kubelb_common::control::{FILTER_BYTES, FILTER_VIP};
use kubelb_common::flow_table::FlowTables as _;
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::hash;
use kubelb_common::maps::{self as names, NAME_BYTES, Name};
use kubelb_common::next_hop::{NextHop, NextHopView};
use kubelb_common::shared::Line;
use kubelb_common::snat::SnatView;
use kubelb_common::source::SourceRange;

use super::BpfError;
use super::announced;
use super::mapped::Mapped;
use super::maps::Maps;
use crate::diff::MapOp;
use crate::snat::SnatOp;
use crate::tables::{Kept, SourceSet, Tables, read_back};

/// The maps, with what cannot be read from mapped rows kept beside them: this process is the only writer.
pub struct Store {
    /// The maps.
    pub maps: Maps,
    keys: BTreeMap<FrontendKey, u32>,
    pub(super) announced: announced::Kept,
    /// CPUs that counters are kept for.
    cpus: usize,
}

impl Store {
    /// Takes over opened maps.
    ///
    /// # Errors
    /// When the key map cannot be read.
    pub fn new(maps: Maps) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Map {
            name: names::FRONTEND_KEYS,
            source: Box::new(source),
        };
        let keys = maps.keys.iter().collect::<Result<_, _>>().map_err(failed)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| BpfError::Cpus(source))?;
        let announced = maps.announce_keys();
        Ok(Self {
            maps,
            keys,
            announced,
            cpus,
        })
    }

    /// What the maps hold.
    #[must_use]
    pub fn read_back(&self) -> Tables {
        read_back(self)
    }

    /// Addresses that answer echo requests: those of all frontends in service.
    #[must_use]
    pub fn vips(&self) -> BTreeSet<Addr> {
        self.keys.keys().map(FrontendKey::vip).collect()
    }

    /// Carries one operation out.
    ///
    /// # Errors
    /// When a map refuses a change.
    pub fn apply(&mut self, op: &MapOp) -> Result<(), BpfError> {
        // A row that changes hands does not show what its former owner counted.
        if let MapOp::OccupyBackend { row, .. } = op {
            clear(&mut self.maps.backend_traffic, names::BACKEND_TRAFFIC, *row, self.cpus)?;
        } else if let MapOp::ActivateFrontend { row, .. } = op {
            clear(
                &mut self.maps.frontend_traffic,
                names::FRONTEND_TRAFFIC,
                *row,
                self.cpus,
            )?;
            clear(&mut self.maps.frontend_drops, names::FRONTEND_DROPS, *row, self.cpus)?;
        }
        let maps = &self.maps;
        match op {
            MapOp::SetHop { row, hop } => with(&maps.hops, *row, |target| target.replace(hop)),
            MapOp::ClearHop { row } => with(&maps.hops, *row, |target| target.replace(&NextHopView::default())),
            MapOp::OccupyBackend {
                row,
                address,
                port,
                frontend,
                next_hop,
            } => {
                with(&maps.backends, *row, |target| {
                    target.occupy(*address, *port, *frontend, *next_hop)
                });
            }
            MapOp::SetBackendHop { row, next_hop } => {
                with(&maps.backends, *row, |target| target.set_next_hop(*next_hop));
            }
            MapOp::SetBackendShare { row, weight, snat } => {
                with(&maps.backends, *row, |target| target.set_share(*weight, *snat));
            }
            MapOp::ChangeBackendFlags { row, set, clear } => {
                with(&maps.backends, *row, |target| target.change_flags(*set, *clear));
            }
            MapOp::EndBackendFlows { row } => with(&maps.backends, *row, |target| target.renew()),
            MapOp::VacateBackend { row } => with(&maps.backends, *row, |target| target.vacate()),
            MapOp::ActivateFrontend { row, key } => {
                with(&maps.frontends, *row, |target| {
                    target.publish_set(0, 0);
                    target.activate(key.vip(), key.port(), key.protocol());
                });
            }
            MapOp::DeactivateFrontend { row } => with(&maps.frontends, *row, |target| target.deactivate()),
            MapOp::SetTimeouts { row, jiffies } => {
                with(&maps.frontends, *row, |target| target.set_timeouts(*jiffies));
            }
            MapOp::SetMaxFlows { row, flows } => with(&maps.frontends, *row, |target| target.set_max_flows(*flows)),
            MapOp::SetHalfOpenBudget { row, flows } => {
                with(&maps.frontends, *row, |target| target.set_half_open_budget(*flows));
            }
            MapOp::SetPolicy { row, policy } => with(&maps.frontends, *row, |target| target.set_policy(*policy)),
            MapOp::PublishSources { row, sources } => self.publish_sources(*row, sources.as_ref()),
            MapOp::PublishTurn { row, offset, turn } => self.publish(*row, *offset, turn),
            MapOp::NameFrontend { row, name } => set_name(&maps.names, *row, name),
            MapOp::InsertKey { key, row } => self.insert_key(*key, *row)?,
            MapOp::RemoveKey { key } => self.remove_key(*key)?,
            MapOp::InsertVip { vip } => self.insert_key(echo_key(*vip), ECHO_ONLY)?,
            MapOp::RemoveVip { vip } => self.remove_key(echo_key(*vip))?,
        }
        Ok(())
    }

    fn publish(&self, row: u32, offset: u32, turn: &[u32]) {
        let mut slot = offset;
        for backend in turn {
            if let Some(line) = usize::try_from(Line::of(slot))
                .ok()
                .and_then(|line| self.maps.slots.get(line))
            {
                line.word(slot).store(*backend);
            }
            slot += 1;
        }
        with(&self.maps.frontends, row, |target| {
            target.publish_set(offset, slot - offset)
        });
    }

    fn publish_sources(&self, row: u32, sources: Option<&SourceSet>) {
        let rows = self.maps.source_ranges.as_deref().unwrap_or_default();
        let mut published = None;
        if let Some(set) = sources {
            let mut length = 0;
            for (first, last) in &set.spans {
                with(rows, set.offset + length, |range| range.replace(*first, *last));
                length += 1;
            }
            published = Some((set.offset, length));
        }
        with(&self.maps.frontends, row, |target| target.publish_sources(published));
    }

    fn insert_key(&mut self, key: FrontendKey, row: u32) -> Result<(), BpfError> {
        let failed = |source| BpfError::Update {
            name: names::FRONTEND_KEYS,
            source: Box::new(source),
        };
        self.maps.keys.insert(key, row, 0).map_err(failed)?;
        self.keys.insert(key, row);
        Ok(())
    }

    fn remove_key(&mut self, key: FrontendKey) -> Result<(), BpfError> {
        let failed = |source| BpfError::Update {
            name: names::FRONTEND_KEYS,
            source: Box::new(source),
        };
        self.maps.keys.remove(&key).map_err(failed)?;
        self.keys.remove(&key);
        Ok(())
    }

    /// Says that a frontend row out of service has no flows: for when its count is known to be wrong.
    pub fn forget_flows(&self, row: u32) {
        with(&self.maps.frontends, row, |target| {
            if !target.is_active() {
                target.flows().store(0);
            }
        });
    }

    /// The SNAT rows that exist, with the number of ports that flows hold.
    #[must_use]
    pub fn snat_rows(&self) -> BTreeMap<u8, (SnatView, u64)> {
        let rows = numbered(&self.maps.snat).filter(|(_, row)| row.view().ports > 0);
        rows.filter_map(|(slot, row)| Some((u8::try_from(slot).ok()?, (row.view(), self.used_ports(&row.view())))))
            .collect()
    }

    fn used_ports(&self, view: &SnatView) -> u64 {
        used_ports(&self.maps, view)
    }

    /// Carries a change of the SNAT rows out.
    pub fn apply_snat(&self, op: &SnatOp) {
        match op {
            SnatOp::Create { slot, view } => {
                for section in 0..view.sections() {
                    with(&self.maps.pools, view.pool_index(section), |pool| {
                        pool.reset(view.ports)
                    });
                    for port in 0..view.ports {
                        if let Some(word) = self.maps.reverse(view.reverse_index(section, port)) {
                            word.store(0);
                        }
                    }
                }
                with(&self.maps.snat, u32::from(*slot), |row| row.replace(view));
            }
            SnatOp::Retire { slot } => with(&self.maps.snat, u32::from(*slot), |row| row.set_in_service(false)),
            SnatOp::Resume { slot } => with(&self.maps.snat, u32::from(*slot), |row| row.set_in_service(true)),
            SnatOp::Free { slot } => with(&self.maps.snat, u32::from(*slot), |row| {
                let none = SnatView {
                    ports: 0,
                    in_service: false,
                    ..row.view()
                };
                row.replace(&none);
            }),
        }
    }

    /// Publishes a destination filter for these addresses, unless the current one is just that. `seed` gives seeds to
    /// try: SNAT addresses must not share a hash.
    pub fn publish_filter(&self, vips: &BTreeSet<Addr>, mut seed: impl FnMut() -> u64) {
        let Some(control) = self.maps.control() else { return };
        let snat: BTreeMap<u8, Addr> = self
            .snat_rows()
            .iter()
            .map(|(slot, (view, _))| (*slot, view.address))
            .collect();
        let (current, current_seed) = control.filter();
        let is_current = |bytes: &[u8; FILTER_BYTES]| {
            usize::try_from(current)
                .ok()
                .and_then(|which| self.maps.filters.get(which))
                .is_some_and(|now| now.same(bytes))
        };
        if filter_of(vips, &snat, current_seed).is_some_and(|bytes| is_current(&bytes)) {
            return;
        }
        // With 16 addresses in 65,536 places one seed in 500 fails; 64 in a row will not.
        for seed in std::iter::repeat_with(&mut seed).take(64) {
            if let Some(bytes) = filter_of(vips, &snat, seed) {
                let which = current ^ 1;
                if let Some(filter) = usize::try_from(which)
                    .ok()
                    .and_then(|which| self.maps.filters.get(which))
                {
                    filter.fill(&bytes);
                }
                control.publish_filter(which, seed);
                return;
            }
        }
        tracing::error!("no seed keeps the SNAT addresses apart in the destination filter; the old filter stays");
    }
}

impl Kept for Store {
    fn keys(&self) -> &BTreeMap<FrontendKey, u32> {
        &self.keys
    }
    fn frontends(&self) -> impl Iterator<Item = (u32, &Frontend)> {
        numbered(&self.maps.frontends).skip(1)
    }
    fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        numbered(&self.maps.backends).skip(1)
    }
    fn hops(&self) -> impl Iterator<Item = (u32, &NextHop)> {
        numbered(&self.maps.hops).skip(1)
    }
    fn frontend(&self, number: u32) -> Option<&Frontend> {
        self.maps.frontend(number)
    }
    fn name(&self, number: u32) -> String {
        name_of(&self.maps.names, number)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        let line = self.maps.slots.get(usize::try_from(Line::of(index)).ok()?)?;
        Some(line.word(index).load())
    }
    fn sources(&self, frontend: &Frontend) -> Option<SourceSet> {
        source_set_of(&self.maps, frontend)
    }
}

fn filter_of(vips: &BTreeSet<Addr>, snat: &BTreeMap<u8, Addr>, seed: u64) -> Option<Box<[u8; FILTER_BYTES]>> {
    let mut bytes = Box::new([0u8; FILTER_BYTES]);
    for (slot, address) in snat {
        let byte = bytes.get_mut(usize::from(hash::address(seed, *address)))?;
        match byte.checked_sub(1).map(|other| snat.get(&other)) {
            None => *byte = slot + 1,
            // The data path knows one row of an address; `snat::plan` makes no second one.
            Some(same) if same == Some(address) => {}
            Some(_) => return None,
        }
    }
    for vip in vips {
        *bytes.get_mut(usize::from(hash::address(seed, *vip)))? |= FILTER_VIP;
    }
    Some(bytes)
}

/// Sets the counters of a row to zero on every CPU.
fn clear<V: aya::Pod + Default>(
    counters: &mut PerCpuArray<MapData, V>,
    name: &'static str,
    row: u32,
    cpus: usize,
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Update {
        name,
        source: Box::new(source),
    };
    let zeros = std::iter::repeat_with(V::default).take(cpus).collect::<Vec<V>>();
    let zeros = PerCpuValues::try_from(zeros).map_err(|error| failed(error.into()))?;
    counters.set(row, zeros, 0).map_err(failed)
}

/// Ports of a SNAT address that flows hold.
#[must_use]
pub fn used_ports(maps: &Maps, view: &SnatView) -> u64 {
    let free: u64 = (0..view.sections())
        .filter_map(|section| maps.pool(view.pool_index(section)))
        .map(|pool| u64::from(pool.free()))
        .sum();
    (u64::from(view.sections()) * u64::from(view.ports)).saturating_sub(free)
}

/// The name in a frontend's row.
#[must_use]
pub fn name_of(names: &Mapped<Name>, number: u32) -> String {
    let Some(name) = usize::try_from(number).ok().and_then(|number| names.get(number)) else {
        return String::new();
    };
    let bytes = name.load();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn set_name(names: &Mapped<Name>, row: u32, name: &str) {
    let mut bytes = [0u8; NAME_BYTES];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
        *to = from;
    }
    with(names, row, |target| target.store(&bytes));
}

/// The published source ranges of a frontend.
#[must_use]
pub fn source_set_of(maps: &Maps, frontend: &Frontend) -> Option<SourceSet> {
    let (offset, length) = frontend.sources()?;
    let spans = (offset..offset.saturating_add(length)).map_while(|row| maps.source_range(row));
    Some(SourceSet {
        offset,
        spans: spans.map(SourceRange::view).collect(),
    })
}

fn echo_key(vip: Addr) -> FrontendKey {
    FrontendKey::new(vip, 0, if vip.is_v4() { ICMP } else { ICMPV6 })
}

fn with<T>(rows: &[T], row: u32, f: impl FnOnce(&T)) {
    match usize::try_from(row).ok().and_then(|row| rows.get(row)) {
        Some(row) => f(row),
        None => tracing::error!(row, "row number outside of its map"),
    }
}

fn numbered<T>(rows: &[T]) -> impl Iterator<Item = (u32, &T)> {
    (0u32..).zip(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(bytes: &[u8; FILTER_BYTES], seed: u64, address: Addr) -> u8 {
        bytes[usize::from(hash::address(seed, address))]
    }

    #[test]
    fn the_filter_knows_vips_and_snat_addresses_also_where_both_are_one() {
        let (vip, both, snat) = (
            Addr::v4([203, 0, 113, 1]),
            Addr::v4([203, 0, 113, 2]),
            Addr::v4([192, 0, 2, 1]),
        );
        let bytes = filter_of(&[vip, both].into(), &[(0, both), (5, snat)].into(), 7).unwrap();
        assert_eq!(byte(&bytes, 7, vip), FILTER_VIP);
        assert_eq!(byte(&bytes, 7, both), FILTER_VIP | 1);
        assert_eq!(byte(&bytes, 7, snat), 6);
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 3);
    }

    #[test]
    fn a_seed_under_which_two_snat_addresses_collide_is_refused() {
        let first = Addr::v4([192, 0, 2, 1]);
        let second = (0u32..)
            .map(|n| Addr::v4(n.to_be_bytes()))
            .find(|other| *other != first && hash::address(7, *other) == hash::address(7, first))
            .unwrap();
        assert!(filter_of(&BTreeSet::new(), &[(0, first), (1, second)].into(), 7).is_none());
        assert!(
            filter_of(
                &BTreeSet::new(),
                &[(0, first), (1, second)].into(),
                0x9e37_79b9_7f4a_7c15
            )
            .is_some()
        );
        let vip = filter_of(&[second].into(), &[(0, first)].into(), 7).unwrap();
        assert_eq!(byte(&vip, 7, first), FILTER_VIP | 1, "a VIP may collide with anything");
    }

    #[test]
    fn two_rows_of_one_address_do_not_stop_the_filter() {
        let address = Addr::v4([192, 0, 2, 1]);
        let bytes = filter_of(&BTreeSet::new(), &[(2, address), (3, address)].into(), 7).unwrap();
        assert_eq!(byte(&bytes, 7, address), 3);
    }
}
