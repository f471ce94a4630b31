//! Tables of backends that are to have more rows than the pinned ones: filled beside those, then put in their place.
//!
//! Only the agent writes these rows, and flows name a backend by the number of its row, which stays; so a copy is as good as the table
//! itself. The programs that are attached go on with the old tables until the new programs take their place. Whoever dies in between leaves
//! tables that each hold the same rows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, PerCpuArray};
use kubelb_common::maps as names;
use kubelb_common::shared::Line;
use kubelb_common::stats::Traffic;

use super::BpfError;
use super::load::pinned_rows;
use super::mapped::Mapped;
use super::pins::PinDirectory;

/// What the pin of a table is called while it is filled.
const NEXT: &str = "_next";

/// Which tables grow.
pub(super) struct Growth<'a> {
    pins: &'a PinDirectory,
    rows: [(&'static str, u32); 3],
    growing: Vec<&'static str>,
}

impl<'a> Growth<'a> {
    /// Looks at what is pinned.
    ///
    /// # Errors
    /// When what an earlier attempt left cannot be removed.
    pub(super) fn plan(pins: &'a PinDirectory, backends: u32) -> Result<Self, BpfError> {
        let slots = backends
            .saturating_mul(names::SLOTS_PER_BACKEND)
            .max(names::MIN_BACKEND_SLOTS);
        let rows = [
            (names::BACKENDS, backends),
            (names::BACKEND_SLOTS, slots.div_ceil(Line::WORDS)),
            (names::BACKEND_TRAFFIC, backends),
        ];
        let mut growth = Self {
            pins,
            rows,
            growing: Vec::new(),
        };
        for (name, wanted) in rows {
            let path = growth.next(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(BpfError::Pin { path, source }),
                Ok(()) | Err(_) => {}
            }
            let Some(pinned) = pinned_rows(&pins.map(name)) else {
                continue;
            };
            if pinned < wanted {
                tracing::info!(map = name, from = pinned, to = wanted, "the table grows; flows go on");
                growth.growing.push(name);
            } else if pinned > wanted {
                tracing::info!(
                    map = name,
                    rows = pinned,
                    wanted,
                    "the table keeps its size; `kubelb-agent detach` would let it shrink"
                );
            }
        }
        Ok(growth)
    }

    /// Rows of the tables that are made anew.
    pub(super) fn rows(&self) -> [(&'static str, u32); 3] {
        self.rows
    }

    /// Where a map is pinned while the object is loaded.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        if self.growing.contains(&name) {
            self.next(name)
        } else {
            self.pins.map(name)
        }
    }

    /// Fills the new tables and puts them in the place of the old ones.
    ///
    /// # Errors
    /// When a table cannot be read, written or renamed.
    pub(super) fn finish(self) -> Result<(), BpfError> {
        for name in &self.growing {
            let (old, new) = (self.pins.map(name), self.next(name));
            if *name == names::BACKEND_TRAFFIC {
                copy_counters(name, &old, &new)?;
            } else {
                copy_lines(name, &old, &new)?;
            }
            fs::rename(&new, &old).map_err(|source| BpfError::Pin { path: new, source })?;
        }
        Ok(())
    }

    fn next(&self, name: &str) -> PathBuf {
        self.pins.map(&format!("{name}{NEXT}"))
    }
}

/// Copies an array whose element is as long as a [`Line`].
fn copy_lines(name: &'static str, old: &Path, new: &Path) -> Result<(), BpfError> {
    let (old, new) = (lines(name, old, false)?, lines(name, new, true)?);
    for (from, to) in old.iter().zip(new.iter()) {
        for word in 0..Line::WORDS {
            to.word(word).store(from.word(word).load());
        }
    }
    Ok(())
}

const _: () = assert!(size_of::<kubelb_common::backend::Backend>() == size_of::<Line>());

fn lines(name: &'static str, path: &Path, write: bool) -> Result<Mapped<Line>, BpfError> {
    let failed = |source| failed(name, source);
    let data = MapData::from_pin(path).map_err(failed)?;
    let rows = data.info().map_err(failed)?.max_entries();
    Mapped::new(data.fd(), rows, write).map_err(|source| BpfError::Mmap { name, source })
}

/// What is counted meanwhile is lost: statistics, not state.
fn copy_counters(name: &'static str, old: &Path, new: &Path) -> Result<(), BpfError> {
    let open = |path: &Path| -> Result<PerCpuArray<MapData, Traffic>, MapError> {
        PerCpuArray::try_from(aya::maps::Map::PerCpuArray(MapData::from_pin(path)?))
    };
    let failed = |source| failed(name, source);
    let (old, mut new) = (open(old).map_err(failed)?, open(new).map_err(failed)?);
    for row in 0..old.len() {
        let counted = old.get(&row, 0).map_err(failed)?;
        if counted.iter().any(|cpu| *cpu != Traffic::default()) {
            new.set(row, counted, 0).map_err(failed)?;
        }
    }
    Ok(())
}

fn failed(name: &'static str, source: MapError) -> BpfError {
    BpfError::Map {
        name,
        source: Box::new(source),
    }
}
