//! A peer in this process: a client session of kubelb-xds over TLS, which takes everything and looks for some names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kubelb_manager::identity::authority::{Issued, PEER_LIFETIME};
use kubelb_manager::identity::{Authority, SpiffeId};
use kubelb_tests::wait;
use kubelb_xds::ResourceType;
use kubelb_xds::client::{Change, Session};
use kubelb_xds::pb::envoy::config::core::v3::Node;
use kubelb_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Endpoint;

use crate::manager::XDS;

/// Something that a peer has now.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) peer: usize,
    /// Endpoints of this name.
    pub(crate) name: String,
    pub(crate) at: Instant,
}

/// Who a peer is.
pub(crate) struct Credential {
    config: ClientConfig,
    node: String,
}

impl Credential {
    pub(crate) fn issue(authority: &Authority, id: &SpiffeId) -> anyhow::Result<Self> {
        let Issued {
            certificate_der,
            key_der,
            ..
        } = authority.issue_peer(id, PEER_LIFETIME, crate::manager::wall_clock())?;
        let mut roots = RootCertStore::empty();
        for trusted in authority.trusted() {
            roots.add(trusted.clone())?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate_der], key_der)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            config,
            node: id.node_id(),
        })
    }
}

/// Connects through one of `doors`, and lives until the receiver of `seen` is gone. Runs in the manager's namespace.
pub(crate) async fn live(
    number: usize,
    credential: Credential,
    doors: Arc<Semaphore>,
    seen: mpsc::UnboundedSender<Seen>,
) -> anyhow::Result<()> {
    let door = doors.acquire().await?;
    let stream = TcpStream::connect(XDS).await?;
    stream.set_nodelay(true)?;
    let name = "127.0.0.1".try_into().context("a name")?;
    let stream = TlsConnector::from(Arc::new(credential.config))
        .connect(name, stream)
        .await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("only once")) }
    });
    let endpoint = Endpoint::from_static("http://127.0.0.1").http2_adaptive_window(true);
    let channel = endpoint.connect_with_connector(connector).await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut session = Session::new(Node {
        id: credential.node,
        ..Node::default()
    });
    for kind in [ResourceType::Cluster, ResourceType::Listener] {
        drop(session.subscribe(kind, ["*".to_owned()]));
    }
    let (requests, mut queue) = mpsc::channel(64);
    for request in session.connect() {
        requests.send(request).await?;
    }
    let outgoing = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
    let mut responses = client.delta_aggregated_resources(outgoing).await?.into_inner();
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    drop(door);
    while let Some(response) = responses.message().await? {
        let at = wait::now();
        let outcome = session.on_response(response, |_, _, _| Ok(()));
        requests.send(outcome.reply).await?;
        let mut clusters = Vec::new();
        for change in outcome.changes {
            match change {
                // The manager calls endpoints after their cluster.
                Change::Updated {
                    kind: ResourceType::Cluster,
                    name,
                    ..
                } => clusters.push(name),
                Change::Updated {
                    kind: ResourceType::Endpoints,
                    name,
                    ..
                } => {
                    let version = session.version(ResourceType::Endpoints, &name).unwrap_or_default();
                    let old = versions.insert(name.clone(), version.to_owned());
                    if old.as_deref() != Some(version) && seen.send(Seen { peer: number, name, at }).is_err() {
                        return Ok(());
                    }
                }
                Change::Updated { .. } | Change::Removed { .. } => {}
            }
        }
        if let Some(request) = session.subscribe(ResourceType::Endpoints, clusters) {
            requests.send(request).await?;
        }
    }
    anyhow::bail!("the manager ended the stream of peer {number}")
}
