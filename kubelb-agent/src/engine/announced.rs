//! The engine's part in announcing addresses: reads the rows, has [`crate::announce`] decide, carries that out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::Engine;
use crate::announce::{Context, Op, Plan};
use crate::bpf::BpfError;
use crate::model::VirtualAddress;
use crate::net::Link;

impl Engine {
    /// Has the data path answer for the addresses that are this node's; says what else is to be done.
    ///
    /// # Errors
    /// When a map refuses a change; it can be repeated.
    pub fn announce(
        &mut self,
        wanted: &BTreeMap<IpAddr, VirtualAddress>,
        links: &BTreeMap<u32, Link>,
        is_live: bool,
        (now, unix): (Instant, u64),
    ) -> Result<Plan, BpfError> {
        let attached: BTreeSet<u32> = self.attachments.attached.iter().map(|done| done.ifindex).collect();
        let context = Context {
            links,
            attached: &attached,
            is_live,
            now,
        };
        let actual = self.store.announcements();
        let plan = self.announced.plan(wanted, &context, &actual);
        let changes_keys = |op: &Op| matches!(op, Op::Insert(..) | Op::Remove(_));
        for op in &plan.ops {
            tracing::debug!(?op, "announcement");
            self.store.announce(op, unix)?;
        }
        if plan.ops.iter().any(changes_keys) {
            self.publish_filter(self.store.vips());
        }
        let actual = self.store.announcements();
        self.answered = actual
            .rows
            .iter()
            .filter(|(place, _)| plan.answered.contains(*place))
            .map(|(place, (row, _))| (*place, *row))
            .collect();
        Ok(plan)
    }

    /// Whether an address has been taken by another machine since the last look, or waits to be defended.
    #[must_use]
    pub fn must_announce(&self) -> bool {
        let is_silent = |row: &u32| {
            self.store
                .maps
                .announced_row(*row)
                .is_some_and(|row| row.answer().is_none())
        };
        self.announced.is_watchful() || self.answered.values().any(is_silent)
    }
}
