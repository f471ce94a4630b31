//! A peer that says whatever the test wants, over real TLS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kubelb_manager::identity::authority::Issued;
use kubelb_xds::ResourceType;
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kubelb_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::hub::Hub;
use crate::world::SOON;

/// What a peer shows.
#[derive(Default)]
pub(crate) struct Credential<'a> {
    pub(crate) certificate: Option<&'a Issued>,
    pub(crate) token: Option<&'a str>,
}

/// A stream, delta unless it says otherwise.
pub(crate) struct Peer<Q, R> {
    runtime: Runtime,
    requests: mpsc::Sender<Q>,
    responses: Streaming<R>,
}

type Client = AggregatedDiscoveryServiceClient<tonic::transport::Channel>;

pub(crate) type DeltaPeer = Peer<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type SotwPeer = Peer<DiscoveryRequest, DiscoveryResponse>;

impl DeltaPeer {
    /// Opens a stream; fails with the server's word for it when it says no before anything is asked.
    pub(crate) fn open(hub: &Hub<'_>, credential: &Credential<'_>) -> Result<Self, Status> {
        Self::with(hub, credential, async |mut client, stream| {
            client.delta_aggregated_resources(stream).await
        })
    }

    pub(crate) fn ask(&self, kind: ResourceType, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            node: Some(Node {
                id: "fleet/_all".to_owned(),
                ..Node::default()
            }),
            ..DeltaDiscoveryRequest::default()
        });
    }

    pub(crate) fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        });
    }
}

impl SotwPeer {
    pub(crate) fn open(hub: &Hub<'_>, credential: &Credential<'_>) -> Result<Self, Status> {
        Self::with(hub, credential, async |mut client, stream| {
            client.stream_aggregated_resources(stream).await
        })
    }

    pub(crate) fn ask(&self, kind: ResourceType, names: &[&str]) {
        self.send(DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DiscoveryRequest::default()
        });
    }
}

type Requests<Q> = tonic::Request<tokio_stream::wrappers::ReceiverStream<Q>>;

impl<Q: Send + 'static, R> Peer<Q, R> {
    fn with(
        hub: &Hub<'_>,
        credential: &Credential<'_>,
        open: impl AsyncFnOnce(Client, Requests<Q>) -> Result<tonic::Response<Streaming<R>>, Status>,
    ) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (requests, queue) = mpsc::channel(256);
        let mut stream = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
        if let Some(token) = credential.token {
            let value = format!("Bearer {token}").parse().unwrap();
            stream.metadata_mut().insert("authorization", value);
        }
        let responses = runtime.block_on(async {
            let client = connect(hub, credential)
                .await
                .map_err(|error| Status::new(Code::Unknown, format!("{error:#}")))?;
            tokio::time::timeout(SOON, open(client, stream))
                .await
                .map_err(|_elapsed| Status::deadline_exceeded("no stream"))?
        })?;
        Ok(Self {
            runtime,
            requests,
            responses: responses.into_inner(),
        })
    }

    pub(crate) fn send(&self, request: Q) {
        self.requests
            .try_send(request)
            .unwrap_or_else(|_| panic!("the stream has ended"));
    }

    /// The next response.
    pub(crate) fn next(&mut self) -> Result<R, Status> {
        let next = async { tokio::time::timeout(SOON, self.responses.message()).await };
        let next = self.runtime.block_on(next);
        let message = next.map_err(|_elapsed| Status::deadline_exceeded("nothing came"))??;
        message.ok_or_else(|| Status::ok("the stream has ended"))
    }

    /// That nothing comes for a while.
    pub(crate) fn silence(&mut self, time: Duration) -> bool {
        let next = async { tokio::time::timeout(time, self.responses.message()).await };
        self.runtime.block_on(next).is_err()
    }
}

async fn connect(hub: &Hub<'_>, credential: &Credential<'_>) -> anyhow::Result<Client> {
    let mut roots = RootCertStore::empty();
    roots.add(hub.authority().certificate().clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match credential.certificate {
        Some(issued) => {
            config.with_client_auth_cert(vec![issued.certificate_der.clone()], issued.key_der.clone_key())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = hub.connect()?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let name = "127.0.0.1".try_into().context("a name")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("only once")) }
    });
    let endpoint = Endpoint::from_static("http://127.0.0.1");
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(Client::new(channel).max_decoding_message_size(64 << 20))
}
