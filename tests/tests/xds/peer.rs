//! A peer that says whatever the test wants, over real TLS.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use hyper::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use kubelb_manager::identity::authority::Issued;
use kubelb_xds::ResourceType;
use kubelb_xds::contract::relay::{self, RelayEnd, Relayed};
use kubelb_xds::contract::reports::{METHOD, Report, ReportsEnd};
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kubelb_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::hub::Hub;
use crate::world::SOON;

/// HTTP/2's window: so large that it is the socket's buffers that stop a server first.
const WIDE: u32 = 64 << 20;
/// So small that what a server is to send stays with it.
const NARROW: u32 = 64 << 10;

/// What peers call themselves unless a test is about that.
const NAME: &str = "peer-of-a-test";

/// What a peer shows.
#[derive(Clone, Copy, Default)]
pub(crate) struct Credential<'a> {
    pub(crate) certificate: Option<&'a Issued>,
    pub(crate) token: Option<&'a str>,
}

/// A stream, delta unless it says otherwise.
pub(crate) struct Peer<Q, R> {
    runtime: Runtime,
    requests: mpsc::Sender<Q>,
    responses: Streaming<R>,
    gate: Gate,
}

type Client = AggregatedDiscoveryServiceClient<tonic::transport::Channel>;

pub(crate) type DeltaPeer = Peer<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type SotwPeer = Peer<DiscoveryRequest, DiscoveryResponse>;

impl DeltaPeer {
    /// Opens a stream; fails with the server's word for it when it says no before anything is asked.
    pub(crate) fn open(hub: &Hub<'_>, credential: &Credential<'_>) -> Result<Self, Status> {
        Self::with(hub, credential, WIDE, async |mut client, stream| {
            client.delta_aggregated_resources(stream).await
        })
    }

    /// The same, for a peer that lets the server send little at a time.
    pub(crate) fn open_narrow(hub: &Hub<'_>, credential: &Credential<'_>) -> Result<Self, Status> {
        Self::with(hub, credential, NARROW, async |mut client, stream| {
            client.delta_aggregated_resources(stream).await
        })
    }

    pub(crate) fn ask(&self, kind: ResourceType, names: &[&str]) {
        self.ask_as(NAME, kind, names);
    }

    /// The same with this node id.
    pub(crate) fn ask_as(&self, node: &str, kind: ResourceType, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            node: Some(called(node)),
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
        Self::with(hub, credential, WIDE, async |mut client, stream| {
            client.stream_aggregated_resources(stream).await
        })
    }

    pub(crate) fn ask(&self, kind: ResourceType, names: &[&str]) {
        self.ask_as(NAME, kind, names);
    }

    /// The same with this node id.
    pub(crate) fn ask_as(&self, node: &str, kind: ResourceType, names: &[&str]) {
        self.send(DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            node: Some(called(node)),
            ..DiscoveryRequest::default()
        });
    }

    pub(crate) fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.send(DiscoveryRequest {
            type_url: response.type_url.clone(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..DiscoveryRequest::default()
        });
    }
}

fn called(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Node::default()
    }
}

type Requests<Q> = tonic::Request<tokio_stream::wrappers::ReceiverStream<Q>>;

impl<Q: Send + 'static, R> Peer<Q, R> {
    fn with(
        hub: &Hub<'_>,
        credential: &Credential<'_>,
        window: u32,
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
        let gate = Gate::default();
        let responses = runtime.block_on(async {
            let client = connect(hub, credential, &gate, window)
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
            gate,
        })
    }

    /// Reads nothing from its socket, until told otherwise.
    pub(crate) fn stop_reading(&self) {
        self.gate.shut();
    }

    pub(crate) fn read_on(&self) {
        self.gate.open();
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

/// A request of any kind on a connection of its own, without a body: what gRPC says of it.
pub(crate) fn call(hub: &Hub<'_>, credential: &Credential<'_>, path: &'static str) -> Code {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let channel = channel(hub, credential, &Gate::default(), WIDE).await.unwrap();
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
        let request = tonic::Request::new(DiscoveryRequest::default());
        let answer = client.unary(request, PathAndQuery::from_static(path), codec).await;
        answer.expect_err("it was served").code()
    })
}

