//! Expiry from user space: walks the mapped flow table a part at a time, ends idle flows, counts the others, and mends
//! what a process that died in the middle of a step left behind.
//!
//! The data path expires flows by itself where it meets them; the sweep gives room back early and keeps the counts.

use std::collections::BTreeMap;

use kubelb_common::flow::{WAYS, flag, tag};
use kubelb_common::flow_table::{self, FlowTables};
use kubelb_common::snat::SnatView;

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

/// Live flows, by backend row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub flows: u64,
    /// Of each backend row that has any.
    pub by_backend: BTreeMap<u32, u64>,
}

impl Sweeper {
    /// Walks the next part at time `now` (the low half of jiffies). Returns how many flows were ended.
    pub fn step<T: FlowTables>(&mut self, tables: &T, now: u32) -> u64 {
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
                if flow_table::expire(tables, slot, word, now) {
                    ended += 1;
                } else {
                    self.counting.flows += 1;
                    *self
                        .counting
                        .by_backend
                        .entry(bucket.flow(way).backend().0)
                        .or_default() += 1;
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

/// Things that look wrong; what still looks the same a while later is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Busy slots, with their tags: nobody fills or empties one for longer than microseconds.
    slots: BTreeMap<u32, u64>,
    /// Buckets whose claim is held.
    claims: BTreeMap<u32, u64>,
    /// Ports that are neither free nor held by a live flow: (pool, reverse word, port) to what the word says.
    ports: BTreeMap<(u32, u32, u32), u32>,
}

impl Suspects {
    /// Looks through everything once.
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
        for (slot, view) in snat {
            for section in 0..view.sections() {
                suspects.look_at_section(tables, *slot, view, section);
            }
        }
        suspects
    }

    fn look_at_section<T: FlowTables>(&mut self, tables: &T, slot: u8, view: &SnatView, section: u32) {
        let pool_index = view.pool_index(section);
        let Some(pool) = tables.pool(pool_index) else { return };
        for port in 0..view.ports {
            let word_index = view.reverse_index(section, port);
            let Some(holder) = tables.reverse(word_index).map(kubelb_common::shared::SharedU32::load) else {
                continue;
            };
            let free = pool.is_free(port);
            let right = match holder.checked_sub(1) {
                None => free,
                Some(index) => !free && is_held_by(tables, index, slot, view.raw_port(port), section, view),
            };
            if !right {
                self.ports.insert((pool_index, word_index, port), holder);
            }
        }
    }

    /// Mends what `self`, found a while ago, and `later` agree on. Returns how many things.
    pub fn mend<T: FlowTables>(&self, tables: &T, later: &Self) -> u64 {
        let mut mended = 0;
        for (index, claim) in &self.claims {
            if later.claims.get(index) == Some(claim)
                && tables
                    .bucket(*index)
                    .is_some_and(|bucket| bucket.claim().compare_exchange(*claim, 0))
            {
                mended += 1;
            }
        }
        for (index, word) in &self.slots {
            if later.slots.get(index) == Some(word)
                && let Some((tag_word, _)) = flow_table::slot(tables, *index)
                && tag_word.compare_exchange(*word, tag::free(*word))
            {
                mended += 1;
            }
        }
        for (&(pool, word, port), holder) in &self.ports {
            if later.ports.get(&(pool, word, port)) != Some(holder) {
                continue;
            }
            if let (Some(pool), Some(word)) = (tables.pool(pool), tables.reverse(word))
                && word.compare_exchange(*holder, 0)
            {
                pool.put(port);
                mended += 1;
            }
        }
        mended
    }
}

/// True when the slot holds a live flow that this port belongs to.
fn is_held_by<T: FlowTables>(
    tables: &T,
    index: u32,
    snat_slot: u8,
    raw_port: u16,
    section: u32,
    view: &SnatView,
) -> bool {
    let Some((word, flow)) = flow_table::slot(tables, index) else {
        return false;
    };
    if tag::state(word.load()) != tag::LIVE {
        return false;
    }
    let binding = flow.binding();
    binding.snat_slot == snat_slot
        && binding.snat_port == raw_port
        && view.section(binding.flags & flag::UDP != 0, binding.fold) == section
}
