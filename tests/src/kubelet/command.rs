//! Commands inside a running container.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::process::Child;

use super::launch::{EXEC, ProcessSpec};
use super::launcher::{self, StartError, Started, Stdio3};
use super::probing::read_some;

/// A running container, as commands in it need to know it.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    /// Its process on the machine.
    pub(super) pid: i32,
    /// What it runs as; commands differ in their words only.
    pub(super) process: ProcessSpec,
    /// Directory for the files that tell a started process what to do.
    pub(super) directory: PathBuf,
}

/// Starts a command.
pub(super) async fn start(
    inside: &Inside,
    argv: Vec<String>,
    terminal: bool,
    stdio: Stdio3,
) -> Result<Child, StartError> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut process = inside.process.clone();
    process.argv = argv;
    process.terminal = terminal;
    if terminal && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let file = inside
        .directory
        .join(format!("exec-{}.json", SERIAL.fetch_add(1, Ordering::Relaxed)));
    let text = serde_json::to_vec(&process).map_err(std::io::Error::from)?;
    std::fs::write(&file, text)?;
    let arguments = [file.into_os_string(), inside.pid.to_string().into()];
    let Started { child, .. } = launcher::start(EXEC, &arguments, stdio).await?;
    Ok(child)
}

/// Runs a command to its end: its exit code and the beginning of what it printed. Dropped, it kills the command.
pub(super) async fn output(inside: &Inside, argv: Vec<String>, limit: u64) -> Result<(i32, String), StartError> {
    let stdio = Stdio3 {
        stdin: Stdio::null(),
        stdout: Stdio::piped(),
        stderr: Stdio::piped(),
    };
    let mut child = start(inside, argv, false, stdio).await?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async |pipe: Option<tokio::process::ChildStdout>| match pipe {
        Some(pipe) => read_some(pipe, limit).await,
        None => Vec::new(),
    };
    let read_errors = async |pipe: Option<tokio::process::ChildStderr>| match pipe {
        Some(pipe) => read_some(pipe, limit).await,
        None => Vec::new(),
    };
    let (mut text, errors) = tokio::join!(read(stdout), read_errors(stderr));
    text.extend(errors);
    let status = child.wait().await?;
    Ok((
        status.code().unwrap_or(137),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
