//! The xDS server as the command line wants it: flags, the authority of the state directory, a listening socket.
//!
//! Decides nothing about peers or configuration; [`crate::identity`] and [`crate::xds::server`] do.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use kubelb_xds::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::identity::authority::{AuthorityError, SERVER_LIFETIME};
use crate::identity::review::{ApiServer, ApiServerError};
use crate::identity::tls::{ServerTls, TlsError};
use crate::identity::token::ServiceAccountError;
use crate::identity::{Authenticator, Authority, ServiceAccounts, TokenReviewer, Tokens};
use crate::xds::server::{Options, Server};

/// Flags of the xDS server.
#[derive(Args, Clone, Debug)]
pub struct XdsArgs {
    /// Serve the configuration to agents and Envoys here, for example 0.0.0.0:18000.
    #[arg(long, value_name = "ADDR")]
    pub listen_xds: Option<SocketAddr>,
    /// Address or DNS name by which peers find this server; repeat for more. Loopback and the address of --listen-xds are added.
    #[arg(long = "xds-name", value_name = "NAME")]
    pub xds_names: Vec<String>,
    /// Where other managers reach this one while it leads, to tell what is connected to them; left out: the address of --listen-xds, if that is
    /// one address.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_address: Option<String>,
    /// Service account whose token opens all of L4; repeat for more.
    #[arg(long = "agent-service-account", value_name = "NAMESPACE/NAME")]
    pub agent_service_accounts: Vec<String>,
    /// Service account whose token opens L7 of these tenants, or of all with `*`; repeat for more.
    #[arg(long = "fleet-service-account", value_name = "NAMESPACE/NAME=TENANT[,TENANT…]|*")]
    pub fleet_service_accounts: Vec<String>,
    /// Kubeconfig of the API server that has the objects and checks service accounts' tokens; by default, that of the cluster that this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Peers at once.
    #[arg(long, value_name = "N", default_value_t = Options::default().max_connections)]
    pub max_xds_peers: usize,
    /// Connections are ended in good order after this many seconds, so that peers spread over replicas again.
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().max_connection_age.as_secs())]
    pub max_xds_connection_age: u64,
}

impl Default for XdsArgs {
    /// As without any flag: nobody is served.
    fn default() -> Self {
        let options = Options::default();
        Self {
            listen_xds: None,
            xds_names: Vec::new(),
            advertise_address: None,
            agent_service_accounts: Vec::new(),
            fleet_service_accounts: Vec::new(),
            kubeconfig: None,
            max_xds_peers: options.max_connections,
            max_xds_connection_age: options.max_connection_age.as_secs(),
        }
    }
}

impl XdsArgs {
    /// Where other managers reach this one, which listens at `address`.
    #[must_use]
    pub fn advertised(&self, address: SocketAddr) -> Option<String> {
        let own = || (!address.ip().is_unspecified()).then(|| address.to_string());
        match self.host_and_port() {
            Some((host, port)) if host.contains(':') => Some(format!("[{host}]:{port}")),
            Some((host, port)) => Some(format!("{host}:{port}")),
            None => own(),
        }
    }

