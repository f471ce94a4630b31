//! The manager's xDS server in this process, with configuration that the test makes, for Envoys in the same namespace.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use kubelb_manager::bootstrap::EnvoyLimits;
use kubelb_manager::bootstrap::envoy::{self, Credentials, Endpoint};
use kubelb_manager::identity::authority::{Issued, SERVER_LIFETIME};
use kubelb_manager::identity::tls::ServerTls;
use kubelb_manager::identity::{Authenticator, Authority, ServiceAccounts, SpiffeId, TokenReviewer, Tokens};
use kubelb_manager::xds::server::{Count, Metrics, Options, Server};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use kubelb_xds::{Resource, ResourceType, Snapshot};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::log;

/// Nothing that a peer takes may take longer: what does has run into one of Envoy's waits, which are 15 seconds.
const NO_STALL: Duration = Duration::from_secs(1);
/// A change that takes longer waits for something that is not sent.
const STALLED: Duration = Duration::from_secs(5);
const LIMITS: EnvoyLimits = EnvoyLimits {
    max_connections: 1_000,
    max_heap_bytes: 1 << 30,
};

/// How it serves, other than a manager does without any flags.
pub(crate) struct Setup {
    pub(crate) options: Options,
    /// Who checks tokens, and whose are good.
    pub(crate) tokens: Option<(Arc<dyn TokenReviewer>, ServiceAccounts)>,
    /// Of the server's certificates.
    pub(crate) lifetime: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            options: Options::default(),
            tokens: None,
            lifetime: SERVER_LIFETIME,
        }
    }
}

/// A server, running until it is dropped.
pub(crate) struct Hub<'a> {
    namespace: &'a Namespace,
    state: PathBuf,
    address: SocketAddr,
    setup: Setup,
    snapshots: watch::Sender<Arc<Snapshot>>,
    running: Option<Running>,
    pub(crate) metrics: Arc<Metrics>,
    /// Address of the last connection that this process made to it.
    caller: Mutex<Option<SocketAddr>>,
}

struct Running {
    runtime: Runtime,
    shutdown: CancellationToken,
    server: Arc<Server>,
}

impl<'a> Hub<'a> {
    /// Serves `resources` on a free port of the namespace's loopback. `state` holds the authority: replicas share it.
    pub(crate) fn start(namespace: &'a Namespace, state: &std::path::Path, resources: Vec<Resource>) -> Self {
        let snapshot = Snapshot::build(resources, None).unwrap();
        snapshot.check_references().unwrap();
        Self::serving(namespace, state, snapshot, Setup::default())
    }

    pub(crate) fn with(
        namespace: &'a Namespace,
        state: &std::path::Path,
        resources: Vec<Resource>,
        setup: Setup,
    ) -> Self {
        Self::serving(namespace, state, Snapshot::build(resources, None).unwrap(), setup)
    }

    fn serving(namespace: &'a Namespace, state: &std::path::Path, snapshot: Snapshot, setup: Setup) -> Self {
        log::capture();
        let (snapshots, _) = watch::channel(Arc::new(snapshot));
        let mut hub = Self {
            namespace,
            state: state.to_owned(),
            address: "127.0.0.1:0".parse().unwrap(),
            setup,
            snapshots,
            running: None,
            metrics: Arc::default(),
            caller: Mutex::default(),
        };
        hub.run();
        hub
    }

    /// Starts it again, on the same port, as a new process would: it remembers nothing.
    pub(crate) fn restart(&mut self) {
        self.run();
    }

    fn run(&mut self) {
        assert!(self.running.is_none());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (tls, renewal) = ServerTls::new(
            self.authority(),
            vec!["127.0.0.1".to_owned()],
            self.setup.lifetime,
            now(),
        )
        .unwrap();
        let tokens = self.setup.tokens.as_ref();
        let tokens = tokens.map(|(reviewer, accounts)| Tokens::new(Arc::clone(reviewer), accounts.clone()));
        let server = Arc::new(Server::new(
            tls,
            Authenticator::new(tokens),
            self.snapshots.subscribe(),
            self.setup.options,
        ));
        let address = self.address;
        let listener = self
            .namespace
            .run(|| {
                let socket = listener_on(address);
                socket.set_nonblocking(true).map(|()| socket)
            })
            .unwrap()
            .unwrap();
        self.address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        {
            let _entered = runtime.enter();
            let listener = TcpListener::from_std(listener).unwrap();
            runtime.spawn(Arc::clone(&server).serve(listener, renewal, shutdown.clone()));
        }
        self.metrics = Arc::clone(server.metrics());
        self.running = Some(Running {
            runtime,
            shutdown,
            server,
        });
    }

