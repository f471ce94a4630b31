//! The directory of pins: its layout, its lock and its removal.
//!
//! `<bpffs>/v<ABI>/maps/<MAP>` and `<bpffs>/v<ABI>/links/<interface>:<index>:<kind>`: maps and links outlive the agent,
//! and another layout of the rows gets another directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use kubelb_common::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::BpfError;
use super::link;

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
        require_bpffs(bpffs).map_err(failed)?;
        let lock = lock(bpffs)?;
        for part in ["maps", LINKS] {
            fs::create_dir_all(root.join(part)).map_err(failed)?;
        }
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
        self.root.join(LINKS).join(format!(
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
    let directory = root.join(LINKS);
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
/// Directory of the pinned links.
const LINKS: &str = "links";

/// How often, and how long apart, the lock is tried: an agent that ends or a `status` that looks holds it for a moment.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The lock says that an agent runs; whoever dies loses it.
fn lock(bpffs: &Path) -> Result<Flock<File>, BpfError> {
    let mut tries = 1;
    loop {
        match try_lock(bpffs, FlockArg::LockExclusiveNonblock) {
            Err(BpfError::Locked { .. }) if tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            done => return done,
        }
    }
}

fn try_lock(bpffs: &Path, kind: FlockArg) -> Result<Flock<File>, BpfError> {
    let failed = |source| BpfError::Directory {
        path: bpffs.to_owned(),
        source,
    };
    let directory = File::open(bpffs).map_err(failed)?;
    Flock::lock(directory, kind).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            BpfError::Locked { path: bpffs.to_owned() }
        } else {
            failed(errno.into())
        }
    })
}

/// True while an agent holds the directory. Several may ask at once.
#[must_use]
pub fn is_held(bpffs: &Path) -> bool {
    matches!(
        try_lock(bpffs, FlockArg::LockSharedNonblock),
        Err(BpfError::Locked { .. })
    )
}

/// Where the maps of this version are pinned.
///
/// # Errors
/// When there are none, or the directory cannot be read.
pub fn existing_maps(bpffs: &Path) -> Result<PathBuf, BpfError> {
    let maps = bpffs.join(format!("v{ABI_VERSION}")).join("maps");
    match maps.join(kubelb_common::maps::CONTROL).try_exists() {
        Ok(true) => Ok(maps),
        Ok(false) => Err(BpfError::NothingPinned { path: bpffs.to_owned() }),
        Err(source) => Err(BpfError::Directory {
            path: bpffs.to_owned(),
            source,
        }),
    }
}

/// Whose lock it is to remove pins.
pub struct Removal {
    bpffs: PathBuf,
    _lock: Flock<File>,
}

impl Removal {
    /// Takes the lock; `None` when there is no such directory, so nothing to remove either.
    ///
    /// # Errors
    /// When the directory is not on a bpffs, or an agent holds it.
    pub fn begin(bpffs: &Path) -> Result<Option<Self>, BpfError> {
        let failed = |source| BpfError::Directory {
            path: bpffs.to_owned(),
            source,
        };
        if !bpffs.try_exists().map_err(failed)? {
            return Ok(None);
        }
        // What looks like pins elsewhere is somebody's files.
        require_bpffs(bpffs).map_err(failed)?;
        Ok(Some(Self {
            bpffs: bpffs.to_owned(),
            _lock: lock(bpffs)?,
        }))
    }

    /// Removes every pin of every version: links first, which detaches the programs, then maps. Returns what was removed.
    ///
    /// # Errors
    /// When a pin cannot be removed; what was removed before stays so, and the removal can be repeated.
    pub fn remove_all(&self) -> Result<Vec<PathBuf>, BpfError> {
        remove_below(&self.bpffs)
    }
}

fn require_bpffs(path: &Path) -> io::Result<()> {
    let kind = statfs(path)?.filesystem_type();
    if kind == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(io::Error::other("not a bpffs"))
    }
}

fn remove_below(bpffs: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let mut removed = Vec::new();
    let versions: Vec<PathBuf> = entries(bpffs)?.into_iter().filter(|root| is_version(root)).collect();
    for part in [LINKS, "maps"] {
        for root in &versions {
            let directory = root.join(part);
            for pin in entries(&directory)? {
                let remove = if part == LINKS {
                    link::end(&pin)
                } else {
                    fs::remove_file(&pin)
                };
                remove.map_err(unpin_failed(&pin))?;
                removed.push(pin);
            }
            if directory.exists() {
                fs::remove_dir(&directory).map_err(unpin_failed(&directory))?;
            }
        }
    }
    for root in &versions {
        fs::remove_dir(root).map_err(unpin_failed(root))?;
    }
    removed.sort();
    Ok(removed)
}

fn is_version(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix('v'))
        .is_some_and(|version| version.parse::<u32>().is_ok())
}

/// What a directory holds; nothing when there is no such directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(unpin_failed(directory))?,
    };
    listed
        .map(|entry| entry.map(|entry| entry.path()).map_err(unpin_failed(directory)))
        .collect()
}

fn unpin_failed(path: &Path) -> impl Fn(io::Error) -> BpfError + use<> {
    let path = path.to_owned();
    move |source| BpfError::Pin {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
