//! One request, or one call, with everything that comes back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use super::Trust;
use crate::netns::Namespace;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What was told in JSON, or nothing.
    pub body: Value,
}

impl Answer {
    /// A header as the server has seen it; empty when it has not. One that came several times is joined by `|`.
    #[must_use]
    pub fn seen(&self, name: &str) -> String {
        match self.body.get("headers").and_then(|headers| headers.get(name)) {
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
            Some(one) => one.as_str().unwrap_or_default().to_owned(),
            None => String::new(),
        }
    }

    /// A number that the server told.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.body.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    /// A text that the server told.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.body.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Sends `request`, which is `METHOD HOST/PATH`, on a connection of its own.
///
/// # Errors
/// When the answer does not come in time or is not HTTP.
pub fn ask(from: &Namespace, to: SocketAddr, request: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    from.run(|| ask_here(to, request, headers))?
}

/// As [`ask`], from the namespace of this thread.
///
/// # Errors
/// As [`ask`].
pub fn ask_here(to: SocketAddr, request: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let (_, text) = written(request, headers)?;
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    answer(stream, &text)
}

/// As [`ask`], over TLS, of who can show the trusted certificate for the host.
///
/// # Errors
/// When it shows another one or none, does not answer in time, or not in HTTP.
pub fn ask_over_tls(
    from: &Namespace,
    to: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
    trust: &Trust,
) -> anyhow::Result<Answer> {
    let (host, text) = written(request, headers)?;
    from.run(|| answer(trust.connect(to, host)?, &text))?
}

/// The host, and what is sent.
fn written<'a>(request: &'a str, headers: &[(&str, &str)]) -> anyhow::Result<(&'a str, String)> {
    let (method, rest) = request.split_once(' ').context("METHOD HOST/PATH")?;
    let (host, path) = rest.split_once('/').context("METHOD HOST/PATH")?;
    let mut text = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    Ok((host, text))
}

fn answer(mut stream: impl Read + Write, text: &str) -> anyhow::Result<Answer> {
    stream.write_all(text.as_bytes())?;
    let mut answered = Vec::new();
    stream.read_to_end(&mut answered)?;
    let answered = String::from_utf8(answered)?;
    let (head, body) = answered.split_once("\r\n\r\n").context("no answer")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.context("no status")?.parse()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Ok(Answer {
        status,
        headers: headers.collect(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// Makes a gRPC call with nothing in it to `/SERVICE/METHOD`; the headers of the answer.
///
/// # Errors
/// When it does not come in time, or is not one of gRPC with status 0.
pub fn call(from: &Namespace, to: SocketAddr, host: &str, method: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let (status, headers) = try_call(from, to, host, method)?;
    let code = headers.get("grpc-status").map(String::as_str);
    ensure!(status.is_success() && code == Some("0"), "{status}: {headers:?}");
    Ok(headers)
}

/// As [`call`], whatever the answer is.
///
/// # Errors
/// When it does not come in time, or is not HTTP/2.
pub fn try_call(
    from: &Namespace,
    to: SocketAddr,
    host: &str,
    method: &str,
) -> anyhow::Result<(StatusCode, BTreeMap<String, String>)> {
    from.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, call_here(to, host, method)).await });
        answered.context("no answer in time")?
    })?
}

async fn call_here(to: SocketAddr, host: &str, method: &str) -> anyhow::Result<(StatusCode, BTreeMap<String, String>)> {
    let stream = TokioIo::new(tokio::net::TcpStream::connect(to).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::post(format!("http://{host}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::new()))?;
    let answer = sender.send_request(request).await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    answer.into_body().collect().await?;
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    Ok((status, headers.collect()))
}
