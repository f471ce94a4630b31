//! Requests that become streams: which protocol both sides know, and what is served over it.

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::spdy::Headers;
use super::multiplex::Connection;
use super::session::{Purpose, Wanted};
use super::websocket::Socket;
use super::{Refused, Reply, forward, remote_command, tunnel, websocket};

const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const SPDY: &str = "SPDY/3.1";
/// What is spoken over SPDY.
const SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    words(headers, &UPGRADE)
        .iter()
        .any(|word| word.eq_ignore_ascii_case(protocol))
}

/// The first of `known` that the client names too.
fn chosen(headers: &HeaderMap, name: &HeaderName, known: &[&'static str]) -> Result<&'static str, Refused> {
    let offered = words(headers, name);
    let chosen = known.iter().find(|known| offered.contains(known)).copied();
    chosen.ok_or_else(|| Refused(StatusCode::FORBIDDEN, format!("no protocol in common: {offered:?}")))
}

fn switching(to: &'static str, name: HeaderName, protocol: &'static str) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(Bytes::new())));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = reply.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static(to));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(name, HeaderValue::from_static(protocol));
    reply
}

fn accept_websocket(headers: &HeaderMap, known: &[&'static str]) -> Result<(&'static str, Reply), Refused> {
    if !asks_for(headers, "websocket") {
        return Err(Refused::bad_request(
            "unable to upgrade: neither a WebSocket nor SPDY/3.1",
        ));
    }
    let protocol = chosen(headers, &WEBSOCKET_PROTOCOL, known)?;
    let key = headers.get(WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Refused::bad_request("no Sec-WebSocket-Key"))?;
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accepted = accepted.map_err(|error| Refused::bad_request(error.to_string()))?;
    let mut reply = switching("websocket", WEBSOCKET_PROTOCOL, protocol);
    reply.headers_mut().insert(WEBSOCKET_ACCEPT, accepted);
    Ok((protocol, reply))
}

fn accept_spdy(headers: &HeaderMap, known: &[&'static str]) -> Result<Reply, Refused> {
    Ok(switching(SPDY, SPDY_PROTOCOL, chosen(headers, &SPDY_PROTOCOL, known)?))
}

async fn upgraded(request: Request<Incoming>) -> Option<TokioIo<Upgraded>> {
    // A client that goes in the midst of it is no failure.
    hyper::upgrade::on(request).await.ok().map(TokioIo::new)
}

async fn websocket(request: Request<Incoming>) -> Option<Socket> {
    Some(WebSocketStream::from_raw_socket(upgraded(request).await?, Role::Server, None).await)
}

fn connection<S>(io: S, wanted: fn(&Headers) -> bool) -> Option<Connection>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let started = Connection::start(io, wanted);
    started
        .inspect_err(|error| eprintln!("warning: cannot speak SPDY: {error}"))
        .ok()
}

/// Exec and attach.
pub(super) fn session(request: Request<Incoming>, wanted: Wanted, purpose: Purpose) -> Result<Reply, Refused> {
    if asks_for(request.headers(), SPDY) {
        let reply = accept_spdy(request.headers(), &remote_command::VERSIONS)?;
        tokio::spawn(async move {
            let io = upgraded(request).await?;
            remote_command::serve(connection(io, remote_command::is_stream)?, wanted, purpose).await;
            Some(())
        });
        return Ok(reply);
    }
    let (_, reply) = accept_websocket(request.headers(), &websocket::CHANNELS)?;
    tokio::spawn(async move {
        websocket::serve(websocket(request).await?, wanted, purpose).await;
        Some(())
    });
    Ok(reply)
}

/// Ports of a Pod: its name for messages, and a process that holds its namespaces. Over SPDY the streams name the ports.
pub(super) fn ports(request: Request<Incoming>, ports: Vec<u16>, pod: (String, i32)) -> Result<Reply, Refused> {
    let (name, sandbox) = pod;
    let connect = move |port| forward::connect(sandbox, port);
    if asks_for(request.headers(), SPDY) {
        let reply = accept_spdy(request.headers(), &forward::VERSIONS)?;
        tokio::spawn(async move {
            let io = upgraded(request).await?;
            forward::serve(connection(io, forward::is_half)?, &name, connect).await;
            Some(())
        });
        return Ok(reply);
    }
    let known = [tunnel::VERSION, websocket::PORT_CHANNELS];
    let (protocol, reply) = accept_websocket(request.headers(), &known)?;
    tokio::spawn(async move {
        let socket = websocket(request).await?;
        if protocol == tunnel::VERSION {
            let io = tunnel::open(socket);
            forward::serve(connection(io, forward::is_half)?, &name, connect).await;
        } else {
            websocket::forward(socket, ports, connect).await;
        }
        Some(())
    });
    Ok(reply)
}
