//! Running the machine's own programs (`ip`, `ethtool`, …) with errors that say what failed and why.

pub mod kubernetes;

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail, ensure};

/// Debian packages of the programs that the testbed calls, for the hint when one is missing.
const PACKAGES: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
];

/// A command that is killed when the calling *thread* ends: start it on a thread that outlives it.
#[must_use]
pub fn bound(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // A Ctrl-C on the terminal is for the testbed, which then ends its children in order.
    command.process_group(0);
    let parent = nix::unistd::getpid();
    let after_fork = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
    };
    // SAFETY: only system calls that are safe after fork; nothing is allocated or locked.
    unsafe { command.pre_exec(after_fork) };
    command
}

/// The program that the environment variable `variable` names, else what `otherwise` finds.
///
/// # Errors
/// When there is none; `hint` says how to get it.
pub fn program(
    variable: &str,
    hint: &str,
    otherwise: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let Some(path) = std::env::var_os(variable) else {
        return otherwise().with_context(|| format!("{variable} is not set; {hint}"));
    };
    let path = PathBuf::from(path);
    ensure!(
        path.is_file(),
        "{variable} names {}, which does not exist; {hint}",
        path.display()
    );
    Ok(path)
}

/// A program of this package, built beside the one that runs.
///
/// # Errors
/// When it is not there.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    // target/<profile>/deps/<test>, or target/<profile>/<program>.
    let me = std::env::current_exe().context("cannot tell where this program is")?;
    let mut beside = me.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    beside.find(|path| path.is_file()).with_context(|| {
        format!(
            "there is no {name} beside {}; `cargo build -p kubelb-tests --bins` builds it",
            me.display()
        )
    })
}

/// Runs `command` to its end and returns what it printed to standard output.
///
/// # Errors
/// When it can't be started or does not exit with 0; its standard error is in the message.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = show(command);
    let output = finish(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something that is not UTF-8"))
}

/// Runs `command` to its end, whatever it says.
///
/// # Errors
/// When it can't be started.
pub fn finish(command: &mut Command) -> anyhow::Result<Output> {
    let shown = show(command);
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| explain(command.get_program(), error))
        .with_context(|| format!("cannot run `{shown}`"))
}

/// `error`, which starting `program` gave, with the package to install when it is missing.
#[must_use]
pub fn explain(program: &OsStr, error: io::Error) -> anyhow::Error {
    let package = PACKAGES.iter().find(|(name, _)| program == *name);
    match package {
        Some((name, package)) if error.kind() == io::ErrorKind::NotFound => {
            anyhow::anyhow!("{name} is not installed: apt-get install {package} (or `cargo xtask setup`)")
        }
        _ => error.into(),
    }
}

/// The command line, for messages.
#[must_use]
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Names the missing privilege at once instead of somewhere in the middle.
///
/// # Errors
/// When the process isn't root.
pub fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("this needs root: it makes network namespaces and loads eBPF programs. Run it with sudo")
}
