//! One SPDY connection with a client: its streams as byte streams. It does not know what they are for.
//!
//! SPDY has no flow control here, so that a stream whose reader is slow holds up the others of its connection.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex,
};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::task::TaskTracker;

use super::super::spdy::{
    CANCEL, DATA_LIMIT, Decoder, Encoder, Frame, HeaderError, Headers, PROTOCOL_ERROR, REFUSED_STREAM,
};
use super::session::ROOM;

/// Streams that a client may have open at a time; more are refused.
const STREAMS: usize = 1024;
/// Frames that wait for a slow client, and streams that wait to be taken.
const WAITING: usize = 16;
/// For a client to take what is left, and to leave.
const LINGER: Duration = Duration::from_secs(2);

/// A stream that the client has opened. Dropped, it ends.
pub(super) struct Opened {
    pub(super) headers: Headers,
    pub(super) bytes: DuplexStream,
}

/// Dropped, it ends at once.
pub(super) struct Connection {
    opened: mpsc::Receiver<Opened>,
    frames: mpsc::Sender<Frame>,
    pumps: TaskTracker,
    last: Arc<AtomicU32>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Connection {
    /// Serves the streams for whose headers `wanted` says so.
    pub(super) fn start<S>(io: S, wanted: fn(&Headers) -> bool) -> Result<Self, HeaderError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let encoder = Encoder::new()?;
        let (from, to) = tokio::io::split(io);
        let (frames, messages) = mpsc::channel(WAITING);
        let (open, opened) = mpsc::channel(WAITING);
        let (pumps, last) = (TaskTracker::new(), Arc::default());
        let reader = Reader {
            frames: frames.clone(),
            open,
            pumps: pumps.clone(),
            last: Arc::clone(&last),
            wanted,
            streams: BTreeMap::new(),
        };
        Ok(Self {
            opened,
            frames,
            pumps,
            last,
            reader: tokio::spawn(reader.run(from)),
            writer: tokio::spawn(write(to, messages, encoder)),
        })
    }

    /// `None` when the client has gone.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        self.opened.recv().await
    }

    /// Streams that the client opens from now on are refused.
    pub(super) fn refuse_more(&mut self) {
        self.opened.close();
    }

    /// To be called when all streams were dropped: sends what is left of them, says goodbye and waits a moment for the client
    /// to leave.
    pub(super) async fn close(mut self) {
        self.refuse_more();
        self.pumps.close();
        let goodbye = Frame::GoAway {
            last_good: self.last.load(Ordering::Relaxed),
            status: 0,
        };
        let end = async {
            self.pumps.wait().await;
            // The writer ends only with the connection, and then there is nobody to tell.
            drop(self.frames.send(goodbye).await);
            // That it was cancelled cannot be.
            drop((&mut self.reader).await);
        };
        // A client that stays is left.
        drop(tokio::time::timeout(LINGER, end).await);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// What the client writes goes to `input`, until it says that nothing more comes; what is to be sent is read by `pump`.
struct Served {
    input: Option<WriteHalf<DuplexStream>>,
    pump: AbortHandle,
}

struct Reader {
    frames: mpsc::Sender<Frame>,
    open: mpsc::Sender<Opened>,
    pumps: TaskTracker,
    last: Arc<AtomicU32>,
    wanted: fn(&Headers) -> bool,
    streams: BTreeMap<u32, Served>,
}

impl Reader {
    async fn run<S: AsyncRead>(mut self, mut from: ReadHalf<S>) {
        let mut decoder = Decoder::new();
        let mut buffer = vec![0; ROOM];
        while let Ok(count) = from.read(&mut buffer).await
            && let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty())
        {
            decoder.feed(bytes);
            loop {
                match decoder.next() {
                    Ok(Some(Frame::GoAway { .. })) => return,
                    Ok(Some(frame)) => self.take(frame).await,
                    Ok(None) => break,
                    Err(error) => {
                        eprintln!("warning: a client's SPDY connection ends: {error}");
                        return;
                    }
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                if let Err(status) = self.accept(stream, fin, headers).await {
                    self.send(Frame::Reset { stream, status }).await;
                }
            }
            Frame::Data { stream, fin, bytes } => {
                let Some(served) = self.streams.get_mut(&stream) else {
                    return;
                };
                if let Some(input) = &mut served.input {
                    // Whoever reads may have had enough, and still have something to say.
                    let taken = input.write_all(&bytes).await;
                    if fin {
                        drop(input.shutdown().await);
                    }
                    if fin || taken.is_err() {
                        served.input = None;
                    }
                }
            }
            Frame::Reset { stream, .. } => drop(self.streams.remove(&stream)),
            // Even ones would be answers, and this side asks for none.
            Frame::Ping { id } if id % 2 == 1 => self.send(Frame::Ping { id }).await,
            Frame::Ping { .. } | Frame::SynReply { .. } | Frame::GoAway { .. } => {}
        }
    }

    /// The status of a reset when the stream is not accepted.
    async fn accept(&mut self, stream: u32, fin: bool, headers: Headers) -> Result<(), u32> {
        if stream.is_multiple_of(2) || stream <= self.last.load(Ordering::Relaxed) {
            return Err(PROTOCOL_ERROR);
        }
        self.last.store(stream, Ordering::Relaxed);
        self.streams
            .retain(|_, served| served.input.is_some() || !served.pump.is_finished());
        if self.streams.len() >= STREAMS || self.open.is_closed() || !(self.wanted)(&headers) {
            return Err(REFUSED_STREAM);
        }
        self.send(Frame::SynReply {
            stream,
            fin: false,
            headers: Headers::new(),
        })
        .await;
        let (bytes, other) = duplex(ROOM);
        let (from, mut input) = tokio::io::split(other);
        let pump = self.pumps.spawn(pump(stream, from, self.frames.clone()));
        if fin {
            drop(input.shutdown().await);
        }
        let served = Served {
            input: (!fin).then_some(input),
            pump: pump.abort_handle(),
        };
        self.streams.insert(stream, served);
        self.open
            .send(Opened { headers, bytes })
            .await
            .map_err(|_closed| CANCEL)
    }

    async fn send(&self, frame: Frame) {
        // A client that takes nothing any more will be seen to have gone.
        drop(self.frames.send(frame).await);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // With both halves the stream ends for whoever serves it.
        self.pump.abort();
    }
}

/// Sends what `from` gives, and that it was all.
async fn pump(stream: u32, mut from: ReadHalf<DuplexStream>, to: mpsc::Sender<Frame>) {
    let mut buffer = vec![0; DATA_LIMIT];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or_default();
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        let fin = bytes.is_empty();
        if to.send(Frame::Data { stream, fin, bytes }).await.is_err() || fin {
            return;
        }
    }
}

async fn write<S: AsyncWrite>(mut to: WriteHalf<S>, mut frames: mpsc::Receiver<Frame>, mut encoder: Encoder) {
    let mut out = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        if let Err(error) = encoder.encode(&frame, &mut out) {
            eprintln!("warning: a SPDY connection ends: {error}");
            return;
        }
        if to.write_all(&out).await.is_err() || to.flush().await.is_err() {
            return;
        }
        out.clear();
    }
}
