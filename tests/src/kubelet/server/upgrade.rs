//! Requests that become streams: which protocol both sides know, and what is served over it.

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::session::{Purpose, Wanted};
use super::{Refused, Reply, forward, websocket};

const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

fn is_websocket(headers: &HeaderMap) -> bool {
    words(headers, &UPGRADE)
        .iter()
        .any(|word| word.eq_ignore_ascii_case("websocket"))
}

/// The first of `known` that the client names too, and the answer that says so.
fn accept(request: &Request<Incoming>, known: &[&'static str]) -> Result<(&'static str, Reply), Refused> {
    let headers = request.headers();
    if !is_websocket(headers) {
        return Err(Refused::bad_request("you must specify a websocket Upgrade header"));
    }
    let offered = words(headers, &WEBSOCKET_PROTOCOL);
    let chosen = known.iter().find(|known| offered.contains(known)).copied();
    let chosen = chosen.ok_or_else(|| Refused(StatusCode::FORBIDDEN, format!("no protocol in common: {offered:?}")))?;
    let key = headers
        .get(WEBSOCKET_KEY)
        .ok_or_else(|| Refused::bad_request("no Sec-WebSocket-Key"))?;
    let mut reply = Response::new(Either::Left(Full::new(Bytes::new())));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = reply.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    answer.insert(
        WEBSOCKET_ACCEPT,
        accepted.map_err(|error| Refused::bad_request(error.to_string()))?,
    );
    Ok((chosen, reply))
}

/// Exec and attach.
pub(super) fn session(request: Request<Incoming>, wanted: Wanted, purpose: Purpose) -> Result<Reply, Refused> {
    let (_, reply) = accept(&request, &websocket::CHANNELS)?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            websocket::serve(socket, wanted, purpose).await;
        }
    });
    Ok(reply)
}

/// Ports of a Pod, whose namespaces process `sandbox` holds.
pub(super) fn ports(request: Request<Incoming>, ports: Vec<u16>, sandbox: i32) -> Result<Reply, Refused> {
    let (_, reply) = accept(&request, &["v4.channel.k8s.io"])?;
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            websocket::forward(socket, ports, move |port| forward::connect(sandbox, port)).await;
        }
    });
    Ok(reply)
}
