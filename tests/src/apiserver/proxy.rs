//! Paths that lead on to another server: logs, exec, attach and port forwarding to a node's kubelet, HTTP to nodes, Pods and
//! Services.
//!
//! Where a path leads is decided in [`location`], which is pure; [`connection`] goes there; an upgraded connection (WebSocket,
//! SPDY) becomes a [`tunnel`], whose bytes are not looked at.

mod connection;
mod location;
mod tunnel;

use hyper::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Response, StatusCode};
use tokio::sync::watch;

use super::answer::{Answer, Content};
use super::call::{Request, Target};
use super::server::Server;
use super::status::ApiError;
use super::verbs;
use location::{Location, Way};

/// The client's side of a request that is passed on.
pub(crate) struct Client {
    pub(crate) headers: HeaderMap,
    /// Done when the client's connection is free for a tunnel.
    pub(crate) upgrade: OnUpgrade,
    /// Ends tunnels when it changes.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Client {
    fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    fn wants_websocket(&self) -> bool {
        let wanted = self.headers.get(UPGRADE).and_then(|value| value.to_str().ok());
        wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("websocket"))
    }
}

/// Whether a path leads on to another server.
pub(crate) fn leads_on(target: &Target) -> bool {
    Way::of(target).is_some()
}

/// Passes a request on, and its answer back.
///
/// # Errors
/// When it leads nowhere, or no one answers there.
pub(crate) async fn pass(
    server: &Server,
    request: &Request,
    target: &Target,
    client: Client,
) -> Result<Answer, ApiError> {
    let Some(way) = Way::of(target) else {
        return Err(ApiError::no_such_path());
    };
    if way.is_stream() {
        if !client.wants_upgrade() {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        // A WebSocket begins with GET, whatever it does.
        if client.wants_websocket() && target.verb == "get" {
            let creates = Target {
                verb: "create",
                ..target.clone()
            };
            verbs::allow(server, &request.user, &creates.attributes())?;
        }
    }
    if way == Way::Proxy && request.path.ends_with("/proxy") && request.method == "GET" {
        return Ok(Answer::moved(&format!("{}/", request.path)));
    }
    // A block of its own: the store's lock is not held while waiting.
    let found = { location::find(&server.store(), way, target, request)? };
    let Some(location) = found else {
        // No node has the Pod yet: there are no logs.
        return Ok(Answer::text(200, ""));
    };
    let answered = send(server, request, &location, client, way).await?;
    if way == Way::Logs && !answered.status().is_success() {
        return Err(refused(answered, target).await);
    }
    Ok(Answer {
        content: Content::Passed(Box::new(answered)),
        ..Answer::text(200, "")
    })
}

async fn send(
    server: &Server,
    request: &Request,
    location: &Location,
    client: Client,
    way: Way,
) -> Result<Response<hyper::body::Incoming>, ApiError> {
    let upgrades = client.wants_upgrade();
    let permit = if upgrades { Some(server.tunnel_permit()?) } else { None };
    let mut headers = onward(client.headers, upgrades);
    let host =
        HeaderValue::from_str(&location.authority).map_err(|error| ApiError::internal(format!("no host: {error}")))?;
    headers.insert(HOST, host);
    let method = if way == Way::Logs { "GET" } else { &request.method };
    let sent = connection::send(location, method, headers, request.body.clone()).await;
    let mut answered = sent.map_err(|error| match (way.is_stream(), upgrades) {
        (false, false) => ApiError::new(500, "", format!("Get \"{}\": {error}", location.url())),
        _ => ApiError::new(500, "", format!("error dialing backend: {error}")),
    })?;
    if answered.status() == StatusCode::SWITCHING_PROTOCOLS {
        let there = hyper::upgrade::on(&mut answered);
        tokio::spawn(tunnel::run(client.upgrade, there, client.stop, permit));
    } else {
        back(&mut answered, &location.prefix);
    }
    Ok(answered)
}

/// Headers that are for this server alone.
fn onward(mut headers: HeaderMap, upgrades: bool) -> HeaderMap {
    headers.remove(AUTHORIZATION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(hyper::header::CONTENT_LENGTH);
    if !upgrades {
        headers.remove(CONNECTION);
    }
    for name in ["keep-alive", "te", "trailer", "impersonate-user", "impersonate-group"] {
        headers.remove(HeaderName::from_static(name));
    }
    headers
}

/// What an answer must not carry on; a redirection stays below the path that the client knows.
fn back(answered: &mut Response<hyper::body::Incoming>, prefix: &str) {
    let headers = answered.headers_mut();
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let moved = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(path) = moved.filter(|path| path.starts_with('/'))
        && let Ok(value) = HeaderValue::from_str(&format!("{prefix}{path}"))
    {
        headers.insert(LOCATION, value);
    }
}

/// A kubelet's refusal of logs, as a Status.
async fn refused(answered: Response<hyper::body::Incoming>, target: &Target) -> ApiError {
    use http_body_util::{BodyExt as _, Limited};
    const LONGEST: usize = 2048;
    let code = answered.status().as_u16();
    let read = Limited::new(answered.into_body(), LONGEST).collect().await;
    let text = read.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    let text = text.unwrap_or_default();
    match code {
        400 => ApiError::bad_request(text.trim_end()),
        500 => ApiError::internal(format!("Internal error occurred: {}", text.trim_end())),
        404 => {
            let message = format!(
                "the server could not find the requested resource ( pods/log {})",
                target.name
            );
            ApiError::new(404, "NotFound", message)
        }
        other => ApiError::new(other, "", text.trim_end()),
    }
}
