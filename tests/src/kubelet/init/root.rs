//! A container's file system: the machine's, read through an overlay whose changes stay in the Pod's memory, with mounts of
//! its own on top. Targets are looked up inside the new root only, so that no link leads outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::super::launch::{Bind, ContainerSpec};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const NONE: Option<&str> = None;

/// Makes what is mounted from now on invisible outside, while what the machine mounts later still comes in.
pub(super) fn keep_mounts_inside() -> anyhow::Result<()> {
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    match mount(NONE, "/", NONE, flags, NONE) {
        Ok(()) => return Ok(()),
        // Under chroot `/` is no mount point; then each mount that is seen is changed.
        Err(nix::Error::EINVAL) => {}
        Err(errno) => return Err(errno).context("cannot make mounts private"),
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc is not mounted")?;
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        // Mounts outside of the root are listed too and cannot be reached.
        mount(NONE, target, NONE, MsFlags::MS_SLAVE, NONE).ok();
    }
    Ok(())
}

/// Builds it and enters it. Needs to be PID 1 of the namespace whose `/proc` is to be seen.
pub(super) fn enter(spec: &ContainerSpec) -> anyhow::Result<()> {
    let root = overlay(&spec.scratch)?;
    let mut binds: Vec<&Bind> = spec.binds.iter().collect();
    binds.sort_by(|one, other| one.target.cmp(&other.target));
    let sources = binds
        .iter()
        .map(|bind| source(&bind.source))
        .collect::<Result<Vec<_>, _>>()?;
    let devices: Vec<(String, OwnedFd)> = if spec.privileged {
        vec![("/dev".to_owned(), source(Path::new("/dev"))?)]
    } else {
        let paths = DEVICES.iter().map(|name| format!("/dev/{name}"));
        paths
            .map(|path| Ok((path.clone(), source(Path::new(&path))?)))
            .collect::<anyhow::Result<_>>()?
    };
    let old = switch_root(&root)?;

    fresh("proc", "/proc", "proc", MsFlags::empty(), NONE)?;
    fresh(
        "sysfs",
        "/sys",
        "sysfs",
        if spec.privileged {
            MsFlags::empty()
        } else {
            MsFlags::MS_RDONLY
        },
        NONE,
    )?;
    fresh("tmpfs", "/tmp", "tmpfs", MsFlags::empty(), Some("mode=1777"))?;
    if spec.privileged {
        for (target, device) in &devices {
            bind(device, Path::new(target), false)?;
        }
    } else {
        own_devices(&devices)?;
        // Settings of the kernel are for those who may have everything.
        let sys = source(Path::new("/proc/sys"))?;
        bind(&sys, Path::new("/proc/sys"), true)?;
    }
    for (one, fd) in binds.iter().zip(&sources) {
        bind(fd, &one.target, one.read_only)?;
    }
    if let Some(old) = old {
        fchdir(&old).context("cannot enter the old root")?;
        umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root")?;
    }
    chdir("/").context("cannot enter the new root")?;
    if spec.read_only_root {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, "/", NONE, flags, NONE).context("cannot make the root read-only")?;
    }
    Ok(())
}

/// Mounts the overlay and returns where. What an earlier run of the container wrote is forgotten.
fn overlay(scratch: &Path) -> anyhow::Result<PathBuf> {
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", scratch.display()));
        }
        _ => {}
    }
    let [upper, work, root] = ["upper", "work", "root"].map(|name| scratch.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    match mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    ) {
        Ok(()) => Ok(root),
        Err(nix::Error::ENODEV) => {
            bail!("this kernel has no overlayfs (CONFIG_OVERLAY_FS), which containers' root file systems are made of")
        }
        Err(errno) => Err(errno).context("cannot mount an overlay over /"),
    }
}

/// Returns the old root when it is still mounted, out of sight.
fn switch_root(root: &Path) -> anyhow::Result<Option<File>> {
    let old = File::open("/").context("cannot open /")?;
    chdir(root).context("cannot enter the new root")?;
    match pivot_root(".", ".") {
        Ok(()) => Ok(Some(old)),
        // Under chroot.
        Err(nix::Error::EINVAL) => {
            chroot(".").context("cannot change the root")?;
            chdir("/").context("cannot enter the new root")?;
            Ok(None)
        }
        Err(errno) => Err(errno).context("cannot change the root"),
    }
}

fn source(path: &Path) -> anyhow::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("{}: cannot be mounted", path.display()))
}

fn fresh(name: &str, target: &str, kind: &str, flags: MsFlags, options: Option<&str>) -> anyhow::Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    mount(Some(name), target, Some(kind), flags | MsFlags::MS_NOSUID, options)
        .with_context(|| format!("cannot mount {target}"))
}

fn bind(source: &OwnedFd, target: &Path, read_only: bool) -> anyhow::Result<()> {
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    let is_directory = fs::metadata(&from)
        .with_context(|| format!("nothing to mount on {}", target.display()))?
        .is_dir();
    prepare(target, is_directory).with_context(|| format!("cannot make {}", target.display()))?;
    let failed = || format!("cannot mount on {}", target.display());
    mount(
        Some(from.as_str()),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .with_context(failed)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, target, NONE, flags, NONE).with_context(failed)?;
    }
    Ok(())
}

/// Makes something to mount on. A link that leads nowhere, as distributions have for `/etc/resolv.conf`, gives way.
fn prepare(target: &Path, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_symlink() => fs::remove_file(target)?,
        Ok(found) if found.is_file() || found.file_type().is_char_device() || found.file_type().is_socket() => {
            return Ok(());
        }
        Ok(_) => return Err(io::Error::other("a file can't be mounted on what is no file")),
        Err(_) => {}
    }
    File::create(target).map(drop)
}

fn own_devices(devices: &[(String, OwnedFd)]) -> anyhow::Result<()> {
    fresh(
        "tmpfs",
        "/dev",
        "tmpfs",
        MsFlags::MS_STRICTATIME,
        Some("mode=0755,size=64k"),
    )?;
    for (target, device) in devices {
        bind(device, Path::new(target), false)?;
    }
    fresh(
        "devpts",
        "/dev/pts",
        "devpts",
        MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )?;
    fresh(
        "tmpfs",
        "/dev/shm",
        "tmpfs",
        MsFlags::MS_NOEXEC,
        Some("mode=1777,size=64m"),
    )?;
    let links = [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ];
    for (to, name) in links {
        let path = Path::new("/dev").join(name);
        symlink(to, &path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(())
}
