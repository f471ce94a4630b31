//! The pipe on which a started process says who it is and what went wrong. Its end without an error means success.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::super::launch::REPORT_FD;

/// The writing end.
pub(super) struct Report(Option<File>);

impl Report {
    /// Takes the descriptor that the kubelet has left for it; without one, nothing is reported.
    pub(super) fn open() -> Self {
        // SAFETY: the kubelet duplicates the pipe to this number before it executes this program, and nothing of this
        // process has opened or taken a descriptor yet; `fcntl` below refuses a number that is not open.
        let fd = unsafe { OwnedFd::from_raw_fd(REPORT_FD) };
        if fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
            std::mem::forget(fd);
            return Self(None);
        }
        debug_assert_eq!(fd.as_raw_fd(), REPORT_FD);
        Self(Some(File::from(fd)))
    }

    /// Says which process this is, as the machine counts.
    pub(super) fn process(&mut self) -> anyhow::Result<()> {
        // The machine's /proc is still the one that is mounted, so this is the machine's number, not the namespace's.
        let own = std::fs::read_link("/proc/self").context("/proc is not mounted")?;
        self.line(&format!("pid {}", own.display()));
        Ok(())
    }

    /// Says that something is not as it should be, and goes on.
    pub(super) fn error(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}").replace('\n', " ");
        self.line(&format!("error {text}"));
    }

    /// Gives the pipe up; the child has it.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }

    fn line(&mut self, text: &str) {
        if let Some(pipe) = &mut self.0 {
            // A kubelet that no longer reads has ended, and this process with it.
            drop(writeln!(pipe, "{text}"));
        }
    }
}
