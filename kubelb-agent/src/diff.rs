//! From what the maps hold to what they should: operations in an order that is safe if the process dies between any two.
//!
//! New things are complete before anything points at them; old things are pointed at by nothing before they go. The
//! tests are those of [`crate::tables`], which let an agent die between any two.

use std::collections::BTreeSet;

use kubelb_common::addr::Addr;
use kubelb_common::backend::flag;
use kubelb_common::frontend::{FrontendKey, Policy, timeout};
use kubelb_common::next_hop::NextHopView;

use crate::tables::{BackendRow, SourceSet, Tables};

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Fill a next-hop row.
    SetHop { row: u32, hop: NextHopView },
    /// Give a backend row to a backend, under a new generation.
    OccupyBackend {
        row: u32,
        address: Addr,
        port: u16,
        frontend: u32,
        next_hop: u32,
    },
    /// Point a backend at another next hop.
    SetBackendHop { row: u32, next_hop: u32 },
    /// Set a backend's weight and SNAT row.
    SetBackendShare { row: u32, weight: u16, snat: Option<u8> },
    /// Set and clear flags of a backend.
    ChangeBackendFlags { row: u32, set: u16, clear: u16 },
    /// End the flows of a backend that stays, and say so in its flags.
    EndBackendFlows { row: u32 },
    /// Give a frontend row its identity.
    ActivateFrontend { row: u32, key: FrontendKey },
    /// Write down a frontend's name.
    NameFrontend { row: u32, name: String },
    /// Set a frontend's timeouts.
    SetTimeouts { row: u32, jiffies: [u32; timeout::COUNT] },
    /// Set a frontend's cap.
    SetMaxFlows { row: u32, flows: u32 },
    /// Set a frontend's budget of half-open flows.
    SetHalfOpenBudget { row: u32, flows: u32 },
    /// Set what a frontend does with new flows.
    SetPolicy { row: u32, policy: Policy },
    /// Write source ranges and publish them with one store; `None`: everybody may come.
    PublishSources { row: u32, sources: Option<SourceSet> },
    /// Write a turn and publish it with one store.
    PublishTurn { row: u32, offset: u32, turn: Vec<u32> },
    /// Let clients find a frontend.
    InsertKey { key: FrontendKey, row: u32 },
    /// Answer echo requests to an address.
    InsertVip { vip: Addr },
    /// Stop clients from finding a frontend.
    RemoveKey { key: FrontendKey },
    /// Stop answering echo requests.
    RemoveVip { vip: Addr },
    /// Take a frontend row out of service.
    DeactivateFrontend { row: u32 },
    /// End a backend row's life.
    VacateBackend { row: u32 },
    /// Empty a next-hop row.
    ClearHop { row: u32 },
}

/// What to do, in order.
#[must_use]
pub fn diff(actual: &Tables, wanted: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (row, hop) in &wanted.hops {
        if actual.hops.get(row) != Some(hop) {
            ops.push(MapOp::SetHop { row: *row, hop: *hop });
        }
    }
    backends(actual, wanted, &mut ops);
    frontends(actual, wanted, &mut ops);
    ends(actual, wanted, &mut ops);
    removals(actual, wanted, &mut ops);
    ops
}

fn backends(actual: &Tables, wanted: &Tables, ops: &mut Vec<MapOp>) {
    for (&row, new) in &wanted.backends {
        let old = actual
            .backends
            .get(&row)
            .filter(|old| old.frontend == new.frontend && old.address == new.address && old.port == new.port);
        if old.is_none() {
            let (address, port) = (new.address, new.port);
            ops.push(MapOp::OccupyBackend {
                row,
                address,
                port,
                frontend: new.frontend,
                next_hop: new.next_hop,
            });
        }
        if old.is_some_and(|old| old.next_hop != new.next_hop) {
            ops.push(MapOp::SetBackendHop {
                row,
                next_hop: new.next_hop,
            });
        }
        if old.is_none_or(|old| old.weight != new.weight || old.snat != new.snat) {
            ops.push(MapOp::SetBackendShare {
                row,
                weight: new.weight,
                snat: new.snat,
            });
        }
        let before = old.map_or(flag::IN_USE, |old| old.flags);
        // To be set with the end of the flows, and not before.
        let after = new.flags & !(flag::FLOWS_ENDED & !before);
        if before != after {
            // One that drains may still be in a turn until the turn is published; UDP flows then move a little early.
            ops.push(MapOp::ChangeBackendFlags {
                row,
                set: after & !before,
                clear: before & !after,
            });
        }
    }
}

