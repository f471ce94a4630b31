//! The kubelet's program started again, as the inside of a Pod: one thread, so that it may fork and change namespaces
//! freely. Reads a [`super::launch`] file and does as it says; decides nothing.
//!
//! A Pod is a process that holds its namespaces, PID 1 of the Pod's PID namespace. Each container is PID 1 of a namespace
//! below that one, so that when the kubelet ends, however it ends, the kernel ends the Pod's process and with it all others.

mod join;
mod process;
mod report;
mod root;
mod sandbox;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork};
use serde::de::DeserializeOwned;

use super::launch::{CONTAINER, ContainerSpec, EXEC, SANDBOX, SandboxSpec};
use report::Report;

/// Exit code of a container whose process could not be started.
const NOT_STARTED: i32 = 128;

/// When this process was started as the inside of a Pod: does that, and returns its exit code.
#[must_use]
pub fn run_if_asked() -> Option<i32> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (first, rest) = arguments.split_first()?;
    let work: fn(&[OsString], &mut Report) -> anyhow::Result<i32> = match first.to_str()? {
        SANDBOX => sandbox,
        CONTAINER => container,
        EXEC => exec,
        _ => return None,
    };
    let mut report = Report::open();
    Some(match work(rest, &mut report) {
        Ok(code) => code,
        Err(error) => {
            report.error(&error);
            NOT_STARTED
        }
    })
}

/// `sandbox-init KUBELET-PID FILE`
fn sandbox(arguments: &[OsString], report: &mut Report) -> anyhow::Result<i32> {
    let [parent, file] = arguments else {
        bail!("want a process id and a file");
    };
    die_with(number(parent)?)?;
    let spec: SandboxSpec = read(Path::new(file))?;
    supervise::block_signals()?;
    sandbox::enter(&spec)?;
    match forked()? {
        Some(child) => {
            report.close();
            Ok(supervise::supervise(child, Signal::SIGKILL))
        }
        None => sandbox::hold(&spec, report),
    }
}

/// `container-init KUBELET-PID FILE SANDBOX-PID`
fn container(arguments: &[OsString], report: &mut Report) -> anyhow::Result<i32> {
    let [parent, file, pod] = arguments else {
        bail!("want a process id, a file and a process id");
    };
    die_with(number(parent)?)?;
    let spec: ContainerSpec = read(Path::new(file))?;
    supervise::block_signals()?;
    let pod = number(pod)?;
    join::pod(pod, !spec.host_pid)?;
    if spec.host_pid {
        return start(report, || process::container(&spec));
    }
    if let Some(child) = forked()? {
        report.close();
        return Ok(supervise::supervise(child, Signal::SIGUSR1));
    }
    // Now inside the Pod's PID namespace, where a further one can be made for the container.
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace")?;
    start(report, || process::container(&spec))
}

/// `container-exec KUBELET-PID FILE CONTAINER-PID`, where the file is the command's [`super::launch::ProcessSpec`]
fn exec(arguments: &[OsString], report: &mut Report) -> anyhow::Result<i32> {
    let [parent, file, target] = arguments else {
        bail!("want a process id, a file and a process id");
    };
    die_with(number(parent)?)?;
    let path = PathBuf::from(file);
    let spec = read(&path)?;
    // Of no use to anybody else.
    drop(std::fs::remove_file(&path));
    supervise::block_signals()?;
    join::container(number(target)?)?;
    start(report, || process::run(&spec))
}

/// Forks; the child becomes a program by `become_program`, which returns only when it fails.
fn start(
    report: &mut Report,
    become_program: impl FnOnce() -> anyhow::Result<std::convert::Infallible>,
) -> anyhow::Result<i32> {
    if let Some(child) = forked()? {
        report.close();
        return Ok(supervise::supervise(child, Signal::SIGKILL));
    }
    report.process()?;
    match become_program() {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// The child's id in the parent, `None` in the child.
fn forked() -> anyhow::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the process to its parent")?;
            Ok(None)
        }
    }
}

/// Ends this process when the thread of `parent` that started it ends.
fn die_with(parent: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the process to the kubelet")?;
    if nix::unistd::getppid() != Pid::from_raw(parent) {
        bail!("the kubelet has ended");
    }
    Ok(())
}

fn number(argument: &OsString) -> anyhow::Result<i32> {
    let text = argument.to_string_lossy();
    text.parse().with_context(|| format!("{text} is no process id"))
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| format!("cannot understand {}", path.display()))
}
