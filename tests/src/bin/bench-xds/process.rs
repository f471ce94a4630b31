//! What a process uses, by what the kernel says under `/proc`.

use std::time::Duration;

use anyhow::Context as _;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Its own: no file, no shared memory, no map.
    pub(crate) anonymous: u64,
    /// All that is resident.
    pub(crate) resident: u64,
    /// The most that ever was resident.
    pub(crate) peak: u64,
}

/// Memory of a process now.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes
            .map(|kilobytes| kilobytes * 1_024)
            .with_context(|| format!("no {name} in /proc/{pid}/status"))
    };
    Ok(Memory {
        anonymous: field("RssAnon:")?,
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// Time that a process has computed so far, all threads together.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat is not as expected")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let ticks = ticks().zip(ticks()).map(|(user, system)| user + system);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    let second = u32::try_from(per_second).unwrap_or(100).max(1);
    Ok(Duration::from_secs(1) * ticks.context("/proc/PID/stat is not as expected")? / second)
}
