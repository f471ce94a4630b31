//! Which method a request is for, and whether its peer may call it. Everything that is refused is logged and counted here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use kubelb_xds::Scope;
use kubelb_xds::contract::limits;
use kubelb_xds::contract::relay::{self as relayed, Relayed};
use kubelb_xds::contract::reports::{self as contract, Report};
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message as _;
use tonic::codec::Streaming;
use tonic::{Code, Status};
use tonic_prost::ProstDecoder;

use super::connection::Connection;
use super::frame::{self, ResponseBody};
use super::registry::Protocol;
use super::relay::{self, OpenRelay};
use super::relays::Declined;
use super::reports::{self, OpenReports};
use super::stream::{self, Open};
use super::{Count, clock, wall_clock};
use crate::identity::{Authenticator, Identity, Refusal};

const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
const DELTA: &str = "DeltaAggregatedResources";
const SOTW: &str = "StreamAggregatedResources";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Longest path that is logged, in characters.
const MAX_PATH: usize = 256;
/// Largest request, in bytes: an Envoy with very many resources lists them all when it comes back.
const MAX_REQUEST: usize = 64 << 20;
/// Largest report, in bytes: agents keep to a quarter of it, unless one listener alone has more to tell.
const MAX_REPORT: usize = 1 << 20;
/// Largest question about limits, in bytes: there is nothing in it.
const MAX_QUESTION: usize = 1 << 10;
/// Largest message of another manager, in bytes: they keep to a quarter of a megabyte, unless one peer alone has more to tell.
const MAX_RELAYED: usize = 4 << 20;

/// Answers with a stream, or with the status that says why not.
pub(super) async fn respond(request: Request<Incoming>, connection: &Arc<Connection>) -> Response<ResponseBody> {
    match open(request, connection).await {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(CONTENT_TYPE, GRPC);
            response
        }
        Err(status) => {
            // A body that ends at once: the status is in the head.
            status.into_http::<()>().map(|()| frame::empty())
        }
    }
}

async fn open(request: Request<Incoming>, connection: &Arc<Connection>) -> Result<ResponseBody, Status> {
    if request.uri().path() == contract::METHOD {
        return open_reports(request, connection).await;
    }
    if request.uri().path() == relayed::METHOD {
        return open_relay(request, connection);
    }
    if request.uri().path() == limits::METHOD {
        return tell_limits(request, connection).await;
    }
    let protocol = match request.uri().path().strip_prefix(SERVICE) {
        Some(DELTA) => Protocol::Delta,
        Some(SOTW) => Protocol::Sotw,
        _ => return Err(unserved(&request, connection)),
    };
    let identity = authenticate(&request, connection).await?;
    let server = &connection.server;
    let Ok(place) = Arc::clone(&server.streams).try_acquire_owned() else {
        server.metrics.add(Count::Refused, "streams");
        tracing::warn!(address = %connection.address, peer = identity.subject, "xDS stream refused: there are too many");
        return Err(Status::resource_exhausted("too many streams; try another replica"));
    };
    let (responses, body) = frame::channel();
    let open = Open {
        identity,
        protocol,
        connection: Arc::clone(connection),
        responses,
        place,
    };
    let request = request.into_body();
    match protocol {
        Protocol::Delta => {
            let decoder = ProstDecoder::<DeltaDiscoveryRequest>::default();
            let requests = Streaming::new_request(decoder, request, None, Some(MAX_REQUEST));
            connection.tasks.spawn(stream::run(open, requests));
        }
        Protocol::Sotw => {
            let decoder = ProstDecoder::<DiscoveryRequest>::default();
            let requests = Streaming::new_request(decoder, request, None, Some(MAX_REQUEST));
            connection.tasks.spawn(stream::run(open, requests));
        }
    }
    Ok(body)
}

/// Other services, unary discovery, and whatever else is tried.
fn unserved(request: &Request<Incoming>, connection: &Connection) -> Status {
    connection.server.metrics.add(Count::Refused, "method");
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    tracing::warn!(address = %connection.address, reason = "method", path, "xDS request refused: only aggregated discovery is served");
    Status::unimplemented("only aggregated discovery (ADS) is served")
}

