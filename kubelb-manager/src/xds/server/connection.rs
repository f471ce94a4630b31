//! Connections: accepted up to a limit, secured, served as HTTP/2, and ended in good order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frame::ResponseBody;
use super::{Count, Server, rpc};
use crate::identity::tls;

/// Streams of one connection: discovery, and reports beside it.
const MAX_CONCURRENT_STREAMS: u32 = 16;
/// Largest request head, in bytes: a token is in it.
const MAX_HEAD: u32 = 32 * 1024;
/// Pause after a failed `accept`, which would otherwise spin when file descriptors have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// A connection's age limit is stretched by up to this part of it.
const JITTER: u32 = 10;

/// What streams of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    /// Another one for each.
    pub(super) id: u64,
    /// An agent reports on it.
    pub(super) is_reporting: AtomicBool,
    pub(super) address: SocketAddr,
    /// End entity of the verified chain.
    pub(super) certificate: Option<CertificateDer<'static>>,
    /// Cancelled when the streams are to end.
    pub(super) ending: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Accepts until `shutdown`; returns when all connections have ended.
pub(super) async fn accept(server: Arc<Server>, listener: TcpListener, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(server.options.max_connections));
    let tasks = TaskTracker::new();
    let mut serial: u32 = 0;
    let mut id: u64 = 0;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                server.metrics.add(Count::Connections, "");
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    server.metrics.add(Count::Refused, "connections");
                    tracing::warn!(%address, "xDS connection closed: there are too many");
                    continue;
                };
                serial = serial.wrapping_add(1);
                id += 1;
                let age = age(server.options.max_connection_age, serial);
                let serving = serve(
                    Arc::clone(&server),
                    stream,
                    (id, address),
                    age,
                    shutdown.clone(),
                    tasks.clone(),
                );
                tasks.spawn(holding(place, serving));
            }
            Err(error) => {
                tracing::warn!(%error, "xDS server: accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    // Nobody is to wait for an answer of one who has stopped listening.
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn holding(place: OwnedSemaphorePermit, work: impl Future<Output = ()>) {
    work.await;
    drop(place);
}

/// The age at which the connection with this serial number is ended: spread evenly, without chance.
fn age(limit: Duration, serial: u32) -> Duration {
    // Multiples of the golden ratio are spread evenly modulo one.
    let fraction = serial.wrapping_mul(0x9E37_79B9) >> 16;
    limit + limit / JITTER * fraction / (1 << 16)
}

async fn serve(
    server: Arc<Server>,
    stream: TcpStream,
    (id, address): (u64, SocketAddr),
    age: Duration,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let drain = server.options.drain_timeout;
    let handshake = tokio::time::timeout(server.options.handshake_timeout, secure(&server, stream));
    let secured = tokio::select! {
        () = shutdown.cancelled() => return,
        secured = handshake => secured,
    };
    let stream = match secured {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let reason = tls::failure(&error);
            server.metrics.add(Count::HandshakesFailed, reason);
            tracing::warn!(%address, reason, %error, "xDS connection refused: TLS handshake failed");
            return;
        }
        Err(_elapsed) => {
            server.metrics.add(Count::HandshakesFailed, "timeout");
            tracing::warn!(%address, "xDS connection refused: TLS handshake took too long");
            return;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let connection = Arc::new(Connection {
        certificate: certificate.map(|certificate| certificate.clone().into_owned()),
        server,
        id,
        is_reporting: AtomicBool::new(false),
        address,
        ending: CancellationToken::new(),
        tasks,
    });
    let ending = connection.ending.clone();
    let options = connection.server.options;
    // Also when this task is dropped: no stream outlives its connection.
    let _end_streams = connection.ending.clone().drop_guard();
    let service = service_fn(move |request| respond(request, Arc::clone(&connection)));
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .adaptive_window(true)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = std::pin::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => Some(ended),
        () = tokio::time::sleep(age) => None,
        () = shutdown.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // The peer is told to open its next stream elsewhere (GOAWAY), then its open ones end with a status.
            http.as_mut().graceful_shutdown();
            ending.cancel();
            match tokio::time::timeout(drain, http).await {
                Ok(ended) => ended,
                Err(_elapsed) => {
                    tracing::debug!(%address, "xDS connection cut: it did not end in time");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "xDS connection ended early");
    }
}

async fn secure(server: &Server, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    TlsAcceptor::from(server.tls.current()).accept(stream).await
}

async fn respond(
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Result<Response<ResponseBody>, Infallible> {
    Ok(rpc::respond(request, &connection).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_and_bounded() {
        let limit = Duration::from_secs(1_000);
        let mut ages: Vec<Duration> = (1..=100).map(|serial| age(limit, serial)).collect();
        ages.sort();
        assert!(ages.iter().all(|age| *age >= limit && *age <= limit + limit / 10));
        let widest = ages.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest < Duration::from_secs(3), "{widest:?} between two of 100");
    }
}
