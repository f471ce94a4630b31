//! Connections to ports inside a Pod, each over a pair of streams: data, and what went wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as Blocking};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncWriteExt as _, DuplexStream, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::spdy::Headers;
use super::multiplex::{Connection, Opened};

/// The one version, as clients name it.
pub(super) const VERSIONS: [&str; 1] = ["portforward.k8s.io"];

const WITHIN: Duration = Duration::from_secs(10);
/// Streams that may wait for the other one of their pair.
const SINGLE: usize = 64;

/// The stream that has come first.
struct Single {
    is_error: bool,
    bytes: DuplexStream,
}

/// Whether a stream is half of a connection: which half, to which port, and what both halves have in common.
fn half(headers: &Headers) -> Option<(bool, u16, &str)> {
    let is_error = match headers.get("streamtype").map(String::as_str) {
        Some("error") => true,
        Some("data") => false,
        _ => return None,
    };
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    Some((is_error, port, headers.get("requestid")?))
}

pub(super) fn is_half(headers: &Headers) -> bool {
    half(headers).is_some()
}

/// Serves until the client goes; `connect` makes connections to ports of `pod`.
pub(super) async fn serve<C>(mut connection: Connection, pod: &str, connect: impl Fn(u16) -> C)
where
    C: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    let mut singles: BTreeMap<String, Single> = BTreeMap::new();
    let mut pairs = JoinSet::new();
    while let Some(Opened { headers, bytes }) = connection.next().await {
        while pairs.try_join_next().is_some() {}
        let Some((is_error, port, request)) = half(&headers) else {
            continue;
        };
        match singles.remove(request) {
            Some(first) if first.is_error != is_error => {
                let (data, error) = if is_error {
                    (first.bytes, bytes)
                } else {
                    (bytes, first.bytes)
                };
                pairs.spawn(pair(data, error, connect(port), format!("port {port} to pod {pod}")));
            }
            _ => {
                if singles.len() >= SINGLE {
                    drop(singles.pop_first());
                }
                singles.insert(request.to_owned(), Single { is_error, bytes });
            }
        }
    }
}

async fn pair(
    mut data: DuplexStream,
    mut error: DuplexStream,
    connect: impl Future<Output = io::Result<TcpStream>>,
    what: String,
) {
    let failed = match connect.await {
        // How a connection ends is the business of those who talk over it.
        Ok(mut stream) => return drop(copy_bidirectional(&mut data, &mut stream).await),
        Err(failed) => failed,
    };
    let text = format!("error forwarding {what}: {failed}");
    // A client that has gone does not want to know.
    drop(error.write_all(text.as_bytes()).await);
    drop(error.shutdown().await);
}

/// Connects to a port on the loopback of the Pod whose namespaces process `sandbox` holds.
pub(super) async fn connect(sandbox: i32, port: u16) -> io::Result<TcpStream> {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own: it enters the namespace, and never comes back.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            let connected = File::open(format!("/proc/{sandbox}/ns/net")).and_then(|namespace| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                let stream =
                    Blocking::connect_timeout(&v4, WITHIN).or_else(|_error| Blocking::connect_timeout(&v6, WITHIN))?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            // Who asked may have gone.
            drop(tell.send(connected));
        })?;
    let stream = told.await.map_err(io::Error::other)??;
    TcpStream::from_std(stream)
}
