//! One connection to a manager. Owns TLS, credentials and the connection's times; what is said on it is not its matter.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream;
use kubelb_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

use super::addresses::Addresses;

/// Largest message that is taken, in bytes: a state of tens of thousands of resources in one response.
const MAX_MESSAGE: usize = 64 << 20;
/// For the answer to the first packet: a node that is dead swallows it.
const TCP_TIME: Duration = Duration::from_secs(1);
/// For everything up to an open connection: what accepts and then says nothing may be a process that is stopped.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Time until a silent connection is asked whether it lives, and until it is given up: a manager's node that is dead says nothing, and until
/// this agent has found another manager nobody knows that it is there.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_millis(750), Duration::from_secs(1));

/// A manager's address and how to trust each other.
#[derive(Clone, Debug)]
pub struct Manager {
    /// `https://HOST:PORT`, or `http://HOST:PORT` where that is allowed.
    pub url: String,
    /// Authorities for the manager's certificate, PEM; `None` for `http`.
    pub ca: Option<PathBuf>,
    /// What this agent shows.
    pub credential: Credential,
}

/// What an agent shows. Files are read for each connection, so that what rotates is taken up.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing: only without TLS.
    None,
    /// A bearer token.
    Token(PathBuf),
    /// A client certificate and its key, PEM.
    Certificate {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
    },
}

impl fmt::Display for Manager {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)
    }
}

/// A connection that streams can be opened on, and what they show.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) authorization: Option<MetadataValue<Ascii>>,
}

/// Connects and opens a stream; `requests` are its messages. All addresses of the manager's name are tried, in the order of `addresses`, which
/// knows afterwards which of them it is.
pub(super) async fn open(
    manager: &Manager,
    addresses: &mut Addresses,
    mut requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<(Streaming<DeltaDiscoveryResponse>, Connection), Status> {
    let channel = connect(manager, addresses).await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut request = Request::new(stream::poll_fn(move |context| requests.poll_recv(context)));
    let mut authorization = None;
    if let Credential::Token(path) = &manager.credential {
        let token = read(path).await?;
        let value = format!("Bearer {}", String::from_utf8_lossy(&token).trim());
        let value: MetadataValue<Ascii> = MetadataValue::try_from(value)
            .map_err(|_invalid| Status::unauthenticated(format!("{} holds no token", path.display())))?;
        request.metadata_mut().insert("authorization", value.clone());
        authorization = Some(value);
    }
    let responses = client.delta_aggregated_resources(request).await?.into_inner();
    Ok((responses, Connection { channel, authorization }))
}

async fn connect(manager: &Manager, addresses: &mut Addresses) -> Result<Channel, Status> {
    let uri: Uri = manager
        .url
        .parse()
        .map_err(|error| Status::invalid_argument(format!("{}: {error}", manager.url)))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let default = if manager.ca.is_some() { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(default);
    let looked_up = tokio::time::timeout(CONNECT_TIME, lookup_host((host.as_str(), port)))
        .await
        .map_err(|_elapsed| Status::unavailable(format!("the name {host} is not found out in time")))?;
    let found: Vec<SocketAddr> = looked_up
        .map_err(|error| Status::unavailable(format!("the name {host} has no address: {error}")))?
        .collect();
    let mut last = Status::unavailable(format!("the name {host} has no address"));
    for address in addresses.order(found) {
        let endpoint = endpoint(manager, &uri, &host, address).await?;
        let connected = tokio::time::timeout(CONNECT_TIME, endpoint.connect()).await;
        last = match connected {
            Ok(Ok(channel)) => {
                addresses.chose(address);
                return Ok(channel);
            }
            Ok(Err(error)) => Status::from_error(Box::new(error)),
            Err(_elapsed) => Status::deadline_exceeded(format!("no answer within {CONNECT_TIME:?}")),
        };
        addresses.failed(address, Instant::now());
    }
    Err(last)
}

async fn endpoint(manager: &Manager, uri: &Uri, host: &str, address: SocketAddr) -> Result<Endpoint, Status> {
    let failed = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    let scheme = uri.scheme_str().unwrap_or("https");
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(failed)?
        .origin(uri.clone())
        .connect_timeout(TCP_TIME)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .tcp_nodelay(true);
    let Some(ca) = &manager.ca else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new()
        .domain_name(host)
        .ca_certificate(Certificate::from_pem(read(ca).await?));
    if let Credential::Certificate { chain, key } = &manager.credential {
        tls = tls.identity(Identity::from_pem(read(chain).await?, read(key).await?));
    }
    endpoint.tls_config(tls).map_err(failed)
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, Status> {
    tokio::fs::read(path)
        .await
        .map_err(|error| Status::failed_precondition(format!("cannot read {}: {error}", path.display())))
}
