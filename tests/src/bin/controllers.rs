//! The controllers as a program: `cargo run -p kubelb-tests --bin controllers -- --kubeconfig FILE`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubelb_tests::controllers::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// What kube-controller-manager and kube-scheduler do, as small as tests need it.
#[derive(Debug, Parser)]
struct Args {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// What clients inside the cluster shall trust, PEM; the kubeconfig's authority when absent.
    #[arg(long)]
    api_ca: Option<PathBuf>,
    /// Seconds that a node may be silent before its Pods count as lost.
    #[arg(long, default_value_t = 40)]
    node_grace: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)?;
    let api_ca = match &args.api_ca {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => controllers::authority(&kubeconfig)?,
    };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let options = Options {
        api_ca,
        node_grace: Duration::from_secs(args.node_grace),
    };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    controllers::run(kube::Client::try_from(config)?, options, shutdown).await;
    Ok(())
}
