//! The server under test: the program beside this one, in a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;

/// Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    kubeconfig: PathBuf,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new().context("cannot make a directory")?;
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let program = own.with_file_name("apiserver");
        let mut child = Command::new(&program)
            .arg("--data")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        let ready = child.stdout.take().context("the server has no output")?;
        BufReader::new(ready).read_line(&mut line)?;
        Ok(Self {
            child,
            kubeconfig: PathBuf::from(line.trim()),
            directory,
        })
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Host and port.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(&self.kubeconfig)?;
        let (_, rest) = text
            .split_once("server: https://")
            .context("no address in the kubeconfig")?;
        Ok(rest.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Of the administrator.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.directory.path().join("token"))?)
    }

    /// PEM.
    pub(crate) fn ca(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.directory.path().join("ca.crt"))?)
    }
}
