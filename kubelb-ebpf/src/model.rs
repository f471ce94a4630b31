//! The maps in plain memory, so that the data path runs on the host: for tests, and to explain what it would do.
//!
//! Rows are shared by all CPUs, as in the kernel; what is per CPU there is in [`Cpu`], of which each thread has its own.

mod frame;
pub mod scene;

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kubelb_common::addr::Addr;
use kubelb_common::affinity::{Affinity, AffinityKey};
use kubelb_common::announce::{AnnounceKey, AnnounceRow};
use kubelb_common::backend::Backend;
use kubelb_common::control::{Control, Filter};
use kubelb_common::flow::{Bucket, ClientHop};
use kubelb_common::flow_table::{FlowTables, Layout, Slices};
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::maps::HALF_OPEN_WORDS;
use kubelb_common::next_hop::{MacWord, NextHop};
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::{Line, SharedU32};
use kubelb_common::snat::SnatAddress;
use kubelb_common::source::SourceRange;
use kubelb_common::stats::{Reason, Scratch, Traffic};

pub use frame::Frame;

use crate::parse::Packet;
use crate::tables::Tables;

/// All rows that user space writes, wherever they are: here, or in the kernel's mapped memory.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The flow table and what belongs to it.
    pub flows: Slices<'a>,
    /// The control row.
    pub control: &'a Control,
    /// Both filters.
    pub filters: &'a [Filter],
    /// Backend rows.
    pub backends: &'a [Backend],
    /// Backend row numbers, in the order of the turn.
    pub backend_slots: &'a [Line],
    /// Next-hop rows.
    pub next_hops: &'a [NextHop],
    /// Rows of announced addresses.
    pub announced: &'a [AnnounceRow],
}

/// How many rows of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sizes of the flow table.
    pub layout: Layout,
    /// Frontends, backends and next hops each, and backend slots.
    pub rows: usize,
    /// SNAT addresses.
    pub addresses: usize,
    /// Port pools.
    pub pools: usize,
    /// Lines of the reverse index.
    pub reverse: usize,
}

/// The maps.
pub struct Model {
    layout: Layout,
    control: Control,
    filters: Vec<Filter>,
    keys: BTreeMap<FrontendKey, u32>,
    frontends: Vec<Frontend>,
    backends: Vec<Backend>,
    backend_slots: Vec<Line>,
    next_hops: Vec<NextHop>,
    snat: Vec<SnatAddress>,
    pools: Vec<PortPool>,
    buckets: Vec<Bucket>,
    reverse: Vec<Line>,
    half_open: Vec<Line>,
    source_ranges: Vec<SourceRange>,
    affinities: Mutex<BTreeMap<AffinityKey, Affinity>>,
    announce_keys: BTreeMap<AnnounceKey, u32>,
    announced: Vec<AnnounceRow>,
    own_macs: BTreeSet<u64>,
    routes: BTreeMap<Addr, ClientHop>,
}

fn rows<T: Default>(count: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(count).collect()
}

impl Model {
    /// Empty maps.
    #[must_use]
    pub fn new(sizes: &Sizes) -> Self {
        let buckets = usize::try_from(sizes.layout.buckets()).unwrap_or(usize::MAX);
        Self {
            layout: sizes.layout,
            control: Control::default(),
            filters: rows(2),
            keys: BTreeMap::new(),
            frontends: rows(sizes.rows),
            backends: rows(sizes.rows),
            backend_slots: rows(sizes.rows),
            next_hops: rows(sizes.rows),
            snat: rows(sizes.addresses),
            pools: rows(sizes.pools),
            buckets: rows(buckets),
            reverse: rows(sizes.reverse),
            half_open: rows(usize::try_from(HALF_OPEN_WORDS / Line::WORDS).unwrap_or(usize::MAX)),
            source_ranges: rows(sizes.rows),
            affinities: Mutex::default(),
            announce_keys: BTreeMap::new(),
            announced: rows(sizes.addresses),
            own_macs: BTreeSet::new(),
            routes: BTreeMap::new(),
        }
    }

    /// The rows, to write and to read.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows {
            flows: Slices {
                layout: self.layout,
                buckets: &self.buckets,
                reverse: &self.reverse,
                pools: &self.pools,
                frontends: &self.frontends,
                snat: &self.snat,
                source_ranges: &self.source_ranges,
            },
            control: &self.control,
            filters: &self.filters,
            backends: &self.backends,
            backend_slots: &self.backend_slots,
            next_hops: &self.next_hops,
            announced: &self.announced,
        }
    }

    fn affinities(&self) -> MutexGuard<'_, BTreeMap<AffinityKey, Affinity>> {
        self.affinities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which frontend a key leads to.
    pub fn set_key(&mut self, key: FrontendKey, number: u32) {
        self.keys.insert(key, number);
    }

    /// Says what is known of an announced address.
    pub fn set_announce_key(&mut self, key: AnnounceKey, row: u32) {
        self.announce_keys.insert(key, row);
    }

    /// Says that a MAC address is one of this node's.
    pub fn set_own_mac(&mut self, mac: MacWord) {
        self.own_macs.insert(mac.word());
    }

    /// Says how packets get to a client; a revision of 0 stands for an unknown neighbour, any other for a known one.
    pub fn set_route(&mut self, client: Addr, hop: ClientHop) {
        self.routes.insert(client, hop);
    }

    /// A CPU that looks at these maps at the time `now` (the low half of jiffies).
    #[must_use]
    pub fn cpu(&self, number: u32, now: u32) -> Cpu<'_> {
        Cpu {
            model: self,
            number,
            now: Cell::new(now),
            scratch: RefCell::default(),
            counters: RefCell::default(),
        }
    }
}