    /// An IPv6 address may be without brackets: the last colon is the port's.
    fn host_and_port(&self) -> Option<(&str, &str)> {
        let (host, port) = self.advertise_address.as_deref()?.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']), port))
    }
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
    /// The API server that checks tokens.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
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

/// A server whose port is open, and which accepts nobody yet.
#[derive(Debug)]
pub struct Serving {
    server: Arc<Server>,
    listener: TcpListener,
    address: SocketAddr,
    renewal: SystemTime,
    publish: watch::Sender<Arc<Snapshot>>,
}

/// What checks tokens, where there is a service account that may show one.
///
/// # Errors
/// When no API server is known.
pub async fn reviewer(args: &XdsArgs) -> Result<Option<Arc<dyn TokenReviewer>>, ServeError> {
    let accounts = args.agent_service_accounts.len() + args.fleet_service_accounts.len();
    if args.listen_xds.is_none() || accounts == 0 {
        return Ok(None);
    }
    let api_server = ApiServer::new(args.kubeconfig.as_deref()).await?;
    Ok(Some(Arc::new(api_server)))
}

/// Opens the port that `args` name, if they name one, so that what is wrong is said at start. `reviewer` checks tokens where there is an
/// API server.
///
/// # Errors
/// When the flags, the state directory or the address do not serve.
pub async fn bind(
    args: &XdsArgs,
    state_dir: &Path,
    reviewer: Option<Arc<dyn TokenReviewer>>,
) -> Result<Option<Serving>, ServeError> {
    let Some(address) = args.listen_xds else {
        return Ok(None);
    };
    let tokens = tokens(args, reviewer)?;
    #[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
    let now = SystemTime::now();
    let authority = Authority::open(state_dir, now)?;
    let (tls, renewal) = ServerTls::new(authority, names(args, address), SERVER_LIFETIME, now)?;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let options = Options {
        max_connections: args.max_xds_peers,
        max_streams: args.max_xds_peers,
        max_connection_age: Duration::from_secs(args.max_xds_connection_age),
        ..Options::default()
    };
    let (publish, snapshots) = watch::channel(Arc::default());
    Ok(Some(Serving {
        server: Arc::new(Server::new(tls, Authenticator::new(tokens), snapshots, options)),
        listener,
        address,
        renewal,
        publish,
    }))
}

impl Serving {
    /// Who is connected, and what happened.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves what `snapshots` has, from the first one on, until `shutdown`, and until all connections have ended.
    pub async fn run(self, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>, shutdown: CancellationToken) {
        // What is not known yet would be taken from peers.
        let first = tokio::select! {
            () = shutdown.cancelled() => return,
            first = snapshots.wait_for(Option::is_some) => first.ok().and_then(|first| first.clone()),
        };
        let Some(first) = first else { return };
        self.publish.send_replace(first);
        let publish = self.publish;
        let follow = async {
            while snapshots.changed().await.is_ok() {
                if let Some(next) = snapshots.borrow_and_update().clone() {
                    publish.send_replace(next);
                }
            }
            // No more will come; what there is is served on.
            std::future::pending::<()>().await;
        };
        tracing::info!(address = %self.address, "xDS server listening");
        tokio::select! {
            () = self.server.serve(self.listener, self.renewal, shutdown) => {}
            () = follow => {}
        }
    }
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
fn names(args: &XdsArgs, address: SocketAddr) -> Vec<String> {
    let mut names = args.xds_names.clone();
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let advertised = args
        .advertise_address
        .as_deref()
        .and_then(|address| address.rsplit_once(':'));
    names.extend(advertised.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()));
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_managers_are_told_an_address_that_they_can_dial() {
        let args = |advertised: Option<&str>| XdsArgs {
            advertise_address: advertised.map(str::to_owned),
            ..XdsArgs::default()
        };
        let (any, one) = ("[::]:18000".parse().unwrap(), "10.0.0.1:18000".parse().unwrap());
        assert_eq!(args(None).advertised(any), None);
        assert_eq!(args(None).advertised(one).as_deref(), Some("10.0.0.1:18000"));
        for (given, expected) in [
            ("10.0.0.2:1", "10.0.0.2:1"),
            ("m-0.kubelb:1", "m-0.kubelb:1"),
            ("fd00::2:1", "[fd00::2]:1"),
            ("[fd00::2]:1", "[fd00::2]:1"),
        ] {
            let args = args(Some(given));
            assert_eq!(args.advertised(any).as_deref(), Some(expected));
            assert!(
                names(&args, any).contains(&expected.rsplit_once(':').unwrap().0.trim_matches(['[', ']']).to_owned())
            );
        }
    }
}
