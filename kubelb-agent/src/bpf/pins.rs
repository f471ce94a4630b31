//! The directory of pins: its layout, its lock and its removal.
//!
//! `<bpffs>/v<ABI>/maps/<MAP>` and `<bpffs>/v<ABI>/links/<interface>:<index>:<kind>`: maps and links outlive the agent,
//! and another layout of the rows gets another directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use kubelb_common::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::BpfError;

/// The directory, and the right to write there.
pub struct PinDirectory {
    root: PathBuf,
    _lock: Flock<File>,
}

/// What a link attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// XDP in the driver.
    Xdp,
    /// XDP in the stack.
    Generic,
    /// tcx at ingress.
    Tcx,
}

impl LinkKind {
    /// Last part of a pin's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Xdp, Self::Generic, Self::Tcx]
            .into_iter()
            .find(|kind| kind.suffix() == text)
    }
}

/// A pinned link, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPin {
    /// Interface name when it was attached.
    pub interface: String,
    /// Interface index then.
    pub ifindex: u32,
    /// What it attaches.
    pub kind: LinkKind,
    /// Where it is pinned.
    pub path: PathBuf,
}

impl PinDirectory {
    /// Makes the directory where it is missing and takes its lock.
    ///
    /// # Errors
    /// When it is not on a bpffs, cannot be made, or another agent holds it.
    pub fn open(bpffs: &Path) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Bpffs {
            path: bpffs.to_owned(),
            source,
        };
        let root = bpffs.join(format!("v{ABI_VERSION}"));
        fs::create_dir_all(bpffs).map_err(failed)?;
        let kind = statfs(bpffs).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if kind != BPF_FS_MAGIC {
            return Err(failed(io::Error::other("not a bpffs")));
        }
        for part in ["maps", "links"] {
            fs::create_dir_all(root.join(part)).map_err(failed)?;
        }
        let lock = lock(bpffs)?;
        Ok(Self { root, _lock: lock })
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Where a link is to be pinned.
    #[must_use]
    pub fn link(&self, interface: &str, ifindex: u32, kind: LinkKind) -> PathBuf {
        self.root.join("links").join(format!(
            "{}{SEPARATOR}{ifindex}{SEPARATOR}{}",
            escape(interface),
            kind.suffix()
        ))
    }

    /// All pinned links.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn links(&self) -> Result<Vec<LinkPin>, BpfError> {
        links_of(&self.root)
    }
}

/// bpffs refuses names with dots, and interface names may hold them (VLAN devices).
fn escape(interface: &str) -> String {
    interface
        .replace('%', "%25")
        .replace('.', "%2e")
        .replace(SEPARATOR, "%3a")
}

fn unescape(name: &str) -> String {
    name.replace("%3a", ":").replace("%2e", ".").replace("%25", "%")
}

fn links_of(root: &Path) -> Result<Vec<LinkPin>, BpfError> {
    let directory = root.join("links");
    let failed = |source| BpfError::Pin {
        path: directory.clone(),
        source,
    };
    let mut links = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let mut parts = name.rsplitn(3, SEPARATOR);
        let (Some(kind), Some(ifindex), Some(interface)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (Some(kind), Ok(ifindex)) = (LinkKind::parse(kind), ifindex.parse()) else {
            continue;
        };
        links.push(LinkPin {
            interface: unescape(interface),
            ifindex,
            kind,
            path: path.clone(),
        });
    }
    links.sort();
    Ok(links)
}

const SEPARATOR: char = ':';

/// The lock says that an agent runs; whoever dies loses it.
fn lock(bpffs: &Path) -> Result<Flock<File>, BpfError> {
    let failed = |source| BpfError::Bpffs {
        path: bpffs.to_owned(),
        source,
    };
    let directory = File::open(bpffs).map_err(failed)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            BpfError::Locked { path: bpffs.to_owned() }
        } else {
            failed(errno.into())
        }
    })
}

/// True while an agent holds the directory.
#[must_use]
pub fn is_held(bpffs: &Path) -> bool {
    matches!(lock(bpffs), Err(BpfError::Locked { .. }))
}

/// Where the maps of this version are pinned.
///
/// # Errors
/// When there are none.
pub fn existing_maps(bpffs: &Path) -> Result<PathBuf, BpfError> {
    let maps = bpffs.join(format!("v{ABI_VERSION}")).join("maps");
    if maps.join(kubelb_common::maps::CONTROL).exists() {
        Ok(maps)
    } else {
        Err(BpfError::NothingPinned { path: bpffs.to_owned() })
    }
}

/// Removes every pin of every version: links first, which detaches the programs, then maps. Returns what was removed.
///
/// # Errors
/// When an agent holds the directory, or a pin cannot be removed.
pub fn remove_all(bpffs: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let mut removed = Vec::new();
    if !bpffs.exists() {
        return Ok(removed);
    }
    let _lock = lock(bpffs)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BpfError::Pin { path, source }
    };
    for entry in fs::read_dir(bpffs).map_err(failed(bpffs))? {
        let root = entry.map_err(failed(bpffs))?.path();
        let version = root
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix('v'));
        if version.is_none_or(|version| version.parse::<u32>().is_err()) {
            continue;
        }
        for part in ["links", "maps"] {
            let directory = root.join(part);
            if !directory.exists() {
                continue;
            }
            for pin in fs::read_dir(&directory).map_err(failed(&directory))? {
                let pin = pin.map_err(failed(&directory))?.path();
                fs::remove_file(&pin).map_err(failed(&pin))?;
                removed.push(pin);
            }
            fs::remove_dir(&directory).map_err(failed(&directory))?;
        }
        fs::remove_dir(&root).map_err(failed(&root))?;
    }
    removed.sort();
    Ok(removed)
}
