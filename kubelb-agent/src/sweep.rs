//! Expiry from user space: walks the mapped flow table a part at a time, ends idle flows, counts the others, and mends
//! what a process that died in the middle of a step left behind.
//!
//! The data path expires flows by itself where it meets them; the sweep gives room back early and keeps the counts.

use std::collections::BTreeMap;

use kubelb_common::flow::{Binding, Flow, WAYS, flag, tag};
use kubelb_common::flow_table::{self, FlowTables};
use kubelb_common::snat::SnatView;
use kubelb_common::source;
use kubelb_common::tcp;

/// Parts in which the table is walked: one per call of [`Sweeper::step`].
pub const PARTS: u32 = 16;

/// Where the walk is, and what it has counted.
#[derive(Debug, Default)]
pub struct Sweeper {
    part: u32,
    counting: Count,
    complete: Option<Count>,
    passes: u64,
}

/// Live flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub flows: u64,
    /// Of each backend row that has any.
    pub by_backend: BTreeMap<u32, u64>,
    /// Of each frontend row that has any.
    pub by_frontend: BTreeMap<u32, u64>,
    /// Half-open TCP flows of each frontend row that has any.
    pub half_open: BTreeMap<u32, u64>,
}

impl Sweeper {
    /// Walks the next part at time `now` (the low half of jiffies). Returns how many flows were ended. `is_stale` says of a TCP flow
    /// that its backend's row is another backend's now, or nobody's: such a flow is given the time of closing ones, in which
    /// both ends' next packets are answered with a RST, instead of hours. It is asked once for each such flow.
    pub fn step<T: FlowTables>(&mut self, tables: &T, mut is_stale: impl FnMut(&Binding) -> bool, now: u32) -> u64 {
        let buckets = tables.layout().buckets();
        let (begin, end) = flow_table::part_of_range(buckets, self.part, PARTS);
        let mut ended = 0;
        for index in begin..end {
            let Some(bucket) = tables.bucket(index) else { continue };
            for way in 0..WAYS {
                let word = bucket.tag(way).load();
                if tag::state(word) != tag::LIVE {
                    continue;
                }
                let slot = (index << 2) | u32::try_from(way).unwrap_or(0);
                let flow = bucket.flow(way);
                if flow_table::expire(tables, slot, word, now)
                    || (is_unwelcome(tables, flow) && flow_table::release(tables, slot, word))
                {
                    ended += 1;
                } else {
                    let binding = flow.binding();
                    let udp = binding.flags & flag::UDP != 0;
                    if !udp && flow.state() & tcp::state::RESET == 0 && is_stale(&binding) {
                        flow.touch(now);
                        flow.add_state(0, tcp::state::RESET);
                    }
                    if !udp && tcp::is_half_open(flow.state()) {
                        *self.counting.half_open.entry(flow.frontend()).or_default() += 1;
                    }
                    self.counting.flows += 1;
                    *self.counting.by_backend.entry(flow.backend().0).or_default() += 1;
                    *self.counting.by_frontend.entry(flow.frontend()).or_default() += 1;
                }
            }
        }
        self.part = (self.part + 1) % PARTS;
        if self.part == 0 {
            self.complete = Some(std::mem::take(&mut self.counting));
            self.passes += 1;
        }
        ended
    }

    /// The count of the last complete walk.
    #[must_use]
    pub fn count(&self) -> Option<&Count> {
        self.complete.as_ref()
    }

    /// Complete walks so far. A count that began after some moment is complete when this has gone up by two.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes
    }
}

/// Complete walks that must find the same difference before it is mended: traffic makes differences too, but not always the same.
const SAME_DIFFERENCE: u32 = 4;

/// Compares the frontends' counts of half-open flows with the flows, and mends those that an agent that died in the middle of a step
/// left wrong.
#[derive(Debug, Default)]
pub struct HalfOpenCounts {
    /// Frontend row to what its count is too high by (wrapping), and how many walks found the same.
    suspects: BTreeMap<u32, (u32, u32)>,
}

impl HalfOpenCounts {
    /// Looks at the counts after a complete walk. Returns what was mended: frontend row, and by how much it was too high.
    pub fn compare<T: FlowTables>(&mut self, tables: &T, walked: &Count) -> Vec<(u32, i32)> {
        let mut suspects = BTreeMap::new();
        let mut mended = Vec::new();
        for row in 1.. {
            let Some(frontend) = tables.frontend(row) else { break };
            let found = walked.half_open.get(&row).copied().unwrap_or(0);
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            let difference = frontend.half_open().load().wrapping_sub(found);
            if difference == 0 {
                continue;
            }
            let times = match self.suspects.get(&row) {
                Some((before, times)) if *before == difference => times + 1,
                _ => 1,
            };
            if times < SAME_DIFFERENCE {
                suspects.insert(row, (difference, times));
            } else {
                frontend.half_open().fetch_add(difference.wrapping_neg());
                mended.push((row, difference.cast_signed()));
            }
        }
        self.suspects = suspects;
        mended
    }
}

