//! A server that says who it is and who asks, over HTTP, gRPC, TCP and UDP: what Pods of tests run.
//!
//! gRPC: every call is answered with nothing, and the facts in headers `x-hostname` and `x-port`.
//! HTTP: `/hostname`, `/clientip`, `/healthz` (which `POST /healthz?ready=false` makes fail), anything else: all facts as JSON.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long conversations may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(20);
const BUFFER: usize = 64 << 10;

/// Answers with its own name, its node's, the client's address and what was asked.
#[derive(Debug, Parser)]
struct Args {
    /// What to listen to: `http=PORT`, `grpc=PORT`, `tcp=PORT` or `udp=PORT`, or with an address: `http=127.0.0.1:8080`.
    #[arg(long, num_args = 1.., default_values = ["http=8080"])]
    listen: Vec<Listen>,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http,
    Grpc,
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug)]
struct Listen {
    protocol: Protocol,
    at: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, at) = text.split_once('=').ok_or("use PROTOCOL=PORT")?;
        let protocol = match protocol {
            "http" => Protocol::Http,
            "grpc" => Protocol::Grpc,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(format!("{other}: none of http, grpc, tcp and udp")),
        };
        let everywhere = || at.parse().map(|port: u16| SocketAddr::from(([0_u16; 8], port)));
        let at = at
            .parse()
            .or_else(|_error| everywhere())
            .map_err(|error| format!("{at}: {error}"))?;
        Ok(Self { protocol, at })
    }
}

/// Who this is.
struct Facts {
    hostname: String,
    pod: Option<String>,
    node: Option<String>,
    ready: AtomicBool,
}

impl Facts {
    fn read() -> Self {
        let name = nix::unistd::gethostname()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            hostname: name,
            pod: std::env::var("POD_NAME").ok(),
            node: std::env::var("NODE_NAME").ok(),
            ready: AtomicBool::new(true),
        }
    }

    fn all(&self, client: SocketAddr) -> Value {
        json!({
            "hostname": self.hostname,
            "pod": self.pod.as_ref().unwrap_or(&self.hostname),
            "node": self.node,
            "client": client.ip().to_canonical().to_string(),
            "clientPort": client.port(),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let (facts, stop, tasks) = (Arc::new(Facts::read()), CancellationToken::new(), TaskTracker::new());
    for Listen { protocol, at } in args.listen {
        let failed = || format!("cannot listen at {at}");
        let (facts, stop) = (Arc::clone(&facts), stop.clone());
        match protocol {
            Protocol::Http | Protocol::Grpc | Protocol::Tcp => {
                let listener = TcpListener::bind(at).await.with_context(failed)?;
                tasks.spawn(accept(listener, facts, stop, tasks.clone(), protocol));
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at).await.with_context(failed)?;
                tasks.spawn(async move {
                    tokio::select! {
                        () = udp(socket, facts) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }
    eprintln!("{} is ready", facts.hostname);
    tokio::select! {
        _ = terminate.recv() => {}
        // Without a terminal there is none.
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        eprintln!("conversations were cut off");
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    facts: Arc<Facts>,
    stop: CancellationToken,
    tasks: TaskTracker,
    protocol: Protocol,
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, client)) = accepted else { continue };
        let (facts, stop) = (Arc::clone(&facts), stop.clone());
        tasks.spawn(async move {
            match protocol {
                Protocol::Http => http(stream, client, port, facts, stop).await,
                Protocol::Grpc => grpc(stream, port, facts).await,
                Protocol::Tcp | Protocol::Udp => tcp(stream, client, facts).await,
            }
        });
    }
}

async fn http(stream: TcpStream, client: SocketAddr, port: u16, facts: Arc<Facts>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let facts = Arc::clone(&facts);
        async move { Ok::<_, Infallible>(answer(&facts, client, port, &request)) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that goes away is no failure.
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

async fn grpc(stream: TcpStream, port: u16, facts: Arc<Facts>) {
    let service = service_fn(move |_request| {
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .header("x-hostname", &facts.hostname)
            .header("x-port", port)
            .body(Full::new(Bytes::new()));
        std::future::ready(answer)
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A client that goes away is no failure.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

fn answer(facts: &Facts, client: SocketAddr, port: u16, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    };
    match (request.method(), request.uri().path()) {
        (_, "/hostname") => text(StatusCode::OK, facts.hostname.clone()),
        (_, "/clientip") => text(
            StatusCode::OK,
            SocketAddr::new(client.ip().to_canonical(), client.port()).to_string(),
        ),
        (&Method::POST, "/healthz") => {
            let ready = request.uri().query() != Some("ready=false");
            facts.ready.store(ready, Ordering::Relaxed);
            text(StatusCode::OK, format!("ready={ready}\n"))
        }
        (_, "/healthz") if facts.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok".to_owned()),
        (_, "/healthz") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready".to_owned()),
        (method, path) => {
            let mut all = facts.all(client);
            let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            let headers: BTreeMap<String, String> = request.headers().iter().map(header).collect();
            if let Some(all) = all.as_object_mut() {
                all.insert("port".to_owned(), port.into());
                all.insert("method".to_owned(), method.as_str().into());
                all.insert("path".to_owned(), path.into());
                all.insert("query".to_owned(), request.uri().query().into());
                all.insert("headers".to_owned(), json!(headers));
            }
            text(StatusCode::OK, format!("{all}\n"))
        }
    }
}

/// One line of facts, then everything back.
async fn tcp(mut stream: TcpStream, client: SocketAddr, facts: Arc<Facts>) {
    let first = format!("{}\n", facts.all(client));
    if stream.write_all(first.as_bytes()).await.is_err() {
        return;
    }
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = stream.read(&mut buffer).await
        && let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty())
        && stream.write_all(bytes).await.is_ok()
    {}
}

/// Facts, with what was sent under `payload`.
async fn udp(socket: UdpSocket, facts: Arc<Facts>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok((count, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let mut all = facts.all(client);
        let payload = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        if let Some(all) = all.as_object_mut() {
            all.insert("payload".to_owned(), payload.into());
        }
        // An answer may get lost like any datagram.
        drop(socket.send_to(all.to_string().as_bytes(), client).await);
    }
}
