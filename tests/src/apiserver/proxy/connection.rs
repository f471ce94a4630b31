//! One request to another server over a connection of its own, in TLS or not.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::Error as TlsError;
use tokio_rustls::rustls::pki_types::{IpAddr, ServerName};

use super::location::Location;
use crate::traffic::unverified;

/// Until the other server has accepted the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("dial tcp {authority}: {source}")]
    Connect {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("dial tcp {0}: i/o timeout")]
    TimedOut(String),
    #[error("{0} is no address")]
    Name(String),
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot write the request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Sends one request. Dropping the answer's body closes the connection.
pub(super) async fn send(
    location: &Location,
    method: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Incoming>, SendError> {
    let mut request = Request::builder().method(method).uri(&location.path);
    if let Some(own) = request.headers_mut() {
        *own = headers;
    }
    let request = request.body(Full::new(body))?;
    let authority = &location.authority;
    let connect = |source| SendError::Connect {
        authority: authority.clone(),
        source,
    };
    let reach = async {
        let stream = TcpStream::connect(authority).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        if !location.tls {
            return Ok::<Either, SendError>(Either::Plain(stream));
        }
        let name = server_name(authority).ok_or_else(|| SendError::Name(authority.clone()))?;
        // Kubelets sign their certificates themselves; a real server without `--kubelet-certificate-authority` does not look at
        // them either.
        let stream = TlsConnector::from(unverified::client()?).connect(name, stream).await;
        Ok(Either::Tls(Box::new(stream.map_err(connect)?)))
    };
    let reached = tokio::time::timeout(CONNECT_WITHIN, reach).await;
    match reached.map_err(|_elapsed| SendError::TimedOut(authority.clone()))?? {
        Either::Plain(stream) => over(stream, request).await,
        Either::Tls(stream) => over(stream, request).await,
    }
}

enum Either {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its request, whose sender reports what went wrong.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender.send_request(request).await?)
}

fn server_name(authority: &str) -> Option<ServerName<'static>> {
    let (host, _) = authority.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(IpAddr::from(address))),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}