/// True when the flow's client is in none of the source ranges that its frontend has by now. The data path asks for new flows only.
fn is_unwelcome<T: FlowTables>(tables: &T, flow: &Flow) -> bool {
    tables.frontend(flow.frontend()).is_some_and(|frontend| {
        frontend.sources().is_some() && !source::admits(tables, frontend, flow.binding().client)
    })
}

/// Things that look wrong; what still looks the same a while later is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Busy slots, with their tags: nobody fills or empties one for longer than microseconds.
    slots: BTreeMap<u32, u64>,
    /// Buckets whose claim is held.
    claims: BTreeMap<u32, u64>,
    /// Ports that are neither free nor held by a live flow, to what the reverse index says.
    ports: BTreeMap<Port, u32>,
}

/// A port of a SNAT row, counted from the first of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    slot: u8,
    section: u32,
    offset: u32,
}

impl Suspects {
    /// Looks through everything once; some ten milliseconds. `snat` are the rows in use.
    pub fn find<T: FlowTables>(tables: &T, snat: &BTreeMap<u8, SnatView>) -> Self {
        let mut suspects = Self::default();
        for index in 0..tables.layout().buckets() {
            let Some(bucket) = tables.bucket(index) else { continue };
            let claim = bucket.claim().load();
            if claim != 0 {
                suspects.claims.insert(index, claim);
            }
            for way in 0..WAYS {
                let word = bucket.tag(way).load();
                if tag::state(word) == tag::BUSY {
                    suspects
                        .slots
                        .insert((index << 2) | u32::try_from(way).unwrap_or(0), word);
                }
            }
        }
        for (&slot, view) in snat {
            for section in 0..view.sections() {
                for offset in 0..view.ports {
                    let port = Port { slot, section, offset };
                    if let Some(holder) = wrong_holder(tables, view, port) {
                        suspects.ports.insert(port, holder);
                    }
                }
            }
        }
        suspects
    }

    /// Mends what looks just as it did when `self` was found, a while ago. `snat` are the rows that were in use then and
    /// are now. Returns how many things.
    pub fn mend<T: FlowTables>(&self, tables: &T, snat: &BTreeMap<u8, SnatView>) -> u64 {
        let mut mended = 0;
        for (index, claim) in &self.claims {
            let bucket = tables.bucket(*index);
            mended += u64::from(bucket.is_some_and(|bucket| bucket.claim().compare_exchange(*claim, 0)));
        }
        for (index, word) in &self.slots {
            let slot = flow_table::slot(tables, *index);
            mended += u64::from(slot.is_some_and(|(tag_word, _)| tag_word.compare_exchange(*word, tag::free(*word))));
        }
        for (port, holder) in &self.ports {
            let Some(view) = snat.get(&port.slot) else { continue };
            if wrong_holder(tables, view, *port) == Some(*holder)
                && let Some(pool) = tables.pool(view.pool_index(port.section))
                && let Some(word) = tables.reverse(view.reverse_index(port.section, port.offset))
                && word.compare_exchange(*holder, 0)
            {
                pool.put(port.offset);
                mended += 1;
            }
        }
        for view in snat.values() {
            for pool in (0..view.sections()).filter_map(|section| tables.pool(view.pool_index(section))) {
                pool.repair_summaries();
            }
        }
        mended
    }
}

/// What the reverse index says of a port that is neither free nor held by a live flow; `None` when all is well.
fn wrong_holder<T: FlowTables>(tables: &T, view: &SnatView, port: Port) -> Option<u32> {
    let holder = tables.reverse(view.reverse_index(port.section, port.offset))?.load();
    let free = tables.pool(view.pool_index(port.section))?.is_free(port.offset);
    let right = match holder.checked_sub(1) {
        None => free,
        Some(index) => !free && is_held_by(tables, index, view, port),
    };
    (!right).then_some(holder)
}

/// True when the slot holds a live flow that this port belongs to.
fn is_held_by<T: FlowTables>(tables: &T, index: u32, view: &SnatView, port: Port) -> bool {
    let Some((word, flow)) = flow_table::slot(tables, index) else {
        return false;
    };
    if tag::state(word.load()) != tag::LIVE {
        return false;
    }
    let binding = flow.binding();
    binding.snat_slot == port.slot
        && binding.snat_port == view.raw_port(port.offset)
        && view.section(binding.flags & flag::UDP != 0, binding.fold) == port.section
}

#[cfg(test)]
mod tests;
