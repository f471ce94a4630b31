//! The xDS server: aggregated discovery (delta and state-of-the-world) over HTTP/2 and TLS, for many peers.
//!
//! Owns connections, streams, limits and what is known of peers. What a peer is sent is decided by its
//! [`kubelb_xds::server::Session`]; who it is, by [`crate::identity`]; what there is to send comes by a watch.

pub mod agents;
mod connection;
mod frame;
pub mod metrics;
pub mod registry;
mod relay;
pub mod relays;
mod reports;
mod rpc;
mod stream;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelb_xds::Snapshot;
use kubelb_xds::contract::limits::ProcessLimits;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use agents::Agents;
pub use metrics::{Count, Metrics};
pub use registry::Registry;
pub use relays::Relays;

use crate::identity::Authenticator;
use crate::identity::tls::ServerTls;

/// Limits of the server. All of them are bounds on what peers can make it hold.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections at once; more are closed at once, for a peer to try another replica.
    pub max_connections: usize,
    /// Streams at once, over all connections.
    pub max_streams: usize,
    /// A connection is ended in good order at this age or up to a tenth later, so that peers spread over replicas again.
    pub max_connection_age: Duration,
    /// Longest time from accepting a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest time that a connection gets to end in good order.
    pub drain_timeout: Duration,
    /// A peer is pinged at this interval.
    pub keepalive_interval: Duration,
    /// A peer that does not answer a ping for so long is gone; one that does not read is one of these.
    pub keepalive_timeout: Duration,
    /// The files of the state directory are looked at for a changed authority at this interval.
    pub authority_check: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            max_streams: 4_096,
            max_connection_age: Duration::from_secs(60 * 60),
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            authority_check: Duration::from_secs(5),
        }
    }
}

/// What serves.
#[derive(Debug)]
pub struct Server {
    tls: ServerTls,
    authenticator: Authenticator,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    limits: watch::Sender<ProcessLimits>,
    registry: Registry,
    agents: Agents,
    relays: Relays,
    metrics: Arc<Metrics>,
    options: Options,
    streams: Arc<Semaphore>,
}

impl Server {
    /// `snapshots` must hold a real one already: what it does not hold is taken from peers.
    #[must_use]
    pub fn new(
        tls: ServerTls,
        authenticator: Authenticator,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        options: Options,
    ) -> Self {
        let registry = Registry::default();
        Self {
            tls,
            authenticator,
            snapshots,
            limits: watch::Sender::default(),
            agents: Agents::new(registry.clone()),
            relays: Relays::new(registry.clone()),
            registry,
            metrics: Arc::default(),
            streams: Arc::new(Semaphore::new(options.max_streams)),
            options,
        }
    }

    /// Who is connected.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What agents report of themselves.
    #[must_use]
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// What other managers tell of their peers.
    #[must_use]
    pub fn relays(&self) -> &Relays {
        &self.relays
    }

    /// The snapshot that peers are brought to.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// What Envoys are told that ask before they start. It is to be known before the first snapshot.
    pub fn limit(&self, limits: ProcessLimits) {
        self.limits.send_replace(limits);
    }

    /// What happened.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// All figures as text.
    #[must_use]
    pub fn render_metrics(&self) -> String {
        let mut text = self.metrics.render(&self.registry.counts());
        text.push_str(&self.agents.render_metrics(clock()));
        text.push_str(&self.relays.render_metrics(clock()));
        text
    }

    /// Serves until `shutdown`, then ends the streams and lets the connections finish for a bounded time. `renewal` is when the
    /// server's certificate is to be renewed first.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, renewal: SystemTime, shutdown: CancellationToken) {
        let renewing = renew(Arc::clone(&self), renewal, shutdown.clone());
        tokio::join!(renewing, connection::accept(self, listener, shutdown));
    }
}

/// Keeps the server's certificate valid, and follows the authority's file.
async fn renew(server: Arc<Server>, mut at: SystemTime, shutdown: CancellationToken) {
    loop {
        let now = wall_clock();
        if at <= now {
            at = server.tls.renew(now);
        } else if let Some(next) = server.tls.follow(now) {
            at = next;
        }
        let left = at.duration_since(wall_clock()).unwrap_or_default();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(left.min(server.options.authority_check)) => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: credentials end by the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "the edge: sessions get their time from here")]
pub(crate) fn clock() -> std::time::Instant {
    std::time::Instant::now()
}
