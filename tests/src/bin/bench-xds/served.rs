//! The manager's xDS server in this process, with a configuration that no manifest can make, for an Envoy in the same namespace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use kubelb_manager::bootstrap::EnvoyLimits;
use kubelb_manager::bootstrap::envoy::{Credentials, Endpoint, bootstrap};
use kubelb_manager::identity::authority::{PEER_LIFETIME, SERVER_LIFETIME};
use kubelb_manager::identity::tls::ServerTls;
use kubelb_manager::identity::{Authenticator, Authority, SpiffeId};
use kubelb_manager::xds::server::{Options, Server};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use kubelb_xds::{Resource, ResourceType, Snapshot};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::manager::wall_clock;

const LIMITS: EnvoyLimits = EnvoyLimits {
    max_connections: 10_000,
    max_heap_bytes: 4_096 << 20,
};

/// Serves until it is dropped.
pub(crate) struct Served {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    server: Arc<Server>,
    // Ends what runs in it.
    _runtime: Runtime,
    state: Scratch,
}

impl Served {
    /// Serves `resources` on a free port of the namespace's loopback.
    pub(crate) fn start(namespace: &Namespace, resources: Vec<Resource>) -> anyhow::Result<Self> {
        let state = Scratch::new()?;
        let authority = Authority::open(state.path(), wall_clock())?;
        let names = vec!["127.0.0.1".to_owned()];
        let (tls, renewal) = ServerTls::new(authority, names, SERVER_LIFETIME, wall_clock())?;
        let (snapshots, receiver) = watch::channel(Arc::new(whole(resources, None)?));
        let server = Arc::new(Server::new(tls, Authenticator::new(None), receiver, Options::default()));
        let listener = namespace.run(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true).map(|()| listener)
        })??;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(Arc::clone(&server).serve(listener, renewal, CancellationToken::new()));
        }
        Ok(Self {
            address,
            snapshots,
            server,
            _runtime: runtime,
            state,
        })
    }

    /// What an Envoy that sees everything is started with.
    pub(crate) fn bootstrap(&self) -> anyhow::Result<String> {
        let authority = Authority::open(self.state.path(), wall_clock())?;
        let id = SpiffeId::fleet("*")?;
        let issued = authority.issue_peer(&id, PEER_LIFETIME, wall_clock())?;
        let endpoint = Endpoint {
            host: self.address.ip().to_string(),
            port: self.address.port(),
        };
        let credentials = Credentials::Inline {
            authority: authority.pem(),
            issued: &issued,
        };
        Ok(bootstrap(&id.node_id(), &[endpoint], &credentials, LIMITS).to_string())
    }

    /// Replaces all of it; when it was there for peers.
    pub(crate) fn publish(&self, resources: Vec<Resource>) -> anyhow::Result<Instant> {
        let next = Arc::new(whole(resources, Some(&self.snapshots.borrow()))?);
        let at = wait::now();
        self.snapshots.send_replace(next);
        Ok(at)
    }

    /// Waits until the one peer has acknowledged all of it, and may serve all of its listeners.
    pub(crate) fn until_taken(&self, within: Duration) -> anyhow::Result<()> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        wait::until(within, || {
            let peers = self.server.registry().peers();
            let peer = peers.first().context("nobody is connected")?;
            ensure!(peer.types.contains(&ResourceType::Listener), "it has not asked for all");
            ensure!(peer.has(&snapshot), "it has not acknowledged all: {:?}", peer.behind);
            Ok(())
        })
        .map(drop)
    }

    /// The slowest acknowledgement of a response so far, and of which type.
    pub(crate) fn slowest_acknowledgement(&self) -> (Duration, &'static str) {
        let labels = ResourceType::ALL.map(ResourceType::label).into_iter();
        let slowest = labels.filter_map(|label| Some((self.server.metrics().slowest_of(label)?, label)));
        slowest.max().unwrap_or_default()
    }
}

fn whole(resources: Vec<Resource>, previous: Option<&Snapshot>) -> anyhow::Result<Snapshot> {
    let snapshot = Snapshot::build(resources, previous)?;
    let checked = snapshot.check_references();
    checked.map_err(|dangling| anyhow!("references lead nowhere: {dangling:?}"))?;
    Ok(snapshot)
}
