//! The service proxy as a program, started inside a node's network namespace:
//! `service-proxy --kubeconfig FILE --node NAME [--cluster-dns IP,…]`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubelb_tests::service_proxy::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Forwards the cluster's Services on this node and answers for their names. For tests: it changes the network namespace
/// that it is started in.
#[derive(Debug, Parser)]
struct Args {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of this node.
    #[arg(long)]
    node: String,
    /// Addresses to answer DNS on.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).context("cannot read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = kube::Client::try_from(config.context("cannot use the kubeconfig")?)?;
    let options = Options {
        node: args.node,
        cluster_dns: args.cluster_dns.into_iter().collect(),
    };
    service_proxy::run(client, options, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}
