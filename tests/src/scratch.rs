//! A directory of one test's own, with a bpffs of its own when asked for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::netns::Owner;

/// Name of the mount point inside.
const BPFFS: &str = "bpffs";

/// A temporary directory, removed with what is mounted in it on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn new() -> anyhow::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(Owner::me()?.name(&format!("{serial}-dir")));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts an empty bpffs inside and returns where. What is pinned there lives until the directory is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bpffs(&self) -> anyhow::Result<PathBuf> {
        let at = self.path.join(BPFFS);
        std::fs::create_dir(&at).with_context(|| format!("cannot make {}", at.display()))?;
        mount(Some("bpffs"), &at, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", at.display()))?;
        Ok(at)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Unmounts and deletes a directory of this kind.
pub(crate) fn remove(path: &Path) {
    let mounted = path.join(BPFFS);
    if mounted.exists()
        && let Err(errno) = umount2(&mounted, MntFlags::MNT_DETACH)
        && errno != nix::Error::EINVAL
    {
        // EINVAL: it is not mounted. Otherwise leave it all: deleting through the mount would delete pins of who knows.
        eprintln!("warning: {} stays mounted: {errno}", mounted.display());
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(path) {
        eprintln!("warning: {} stays: {error}", path.display());
    }
}
