//! The maps of the data path, opened: arrays as mapped rows, the rest through system calls.

use std::path::Path;

use aya::maps::{HashMap, MapData, PerCpuArray};
use kubelb_common::announce::{AnnounceKey, AnnounceRow};
use kubelb_common::backend::Backend;
use kubelb_common::control::{Control, Filter};
use kubelb_common::flow::Bucket;
use kubelb_common::flow_table::{FlowTables, Layout};
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::maps::{self as names, Attachment, Name, Note};
use kubelb_common::next_hop::NextHop;
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::{Line, SharedU32};
use kubelb_common::snat::SnatAddress;
use kubelb_common::source::SourceRange;
use kubelb_common::stats::{Drops, Scratch, Traffic};

use super::BpfError;
use super::mapped::{Mapped, Row};
use crate::tables::Room;

/// All maps.
pub struct Maps {
    /// One row.
    pub control: Mapped<Control>,
    /// Two rows.
    pub filters: Mapped<Filter>,
    /// Frontends; row 0 is nobody's.
    pub frontends: Mapped<Frontend>,
    /// Their names.
    pub names: Mapped<Name>,
    /// What the agent says of itself; one row.
    pub note: Mapped<Note>,
    /// Backend row numbers in the order of the turn.
    pub slots: Mapped<Line>,
    /// Source ranges; `None` when an agent without them made the pins, and this process only reads.
    pub source_ranges: Option<Mapped<SourceRange>>,
    /// Backends; row 0 is nobody's.
    pub backends: Mapped<Backend>,
    /// Next hops; row 0 is "no route".
    pub hops: Mapped<NextHop>,
    /// SNAT addresses.
    pub snat: Mapped<SnatAddress>,
    /// Free SNAT ports.
    pub pools: Mapped<PortPool>,
    /// Flows.
    pub flows: Mapped<Bucket>,
    /// Reverse index.
    pub reverse: Mapped<Line>,
    /// From what a client dials to a frontend's row number.
    pub keys: HashMap<MapData, FrontendKey, u32>,
    /// Announced addresses; row 0 is nobody's. These three are `None` when an agent without them made the pins, and this process only reads.
    pub announced: Option<Mapped<AnnounceRow>>,
    /// From addresses to what is known of them as announced ones.
    pub announce_keys: Option<HashMap<MapData, AnnounceKey, u32>>,
    /// MAC addresses that count as this node's.
    pub own_macs: Option<HashMap<MapData, u64, u32>>,
    /// Interfaces that XDP may redirect to.
    pub xdp_interfaces: HashMap<MapData, u32, u32>,
    /// How interfaces are attached.
    pub attachments: HashMap<MapData, u32, Attachment>,
    /// Counters.
    pub frontend_traffic: PerCpuArray<MapData, Traffic>,
    /// Counters.
    pub backend_traffic: PerCpuArray<MapData, Traffic>,
    /// Counters.
    pub frontend_drops: PerCpuArray<MapData, Drops>,
    /// Counters and cursors.
    pub scratch: PerCpuArray<MapData, Scratch>,
}

impl Maps {
    /// Opens the maps pinned in a directory. With `write` false nothing can be changed through the mapped rows.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn open(directory: &Path, write: bool) -> Result<Self, BpfError> {
        let open = |name: &'static str| open(directory, name);
        let kind = |name: &'static str| {
            move |source| BpfError::Map {
                name,
                source: Box::new(source),
            }
        };
        let newer = Newer { directory, write };
        Ok(Self {
            control: mapped(&open, names::CONTROL, write)?,
            filters: mapped(&open, names::FILTERS, write)?,
            frontends: mapped(&open, names::FRONTENDS, write)?,
            names: mapped(&open, names::FRONTEND_NAMES, write)?,
            note: mapped(&open, names::AGENT, write)?,
            slots: mapped(&open, names::BACKEND_SLOTS, write)?,
            source_ranges: newer.open(names::SOURCE_RANGES, || mapped(&open, names::SOURCE_RANGES, write))?,
            announced: newer.open(names::ANNOUNCED, || mapped(&open, names::ANNOUNCED, write))?,
            announce_keys: newer.open(names::ANNOUNCE_KEYS, || {
                hash(open(names::ANNOUNCE_KEYS)?).map_err(kind(names::ANNOUNCE_KEYS))
            })?,
            own_macs: newer.open(names::OWN_MACS, || {
                hash(open(names::OWN_MACS)?).map_err(kind(names::OWN_MACS))
            })?,
            backends: mapped(&open, names::BACKENDS, write)?,
            hops: mapped(&open, names::NEXT_HOPS, write)?,
            snat: mapped(&open, names::SNAT_ADDRESSES, write)?,
            pools: mapped(&open, names::PORT_POOLS, write)?,
            flows: mapped(&open, names::FLOWS, write)?,
            reverse: mapped(&open, names::REVERSE, write)?,
            keys: hash(open(names::FRONTEND_KEYS)?).map_err(kind(names::FRONTEND_KEYS))?,
            xdp_interfaces: hash(open(names::XDP_INTERFACES)?).map_err(kind(names::XDP_INTERFACES))?,
            attachments: hash(open(names::ATTACHMENTS)?).map_err(kind(names::ATTACHMENTS))?,
            frontend_traffic: per_cpu(open(names::FRONTEND_TRAFFIC)?).map_err(kind(names::FRONTEND_TRAFFIC))?,
            backend_traffic: per_cpu(open(names::BACKEND_TRAFFIC)?).map_err(kind(names::BACKEND_TRAFFIC))?,
            frontend_drops: per_cpu(open(names::FRONTEND_DROPS)?).map_err(kind(names::FRONTEND_DROPS))?,
            scratch: per_cpu(open(names::SCRATCH)?).map_err(kind(names::SCRATCH))?,
        })
    }

    /// Opens the map of attachments alone.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    pub fn open_attachments(directory: &Path) -> Result<HashMap<MapData, u32, Attachment>, BpfError> {
        let kind = |source| BpfError::Map {
            name: names::ATTACHMENTS,
            source: Box::new(source),
        };
        MapData::from_pin(directory.join(names::ATTACHMENTS))
            .and_then(hash)
            .map_err(kind)
    }

    /// Flows that the table is made for: half of its slots.
    #[must_use]
    pub fn flow_capacity(&self) -> u64 {
        u64::from(self.layout().main) * 2
    }

    /// Rows of the tables that the configuration fills.
    #[must_use]
    pub fn room(&self) -> Room {
        let rows = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
        Room {
            frontends: rows(self.frontends.len()),
            backends: rows(self.backends.len()),
            slots: rows(self.slots.len()).saturating_mul(Line::WORDS),
            hops: rows(self.hops.len()),
        }
    }

    /// A frontend's counters, all CPUs together.
    #[must_use]
    pub fn traffic_of_frontend(&self, row: u32) -> Traffic {
        sum_of(&self.frontend_traffic, row, |sum, cpu| *sum += *cpu)
    }

    /// A backend's counters, all CPUs together.
    #[must_use]
    pub fn traffic_of_backend(&self, row: u32) -> Traffic {
        sum_of(&self.backend_traffic, row, |sum, cpu| *sum += *cpu)
    }

    /// What was dropped of a frontend's packets, all CPUs together; of no frontend's in row 0.
    #[must_use]
    pub fn drops_of_frontend(&self, row: u32) -> Drops {
        sum_of(&self.frontend_drops, row, |sum: &mut Drops, cpu| {
            sum.0.iter_mut().zip(cpu.0).for_each(|(sum, more)| *sum += more);
        })
    }

    /// The control row, `None` never in practice.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.control.first()
    }
}

