//! One connection to a manager. Owns TLS, credentials and the connection's times; what is said on it is not its matter.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream;
use kubelb_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kubelb_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

/// Largest message that is taken, in bytes: a state of tens of thousands of resources in one response.
const MAX_MESSAGE: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until a silent connection is asked whether it lives, and until it is given up.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

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

/// Connects and opens a stream; `requests` are its messages.
pub(super) async fn open(
    manager: &Manager,
    mut requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<(Streaming<DeltaDiscoveryResponse>, Connection), Status> {
    let endpoint = endpoint(manager).await?;
    // Also what accepts and then says nothing: another manager may be well.
    let channel = tokio::time::timeout(2 * CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("the manager does not answer"))?
        .map_err(|error| Status::from_error(Box::new(error)))?;
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

async fn endpoint(manager: &Manager) -> Result<Endpoint, Status> {
    let failed = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    let endpoint = Endpoint::from_shared(manager.url.clone())
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .tcp_nodelay(true);
    let Some(ca) = &manager.ca else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca).await?));
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
