//! The streams of one `exec` or `attach`, whatever they came over.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::super::launcher::{self, Stdio3};
use super::super::log_file::Stream;
use super::super::registry::ContainerEntry;
use super::super::terminal::Terminal;
use super::super::{command, container};

/// Bytes that a stream holds for a side that is slow.
pub(super) const ROOM: usize = 64 << 10;

/// The kubelet's ends.
#[derive(Default)]
pub(super) struct Session {
    pub(super) stdin: Option<DuplexStream>,
    pub(super) stdout: Option<DuplexStream>,
    pub(super) stderr: Option<DuplexStream>,
    /// Takes one Status at the end.
    pub(super) error: Option<DuplexStream>,
    /// Columns and rows.
    pub(super) resize: Option<mpsc::Receiver<(u16, u16)>>,
}

/// How large a client's terminal is, as it says in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

/// Which streams a request wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    pub(super) fn of(query: &super::Query) -> Self {
        let any = |short: &str, long: &str| query.flag(short) || query.flag(long);
        let tty = query.flag("tty");
        Self {
            stdin: any("input", "stdin"),
            stdout: any("output", "stdout"),
            stderr: any("error", "stderr") && !tty,
            tty,
        }
    }
}

/// What a session is for.
pub(super) enum Purpose {
    Exec {
        entry: ContainerEntry,
        argv: Vec<String>,
        tty: bool,
    },
    Attach {
        entry: ContainerEntry,
    },
}

impl Purpose {
    /// Serves to the end, and says how it went.
    pub(super) async fn run(self, mut session: Session) {
        let error = session.error.take();
        let status = match self {
            Self::Exec { entry, argv, tty } => exec(entry, argv, tty, session).await,
            Self::Attach { entry } => attach(entry, session).await,
        };
        if let Some(mut error) = error {
            // A client that has gone does not want to know.
            drop(error.write_all(status.to_string().as_bytes()).await);
            drop(error.shutdown().await);
        }
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn failure(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500})
}

fn exit(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

async fn exec(entry: ContainerEntry, argv: Vec<String>, tty: bool, session: Session) -> Value {
    let Some(inside) = entry.inside else {
        return failure("container not running");
    };
    let mut terminal = None;
    let stdio = if tty {
        match Terminal::open().and_then(|(own, end)| Ok((own, container::on_terminal(end)?))) {
            Ok((own, stdio)) => {
                terminal = Some(own);
                stdio
            }
            Err(error) => return failure(&error.to_string()),
        }
    } else {
        use std::process::Stdio;
        Stdio3 {
            stdin: if session.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            },
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
        }
    };
    let mut child = match command::start(&inside, argv, tty, stdio).await {
        Ok(child) => child,
        Err(error) => return failure(&error.to_string()),
    };
    let resizing = session
        .resize
        .zip(terminal.clone())
        .map(|(sizes, terminal)| tokio::spawn(resize(sizes, terminal)));
    let stdin = session.stdin;
    let input = match (&terminal, child.stdin.take()) {
        (Some(terminal), _) => {
            let mut terminal = terminal.clone();
            tokio::spawn(async move { feed(stdin, &mut terminal).await })
        }
        (None, Some(mut pipe)) => tokio::spawn(async move { feed(stdin, &mut pipe).await }),
        (None, None) => tokio::spawn(async {}),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let out = async {
        match (terminal, stdout) {
            (Some(terminal), _) => copy(terminal, session.stdout).await,
            (None, Some(pipe)) => copy(pipe, session.stdout).await,
            (None, None) => true,
        }
    };
    let errors = async {
        match stderr {
            Some(pipe) => copy(pipe, session.stderr).await,
            None => true,
        }
    };
    let (out, errors) = tokio::join!(out, errors);
    if !(out && errors) {
        // Nobody listens any more.
        launcher::signal(&child, nix::sys::signal::Signal::SIGKILL);
    }
    let status = child.wait().await;
    input.abort();
    if let Some(resizing) = resizing {
        resizing.abort();
    }
    exit(status.ok().and_then(|status| status.code()).unwrap_or(137))
}

async fn attach(entry: ContainerEntry, session: Session) -> Value {
    let Some(output) = entry.output else {
        return failure("container not running");
    };
    let mut pieces = output.listen();
    let resizing = session
        .resize
        .zip(output.terminal.clone())
        .map(|(sizes, terminal)| tokio::spawn(resize(sizes, terminal)));
    let input = {
        let (output, stdin, once) = (output.clone(), session.stdin, entry.stdin_once);
        tokio::spawn(async move {
            let mut own = output.input.lock().await;
            if let (Some(input), true) = (own.as_mut(), stdin.is_some()) {
                feed(stdin, input).await;
                if once {
                    *own = None;
                }
            }
        })
    };
    let (mut stdout, mut stderr) = (session.stdout, session.stderr);
    if *output.ended.borrow() {
        return success();
    }
    while let Some((stream, bytes)) = pieces.recv().await {
        let to = match stream {
            Stream::Stdout => &mut stdout,
            Stream::Stderr => &mut stderr,
        };
        if let Some(to) = to
            && to.write_all(&bytes).await.is_err()
        {
            break;
        }
    }
    input.abort();
    if let Some(resizing) = resizing {
        resizing.abort();
    }
    success()
}

async fn feed(from: Option<DuplexStream>, to: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    if let Some(mut from) = from {
        // A process that no longer reads is no failure.
        drop(tokio::io::copy(&mut from, to).await);
        drop(to.shutdown().await);
    }
}

/// Whether the other side took everything.
async fn copy(mut from: impl AsyncRead + Unpin, to: Option<DuplexStream>) -> bool {
    let Some(mut to) = to else {
        drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
        return true;
    };
    let mut buffer = vec![0; ROOM];
    while let Ok(count) = from.read(&mut buffer).await
        && let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty())
    {
        if to.write_all(bytes).await.is_err() {
            return false;
        }
    }
    drop(to.shutdown().await);
    true
}

async fn resize(mut sizes: mpsc::Receiver<(u16, u16)>, terminal: Terminal) {
    while let Some((columns, rows)) = sizes.recv().await {
        terminal.resize(columns, rows);
    }
}
