//! Rows and keys of announced addresses: read back, and changed one operation at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::maps::{HashMap, MapData};
use kubelb_common::addr::Addr;
use kubelb_common::announce::{AnnounceKey, AnnounceRow, Subject};
use kubelb_common::maps as names;
use kubelb_common::next_hop::MacWord;

use super::BpfError;
use super::mapped::Mapped;
use super::maps::{self, Maps};
use super::store::Store;
use crate::announce::{Actual, Op, Place};

/// What is in the hash maps. To ask them for it costs two system calls for each entry, of which there is one for each address and interface.
#[derive(Debug, Default)]
pub(super) struct Kept {
    keys: BTreeMap<AnnounceKey, u32>,
    macs: BTreeSet<[u8; 6]>,
}

impl Maps {
    /// What the maps say of announced addresses.
    #[must_use]
    pub fn announcements(&self) -> Actual {
        self.announcements_of(&self.announce_keys())
    }

    /// What the hash maps hold.
    pub(super) fn announce_keys(&self) -> Kept {
        let keys = self.announce_keys.iter().flat_map(|keys| keys.iter());
        let macs = self.own_macs.iter().flat_map(|macs| macs.keys());
        Kept {
            keys: keys.filter_map(Result::ok).collect(),
            macs: macs
                .filter_map(Result::ok)
                .map(|word| MacWord::from_word(word).mac())
                .collect(),
        }
    }

    fn announcements_of(&self, kept: &Kept) -> Actual {
        let mut actual = Actual {
            room: self
                .announced
                .as_ref()
                .map_or(0, |rows| u32::try_from(rows.len()).unwrap_or(u32::MAX)),
            macs: kept.macs.clone(),
            ..Actual::default()
        };
        for (key, number) in &kept.keys {
            match key.subject() {
                Subject::Interface(index) => {
                    if let Some(row) = self.announced_row(*number) {
                        let place: Place = (key.address().into(), index);
                        actual.rows.insert(place, (*number, row.view()));
                    }
                }
                Subject::LocalPort(..) | Subject::Guarded => drop(actual.keys.insert(*key)),
            }
        }
        actual
    }

    /// A row of an announced address.
    #[must_use]
    pub fn announced_row(&self, number: u32) -> Option<&AnnounceRow> {
        self.announced.as_ref()?.get(usize::try_from(number).ok()?)
    }
}

/// Looks whether an address is answered for at this very moment.
pub struct Witness {
    keys: HashMap<MapData, AnnounceKey, u32>,
    rows: Mapped<AnnounceRow>,
}

impl Witness {
    /// Opens the pinned maps, read-only.
    ///
    /// # Errors
    /// When they are not there.
    pub fn open(directory: &Path) -> Result<Self, BpfError> {
        let rows = maps::open_array(directory, names::ANNOUNCED)?;
        let keys = maps::open_hash(directory, names::ANNOUNCE_KEYS)?;
        Ok(Self { keys, rows })
    }

    /// Whether it is.
    #[must_use]
    pub fn answers(&self, place: Place) -> bool {
        let key = AnnounceKey::new(place.0.into(), Subject::Interface(place.1));
        let row = self.keys.get(&key, 0).ok().and_then(|row| usize::try_from(row).ok());
        row.and_then(|row| self.rows.get(row))
            .is_some_and(|row| row.answer().is_some())
    }
}

impl Store {
    /// Addresses that are announced.
    #[must_use]
    pub fn announced_addresses(&self) -> BTreeSet<Addr> {
        self.announced.keys.keys().map(|key| key.address()).collect()
    }

    /// What the maps say of announced addresses, without asking the kernel: this process is the only writer of their keys.
    #[must_use]
    pub fn announcements(&self) -> Actual {
        self.maps.announcements_of(&self.announced)
    }

    /// Carries one operation out. `now`: seconds since 1970.
    ///
    /// # Errors
    /// When a map refuses a change.
    pub fn announce(&mut self, op: &Op, now: u64) -> Result<(), BpfError> {
        let failed = |name| {
            move |source| BpfError::Update {
                name,
                source: Box::new(source),
            }
        };
        match op {
            Op::Vacate(row) => self.with_announced(*row, AnnounceRow::vacate),
            Op::Silence(row) => self.with_announced(*row, AnnounceRow::silence),
            Op::TakeOver { row, epoch, mac } => self.with_announced(*row, |row| row.take_over(*epoch, *mac, now)),
            Op::Update { row, epoch, mac } => self.with_announced(*row, |row| row.update(*epoch, *mac)),
            Op::AddMac(_) | Op::RemoveMac(_) | Op::Insert(..) | Op::Remove(_) => {}
        }
        let (Some(keys), Some(macs)) = (&mut self.maps.announce_keys, &mut self.maps.own_macs) else {
            return Ok(());
        };
        match op {
            Op::AddMac(mac) => {
                let word = MacWord::new(*mac, 0).word();
                macs.insert(word, 1, 0).map_err(failed(names::OWN_MACS))?;
                self.announced.macs.insert(*mac);
            }
            Op::RemoveMac(mac) => {
                let word = MacWord::new(*mac, 0).word();
                macs.remove(&word).map_err(failed(names::OWN_MACS))?;
                self.announced.macs.remove(mac);
            }
            Op::Insert(key, row) => {
                keys.insert(key, row, 0).map_err(failed(names::ANNOUNCE_KEYS))?;
                self.announced.keys.insert(*key, *row);
            }
            Op::Remove(key) => {
                keys.remove(key).map_err(failed(names::ANNOUNCE_KEYS))?;
                self.announced.keys.remove(key);
            }
            Op::Vacate(_) | Op::Silence(_) | Op::TakeOver { .. } | Op::Update { .. } => {}
        }
        Ok(())
    }

    fn with_announced(&self, row: u32, f: impl FnOnce(&AnnounceRow)) {
        match self.maps.announced_row(row) {
            Some(row) => f(row),
            None => tracing::error!(row, "row number outside of its map"),
        }
    }
}
