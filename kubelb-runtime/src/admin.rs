//! The admin server: `/healthz`, `/readyz`, `/metrics` and `/status` over HTTP/1.1.
//!
//! Owns sockets, limits and routing. What the answers say comes from [`Answers`], which the binary implements; nothing
//! here changes state, and only GET and HEAD are served.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at once; more wait in the listen queue.
pub const MAX_CONNECTIONS: usize = 64;
/// Largest request head, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// Longest time for a request head to arrive, also on an idle kept-alive connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection, so that idle or slow readers cannot hold every place.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that open requests get to finish at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed `accept`, which would otherwise spin when file descriptors have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What the binary answers. Methods may block: they run off the async threads.
pub trait Answers: Send + Sync + 'static {
    /// `/healthz`: is the process working? The error's text goes to the client with 503.
    ///
    /// # Errors
    /// When a supervisor had better restart the process.
    fn healthy(&self) -> Result<(), String>;

    /// `/readyz`: does it do its job yet? The error's text goes to the client with 503.
    ///
    /// # Errors
    /// While something it needs is missing.
    fn ready(&self) -> Result<(), String>;

    /// `/metrics`: Prometheus text exposition format 0.0.4.
    ///
    /// # Errors
    /// When the figures cannot be had; the text goes to the client with 500.
    fn metrics(&self) -> Result<String, String>;

    /// `/status`: a JSON document.
    ///
    /// # Errors
    /// When it cannot be had; the text goes to the client with 500.
    fn status(&self) -> Result<String, String>;

    /// A JSON document at a path of the binary's own; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be had; the text goes to the client with 500.
    fn document(&self, _path: &str) -> Option<Result<String, String>> {
        None
    }
}

/// Opens the listening socket, so that a wrong address fails at start. Port 0 takes a free one; the log has which.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "admin server listening");
    Ok(listener)
}

/// Serves until `shutdown`, then lets open requests finish for a short, bounded time.
pub async fn serve(listener: TcpListener, answers: Arc<dyn Answers>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (answers, shutdown) = (Arc::clone(&answers), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, answers, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin server: accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "admin server: connections cut at shutdown");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, answers: Arc<dyn Answers>, shutdown: CancellationToken) {
    let service = service_fn(move |request| respond(request, Arc::clone(&answers)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let deadline = tokio::time::sleep(CONNECTION_TIMEOUT);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = deadline => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin server: connection ended early");
    }
}

async fn respond(request: Request<Incoming>, answers: Arc<dyn Answers>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    let answered = tokio::task::spawn_blocking(move || answer(&path, answers.as_ref())).await;
    Ok(answered.unwrap_or_else(|error| {
        tracing::error!(%error, "admin server: an answer panicked");
        text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error, see the log\n".to_owned(),
        )
    }))
}

fn answer(path: &str, answers: &dyn Answers) -> Response<Full<Bytes>> {
    match path {
        "/healthz" => verdict(answers.healthy()),
        "/readyz" => verdict(answers.ready()),
        "/metrics" => document(answers.metrics(), "text/plain; version=0.0.4; charset=utf-8"),
        "/status" => document(answers.status(), "application/json"),
        "/" => text(StatusCode::OK, "/healthz\n/readyz\n/metrics\n/status\n".to_owned()),
        other => match answers.document(other) {
            Some(result) => document(result, "application/json"),
            None => text(
                StatusCode::NOT_FOUND,
                "not found; there are /healthz, /readyz, /metrics and /status\n".to_owned(),
            ),
        },
    }
}

fn verdict(result: Result<(), String>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn document(result: Result<String, String>, content_type: &'static str) -> Response<Full<Bytes>> {
    match result {
        Ok(body) => respond_with(StatusCode::OK, content_type, body),
        Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond_with(status, "text/plain; charset=utf-8", body)
}

fn respond_with(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