    pub(crate) fn server(&self) -> &Server {
        &self.running.as_ref().unwrap().server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection from inside the namespace.
    pub(crate) fn connect(&self) -> anyhow::Result<std::net::TcpStream> {
        let address = self.address;
        let stream = self.namespace.run(|| std::net::TcpStream::connect(address))??;
        stream.set_nonblocking(true)?;
        *self.caller.lock().unwrap() = Some(stream.local_addr()?);
        Ok(stream)
    }

    /// Waits until it has logged a line with these words about the last connection of this process.
    pub(crate) fn assert_logged(&self, words: &str) {
        let caller = self.caller.lock().unwrap().expect("nobody has connected");
        wait::until(Duration::from_secs(5), || {
            log::find(&[&format!("address={caller} "), words])
        })
        .unwrap();
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.state, now()).unwrap()
    }

    /// As SIGKILL would: connections break off in the middle of whatever.
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// As SIGTERM does.
    pub(crate) fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.shutdown.cancel();
        wait::until(Duration::from_secs(10), || {
            anyhow::ensure!(running.server.registry().peers().is_empty(), "there are peers");
            Ok(())
        })
        .unwrap();
        running.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// Replaces the whole configuration.
    pub(crate) fn publish(&self, resources: Vec<Resource>) {
        let next = Snapshot::build(resources, Some(&self.snapshots.borrow())).unwrap();
        next.check_references().unwrap();
        self.snapshots.send_replace(Arc::new(next));
    }

    /// The same, with references that lead nowhere.
    pub(crate) fn publish_incomplete(&self, resources: Vec<Resource>) {
        let next = Snapshot::build(resources, Some(&self.snapshots.borrow())).unwrap();
        next.check_references().unwrap_err();
        self.snapshots.send_replace(Arc::new(next));
    }

    /// Waits until every peer has taken it.
    pub(crate) fn until_synced(&self) {
        self.until_synced_within(Duration::from_secs(20));
    }

    /// Whether every peer that is there has taken it.
    pub(crate) fn is_synced(&self) -> bool {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let peers = self.server().registry().peers();
        peers.iter().all(|peer| peer.has(&snapshot))
    }

    pub(crate) fn until_synced_within(&self, within: Duration) {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        wait::until(within, || {
            let peers = self.server().registry().peers();
            anyhow::ensure!(!peers.is_empty(), "nobody is connected");
            let asked = peers.iter().all(|peer| peer.types.contains(&ResourceType::Listener));
            anyhow::ensure!(asked, "not all have asked for it: {peers:#?}");
            anyhow::ensure!(
                peers.iter().all(|peer| peer.has(&snapshot)),
                "not all have it: {peers:#?}"
            );
            Ok(())
        })
        .context("a peer takes too long for what it was sent: it waits for something that does not come")
        .unwrap();
    }

    /// Publishes, and waits until every peer has taken it, which all are connected for already. A peer that waits for something which does not come ends
    /// the test soon, and not after all of Envoy's own waits.
    pub(crate) fn push(&self, resources: Vec<Resource>) {
        self.publish(resources);
        self.until_synced_within(STALLED);
    }

    /// What an Envoy of this fleet is started with; several addresses for several replicas.
    pub(crate) fn bootstrap(&self, tenants: &str, replicas: &[SocketAddr]) -> String {
        let id = SpiffeId::fleet(tenants).unwrap();
        let issued = self.issue(&id, Duration::from_secs(3600));
        self.bootstrap_with(&id.node_id(), &issued, replicas)
    }

    pub(crate) fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Issued {
        self.authority().issue_peer(id, lifetime, now()).unwrap()
    }

    pub(crate) fn bootstrap_with(&self, node: &str, issued: &Issued, replicas: &[SocketAddr]) -> String {
        let endpoints: Vec<Endpoint> = replicas
            .iter()
            .map(|address| Endpoint {
                host: address.ip().to_string(),
                port: address.port(),
            })
            .collect();
        let authority = self.authority();
        let credentials = Credentials::Inline {
            authority: authority.pem(),
            issued,
        };
        envoy::bootstrap(node, &endpoints, &credentials, LIMITS).to_string()
    }

    pub(crate) fn count(&self, count: Count, label: &'static str) -> u64 {
        self.metrics.get(count, label)
    }

    pub(crate) fn total(&self, count: Count) -> u64 {
        self.metrics.total(count)
    }

    /// No peer took longer than a second for anything.
    pub(crate) fn assert_no_stall(&self) {
        let slowest = self.metrics.slowest_push();
        assert!(
            slowest.is_none_or(|(_, took)| took <= NO_STALL),
            "a peer stalled: {slowest:?}\n{}",
            self.server().render_metrics()
        );
        assert_eq!(self.total(Count::Stalls), 0);
    }
}

impl Drop for Hub<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            if std::thread::panicking() {
                eprintln!("--- the server's figures ---\n{}", running.server.render_metrics());
                eprintln!("--- peers ---\n{:#?}", running.server.registry().peers());
            }
            running.runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// A listener whose port can be taken again at once.
fn listener_on(address: SocketAddr) -> std::net::TcpListener {
    // The standard library sets SO_REUSEADDR on Unix.
    wait::until(Duration::from_secs(5), || Ok(std::net::TcpListener::bind(address)?))
        .unwrap()
        .0
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid from now")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
