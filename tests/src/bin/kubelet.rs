//! The testbed's kubelet as a program, to be started inside the network namespace of its node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubelb_tests::kubelet::{self, Cidr, Options};
use tokio::signal::unix::{SignalKind, signal};

/// A kubelet that runs Pods as local processes, for tests.
#[derive(Debug, Parser)]
struct Args {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the Node.
    #[arg(long)]
    node: String,
    /// The node's addresses.
    #[arg(long, value_delimiter = ',', required = true)]
    address: Vec<IpAddr>,
    /// Ranges of the Pods' addresses.
    #[arg(long, value_delimiter = ',', required = true)]
    pod_cidr: Vec<Cidr>,
    /// Image table, YAML: `images: {NAME: {command: […], env: {…}}}`.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Directory for volumes and logs.
    #[arg(long)]
    data: PathBuf,
    /// Name servers of the cluster.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// A label of the Node, as KEY=VALUE.
    #[arg(long, value_parser = label)]
    label: Vec<(String, String)>,
    /// Where to serve logs and commands.
    #[arg(long, default_value = "[::]:10250")]
    listen: SocketAddr,
    /// Seconds between two renewals of the Lease.
    #[arg(long, default_value_t = 10.0)]
    lease_seconds: f64,
    /// Seconds before the second restart of a container; doubled for each further one.
    #[arg(long, default_value_t = 10.0)]
    back_off_seconds: f64,
    /// Longest pause before a restart, in seconds.
    #[arg(long, default_value_t = 300.0)]
    back_off_max_seconds: f64,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> anyhow::Result<()> {
    if let Some(code) = kubelet::run_if_asked() {
        std::process::exit(code);
    }
    let args = Args::parse();
    // One thread: what a kubelet starts dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).context("no number of seconds");
    let options = Options {
        node: args.node,
        addresses: args.address,
        pod_cidrs: args.pod_cidr,
        images: args.images,
        programs: own.parent().context("this program is in no directory")?.to_owned(),
        data: std::path::absolute(args.data)?,
        cluster_dns: args.cluster_dns,
        labels: args.label.into_iter().collect::<BTreeMap<_, _>>(),
        listen: args.listen,
        lease_interval: seconds(args.lease_seconds)?,
        back_off: seconds(args.back_off_seconds)?,
        back_off_max: seconds(args.back_off_max_seconds)?,
    };
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            // Without the signal handler there is no other way to stop than SIGTERM.
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    kubelet::run(client, options, shutdown).await.context("kubelet")
}
