//! HTTP: connections accepted, requests read, users recognised, answers written. Everything else is decided elsewhere.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
    RETRY_AFTER, USER_AGENT, WARNING,
};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Content};
use super::call::{Query, Request, Target};
use super::identity::User;
use super::server::{self, Server};
use super::stall::Impatient;
use super::status::ApiError;
use super::{body, discovery, openapi, proxy, reviews, verbs};

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS: usize = 4096;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// What lacks something that is about to be there is tried again with every change, this long.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
/// Until a request has been said: its head, also while the connection rests, and then its body.
const HEAD_WITHIN: Duration = Duration::from_secs(90);
const BODY_WITHIN: Duration = Duration::from_secs(60);
const OPENAPI_V3: &str = "/openapi/v3";

/// The body of an answer.
enum Outgoing {
    Whole(Full<Bytes>),
    /// The lines of a watch.
    Lines(mpsc::Receiver<Bytes>),
    /// Another server's.
    Passed(Incoming),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Lines(lines) => lines
                .poll_recv(context)
                .map(|line| line.map(|line| Ok(Frame::data(line)))),
            Self::Passed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Lines(_) => false,
            Self::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Lines(_) => SizeHint::default(),
            Self::Passed(body) => body.size_hint(),
        }
    }
}

type Reply = Response<Outgoing>;

/// Serves `listener` until `stop` changes.
pub(crate) async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: TlsAcceptor,
    stalled_after: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        while connections.try_join_next().is_some() {}
        let (Ok((stream, _)), Ok(permit)) = (accepted, Arc::clone(&room).acquire_owned().await) else {
            continue;
        };
        // Watch lines are small and must not wait for more.
        drop(stream.set_nodelay(true));
        let (server, tls, stop) = (Arc::clone(&server), tls.clone(), stop.clone());
        connections.spawn(async move {
            connection(server, Impatient::new(stream, stalled_after), tls, stop).await;
            drop(permit);
        });
    }
    connections.shutdown().await;
}

async fn connection(server: Arc<Server>, stream: Impatient<TcpStream>, tls: TlsAcceptor, stop: watch::Receiver<bool>) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await else {
        return;
    };
    let service = service_fn(move |request| {
        let (server, stop) = (Arc::clone(&server), stop.clone());
        async move { Ok::<Reply, Infallible>(reply(&server, request, stop).await) }
    });
    // A client that goes away is no failure.
    drop(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await,
    );
}

async fn reply(server: &Arc<Server>, request: hyper::Request<Incoming>, stop: watch::Receiver<bool>) -> Reply {
    let answer = match answer(server, request, &stop).await {
        Ok(answer) => match server.durable(answer.revision).await {
            Ok(()) => answer,
            Err(error) => error.into(),
        },
        Err(error) => error.into(),
    };
    response(answer, stop)
}

fn response(answer: Answer, stop: watch::Receiver<bool>) -> Reply {
    let content = match answer.content {
        Content::Whole(bytes) => Outgoing::Whole(Full::new(bytes)),
        Content::Stream(watch) => Outgoing::Lines(watch.run(stop)),
        Content::Passed(passed) => return passed.map(Outgoing::Passed),
    };
    let mut response = Response::new(content);
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(
        HeaderName::from_static("audit-id"),
        text_header(&super::object::new_uid()),
    );
    if let Some(seconds) = answer.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(path) = &answer.location {
        headers.insert(LOCATION, text_header(path));
    }
    if let Some(etag) = &answer.etag {
        headers.insert(ETAG, text_header(etag));
    }
    for warning in &answer.warnings {
        let quoted = serde_json::Value::from(warning.as_str());
        headers.append(WARNING, text_header(&format!("299 - {quoted}")));
    }
    response
}

fn text_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn answer(
    server: &Arc<Server>,
    mut request: hyper::Request<Incoming>,
    stop: &watch::Receiver<bool>,
) -> Result<Answer, ApiError> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, incoming) = request.into_parts();
    let user = user(server, &head.headers)?;
    let too_large = |_error| {
        ApiError::new(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        )
    };
    let read = Limited::new(incoming, body::LARGEST).collect();
    let read = tokio::time::timeout(BODY_WITHIN, read).await;
    let read = read.map_err(|_elapsed| ApiError::new(408, "", "the body of the request does not come"))?;
    let body = read.map_err(too_large)?.to_bytes();
    let of = |name: &HeaderName| header(&head.headers, name).to_owned();
    let request = Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        accept: of(&ACCEPT),
        content_type: of(&CONTENT_TYPE),
        user_agent: of(&USER_AGENT),
        if_none_match: of(&IF_NONE_MATCH),
        user,
        body,
    };
    let registry = server.registry();
    let target = match Target::of(&request, &registry) {
        Ok(target) => target,
        Err(error) if error.code == 404 => return other_path(server, &request),
        Err(error) => return Err(error),
    };
    verbs::authorize(server, &request, &target)?;
    if proxy::leads_on(&target) {
        let client = proxy::Client {
            headers: head.headers,
            upgrade,
            stop: stop.clone(),
        };
        return proxy::pass(server, &request, &target, client).await;
    }
    let mut on_disk = server.on_disk();
    let patience = tokio::time::sleep_until(Instant::now().checked_add(SETTLES_WITHIN).unwrap_or_else(Instant::now));
    tokio::pin!(patience);
    loop {
        on_disk.mark_unchanged();
        match verbs::serve(server, &request, &target) {
            Err(error) if error.settles => {
                tokio::select! {
                    Ok(()) = on_disk.changed() => {}
                    () = &mut patience => return Err(error),
                }
            }
            done => return done,
        }
    }
}

