//! Waits for a child, hands on signals to it, and turns its end into an exit code.

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What is handed on. SIGUSR1 stands for SIGKILL, which cannot be handed on.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

fn waited_for() -> SigSet {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGUSR1);
    set.add(Signal::SIGCHLD);
    set
}

/// Keeps signals for [`supervise`]; to be called before the fork, so that none is lost.
pub(super) fn block_signals() -> anyhow::Result<()> {
    waited_for().thread_block().context("cannot block signals")
}

/// Undoes [`block_signals`] in a child that becomes another program.
pub(super) fn unblock_signals() -> anyhow::Result<()> {
    waited_for().thread_unblock().context("cannot unblock signals")
}

/// Waits until `child` ends; SIGUSR1 is handed on as `kill_by`. The exit code of a signal is 128 and its number.
pub(super) fn supervise(child: Pid, kill_by: Signal) -> i32 {
    let signals = waited_for();
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128_i32.saturating_add(signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return super::NOT_STARTED,
        }
        let signal = match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => continue,
            Ok(Signal::SIGUSR1) => kill_by,
            Ok(signal) => signal,
        };
        // It may have ended just now; the next round sees that.
        kill(child, signal).ok();
    }
}

/// Waits for orphans until the end of the process.
pub(super) fn reap_for_ever() -> ! {
    let signals = waited_for();
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        // Only the next signal matters, not which.
        signals.wait().ok();
    }
}
