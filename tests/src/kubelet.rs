//! A kubelet for tests: Pods whose containers are local processes, with no container engine. It is an API client, so that it
//! works over the testbed's API server and over a real one alike.
//!
//! What happens to a Pod is decided by pure code ([`state`], [`status`], [`env`], [`volumes`], …); [`worker`] carries it out,
//! one task for each Pod. Containers are this very program started again ([`init`]); they end with the kubelet, however it
//! ends, and its successor starts them anew with their restarts counted. Nothing is mounted in the machine's own namespace.
//!
//! A Pod's network namespace has no name, so that it vanishes with its processes: `nsenter --net=/proc/PID/ns/net`.

mod clock;
mod command;
mod container;
mod downward;
mod env;
mod events;
mod files;
mod images;
mod init;
mod launch;
mod launcher;
mod log_file;
mod name_files;
mod network;
mod node;
mod output;
mod payload;
mod pods;
mod probe;
mod probing;
mod registry;
mod security;
mod server;
mod spdy;
mod state;
mod status;
mod stop;
mod terminal;
mod tls;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use tokio::net::TcpListener;

pub use images::{Image, Images, ImagesError};
pub use init::run_if_asked;
pub use network::Cidr;
pub use tls::TlsError;

use network::Addresses;

/// How to run a kubelet.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node.
    pub node: String,
    /// The node's addresses, which must be those of its network namespace.
    pub addresses: Vec<IpAddr>,
    /// Ranges that Pods get their addresses from.
    pub pod_cidrs: Vec<Cidr>,
    /// The image table; built-in images are there without one.
    pub images: Option<PathBuf>,
    /// Directory of the testbed's own programs, for built-in images.
    pub programs: PathBuf,
    /// Directory for volumes and logs.
    pub data: PathBuf,
    /// Name servers of the cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// Further labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// Where to serve logs and commands.
    pub listen: SocketAddr,
    /// Pause between two renewals of the Lease.
    pub lease_interval: Duration,
    /// Pause before the second restart of a container; doubled for each further one.
    pub back_off: Duration,
    /// The longest pause before a restart.
    pub back_off_max: Duration,
}

/// Why a kubelet does not start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Its directory, its port, or the node's settings.
    #[error("cannot use {what}")]
    System {
        /// A path or an address.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its image table.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// Its certificate.
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
}

/// What all parts share.
struct Kubelet {
    client: Client,
    options: Options,
    events: events::Recorder,
    addresses: Mutex<Addresses>,
    registry: registry::Registry,
    allocatable: BTreeMap<String, Quantity>,
}

/// Forwarding between Pods and the world is the node's job.
const FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
];

/// Runs a kubelet until `shutdown` completes; then its containers end with it, and the Node stays as it is.
///
/// To be called inside the node's network namespace, as root, on a runtime of the current thread that lives as long as the
/// process: what is started dies with the thread that started it.
///
/// # Errors
/// When it can't start. Whatever goes wrong later shows in the objects and is tried again.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), KubeletError> {
    let system = |what: String| move |source| KubeletError::System { what, source };
    Images::read(options.images.as_deref(), &options.programs)?;
    std::fs::create_dir_all(&options.data).map_err(system(options.data.display().to_string()))?;
    for path in FORWARDING {
        std::fs::write(path, "1").map_err(system(path.to_owned()))?;
    }
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(system(options.listen.to_string()))?;
    let port = listener
        .local_addr()
        .map_err(system(options.listen.to_string()))?
        .port();
    let acceptor = tls::acceptor(&options.node, &options.addresses)?;
    let kubelet = Arc::new(Kubelet {
        events: events::Recorder::start(client.clone(), options.node.clone()),
        addresses: Mutex::new(Addresses::new(options.pod_cidrs.clone())),
        registry: registry::Registry::default(),
        allocatable: node::capacity(),
        client: client.clone(),
        options: options.clone(),
    });
    let serve = server::serve(Arc::clone(&kubelet), listener, acceptor);
    let work = async {
        node::register(&client, &options, port).await;
        let heartbeat = node::heartbeat(client.clone(), options.clone(), port);
        tokio::join!(heartbeat, pods::run(kubelet));
    };
    tokio::select! {
        () = shutdown => {}
        () = serve => {}
        () = work => {}
    }
    Ok(())
}