fn frontends(actual: &Tables, wanted: &Tables, ops: &mut Vec<MapOp>) {
    for (key, new) in &wanted.frontends {
        let row = new.number;
        let old = actual.frontends.get(key).filter(|old| old.number == row);
        if old.is_none() {
            // The row is out of service and has no flows: nobody sees it until the key is inserted.
            ops.push(MapOp::ActivateFrontend { row, key: *key });
        }
        if old.is_none_or(|old| old.name != new.name) {
            ops.push(MapOp::NameFrontend {
                row,
                name: new.name.clone(),
            });
        }
        if old.is_none_or(|old| old.timeouts != new.timeouts) {
            ops.push(MapOp::SetTimeouts {
                row,
                jiffies: new.timeouts,
            });
        }
        if old.is_none_or(|old| old.max_flows != new.max_flows) {
            ops.push(MapOp::SetMaxFlows {
                row,
                flows: new.max_flows,
            });
        }
        if old.is_none_or(|old| old.half_open_budget != new.half_open_budget) {
            ops.push(MapOp::SetHalfOpenBudget {
                row,
                flows: new.half_open_budget,
            });
        }
        if old.is_none_or(|old| old.policy != new.policy) {
            ops.push(MapOp::SetPolicy {
                row,
                policy: new.policy,
            });
        }
        // Before the turn: who may no longer come does not meet backends that are new.
        if old.is_none_or(|old| old.sources != new.sources) {
            ops.push(MapOp::PublishSources {
                row,
                sources: new.sources.clone(),
            });
        }
        if old.is_none_or(|old| old.turn != new.turn || old.offset != new.offset) {
            ops.push(MapOp::PublishTurn {
                row,
                offset: new.offset,
                turn: new.turn.clone(),
            });
        }
        if old.is_none() {
            ops.push(MapOp::InsertKey { key: *key, row });
        }
    }
    for vip in wanted.vips.difference(&actual.vips) {
        ops.push(MapOp::InsertVip { vip: *vip });
    }
}

/// Behind the turns, so that no flow begins with a backend whose flows have just been ended. Whoever dies before ends them again.
fn ends(actual: &Tables, wanted: &Tables, ops: &mut Vec<MapOp>) {
    for (&row, new) in &wanted.backends {
        let is_same =
            |old: &&BackendRow| old.frontend == new.frontend && old.address == new.address && old.port == new.port;
        let before = actual.backends.get(&row).filter(is_same).map_or(0, |old| old.flags);
        if new.flags & !before & flag::FLOWS_ENDED != 0 {
            ops.push(MapOp::EndBackendFlows { row });
        }
    }
}

fn removals(actual: &Tables, wanted: &Tables, ops: &mut Vec<MapOp>) {
    let kept: BTreeSet<(FrontendKey, u32)> = wanted.frontends.iter().map(|(key, row)| (*key, row.number)).collect();
    for (key, old) in &actual.frontends {
        if kept.contains(&(*key, old.number)) {
            continue;
        }
        if !wanted.frontends.contains_key(key) {
            ops.push(MapOp::RemoveKey { key: *key });
        }
        ops.push(MapOp::DeactivateFrontend { row: old.number });
    }
    for row in &actual.stray {
        ops.push(MapOp::DeactivateFrontend { row: *row });
    }
    for vip in actual.vips.difference(&wanted.vips) {
        ops.push(MapOp::RemoveVip { vip: *vip });
    }
    for row in actual.backends.keys().filter(|row| !wanted.backends.contains_key(row)) {
        ops.push(MapOp::VacateBackend { row: *row });
    }
    for row in actual.hops.keys().filter(|row| !wanted.hops.contains_key(row)) {
        ops.push(MapOp::ClearHop { row: *row });
    }
}
