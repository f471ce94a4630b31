//! The last steps before a program runs: who it is, what it may, and which file it is.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, chdir, execve, setgroups, setresgid, setresuid, setsid};

use super::super::launch::{ContainerSpec, ProcessSpec};
use super::{root, supervise};

/// Number of the highest capability that may exist; the kernel answers EINVAL above its own highest.
const CAPABILITIES: u8 = 63;

/// Becomes a container's program.
pub(super) fn container(spec: &ContainerSpec) -> anyhow::Result<Infallible> {
    root::enter(spec)?;
    let directory = Path::new(&spec.process.directory);
    if !directory.exists() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the working directory {}", directory.display()))?;
    }
    run(&spec.process)
}

/// Becomes a program in the present root.
pub(super) fn run(spec: &ProcessSpec) -> anyhow::Result<Infallible> {
    if spec.terminal {
        setsid().context("cannot start a session")?;
        // SAFETY: the request takes an integer argument and touches no memory of ours.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
            return Err(Errno::last()).context("cannot take the terminal");
        }
    }
    let mut env = spec.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), home(spec.uid)));
    }
    limit_capabilities(&spec.capabilities)?;
    let groups: Vec<Gid> = spec.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).context("cannot set groups")?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    setresgid(gid, gid, gid).context("cannot set the group")?;
    setresuid(uid, uid, uid).context("cannot set the user")?;
    // Changing the user has cleared it.
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the process to its parent")?;
    if spec.no_new_privileges {
        prctl::set_no_new_privs().context("cannot forbid new privileges")?;
    }
    chdir(spec.directory.as_str()).with_context(|| format!("cannot enter the working directory {}", spec.directory))?;
    let arguments = strings(spec.argv.iter().cloned())?;
    let environment = strings(env.iter().map(|(name, value)| format!("{name}={value}")))?;
    let program = spec.argv.first().context("no command specified")?;
    supervise::unblock_signals()?;
    let mut failure = anyhow!("exec: \"{program}\": executable file not found in $PATH");
    for candidate in candidates(program, &env) {
        let path = strings(std::iter::once(candidate.display().to_string()))?;
        let Some(path) = path.first() else { continue };
        match execve(path, &arguments, &environment) {
            Ok(never) => return Ok(never),
            Err(Errno::ENOENT) if !program.contains('/') => {}
            Err(errno) => failure = anyhow!("exec: \"{program}\": {}", described(errno)),
        }
    }
    Err(failure)
}

fn described(errno: Errno) -> String {
    if errno == Errno::EACCES {
        "permission denied".to_owned()
    } else {
        errno.desc().to_lowercase()
    }
}

/// Files that `program` may mean: itself when it has a slash, else in the directories of the container's PATH.
fn candidates(program: &str, env: &[(String, String)]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    path.map_or("", |(_, value)| value)
        .split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(program))
        .collect()
}

/// Takes everything else out of the bounding set. What root then executes has just these; what another user executes has
/// none, as in any container engine without ambient capabilities.
fn limit_capabilities(kept: &[u8]) -> anyhow::Result<()> {
    for number in (0..=CAPABILITIES).filter(|number| !kept.contains(number)) {
        // SAFETY: the call takes integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } < 0 {
            let errno = Errno::last();
            if errno == Errno::EINVAL {
                break;
            }
            bail!("cannot drop capability {number}: {errno}");
        }
    }
    Ok(())
}

/// What `/etc/passwd` says; `/` for a user that it doesn't know.
fn home(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let wanted = uid.to_string();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.nth(2)? == wanted)
            .then(|| fields.nth(2).map(str::to_owned))
            .flatten()
    });
    found.unwrap_or_else(|| "/".to_owned())
}

fn strings(list: impl Iterator<Item = String>) -> anyhow::Result<Vec<CString>> {
    list.map(|text| CString::new(text).context("a NUL byte in the command or its environment"))
        .collect()
}
