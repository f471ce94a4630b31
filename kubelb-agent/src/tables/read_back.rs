//! From the rows that there are to what they mean. Must not know: where rows are kept.

use std::collections::{BTreeMap, BTreeSet};

use kubelb_common::backend::{Backend, flag};
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::next_hop::{NextHop, NextHopView};

use super::{BackendRow, FrontendRow, SourceSet, Tables};

/// Rows by their numbers, of which 0 is none.
pub trait Kept {
    /// Which frontend row a key leads to.
    fn keys(&self) -> &BTreeMap<FrontendKey, u32>;
    /// All frontend rows.
    fn frontends(&self) -> impl Iterator<Item = (u32, &Frontend)>;
    /// All backend rows.
    fn backends(&self) -> impl Iterator<Item = (u32, &Backend)>;
    /// All rows of next hops.
    fn hops(&self) -> impl Iterator<Item = (u32, &NextHop)>;
    /// One frontend row.
    fn frontend(&self, number: u32) -> Option<&Frontend>;
    /// The name in a frontend's row.
    fn name(&self, number: u32) -> String;
    /// The backend row in a place of a turn.
    fn slot(&self, index: u32) -> Option<u32>;
    /// The published source ranges of a frontend.
    fn sources(&self, frontend: &Frontend) -> Option<SourceSet>;
}

/// What the rows say. Keys and rows that contradict each other, as after a death between two operations, come out such that the next round of
/// operations mends them.
#[must_use]
pub fn read_back(kept: &impl Kept) -> Tables {
    let mut tables = Tables::default();
    for (key, number) in kept.keys() {
        if *number == ECHO_ONLY {
            tables.vips.insert(key.vip());
        } else if let Some(row) = frontend(kept, key, *number) {
            tables.frontends.insert(*key, row);
        }
    }
    let serving: BTreeSet<u32> = tables.frontends.values().map(|row| row.number).collect();
    for (number, row) in kept.frontends().filter(|(number, _)| !serving.contains(number)) {
        if row.is_active() {
            tables.stray.insert(number);
        } else if row.flows().load() > 0 {
            tables.leaving.insert(number);
        }
    }
    for (number, row) in kept.backends() {
        let view = row.view();
        if view.flags & flag::IN_USE != 0 {
            let row = BackendRow {
                frontend: row.frontend(),
                address: view.address,
                port: view.port,
                flags: view.flags,
                weight: row.weight(),
                snat: row.snat().and_then(|row| u8::try_from(row).ok()),
                next_hop: view.next_hop,
            };
            tables.backends.insert(number, row);
        }
    }
    let hops = kept.hops().map(|(number, row)| (number, row.view()));
    tables.hops = hops.filter(|(_, view)| *view != NextHopView::default()).collect();
    tables
}

fn frontend(kept: &impl Kept, key: &FrontendKey, number: u32) -> Option<FrontendRow> {
    let row = kept
        .frontend(number)
        .filter(|row| row.is(key.vip(), key.port(), key.protocol()))?;
    let (offset, length) = row.set();
    Some(FrontendRow {
        number,
        name: kept.name(number),
        timeouts: std::array::from_fn(|class| row.timeout(class)),
        max_flows: row.max_flows(),
        half_open_budget: row.half_open_budget(),
        policy: row.policy(),
        sources: kept.sources(row),
        turn: (offset..offset.saturating_add(length))
            .filter_map(|slot| kept.slot(slot))
            .collect(),
        offset,
    })
}