/// What one CPU counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By frontend.
    pub frontends: BTreeMap<u32, Traffic>,
    /// By backend.
    pub backends: BTreeMap<u32, Traffic>,
    /// By frontend and reason.
    pub drops: BTreeMap<(u32, Reason), u64>,
}

/// One CPU with its own counters, clock and cursor.
pub struct Cpu<'a> {
    model: &'a Model,
    number: u32,
    now: Cell<u32>,
    scratch: RefCell<Scratch>,
    counters: RefCell<Counters>,
}

impl Cpu<'_> {
    /// Sets the clock: the low half of jiffies.
    pub fn set_now(&self, now: u32) {
        self.now.set(now);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.borrow().clone()
    }

    /// This CPU's scratch row.
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        *self.scratch.borrow()
    }
}

fn row<T>(rows: &[T], index: u32) -> Option<&T> {
    rows.get(usize::try_from(index).ok()?)
}

impl FlowTables for Cpu<'_> {
    fn layout(&self) -> Layout {
        self.model.layout
    }
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        row(&self.model.buckets, index)
    }
    fn reverse(&self, index: u32) -> Option<&SharedU32> {
        row(&self.model.reverse, Line::of(index)).map(|line| line.word(index))
    }
    fn pool(&self, index: u32) -> Option<&PortPool> {
        row(&self.model.pools, index)
    }
    fn frontend(&self, index: u32) -> Option<&Frontend> {
        row(&self.model.frontends, index)
    }
    fn snat(&self, slot: u32) -> Option<&SnatAddress> {
        row(&self.model.snat, slot)
    }
    fn source_range(&self, index: u32) -> Option<&SourceRange> {
        row(&self.model.source_ranges, index)
    }
}

impl Tables for Cpu<'_> {
    fn control(&self) -> Option<&Control> {
        Some(&self.model.control)
    }
    fn filter(&self, which: u32, index: u16) -> u8 {
        row(&self.model.filters, which).map_or(0, |filter| filter.byte(index))
    }
    fn frontend_number(&self, key: &FrontendKey) -> Option<u32> {
        self.model.keys.get(key).copied()
    }
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&Affinity) -> R) -> Option<R> {
        self.model.affinities().get(key).map(f)
    }
    fn add_affinity(&self, key: &AffinityKey, record: Affinity) -> bool {
        match self.model.affinities().entry(*key) {
            Entry::Vacant(vacant) => {
                vacant.insert(record);
                true
            }
            Entry::Occupied(_) => false,
        }
    }
    fn backend_slot(&self, index: u32) -> Option<u32> {
        row(&self.model.backend_slots, Line::of(index)).map(|line| line.word(index).load())
    }
    fn backend(&self, index: u32) -> Option<&Backend> {
        row(&self.model.backends, index)
    }
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        row(&self.model.next_hops, index)
    }
    fn half_open(&self, word: u32) -> Option<&SharedU32> {
        row(&self.model.half_open, Line::of(word)).map(|line| line.word(word))
    }
    fn announce_key(&self, key: &AnnounceKey) -> Option<u32> {
        self.model.announce_keys.get(key).copied()
    }
    fn announce_row(&self, index: u32) -> Option<&AnnounceRow> {
        row(&self.model.announced, index)
    }
    fn is_own_mac(&self, mac: MacWord) -> bool {
        self.model.own_macs.contains(&mac.word())
    }
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        Some(f(&mut self.scratch.borrow_mut()))
    }
    fn now(&self) -> u32 {
        self.now.get()
    }
    fn cpu(&self) -> u32 {
        self.number
    }
    fn resolve_client(&self, _packet: &Packet, client: Addr, _vip: Addr) -> ClientHop {
        let mut hop = self.model.routes.get(&client).copied().unwrap_or_default();
        if hop.revision() != 0 {
            hop.destination = hop.destination.with_value(self.model.control.route_revision());
        }
        hop
    }
    fn count_in(&self, frontend: u32, backend: u32, bytes: usize) {
        self.count(frontend, backend, |row| {
            row.packets_in += 1;
            row.bytes_in += u64::try_from(bytes).unwrap_or(u64::MAX);
        });
    }
    fn count_out(&self, frontend: u32, backend: u32, bytes: usize) {
        self.count(frontend, backend, |row| {
            row.packets_out += 1;
            row.bytes_out += u64::try_from(bytes).unwrap_or(u64::MAX);
        });
    }
    fn count_flow(&self, frontend: u32, backend: u32) {
        self.count(frontend, backend, |row| row.flows += 1);
    }
    fn count_drop(&self, frontend: u32, reason: Reason) {
        *self.counters.borrow_mut().drops.entry((frontend, reason)).or_default() += 1;
    }
}

impl Cpu<'_> {
    fn count(&self, frontend: u32, backend: u32, add: impl Fn(&mut Traffic)) {
        let mut counters = self.counters.borrow_mut();
        add(counters.frontends.entry(frontend).or_default());
        add(counters.backends.entry(backend).or_default());
    }
}
