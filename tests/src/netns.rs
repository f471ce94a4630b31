//! Network namespaces: made, entered and removed.
//!
//! Only the *network* namespace is ever entered. `ip netns exec` would also give the process a private `/sys`, in which
//! pins on a bpffs vanish with the process.

mod owner;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};

pub use owner::Owner;

use crate::tool;

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";
/// Held while the set of namespaces changes: the first `ip netns add` on a machine sets up a mount, not atomically.
const LOCK: &str = "/run/kubelb-tests.lock";

/// A named network namespace, removed with everything in it on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: OwnedFd,
}

impl Namespace {
    /// Makes an empty namespace whose loopback is up and whose IPv6 addresses are usable at once. `role` is the readable end
    /// of its name. The first one made by a process removes what runs that were killed have left behind.
    ///
    /// # Errors
    /// Without root or `ip`, or when the kernel refuses.
    pub fn new(role: &str) -> anyhow::Result<Self> {
        static REAP: Once = Once::new();
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        tool::require_root()?;
        REAP.call_once(|| {
            if let Err(error) = reap() {
                eprintln!("warning: leftovers of earlier runs stay: {error:#}");
            }
        });
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = Owner::me()?.name(&format!("{serial}-{role}"));
        {
            let _lock = lock()?;
            tool::output(Command::new("ip").args(["netns", "add", &name]))?;
        }
        let path = Path::new(DIRECTORY).join(&name);
        let handle = match File::open(&path) {
            Ok(file) => OwnedFd::from(file),
            Err(error) => {
                remove(&name);
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let namespace = Self { name, handle };
        namespace.prepare()?;
        Ok(namespace)
    }

    fn prepare(&self) -> anyhow::Result<()> {
        // Nothing waits for duplicate address detection, and nothing chatters about routers.
        for scope in ["all", "default"] {
            self.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            self.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            self.sysctl(&format!("net/ipv6/conf/{scope}/router_solicitations"), "0")?;
            // IPv4 addresses survive a link that goes down and up; IPv6 ones only with this.
            self.sysctl(&format!("net/ipv6/conf/{scope}/keep_addr_on_down"), "1")?;
            // The initial namespace's settings are inherited, and those are the machine's own.
            self.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        self.ip(&["link", "set", "lo", "up"])
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it, as `nsenter --net=` takes it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` on a thread inside, and waits for it. A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// When no thread can be started or the namespace not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let handle = self.handle.as_fd();
            let thread = std::thread::Builder::new().name(self.name.clone());
            let joined = thread
                .spawn_scoped(scope, move || enter(handle).map(|()| work()))
                .context("cannot start a thread")?
                .join();
            match joined {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `work` on a thread inside.
    ///
    /// # Errors
    /// When no thread can be started. That the namespace can't be entered is the thread's own result.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
        let handle = self
            .handle
            .try_clone()
            .context("cannot duplicate the namespace's handle")?;
        std::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || enter(handle.as_fd()).map(|()| work()))
            .context("cannot start a thread")
    }

    /// A command that will run inside, and is killed when the calling *thread* ends: start it on a thread that outlives it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        command_in(&self.handle, program)
    }

    /// Runs `ip` with `arguments` inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        tool::output(self.command("ip").args(arguments))
            .map(drop)
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Sets `/proc/sys/<key>` inside.
    ///
    /// # Errors
    /// When there is no such key or it refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot set {} to {value}", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A command that will run in the network namespace that `handle` stands for, as [`Namespace::command`] makes them. It
/// must be started before the handle is closed.
pub(crate) fn command_in(handle: &impl AsRawFd, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = tool::bound(program);
    let handle = handle.as_raw_fd();
    let inside = move || {
        // SAFETY: the namespace outlives every command made from it in this crate (guards hold both), and the child
        // of a fork has the descriptor until it executes the program.
        let handle = unsafe { BorrowedFd::borrow_raw(handle) };
        setns(handle, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    };
    // SAFETY: only system calls that are safe after fork; nothing is allocated or locked.
    unsafe { command.pre_exec(inside) };
    command
}

/// Removes namespaces, mounts and directories whose owners are no longer running.
///
/// # Errors
/// When the lists of what exists can't be read.
pub fn reap() -> anyhow::Result<()> {
    remove_all(|owner| !owner.is_alive())
}

/// Removes everything of this process's own, for an end at which its guards are not dropped.
///
/// # Errors
/// When the lists of what exists can't be read.
pub fn remove_own() -> anyhow::Result<()> {
    let me = Owner::me()?;
    remove_all(|owner| owner == me)
}

fn remove_all(wanted: impl Fn(Owner) -> bool) -> anyhow::Result<()> {
    let _lock = lock()?;
    for name in entries(Path::new(DIRECTORY))? {
        if Owner::of(&name).is_some_and(&wanted) {
            eprintln!("removing network namespace {name}, which was left behind");
            remove(&name);
        }
    }
    for name in entries(&std::env::temp_dir())? {
        if Owner::of(&name).is_some_and(&wanted) {
            crate::scratch::remove(&std::env::temp_dir().join(name));
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> anyhow::Result<Vec<String>> {
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", directory.display())),
    };
    Ok(listing
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn remove(name: &str) {
    if let Err(error) = tool::output(Command::new("ip").args(["netns", "del", name])) {
        eprintln!("warning: network namespace {name} stays: {error:#}");
    }
}

fn lock() -> anyhow::Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(LOCK)
        .with_context(|| format!("cannot open {LOCK}"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| anyhow!("cannot lock {LOCK}: {errno}"))
}

/// Takes the calling thread into the network namespace that `handle` stands for, for good.
pub(crate) fn enter(handle: BorrowedFd<'_>) -> anyhow::Result<()> {
    setns(handle, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
}