/// An agent's reports.
pub(crate) struct Reporting {
    runtime: Runtime,
    reports: mpsc::Sender<Report>,
    ended: JoinHandle<Status>,
}

impl Reporting {
    pub(crate) fn open(hub: &Hub<'_>, credential: &Credential<'_>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (reports, queue) = mpsc::channel(16);
        let channel = runtime
            .block_on(channel(hub, credential, &Gate::default(), 1 << 20))
            .unwrap();
        let ended = runtime.spawn(async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.unwrap();
            let request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
            let codec = tonic_prost::ProstCodec::<Report, ReportsEnd>::default();
            let path = PathAndQuery::from_static(METHOD);
            let ended = grpc.client_streaming(request, path, codec).await;
            ended.err().unwrap_or_else(|| Status::ok(""))
        });
        Self {
            runtime,
            reports,
            ended,
        }
    }

    pub(crate) fn send(&self, report: Report) {
        self.reports.try_send(report).unwrap();
    }

    /// How the manager ends the stream.
    pub(crate) fn end(self) -> Status {
        let ended = async { tokio::time::timeout(SOON, self.ended).await };
        self.runtime.block_on(ended).unwrap().unwrap()
    }
}

/// What becomes of somebody who wants to tell what managers tell each other.
pub(crate) fn tell_as_manager(hub: &Hub<'_>, credential: &Credential<'_>) -> Result<Relaying, Status> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (messages, queue) = mpsc::channel(16);
    let channel = runtime
        .block_on(channel(hub, credential, &Gate::default(), 1 << 20))
        .unwrap();
    let opened = runtime.block_on(async move {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
        if let Some(token) = credential.token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let codec = tonic_prost::ProstCodec::<Relayed, RelayEnd>::default();
        grpc.streaming(request, PathAndQuery::from_static(relay::METHOD), codec)
            .await
    });
    Ok(Relaying {
        responses: opened?.into_inner(),
        messages,
        runtime,
    })
}

/// What another manager tells.
pub(crate) struct Relaying {
    responses: Streaming<RelayEnd>,
    messages: mpsc::Sender<Relayed>,
    runtime: Runtime,
}

impl Relaying {
    pub(crate) fn send(&self, message: Relayed) {
        self.messages.try_send(message).unwrap();
    }

    /// How the manager ends the stream.
    pub(crate) fn end(mut self) -> Status {
        let ended = async { tokio::time::timeout(SOON, self.responses.message()).await };
        self.runtime.block_on(ended).unwrap().unwrap_err()
    }
}

async fn connect(hub: &Hub<'_>, credential: &Credential<'_>, gate: &Gate, window: u32) -> anyhow::Result<Client> {
    let channel = channel(hub, credential, gate, window).await?;
    Ok(Client::new(channel).max_decoding_message_size(64 << 20))
}

async fn channel(
    hub: &Hub<'_>,
    credential: &Credential<'_>,
    gate: &Gate,
    window: u32,
) -> anyhow::Result<tonic::transport::Channel> {
    let mut roots = RootCertStore::empty();
    for trusted in hub.authority().trusted() {
        roots.add(trusted.clone())?;
    }
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
    let stream = Gated {
        stream: tokio::net::TcpStream::from_std(stream)?,
        gate: gate.clone(),
    };
    let name = "127.0.0.1".try_into().context("a name")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::other("only once")) }
    });
    let endpoint = Endpoint::from_static("http://127.0.0.1")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Keeps a connection from being read.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<Mutex<Shut>>);

#[derive(Debug, Default)]
struct Shut {
    is_shut: bool,
    reader: Option<Waker>,
}

impl Gate {
    fn shut(&self) {
        self.0.lock().unwrap().is_shut = true;
    }

    fn open(&self) {
        let mut shut = self.0.lock().unwrap();
        shut.is_shut = false;
        shut.reader.take().into_iter().for_each(Waker::wake);
    }
}

struct Gated {
    stream: tokio::net::TcpStream,
    gate: Gate,
}

impl AsyncRead for Gated {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        {
            let mut shut = self.gate.0.lock().unwrap();
            if shut.is_shut {
                shut.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
