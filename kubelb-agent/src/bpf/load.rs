//! Loads the object: reuses the maps that are pinned, makes the others, has the kernel verify the programs.

use std::path::Path;

use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use kubelb_common::flow_table::Layout;
use kubelb_common::maps as names;

use super::BpfError;
use super::grow::Growth;
use super::pins::PinDirectory;

/// The object that `cargo xtask build-ebpf` built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("KUBELB_EBPF_OBJECT_PATH"));

/// Names of the programs in the object.
pub mod program {
    /// XDP.
    pub const XDP: &str = "kubelb_xdp";
    /// tc.
    pub const TC: &str = "kubelb_tc";
    /// Reads the clocks.
    pub const CLOCK: &str = "kubelb_clock";
}

/// The loaded object.
pub struct Programs {
    ebpf: Ebpf,
}

/// How much there is to be room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flows.
    pub flows: u32,
    /// Backends of all frontends together.
    pub backends: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: names::DEFAULT_FLOWS,
            backends: names::DEFAULT_BACKENDS,
        }
    }
}

impl Programs {
    /// Loads the programs. A flow table that is pinned keeps its size; the tables of backends grow where they are pinned and smaller.
    /// `hairpin_by_redirect`: see [`super::attach::wants_hairpin_by_redirect`].
    ///
    /// # Errors
    /// When the kernel refuses, or a pinned map differs from what the object wants.
    pub fn load(pins: &PinDirectory, sizes: Sizes, hairpin_by_redirect: bool) -> Result<Self, BpfError> {
        let wanted = Layout::for_flows(sizes.flows).buckets();
        let buckets = pinned_rows(&pins.map(names::FLOWS)).unwrap_or(wanted);
        if buckets != wanted {
            tracing::warn!(
                buckets,
                wanted,
                "the flow table keeps its size, because it may hold flows; `kubelb-agent detach` makes room for another"
            );
        }
        let main = buckets.saturating_sub(names::STASH_BUCKETS);
        let hairpin = u32::from(hairpin_by_redirect);
        let growth = Growth::plan(pins, sizes.backends)?;
        let mut loader = EbpfLoader::new();
        for name in names::PINNED {
            loader.map_pin_path(name, growth.pin(name));
        }
        for (name, rows) in growth.rows() {
            loader.map_max_entries(name, rows);
        }
        let ebpf = loader
            .map_max_entries(names::FLOWS, buckets)
            .override_global("MAIN_BUCKETS", &main, true)
            .override_global("HAIRPIN_BY_REDIRECT", &hairpin, true)
            .load(OBJECT)
            .map_err(|source| BpfError::Load(Box::new(source)))?;
        let mut programs = Self { ebpf };
        let failed = |name| {
            move |source| BpfError::Program {
                name,
                source: Box::new(source),
            }
        };
        programs.xdp()?.load().map_err(failed(program::XDP))?;
        programs.tc()?.load().map_err(failed(program::TC))?;
        programs.load_clock()?;
        growth.finish()?;
        Ok(programs)
    }

    /// The XDP program.
    ///
    /// # Errors
    /// When the object has none.
    pub fn xdp(&mut self) -> Result<&mut Xdp, BpfError> {
        let program = self
            .ebpf
            .program_mut(program::XDP)
            .ok_or(BpfError::Absent(program::XDP))?;
        program.try_into().map_err(|source| BpfError::Program {
            name: program::XDP,
            source: Box::new(source),
        })
    }

    /// The tc program.
    ///
    /// # Errors
    /// When the object has none.
    pub fn tc(&mut self) -> Result<&mut SchedClassifier, BpfError> {
        let program = self
            .ebpf
            .program_mut(program::TC)
            .ok_or(BpfError::Absent(program::TC))?;
        program.try_into().map_err(|source| BpfError::Program {
            name: program::TC,
            source: Box::new(source),
        })
    }

    /// The clock program.
    ///
    /// # Errors
    /// When the object has none.
    pub fn clock(&self) -> Result<&SchedClassifier, BpfError> {
        let program = self
            .ebpf
            .program(program::CLOCK)
            .ok_or(BpfError::Absent(program::CLOCK))?;
        program.try_into().map_err(|source| BpfError::Program {
            name: program::CLOCK,
            source: Box::new(source),
        })
    }

    /// See [`super::drops::follow`]; once only.
    ///
    /// # Errors
    /// When the object has no ring of log records.
    pub fn follow_drops(&mut self) -> Result<impl Future<Output = ()> + Send + use<>, BpfError> {
        super::drops::follow(&mut self.ebpf)
    }

    fn load_clock(&mut self) -> Result<(), BpfError> {
        let failed = |source| BpfError::Program {
            name: program::CLOCK,
            source: Box::new(source),
        };
        let program = self
            .ebpf
            .program_mut(program::CLOCK)
            .ok_or(BpfError::Absent(program::CLOCK))?;
        let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
        program.load().map_err(failed)
    }
}

/// Rows of a pinned array, `None` when it is not pinned.
pub(super) fn pinned_rows(path: &Path) -> Option<u32> {
    aya::maps::MapData::from_pin(path)
        .ok()?
        .info()
        .ok()
        .map(|info| info.max_entries())
}
