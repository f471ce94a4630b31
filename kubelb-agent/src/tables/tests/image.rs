//! The maps in memory: the same rows, changed as `bpf::store` does it, and what must hold of them at any
//! moment.

use std::collections::{BTreeMap, BTreeSet};

use kubelb_common::addr::{Addr, ICMP, ICMPV6};
use kubelb_common::backend::{Backend, flag};
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::next_hop::{NextHop, NextHopView};

use crate::diff::MapOp;
use crate::tables::{Kept, SourceSet, Span, Tables, read_back};

#[derive(Default)]
pub(crate) struct Image {
    frontends: BTreeMap<u32, Frontend>,
    names: BTreeMap<u32, String>,
    slots: BTreeMap<u32, u32>,
    ranges: BTreeMap<u32, Span>,
    /// What each frontend was last told to let in.
    asked: BTreeMap<u32, Option<Vec<Span>>>,
    backends: BTreeMap<u32, Backend>,
    hops: BTreeMap<u32, NextHop>,
    keys: BTreeMap<FrontendKey, u32>,
}

impl Image {
    /// The maps after these operations.
    pub(crate) fn after(ops: &[MapOp]) -> Self {
        let mut image = Self::default();
        ops.iter().for_each(|op| image.apply(op));
        image
    }

    pub(crate) fn apply(&mut self, op: &MapOp) {
        match op.clone() {
            MapOp::SetHop { row, hop } => self.hops.entry(row).or_default().replace(&hop),
            MapOp::ClearHop { row } => self.hops.entry(row).or_default().replace(&NextHopView::default()),
            MapOp::OccupyBackend {
                row,
                address,
                port,
                frontend,
                next_hop,
            } => self.backend_row(row).occupy(address, port, frontend, next_hop),
            MapOp::SetBackendHop { row, next_hop } => self.backend_row(row).set_next_hop(next_hop),
            MapOp::SetBackendShare { row, weight, snat } => self.backend_row(row).set_share(weight, snat),
            MapOp::ChangeBackendFlags { row, set, clear } => self.backend_row(row).change_flags(set, clear),
            MapOp::EndBackendFlows { row } => self.backend_row(row).renew(),
            MapOp::VacateBackend { row } => self.backend_row(row).vacate(),
            MapOp::ActivateFrontend { row, key } => {
                let frontend = self.frontend_row(row);
                assert_eq!(frontend.flows().load(), 0, "row {row} still has flows");
                frontend.publish_set(0, 0);
                frontend.activate(key.vip(), key.port(), key.protocol());
            }
            MapOp::NameFrontend { row, name } => drop(self.names.insert(row, name)),
            MapOp::SetTimeouts { row, jiffies } => self.frontend_row(row).set_timeouts(jiffies),
            MapOp::SetMaxFlows { row, flows } => self.frontend_row(row).set_max_flows(flows),
            MapOp::SetHalfOpenBudget { row, flows } => self.frontend_row(row).set_half_open_budget(flows),
            MapOp::SetPolicy { row, policy } => self.frontend_row(row).set_policy(policy),
            MapOp::PublishSources { row, sources } => {
                let spans = sources.as_ref().map(|set| set.spans.clone());
                if let Some(set) = &sources {
                    self.ranges.extend((set.offset..).zip(set.spans.iter().copied()));
                }
                let place = sources.map(|set| (set.offset, u32::try_from(set.spans.len()).unwrap()));
                self.frontend_row(row).publish_sources(place);
                self.asked.insert(row, spans);
            }
            MapOp::PublishTurn { row, offset, turn } => {
                for (slot, backend) in (offset..).zip(&turn) {
                    self.slots.insert(slot, *backend);
                }
                let length = u32::try_from(turn.len()).unwrap();
                self.frontend_row(row).publish_set(offset, length);
            }
            MapOp::InsertKey { key, row } => drop(self.keys.insert(key, row)),
            MapOp::RemoveKey { key } => drop(self.keys.remove(&key)),
            MapOp::InsertVip { vip } => drop(self.keys.insert(echo_key(vip), ECHO_ONLY)),
            MapOp::RemoveVip { vip } => drop(self.keys.remove(&echo_key(vip))),
            MapOp::DeactivateFrontend { row } => self.frontend_row(row).deactivate(),
        }
    }

