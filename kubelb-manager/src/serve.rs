//! The xDS server as the command line wants it: flags, the authority of the state directory, a listening socket.
//!
//! Decides nothing about peers or configuration; [`crate::identity`] and [`crate::xds::server`] do.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use kubelb_xds::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::identity::authority::{AuthorityError, SERVER_LIFETIME};
use crate::identity::tls::{ServerTls, TlsError};
use crate::identity::token::ServiceAccountError;
use crate::identity::{Authenticator, Authority, ServiceAccounts, TokenReviewer, Tokens};
use crate::xds::server::{Options, Server};

/// Flags of the xDS server.
#[derive(Args, Clone, Debug)]
pub struct XdsArgs {
    /// Serve the configuration to agents and Envoys here.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:18000")]
    pub listen_xds: SocketAddr,
    /// Address or DNS name by which peers find this server; repeat for more. Loopback and the address of --listen-xds are added.
    #[arg(long = "xds-name", value_name = "NAME")]
    pub xds_names: Vec<String>,
    /// Service account whose token opens all of L4; repeat for more.
    #[arg(long = "agent-service-account", value_name = "NAMESPACE/NAME")]
    pub agent_service_accounts: Vec<String>,
    /// Service account whose token opens L7 of these tenants, or of all with `*`; repeat for more.
    #[arg(long = "fleet-service-account", value_name = "NAMESPACE/NAME=TENANT[,TENANT…]|*")]
    pub fleet_service_accounts: Vec<String>,
    /// Peers at once.
    #[arg(long, value_name = "N", default_value_t = Options::default().max_connections)]
    pub max_xds_peers: usize,
    /// Connections are ended in good order after this many seconds, so that peers spread over replicas again.
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().max_connection_age.as_secs())]
    pub max_xds_connection_age: u64,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A service account.
    #[error(transparent)]
    ServiceAccount(#[from] ServiceAccountError),
    /// Service accounts, and nobody to ask about tokens.
    #[error("service accounts are of no use here: without an API server no token can be checked")]
    NoReviewer,
    /// The state directory.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A server that runs.
#[derive(Debug)]
pub struct Serving {
    /// Who is connected, and what happened.
    pub server: Arc<Server>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends after `shutdown`, when all connections have.
    pub task: JoinHandle<()>,
}

/// Starts the server. `snapshots` must hold a real one already; `reviewer` checks tokens where there is an API server.
///
/// # Errors
/// When the flags, the state directory or the address do not serve.
pub async fn start(
    args: &XdsArgs,
    state_dir: &Path,
    reviewer: Option<Arc<dyn TokenReviewer>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
) -> Result<Serving, ServeError> {
    let tokens = tokens(args, reviewer)?;
    #[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
    let now = SystemTime::now();
    let authority = Authority::open(state_dir, now)?;
    let (tls, renewal) = ServerTls::new(authority, names(args), SERVER_LIFETIME, now)?;
    let failed = |source| ServeError::Listen {
        address: args.listen_xds,
        source,
    };
    let listener = TcpListener::bind(args.listen_xds).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let options = Options {
        max_connections: args.max_xds_peers,
        max_streams: args.max_xds_peers,
        max_connection_age: Duration::from_secs(args.max_xds_connection_age),
        ..Options::default()
    };
    let server = Arc::new(Server::new(tls, Authenticator::new(tokens), snapshots, options));
    let task = tokio::spawn(Arc::clone(&server).serve(listener, renewal, shutdown));
    tracing::info!(%address, "xDS server listening");
    Ok(Serving { server, address, task })
}

fn tokens(args: &XdsArgs, reviewer: Option<Arc<dyn TokenReviewer>>) -> Result<Option<Tokens>, ServeError> {
    let accounts = ServiceAccounts::parse(&args.agent_service_accounts, &args.fleet_service_accounts)?;
    match reviewer {
        Some(reviewer) => Ok(Some(Tokens::new(reviewer, accounts))),
        None if accounts == ServiceAccounts::default() => Ok(None),
        None => Err(ServeError::NoReviewer),
    }
}

/// What the server's certificate is for.
fn names(args: &XdsArgs) -> Vec<String> {
    let mut names = args.xds_names.clone();
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let address: IpAddr = args.listen_xds.ip();
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.sort();
    names.dedup();
    names
}
