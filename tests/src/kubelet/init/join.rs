//! Entering namespaces of a running process.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, chroot, fchdir};

struct Namespaces {
    root: File,
    list: Vec<(CloneFlags, File)>,
}

impl Namespaces {
    /// Opens them all before the first is entered: afterwards `/proc` may be another.
    fn open(pid: i32, pid_namespace: bool) -> anyhow::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let open = |name: &str| {
            let path = proc.join(name);
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        let mut list = Vec::new();
        if pid_namespace {
            list.push((CloneFlags::CLONE_NEWPID, open("ns/pid")?));
        }
        for (flag, name) in [
            (CloneFlags::CLONE_NEWNET, "ns/net"),
            (CloneFlags::CLONE_NEWUTS, "ns/uts"),
            (CloneFlags::CLONE_NEWIPC, "ns/ipc"),
            (CloneFlags::CLONE_NEWNS, "ns/mnt"),
        ] {
            list.push((flag, open(name)?));
        }
        Ok(Self {
            root: open("root")?,
            list,
        })
    }

    fn enter(self) -> anyhow::Result<()> {
        for (flag, namespace) in &self.list {
            setns(namespace.as_fd(), *flag).context("cannot enter a namespace")?;
        }
        // The mount namespace's root is not the process's root where that was changed by chroot.
        fchdir(&self.root).context("cannot enter the root")?;
        chroot(".").context("cannot change the root")?;
        chdir("/").context("cannot enter the root")
    }
}

/// Enters a Pod's namespaces, with a copy of its mounts. The PID namespace is that of the next child.
pub(super) fn pod(pid: i32, pid_namespace: bool) -> anyhow::Result<()> {
    Namespaces::open(pid, pid_namespace)?.enter()?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot copy the mounts")?;
    super::root::keep_mounts_inside()
}

/// Enters a container's namespaces.
pub(super) fn container(pid: i32) -> anyhow::Result<()> {
    Namespaces::open(pid, true)?.enter()
}