/// An agent's reports about itself: whose they are is in its proof, and nowhere in them.
async fn open_reports(request: Request<Incoming>, connection: &Arc<Connection>) -> Result<ResponseBody, Status> {
    let identity = authenticate(&request, connection).await?;
    let refuse = |reason, status: Status| {
        connection.server.metrics.add(Count::Refused, reason);
        tracing::warn!(address = %connection.address, peer = identity.subject, reason, "reports refused");
        status
    };
    if identity.scope != Scope::Agent {
        let status = Status::permission_denied("only node agents report");
        return Err(refuse("reports_scope", status));
    }
    if connection.is_reporting.swap(true, Ordering::Relaxed) {
        let status = Status::resource_exhausted("this connection reports already");
        return Err(refuse("reports_twice", status));
    }
    let (responses, body) = frame::channel();
    let decoder = ProstDecoder::<Report>::default();
    let requests = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REPORT));
    let open = OpenReports {
        identity,
        connection: Arc::clone(connection),
        responses,
    };
    connection.tasks.spawn(reports::run(open, requests));
    Ok(body)
}

/// What another manager tells. Nobody else may: it decides which node announces an address.
fn open_relay(request: Request<Incoming>, connection: &Arc<Connection>) -> Result<ResponseBody, Status> {
    let server = &connection.server;
    let refuse = |reason, peer: &str, status: Status| {
        server.metrics.add(Count::Refused, reason);
        tracing::warn!(address = %connection.address, peer, reason, "relay refused: {}", status.message());
        status
    };
    let (manager, expires) = Authenticator::manager(connection.certificate.as_ref(), wall_clock())
        .map_err(|refusal| refuse(refusal.reason(), "", Status::permission_denied(refusal.to_string())))?;
    let entry = server
        .relays
        .enter(&manager, clock())
        .map_err(|declined| match declined {
            Declined::NotLeading => {
                let status = Status::failed_precondition("this manager does not lead");
                refuse("not_leading", &manager, status)
            }
            Declined::TooMany => {
                let status = Status::resource_exhausted("too many managers tell of their peers");
                refuse("relays", &manager, status)
            }
        })?;
    let (responses, body) = frame::channel();
    let messages = Streaming::new_request(
        ProstDecoder::<Relayed>::default(),
        request.into_body(),
        None,
        Some(MAX_RELAYED),
    );
    let open = OpenRelay {
        manager,
        expires,
        entry,
        connection: Arc::clone(connection),
        responses,
    };
    connection.tasks.spawn(relay::run(open, messages));
    Ok(body)
}

/// What an Envoy may take as a whole, for one that is about to start.
async fn tell_limits(request: Request<Incoming>, connection: &Arc<Connection>) -> Result<ResponseBody, Status> {
    let identity = authenticate(&request, connection).await?;
    let server = &connection.server;
    if !matches!(identity.scope, Scope::Fleet(_)) {
        server.metrics.add(Count::Refused, "limits_scope");
        tracing::warn!(address = %connection.address, peer = identity.subject, reason = "limits_scope", "limits refused");
        return Err(Status::permission_denied("only Envoys have limits"));
    }
    let decoder = ProstDecoder::<limits::LimitsRequest>::default();
    let mut request = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_QUESTION));
    request.message().await?;
    let limits = *server.limits.borrow();
    let (responses, body) = frame::channel();
    if let Ok(slot) = responses.ready().await {
        slot.send(vec![limits.encode_to_vec().into()]);
    }
    responses.end(Status::ok(""));
    tracing::info!(address = %connection.address, peer = identity.subject, ?limits, "an Envoy that is about to start was told its limits");
    Ok(body)
}

async fn authenticate(request: &Request<Incoming>, connection: &Connection) -> Result<Identity, Status> {
    let header = request.headers().get(AUTHORIZATION);
    let header = header.map(|value| value.to_str().unwrap_or_default());
    let server = &connection.server;
    let certificate = connection.certificate.as_ref();
    let identity = server
        .authenticator
        .authenticate(certificate, header, wall_clock())
        .await;
    identity.map_err(|refusal| {
        let reason = refusal.reason();
        server.metrics.add(Count::Refused, reason);
        tracing::warn!(address = %connection.address, reason, %refusal, "xDS stream refused");
        status(&refusal)
    })
}

/// What the peer is told.
fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Stranger(_) | Refusal::Manager(_) | Refusal::NoManager => Code::PermissionDenied,
        Refusal::ReviewFailed(_) => Code::Unavailable,
        Refusal::NoCredential
        | Refusal::Certificate(_)
        | Refusal::Malformed
        | Refusal::TokensNotAccepted
        | Refusal::Token(_)
        | Refusal::Expired => Code::Unauthenticated,
    };
    Status::new(code, refusal.to_string())
}
