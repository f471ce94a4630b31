//! Servers that answer with their own name, so that a client can count who served it.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::answer;
use crate::netns::Namespace;

/// Clients remembered for [`Server::peers`]; more are counted, not remembered.
const MAX_PEERS: usize = 100_000;
/// Longest line that a client may send.
const MAX_LINE: usize = 64 * 1024;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP: answers every line.
    Tcp,
    /// HTTP/1.1, one request a connection: the body is the server's name.
    Http,
    /// UDP: answers every datagram.
    Udp,
}

/// A running server, stopped on drop: its port is closed and its connections are reset.
#[derive(Debug)]
pub struct Server {
    port: u16,
    seen: Arc<Seen>,
    stop: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Debug, Default)]
struct Seen {
    flows: AtomicU64,
    peers: Mutex<BTreeSet<SocketAddr>>,
}

impl Seen {
    fn note(&self, peer: SocketAddr) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // A v4 client of a dual-stack socket shows as v4-mapped.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if peers.len() < MAX_PEERS {
            peers.insert(peer);
        }
    }
}

impl Server {
    /// Starts one in `namespace` on `port` (0: a free one) of every address, v4 and v6. It takes requests when this returns.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace, kind: Kind, name: &str, port: u16) -> anyhow::Result<Self> {
        let seen = Arc::new(Seen::default());
        let stop = CancellationToken::new();
        let (ready, bound) = mpsc::sync_channel(1);
        let serve = {
            let (seen, stop, name) = (seen.clone(), stop.clone(), Arc::<str>::from(name));
            move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("cannot start a runtime")?;
                runtime.block_on(async {
                    let work = async {
                        match kind {
                            Kind::Udp => serve_udp(port, &name, &seen, ready).await,
                            Kind::Tcp | Kind::Http => serve_tcp(kind, port, &name, &seen, ready).await,
                        }
                    };
                    tokio::select! {
                        () = stop.cancelled() => Ok(()),
                        result = work => result,
                    }
                })
            }
        };
        let thread = namespace.spawn(serve)?;
        let thread = std::thread::spawn(move || thread.join().map_err(|_panic| anyhow!("the server panicked"))??);
        match bound.recv() {
            Ok(port) => Ok(Self {
                port,
                seen,
                stop,
                thread: Some(thread),
            }),
            Err(mpsc::RecvError) => {
                let result = thread.join().map_err(|_panic| anyhow!("the server panicked"))?;
                Err(result
                    .err()
                    .unwrap_or_else(|| anyhow!("the server ended before it was ready")))
            }
        }
        .with_context(|| format!("cannot start server {name} on port {port} in {}", namespace.name()))
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests taken: connections with at least one request, HTTP requests, or datagrams. A bare connect (a health check)
    /// does not count.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.seen.flows.load(Ordering::Relaxed)
    }

    /// Source addresses of those requests.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<SocketAddr> {
        self.seen.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it as a killed process would: the port refuses, open connections are reset.
    ///
    /// # Errors
    /// When it had failed before.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_panic)) => Err(anyhow!("the server panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: a server on port {} had failed: {error:#}", self.port);
        }
    }
}

async fn serve_udp(port: u16, name: &str, seen: &Seen, ready: mpsc::SyncSender<u16>) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .await
        .context("cannot bind")?;
    ready
        .send(socket.local_addr()?.port())
        .context("nobody waits for the server")?;
    let mut buffer = vec![0; 65_536];
    loop {
        // An ICMP error for an answer (its client is gone) is reported by the next call: not this server's trouble.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        seen.flows.fetch_add(1, Ordering::Relaxed);
        seen.note(peer);
        let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        // As for receiving: a client that went away loses its answer, nothing else.
        drop(socket.send_to(answer(name, &said).as_bytes(), peer).await);
    }
}

async fn serve_tcp(
    kind: Kind,
    port: u16,
    name: &Arc<str>,
    seen: &Arc<Seen>,
    ready: mpsc::SyncSender<u16>,
) -> anyhow::Result<()> {
    let listener = listen(port).context("cannot listen")?;
    ready
        .send(listener.local_addr()?.port())
        .context("nobody waits for the server")?;
    loop {
        let (stream, peer) = listener.accept().await.context("cannot accept")?;
        let (name, seen) = (name.clone(), seen.clone());
        // Bounded by what tests open. Dropped with the runtime, when the lingering of zero turns each into a reset.
        drop(tokio::spawn(async move {
            let done = match kind {
                Kind::Http => one_request(stream, peer, &name, &seen).await,
                Kind::Tcp | Kind::Udp => lines(stream, peer, &name, &seen).await,
            };
            // A client may hang up whenever it likes.
            drop(done);
        }));
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    // A Rust socket is dual-stack unless net.ipv6.bindv6only says otherwise, which new namespaces don't.
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    socket.listen(4_096)
}

async fn lines(mut stream: TcpStream, peer: SocketAddr, name: &str, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    reset_on_close(&stream, true)?;
    let mut first = true;
    loop {
        let mut line = String::new();
        if !read_line(&mut stream, &mut line).await? {
            // The client is done, so this connection ends in peace.
            return reset_on_close(&stream, false);
        }
        if std::mem::take(&mut first) {
            seen.flows.fetch_add(1, Ordering::Relaxed);
            seen.note(peer);
        }
        let mut reply = answer(name, line.trim_end());
        reply.push('\n');
        stream.write_all(reply.as_bytes()).await?;
    }
}

async fn one_request(mut stream: TcpStream, peer: SocketAddr, name: &str, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    reset_on_close(&stream, true)?;
    let mut line = String::new();
    let mut lines = 0;
    loop {
        line.clear();
        if !read_line(&mut stream, &mut line).await? {
            return reset_on_close(&stream, false);
        }
        if lines == 0 {
            seen.flows.fetch_add(1, Ordering::Relaxed);
            seen.note(peer);
        }
        lines += 1;
        if line.trim_end().is_empty() {
            break;
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        name.len()
    );
    stream.write_all(format!("{head}{name}").as_bytes()).await?;
    stream.shutdown().await?;
    // Wait for the client's end, or the close could overtake the answer.
    stream.read_to_end(&mut Vec::new()).await?;
    reset_on_close(&stream, false)
}

/// False at the end of the stream. Reads byte by byte, so that nothing is taken that belongs to the next line.
async fn read_line(stream: &mut TcpStream, line: &mut String) -> std::io::Result<bool> {
    let mut bytes = Vec::new();
    loop {
        let byte = match stream.read_u8().await {
            Ok(byte) => byte,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        };
        bytes.push(byte);
        if byte == b'\n' || bytes.len() >= MAX_LINE {
            line.push_str(&String::from_utf8_lossy(&bytes));
            return Ok(true);
        }
    }
}

/// Whether closing `stream` is a reset (lingering of zero, socket(7)) or an orderly end.
fn reset_on_close(stream: &TcpStream, reset: bool) -> std::io::Result<()> {
    let linger = libc::linger {
        l_onoff: i32::from(reset),
        l_linger: 0,
    };
    Ok(setsockopt(stream, sockopt::Linger, &linger)?)
}
