//! Where a running container's output goes (its log, and whoever is attached) and where its input comes from.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::clock;
use super::log_file::{LogFile, Stream};
use super::terminal::Terminal;

const CHUNK: usize = 16 << 10;
/// Chunks that one who is attached may lag behind.
const BEHIND: usize = 64;
/// How long a container waits for one who is attached and does not read.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is written to a container.
pub(super) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// One run's output and input.
pub(super) struct Output {
    log: Mutex<LogFile>,
    listeners: Mutex<Vec<mpsc::Sender<(Stream, Bytes)>>>,
    /// Taken by the one who is attached with it.
    pub(super) input: tokio::sync::Mutex<Option<Input>>,
    pub(super) terminal: Option<Terminal>,
    /// Changes when something was written.
    pub(super) written: watch::Sender<u64>,
    pub(super) ended: watch::Sender<bool>,
}

impl Output {
    pub(super) fn create(log: &Path, input: Option<Input>, terminal: Option<Terminal>) -> std::io::Result<Self> {
        Ok(Self {
            log: Mutex::new(LogFile::create(log)?),
            listeners: Mutex::new(Vec::new()),
            input: tokio::sync::Mutex::new(input),
            terminal,
            written: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        })
    }

    /// Everything that is written from now on.
    pub(super) fn listen(&self) -> mpsc::Receiver<(Stream, Bytes)> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        receiver
    }

    /// Takes all that comes from `from`, to its end.
    pub(super) async fn pump(&self, stream: Stream, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = from.read(&mut buffer).await
            && let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty())
        {
            let logged = self.with_log(|log| log.append(stream, bytes, clock::now()));
            if let Err(error) = logged {
                eprintln!("warning: a container's output is not logged: {error}");
            }
            self.written.send_modify(|count| *count = count.wrapping_add(1));
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for listener in listeners {
                let sent = listener
                    .send_timeout((stream, Bytes::copy_from_slice(bytes)), PATIENCE)
                    .await;
                if sent.is_err() {
                    self.forget(&listener);
                }
            }
        }
    }

    /// Says that nothing comes any more.
    pub(super) fn end(&self) {
        if let Err(error) = self.with_log(|log| log.finish(clock::now())) {
            eprintln!("warning: a container's last output is not logged: {error}");
        }
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.ended.send_replace(true);
        self.written.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn with_log<T>(&self, work: impl FnOnce(&mut LogFile) -> T) -> T {
        work(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self, listener: &mpsc::Sender<(Stream, Bytes)>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|known| !known.same_channel(listener));
    }
}
