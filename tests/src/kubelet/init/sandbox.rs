//! The process that holds what the containers of a Pod share: network, host name, memory.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::launch::{NetworkSpec, SandboxSpec};
use super::report::Report;
use super::supervise;
use crate::tool;

/// Makes the namespaces and wires the network. The PID namespace is that of the next child.
pub(super) fn enter(spec: &SandboxSpec) -> anyhow::Result<()> {
    if let Some(network) = &spec.network {
        wire(network, &spec.sysctls)?;
    }
    let flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
    unshare(flags).context("cannot make namespaces")?;
    super::root::keep_mounts_inside()?;
    nix::unistd::sethostname(&spec.hostname).context("cannot set the host name")?;
    memory(&spec.run, None, "mode=0755")?;
    for (directory, limit) in &spec.memory {
        memory(directory, *limit, "mode=1777")?;
    }
    Ok(())
}

/// Says that all is ready, and waits for the end.
pub(super) fn hold(_spec: &SandboxSpec, report: &mut Report) -> anyhow::Result<i32> {
    report.process()?;
    report.close();
    supervise::reap_for_ever()
}

fn wire(network: &NetworkSpec, sysctls: &[(String, String)]) -> anyhow::Result<()> {
    let own = "/proc/self/ns/net";
    let open = || File::open(own).with_context(|| format!("cannot open {own}"));
    let node = open()?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let pod = open()?;
    for (key, value) in sysctls {
        let path = Path::new("/proc/sys").join(key);
        std::fs::write(&path, value).with_context(|| format!("cannot set {} to {value}", path.display()))?;
    }
    ip(&network.pod)?;
    setns(node.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter the node's network namespace")?;
    ip(&network.node)?;
    setns(pod.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter the Pod's network namespace")
}

fn ip(batch: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| tool::explain("ip".as_ref(), error))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes()).context("ip does not read")?;
    }
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn memory(directory: &Path, limit: Option<u64>, mode: &str) -> anyhow::Result<()> {
    let options = limit.map_or_else(|| mode.to_owned(), |limit| format!("{mode},size={limit}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("cannot mount memory on {}", directory.display()))
}
