//! Backends that tell what they were asked, and who has answered a call; they speak as little HTTP as that needs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelb_tests::netns::Namespace;
use kubelb_tests::traffic::exchange::try_call;
use serde_json::json;

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

/// Calls once; who has answered, or else the answer's status.
pub(crate) fn call(namespace: &Namespace, to: SocketAddr, authority: &str, method: &str) -> anyhow::Result<String> {
    let (status, headers) = try_call(namespace, to, authority, method)?;
    Ok(headers
        .get("x-backend")
        .cloned()
        .unwrap_or_else(|| status.as_u16().to_string()))
}
