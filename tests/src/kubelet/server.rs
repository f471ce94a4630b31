//! The kubelet's own API, as an API server asks for it: logs, commands, ports. Anybody may ask; it is a test double.

mod forward;
mod logs;
mod multiplex;
mod remote_command;
mod session;
mod tunnel;
mod upgrade;
mod websocket;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use super::Kubelet;
use super::registry::{ContainerEntry, PodEntry};
use session::{Purpose, Wanted};

/// Connections served at a time; more wait to be accepted.
const CONNECTIONS: usize = 512;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// A body that comes in pieces.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

type Reply = Response<Either<Full<Bytes>, Pieces>>;

/// A request that is answered with this status and text.
struct Refused(StatusCode, String);

impl Refused {
    fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }
}

/// Serves for ever.
pub(super) async fn serve(kubelet: Arc<Kubelet>, listener: TcpListener, tls: TlsAcceptor) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (Ok((stream, _)), Ok(permit)) = (listener.accept().await, Arc::clone(&room).acquire_owned().await) else {
            continue;
        };
        let (kubelet, tls) = (Arc::clone(&kubelet), tls.clone());
        tokio::spawn(async move {
            connection(kubelet, stream, tls).await;
            drop(permit);
        });
    }
}

async fn connection(kubelet: Arc<Kubelet>, stream: TcpStream, tls: TlsAcceptor) {
    drop(stream.set_nodelay(true));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await else {
        return;
    };
    let service = service_fn(move |request| {
        let kubelet = Arc::clone(&kubelet);
        async move { Ok::<Reply, Infallible>(answer(&kubelet, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no failure.
    drop(connection.with_upgrades().await);
}

async fn answer(kubelet: &Arc<Kubelet>, request: Request<Incoming>) -> Reply {
    let result = route(kubelet, request).await;
    result.unwrap_or_else(|Refused(status, text)| whole(status, text))
}

fn whole(status: StatusCode, text: String) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *reply.status_mut() = status;
    reply
}

async fn route(kubelet: &Arc<Kubelet>, request: Request<Incoming>) -> Result<Reply, Refused> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["healthz"] => Ok(whole(StatusCode::OK, "ok".to_owned())),
        ["containerLogs", namespace, pod, container] => {
            let (pod, container) = find(kubelet, namespace, pod, container)?;
            logs::serve(&pod, container, &query)
        }
        ["exec", namespace, pod, container] => {
            let (_, (_, entry)) = find(kubelet, namespace, pod, container)?;
            let wanted = Wanted::of(&query);
            let (argv, tty) = (query.all("command"), wanted.tty);
            upgrade::session(request, wanted, Purpose::Exec { entry, argv, tty })
        }
        ["attach", namespace, pod, container] => {
            let (_, (_, entry)) = find(kubelet, namespace, pod, container)?;
            upgrade::session(request, Wanted::of(&query), Purpose::Attach { entry })
        }
        ["portForward", namespace, pod] => {
            let sandbox = find_pod(kubelet, namespace, pod)?.sandbox;
            let sandbox = sandbox.ok_or_else(|| Refused::bad_request(format!("pod \"{pod}\" is not running")))?;
            let numbers = query.all("ports").into_iter().chain(query.all("port"));
            let list: Vec<String> = numbers
                .flat_map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>())
                .collect();
            let ports: Result<Vec<u16>, _> = list.iter().map(|port| port.parse()).collect();
            let ports = ports.map_err(|_error| Refused::bad_request(format!("no port numbers: {list:?}")))?;
            upgrade::ports(request, ports, (format!("{pod}_{namespace}"), sandbox))
        }
        _ => Err(Refused::not_found("404 page not found\n")),
    }
}

/// A Pod and the name and state of one of its containers.
type Found<'a> = (PodEntry, (&'a str, ContainerEntry));

fn find<'a>(kubelet: &Kubelet, namespace: &str, name: &str, container: &'a str) -> Result<Found<'a>, Refused> {
    let pod = find_pod(kubelet, namespace, name)?;
    let entry = match pod.containers.get(container) {
        Some(Some(entry)) => entry.clone(),
        Some(None) => {
            let text = format!("container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating");
            return Err(Refused::bad_request(text));
        }
        None => {
            return Err(Refused::not_found(format!(
                "container {container} not found in pod {name}_{namespace}"
            )));
        }
    };
    Ok((pod, (container, entry)))
}

fn find_pod(kubelet: &Kubelet, namespace: &str, name: &str) -> Result<PodEntry, Refused> {
    let missing = || Refused::not_found(format!("pod \"{name}\" not found"));
    kubelet.registry.get(namespace, name).ok_or_else(missing)
}

/// The part of a URL after `?`.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        };
        Self(pairs.map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
            .collect()
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true"))
    }

    /// `None` when it is not asked for.
    fn number(&self, key: &str) -> Result<Option<u64>, Refused> {
        let wrong = |text: &str| Refused::bad_request(format!("{key}: {text} is no number"));
        self.get(key)
            .map(|text| text.parse().map_err(|_error| wrong(text)))
            .transpose()
    }
}

/// Percent and plus signs undone.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let hex = |digit: &u8| {
                    char::from(*digit)
                        .to_digit(16)
                        .and_then(|digit| u8::try_from(digit).ok())
                };
                match (hex(high), hex(low)) {
                    (Some(high), Some(low)) => {
                        bytes.push(high << 4 | low);
                        rest = after;
                    }
                    _ => bytes.push(b'%'),
                }
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken_apart() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22&input=1&tailLines=x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a&b\""]);
        assert!(query.flag("input") && !query.flag("tty"));
        assert!(query.number("tailLines").is_err());
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
