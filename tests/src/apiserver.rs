//! An in-memory server that speaks the Kubernetes API: a test double, good enough for kube-rs, client-go, kubectl and
//! helm, and held to the answers of a real server by `tests/apiserver_contract.rs`.
//!
//! A request goes [`http`] → [`call`] (taken apart) → [`verbs`] → a transaction on the [`store`], which [`journal`]
//! brings to the disk before the answer leaves. Kinds are data ([`resource`], [`schema`]); what single kinds need beyond
//! that is in [`kinds`]. No controller runs here: what a controller does in a real cluster an API client does in tests.

mod answer;
mod body;
mod bootstrap;
mod call;
mod cel;
mod deletion;
mod discovery;
mod escalation;
mod fields;
mod fieldset;
mod http;
mod identity;
mod journal;
mod json_text;
mod kinds;
mod managed;
mod names;
mod object;
mod openapi;
mod patch;
mod pods;
mod protobuf;
mod proxy;
mod ranges;
mod rbac;
mod read;
mod resource;
mod reviews;
mod scale;
mod schema;
mod selectors;
mod server;
mod stall;
mod status;
mod store;
mod table;
pub(crate) mod tls;
mod validate;
mod verbs;
mod watch;
mod write;
mod zeros;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;

pub use journal::JournalError;
pub use ranges::{NoRange, ServiceRange};
pub use tls::TlsError;

use identity::{MASTERS, Tokens, User};
use ranges::Ranges;
use server::{Parts, Server};
use status::ApiError;

/// The Kubernetes version whose answers are given.
const VERSION: &str = "1.36";

/// How Pods call the server.
const IN_CLUSTER_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A bearer token and whom it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticToken {
    /// What the client sends.
    pub token: String,
    /// Name and uid.
    pub user: String,
    /// Beside `system:authenticated`.
    pub groups: Vec<String>,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 for a free one.
    pub listen: SocketAddr,
    /// The server's directory: journal, keys, kubeconfig. What is in it is taken up again.
    pub data: PathBuf,
    /// Addresses and names that clients reach the server by, beside the one it listens on.
    pub names: Vec<String>,
    /// Tokens beside the administrator's.
    pub tokens: Vec<StaticToken>,
    /// Changes that a watcher can look back; older ones are answered with 410.
    pub watch_log: usize,
    /// Size of the journal at which it is replaced by a snapshot (bytes).
    pub compact_at: u64,
    /// Address at which Pods reach the server behind the Service `kubernetes`; the one it listens on when absent.
    pub advertise: Option<IpAddr>,
    /// Where cluster addresses come from: one range, or one of each family, the preferred one first.
    pub service_ranges: Vec<ServiceRange>,
    /// Where node ports come from.
    pub node_ports: RangeInclusive<u16>,
    /// A client that takes nothing of its answer for so long is cut off.
    pub stalled_after: Duration,
}

impl Config {
    /// On loopback, at a free port.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: data.to_owned(),
            names: Vec::new(),
            tokens: Vec::new(),
            watch_log: 65_536,
            compact_at: 256 << 20,
            advertise: None,
            service_ranges: vec![ServiceRange::usual()],
            node_ports: 30_000..=32_767,
            stalled_after: Duration::from_secs(30),
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory or its port.
    #[error("cannot use {what}")]
    System {
        /// A path or an address.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What it has kept.
    #[error("cannot take up what was kept")]
    Journal(#[from] JournalError),
    /// Its certificate.
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
    /// What every cluster has.
    #[error("cannot make the first objects: {0}")]
    Bootstrap(String),
}

impl From<ApiError> for StartError {
    fn from(error: ApiError) -> Self {
        Self::Bootstrap(error.message)
    }
}

/// A running server. Dropping it stops it; what it answered for is on the disk.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    kubeconfig: PathBuf,
    ca: String,
    token: String,
    stop: channel::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server; it answers when this returns.
    ///
    /// # Errors
    /// When its directory, its port or what it has kept can't be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let system = |what: &dyn std::fmt::Display| {
            let what = what.to_string();
            move |source| StartError::System { what, source }
        };
        let data = &config.data;
        std::fs::create_dir_all(data).map_err(system(&data.display()))?;
        let listener = TcpListener::bind(config.listen).await.map_err(system(&config.listen))?;
        let address = listener.local_addr().map_err(system(&config.listen))?;
        let tls = tls::set_up(data, &certificate_names(&config, address.ip()))?;

        let random = || format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let token = tls::kept_secret(data, "token", random).map_err(system(&data.display()))?;
        let secret = tls::kept_secret(data, "signing.key", random).map_err(system(&data.display()))?;
        let server = Arc::new(Server::open(
            data,
            Parts {
                tokens: Tokens::new(fixed_tokens(&token, &config.tokens), secret.as_bytes()),
                address: address.to_string(),
                ranges: Ranges {
                    addresses: config.service_ranges,
                    node_ports: config.node_ports,
                },
                watch_log: config.watch_log,
                compact_at: config.compact_at,
            },
        )?);
        let advertised = SocketAddr::new(config.advertise.unwrap_or(address.ip()), address.port());
        let revision = bootstrap::run(&server, advertised)?;
        server.durable(revision).await?;

        let kubeconfig = data.join("kubeconfig");
        let text = kubeconfig_for(&format!("https://{address}"), &tls.ca, &token);
        tls::write_secret(&kubeconfig, &text).map_err(system(&kubeconfig.display()))?;
        let (stop, stopped) = channel::channel(false);
        let task = tokio::spawn(http::serve(
            server,
            listener,
            tls.acceptor,
            config.stalled_after,
            stopped,
        ));
        Ok(Self {
            address,
            kubeconfig,
            ca: tls.ca,
            token,
            stop,
            task: Some(task),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The authority that signed the server's certificate, PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The administrator's token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A kubeconfig for another token, at another address of the same server.
    #[must_use]
    pub fn kubeconfig_with(&self, url: &str, token: &str) -> String {
        kubeconfig_for(url, &self.ca, token)
    }

    /// Ends all connections and waits until everything is on the disk.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // It ends by itself, or has been aborted with its runtime.
            drop(task.await);
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn fixed_tokens(admin: &str, more: &[StaticToken]) -> Vec<(String, User)> {
    let mut tokens = vec![(admin.to_owned(), User::new("admin", "admin", &[MASTERS]))];
    tokens.extend(more.iter().map(|token| {
        let groups: Vec<&str> = token.groups.iter().map(String::as_str).collect();
        (token.token.clone(), User::new(&token.user, &token.user, &groups))
    }));
    tokens
}

/// What the certificate of a server that listens on `listen` is for.
pub(crate) fn certificate_names(config: &Config, listen: IpAddr) -> Vec<String> {
    let mut names = vec![listen.to_string(), "localhost".to_owned()];
    names.extend(IN_CLUSTER_NAMES.iter().map(|name| (*name).to_owned()));
    names.extend(config.service_ranges.iter().map(|range| range.host(1).to_string()));
    names.extend(config.advertise.iter().map(ToString::to_string));
    names.extend(config.names.iter().cloned());
    names
}

/// A kubeconfig with one cluster, one user and one context.
pub(crate) fn kubeconfig_for(url: &str, ca: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: kubelb-test\n  cluster:\n    server: {url}\n    certificate-authority-data: {}\n\
         users:\n\
         - name: user\n  user:\n    token: {token}\n\
         contexts:\n\
         - name: kubelb-test\n  context:\n    cluster: kubelb-test\n    user: user\n\
         current-context: kubelb-test\n",
        STANDARD.encode(ca)
    )
}
