//! Starts the kubelet's own program as the inside of a Pod, and hears from it whether that went well.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::launch::REPORT_FD;

/// This very program, also when its file has been replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";
const REPORT_WITHIN: Duration = Duration::from_secs(30);
/// A report is a few lines.
const LONGEST_REPORT: u64 = 1 << 16;

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The system refuses a process or a pipe.
    #[error("cannot start a process")]
    System(#[from] io::Error),
    /// What the started process said.
    #[error("{0}")]
    Refused(String),
    /// It said nothing.
    #[error("no answer within {}s", REPORT_WITHIN.as_secs())]
    Silent,
}

/// Standard input, output and error.
pub(super) struct Stdio3 {
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

impl Stdio3 {
    pub(super) fn null() -> Self {
        Self {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
        }
    }
}

/// A started process: the one to wait for and to signal, and the one inside, whose namespaces can be joined.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) inside: i32,
}

/// Starts the program as `role` and returns when what is inside runs. The process dies with the calling thread.
pub(super) async fn start(role: &str, arguments: &[OsString], stdio: Stdio3) -> Result<Started, StartError> {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
    let mut command = Command::new(PROGRAM);
    command
        .arg(role)
        .arg(std::process::id().to_string())
        .args(arguments)
        .stdin(stdio.stdin)
        .stdout(stdio.stdout)
        .stderr(stdio.stderr)
        .process_group(0)
        .kill_on_drop(true);
    let report = writing.as_raw_fd();
    let hand_over = move || {
        // SAFETY: only a system call on integers; `writing` is open until the command has been spawned, and the number it
        // gets is the runtime's in the parent, of no use in the child.
        if unsafe { libc::dup2(report, REPORT_FD) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call that is safe after fork; it allocates and locks nothing.
    unsafe { command.pre_exec(hand_over) };
    let child = command.spawn()?;
    drop(command);
    drop(writing);
    let (inside, failure) = tokio::time::timeout(REPORT_WITHIN, read_report(reading))
        .await
        .map_err(|_elapsed| StartError::Silent)??;
    match (inside, failure) {
        (Some(inside), None) => Ok(Started { child, inside }),
        (_, Some(failure)) => Err(StartError::Refused(failure)),
        (None, None) => Err(StartError::Refused("the process ended at once".to_owned())),
    }
}

async fn read_report(pipe: OwnedFd) -> io::Result<(Option<i32>, Option<String>)> {
    let mut text = String::new();
    Receiver::from_owned_fd(pipe)?
        .take(LONGEST_REPORT)
        .read_to_string(&mut text)
        .await?;
    let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    Ok((
        find("pid ").and_then(|pid| pid.parse().ok()),
        find("error ").map(str::to_owned),
    ))
}

/// Sends `signal` to what runs inside; SIGKILL too, which is handed on under another name.
pub(super) fn signal(child: &Child, signal: Signal) {
    let sent = if signal == Signal::SIGKILL {
        Signal::SIGUSR1
    } else {
        signal
    };
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended just now; it is not reaped as long as `child` has an id.
        kill(Pid::from_raw(pid), sent).ok();
    }
}

/// Ends a process that nobody has to be polite to, and waits for it.
pub(super) async fn end(mut child: Child) {
    signal(&child, Signal::SIGKILL);
    // Its exit code is of no interest.
    drop(child.wait().await);
}

/// A second descriptor of the same file.
pub(super) fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