/// Who asks: the bearer of the token, or whom a master pretends to be.
fn user(server: &Server, headers: &HeaderMap) -> Result<User, ApiError> {
    let bearer = header(headers, &AUTHORIZATION);
    let user = match bearer.strip_prefix("Bearer ").map(str::trim) {
        None => User::anonymous(),
        Some(token) => reviews::user_of(server, token, server::now()).ok_or_else(ApiError::unauthorized)?,
    };
    let as_user = header(headers, &HeaderName::from_static("impersonate-user"));
    if as_user.is_empty() {
        return Ok(user);
    }
    if !user.is_master() {
        let message = format!(
            "users \"{as_user}\" is forbidden: User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden(json!({"name": as_user, "kind": "users"}), message));
    }
    let groups: Vec<&str> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|group| group.to_str().ok())
        .collect();
    let mut user = User::new(as_user, "", &groups);
    if let Some(account) = as_user.strip_prefix("system:serviceaccount:")
        && let Some((namespace, _)) = account.split_once(':')
    {
        user.groups.push("system:serviceaccounts".to_owned());
        user.groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    Ok(user)
}

/// Everything that is no resource.
fn other_path(server: &Server, request: &Request) -> Result<Answer, ApiError> {
    let registry = server.registry();
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    if !reviews::is_open_path(&request.path, &request.user) && !request.user.is_master() {
        let wanted = super::rbac::Attributes {
            verb: request.method.to_lowercase(),
            path: Some(request.path.clone()),
            ..super::rbac::Attributes::default()
        };
        return Err(wanted.refusal(&request.user));
    }
    let aggregated = discovery::wants_aggregated(&request.accept);
    let found = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(Answer::text(200, "ok")),
        ["version"] => Some(version()),
        ["api" | "apis"] if aggregated => {
            let all = discovery::aggregated(&registry, parts == ["api"]);
            return Ok(Answer::bytes(200, discovery::AGGREGATED, Bytes::from(all.to_string())));
        }
        ["api"] => Some(discovery::core_versions(&server.address)),
        ["apis"] => Some(discovery::groups(&registry)),
        ["api", version] => discovery::resources(&registry, "", version),
        ["apis", group] => discovery::group(&registry, group),
        ["apis", group, version] => discovery::resources(&registry, group, version),
        ["openapi", "v2"] => return Ok(openapi_v2(server, request)),
        ["openapi", "v3"] => {
            let index = openapi::index(&registry);
            return Ok(Answer::bytes(
                200,
                "text/plain; charset=utf-8",
                Bytes::from(index.to_string()),
            ));
        }
        ["openapi", "v3", place @ ..] => return openapi_v3(server, request, &place.join("/")),
        [".well-known", "openid-configuration"] => Some(json!({
            "issuer": super::identity::OWN_AUDIENCE,
            "jwks_uri": format!("https://{}/openid/v1/jwks", server.address),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["HS256"],
        })),
        ["openid", "v1", "jwks"] => {
            // Tokens are signed with a secret, which has no public half.
            let none = json!({"keys": []});
            return Ok(Answer::bytes(
                200,
                "application/jwk-set+json",
                Bytes::from(none.to_string()),
            ));
        }
        [] => Some(json!({"paths": ["/api", "/apis", "/healthz", "/livez", OPENAPI_V3, "/readyz", "/version"]})),
        _ => None,
    };
    found
        .map(|value| Answer::json(200, &value))
        .ok_or_else(ApiError::no_such_path)
}

fn version() -> serde_json::Value {
    let (major, minor) = super::VERSION.split_once('.').unwrap_or((super::VERSION, "0"));
    let before: u32 = minor.parse::<u32>().unwrap_or(0).saturating_sub(1);
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": before.to_string(),
        "gitVersion": format!("v{}.0-kubelb.test", super::VERSION),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none: a test double",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

fn openapi_v3(server: &Server, request: &Request, place: &str) -> Result<Answer, ApiError> {
    let registry = server.registry();
    let etag = format!("\"{}\"", openapi::hash(&registry, place));
    if request.if_none_match == etag {
        return Ok(Answer::text(304, ""));
    }
    let document = openapi::document(&registry, &server.definitions, place).ok_or_else(ApiError::no_such_path)?;
    let mut answer = Answer::json(200, &document);
    answer.etag = Some(etag);
    Ok(answer)
}

fn openapi_v2(server: &Server, request: &Request) -> Answer {
    let registry = server.registry();
    let etag = format!("\"{}\"", openapi::hash_of_all(&registry));
    if request.if_none_match == etag {
        return Answer::text(304, "");
    }
    let mut answer = if request.accept.contains("proto-openapi.spec.v2") {
        let document = openapi::v2_protobuf(&registry, &server.definitions);
        Answer::bytes(200, openapi::PROTOBUF_V2, Bytes::from(document))
    } else {
        Answer::json(200, &openapi::v2(&registry, &server.definitions))
    };
    answer.etag = Some(etag);
    answer
}