/// A pinned array, read-only.
pub(super) fn open_array<T: Row>(directory: &Path, name: &'static str) -> Result<Mapped<T>, BpfError> {
    mapped(&|name| open(directory, name), name, false)
}

/// A pinned hash map.
pub(super) fn open_hash<K: aya::Pod, V: aya::Pod>(
    directory: &Path,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, BpfError> {
    hash(open(directory, name)?).map_err(|source| BpfError::Map {
        name,
        source: Box::new(source),
    })
}

fn open(directory: &Path, name: &'static str) -> Result<MapData, BpfError> {
    MapData::from_pin(directory.join(name)).map_err(|source| BpfError::Map {
        name,
        source: Box::new(source),
    })
}

/// Maps that pins of an earlier version lack: a writer has made them by now, a reader does without.
struct Newer<'a> {
    directory: &'a Path,
    write: bool,
}

impl Newer<'_> {
    fn open<T>(&self, name: &str, open: impl FnOnce() -> Result<T, BpfError>) -> Result<Option<T>, BpfError> {
        match open() {
            Err(_older) if !self.write && !self.directory.join(name).exists() => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }
}

fn mapped<T: Row>(
    open: &impl Fn(&'static str) -> Result<MapData, BpfError>,
    name: &'static str,
    write: bool,
) -> Result<Mapped<T>, BpfError> {
    let data = open(name)?;
    let rows = data
        .info()
        .map_err(|source| BpfError::Map {
            name,
            source: Box::new(source),
        })?
        .max_entries();
    Mapped::new(data.fd(), rows, write).map_err(|source| BpfError::Mmap { name, source })
}

fn hash<K: aya::Pod, V: aya::Pod>(data: MapData) -> Result<HashMap<MapData, K, V>, aya::maps::MapError> {
    HashMap::try_from(aya::maps::Map::HashMap(data))
}

fn per_cpu<V: aya::Pod>(data: MapData) -> Result<PerCpuArray<MapData, V>, aya::maps::MapError> {
    PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data))
}

/// Zero where the row cannot be read.
fn sum_of<V: aya::Pod + Default>(counters: &PerCpuArray<MapData, V>, row: u32, add: impl Fn(&mut V, &V)) -> V {
    let mut sum = V::default();
    if let Ok(values) = counters.get(&row, 0) {
        values.iter().for_each(|cpu| add(&mut sum, cpu));
    }
    sum
}

fn row<T>(rows: &[T], index: u32) -> Option<&T> {
    rows.get(usize::try_from(index).ok()?)
}

impl FlowTables for Maps {
    fn layout(&self) -> Layout {
        let buckets = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        Layout {
            main: buckets.saturating_sub(names::STASH_BUCKETS),
            stash: names::STASH_BUCKETS,
        }
    }
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        row(&self.flows, index)
    }
    fn reverse(&self, index: u32) -> Option<&SharedU32> {
        row(&self.reverse, Line::of(index)).map(|line| line.word(index))
    }
    fn pool(&self, index: u32) -> Option<&PortPool> {
        row(&self.pools, index)
    }
    fn frontend(&self, index: u32) -> Option<&Frontend> {
        row(&self.frontends, index)
    }
    fn snat(&self, slot: u32) -> Option<&SnatAddress> {
        row(&self.snat, slot)
    }
    fn source_range(&self, index: u32) -> Option<&SourceRange> {
        row(self.source_ranges.as_deref()?, index)
    }
}