    fn frontend_row(&mut self, row: u32) -> &Frontend {
        self.frontends.entry(row).or_default()
    }

    fn backend_row(&mut self, row: u32) -> &Backend {
        self.backends.entry(row).or_default()
    }

    /// Says how many flows a frontend row has.
    pub(crate) fn set_flows(&mut self, row: u32, flows: u32) {
        self.frontend_row(row).flows().store(flows);
    }

    pub(crate) fn read_back(&self) -> Tables {
        read_back(self)
    }

    fn spans(&self, offset: u32, length: u32) -> Vec<Span> {
        (offset..offset + length).map(|row| self.ranges[&row]).collect()
    }

    /// What a packet may rely on between any two operations.
    pub(crate) fn assert_safe(&self) {
        let mut slots = BTreeSet::new();
        for (key, number) in self.keys.iter().filter(|(_, number)| **number != ECHO_ONLY) {
            let row = self
                .frontends
                .get(number)
                .unwrap_or_else(|| panic!("{key:?} leads to row {number}, which never was"));
            assert!(
                row.is(key.vip(), key.port(), key.protocol()),
                "{key:?} leads to row {number}, which is another frontend or out of service"
            );
            let admitted = row.sources().map(|(offset, length)| self.spans(offset, length));
            assert_eq!(
                Some(&admitted),
                self.asked.get(number),
                "row {number} admits others than it was told to, or was never told"
            );
        }
        for (number, row) in self.frontends.iter().filter(|(_, row)| row.is_active()) {
            let (offset, length) = row.set();
            for slot in offset..offset + length {
                assert!(slots.insert(slot), "slot {slot} is in two published turns");
                let backend = self
                    .backends
                    .get(&self.slots[&slot])
                    .expect("a turn names a row that never was");
                assert_ne!(
                    backend.view().flags & flag::IN_USE,
                    0,
                    "the turn of row {number} names an empty backend row"
                );
                assert_eq!(backend.frontend(), *number, "the turn names another frontend's backend");
            }
        }
        for (number, row) in &self.backends {
            let view = row.view();
            let hop = self.hops.get(&view.next_hop).map(NextHop::view).unwrap_or_default();
            assert!(
                view.flags & flag::IN_USE == 0 || view.next_hop == 0 || hop != NextHopView::default(),
                "backend row {number} has an empty next hop"
            );
        }
    }
}

impl Kept for Image {
    fn keys(&self) -> &BTreeMap<FrontendKey, u32> {
        &self.keys
    }
    fn frontends(&self) -> impl Iterator<Item = (u32, &Frontend)> {
        self.frontends.iter().map(|(number, row)| (*number, row))
    }
    fn backends(&self) -> impl Iterator<Item = (u32, &Backend)> {
        self.backends.iter().map(|(number, row)| (*number, row))
    }
    fn hops(&self) -> impl Iterator<Item = (u32, &NextHop)> {
        self.hops.iter().map(|(number, row)| (*number, row))
    }
    fn frontend(&self, number: u32) -> Option<&Frontend> {
        self.frontends.get(&number)
    }
    fn name(&self, number: u32) -> String {
        self.names.get(&number).cloned().unwrap_or_default()
    }
    fn slot(&self, index: u32) -> Option<u32> {
        Some(self.slots.get(&index).copied().unwrap_or_default())
    }
    fn sources(&self, frontend: &Frontend) -> Option<SourceSet> {
        let (offset, length) = frontend.sources()?;
        let spans = self.spans(offset, length);
        Some(SourceSet { offset, spans })
    }
}

fn echo_key(vip: Addr) -> FrontendKey {
    FrontendKey::new(vip, 0, if vip.is_v4() { ICMP } else { ICMPV6 })
}
