//! One process of a control plane, with its log in a file.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{tool, wait};

/// How much of a log goes into an error.
const LOG_END: usize = 4000;

/// Killed on drop.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, whose errors go to the end of `<name>.log` in `directory`.
    pub(super) fn start(name: &'static str, command: &mut Command, directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|error| tool::explain(command.get_program(), error))
            .with_context(|| format!("cannot start `{}`", tool::show(command)))?;
        Ok(Self { name, child, log })
    }

    /// The first line that it prints; the rest is dropped.
    pub(super) fn first_line(&mut self, within: Duration) -> anyhow::Result<String> {
        let output = self.child.stdout.take().context("its output was read already")?;
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            // Nobody waits any more when the time is over.
            drop(sender.send(read.map(|_| line)));
        });
        let line = receiver
            .recv_timeout(within)
            .map_err(|error| anyhow!("{} said nothing: {error}", self.name))?
            .context("cannot read what it prints")?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => bail!("{} ended at once; its log ends with:\n{}", self.name, self.log_end()),
        }
    }

    /// # Errors
    /// When it has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot ask for its state")? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status})", self.name),
        }
    }

    /// SIGTERM, and its end.
    pub(super) fn terminate(mut self, within: Duration) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id is larger than any")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("cannot signal {}", self.name))?;
        wait::until(within, || self.check().err().context("it still runs").map(drop))
            .map(drop)
            .with_context(|| format!("{} does not end after SIGTERM", self.name))
    }

    /// The last lines of its log.
    pub(super) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let end = text.get(text.len().saturating_sub(LOG_END)..).unwrap_or_default();
        String::from_utf8_lossy(end).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
