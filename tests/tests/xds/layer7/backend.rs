//! Backends that tell what they were asked, and clients that tell what they were answered; both speak as little HTTP as that needs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelb_tests::netns::Namespace;
use serde_json::{Value, json};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves HTTP/1.1 on a port of every address, for as long as the process lives. A path with `slow` in it is never answered, one with `flaky`
/// with 503 at first.
pub(crate) fn http1(namespace: &Namespace, name: &'static str, port: u16) {
    let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
    std::thread::spawn(move || {
        let has_failed = Arc::new(AtomicBool::new(false));
        for stream in listener.incoming().flatten() {
            let has_failed = Arc::clone(&has_failed);
            // One that a client keeps without a word keeps nobody waiting.
            std::thread::spawn(move || answer(stream, name, &has_failed));
        }
    });
}

/// Reads one request, and answers it.
fn answer(stream: TcpStream, name: &str, has_failed: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers
                .entry(name.to_ascii_lowercase())
                .or_default()
                .push(value.trim().to_owned());
        }
    }
    let fails = path.contains("flaky") && !has_failed.swap(true, Ordering::SeqCst);
    if path.contains("slow") {
        // Until whoever asks has given up.
        let _gone = reader.read(&mut [0]);
        return Ok(());
    }
    let body = json!({"backend": name, "method": method, "path": path, "headers": headers}).to_string();
    let status = if fails { "503 Service Unavailable" } else { "200 OK" };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    (&stream).write_all(text.as_bytes())
}

/// Serves gRPC, as far as an empty answer with a header that says who it is from.
pub(crate) fn grpc(namespace: &Namespace, name: &'static str, port: u16) {
    let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |_| async move {
                    let answer = hyper::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0")
                        .header("x-backend", name);
                    answer.body(Full::new(Bytes::new()))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    /// What the backend told, or nothing.
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn backend(&self) -> &str {
        self.body["backend"].as_str().unwrap_or_default()
    }

    /// A header as the backend saw it.
    pub(crate) fn seen(&self, name: &str) -> String {
        let all = self.body["headers"][name].as_array().cloned().unwrap_or_default();
        let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        all.join("|")
    }
}

/// Asks once.
pub(crate) fn ask(
    namespace: &Namespace,
    to: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    namespace.run(|| ask_here(to, request, headers))?
}

/// The same from the namespace of this thread.
pub(crate) fn ask_here(to: SocketAddr, request: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let (method, rest) = request.split_once(' ').context("METHOD HOST/PATH")?;
    let (host, path) = rest.split_once('/').context("METHOD HOST/PATH")?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answered = Vec::new();
    stream.read_to_end(&mut answered)?;
    let answered = String::from_utf8(answered)?;
    let (head, body) = answered.split_once("\r\n\r\n").context("no answer")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("no status")?
        .parse()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Ok(Answer {
        status,
        headers: headers.collect(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// Calls once; who has answered.
pub(crate) fn call(namespace: &Namespace, to: SocketAddr, authority: &str, method: &str) -> anyhow::Result<String> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(to).await?;
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = hyper::Request::post(format!("http://{authority}{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::new()))?;
            let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??;
            let who = answer.headers().get("x-backend").cloned();
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok(who.map_or_else(
                || status.as_u16().to_string(),
                |who| who.to_str().unwrap_or_default().to_owned(),
            ))
        })
    })?
}
