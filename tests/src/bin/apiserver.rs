//! The test API server as a program: `cargo run -p kubelb-tests --bin apiserver -- --data DIR`.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use kubelb_tests::apiserver::{ApiServer, Config, ServiceRange, StaticToken};
use tokio::signal::unix::{SignalKind, signal};

/// An in-memory Kubernetes API server for tests. It is a test double: never expose it.
#[derive(Debug, Parser)]
struct Args {
    /// Directory of its journal, keys and kubeconfig; taken up again when it exists.
    #[arg(long)]
    data: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Further addresses or names for the certificate.
    #[arg(long)]
    name: Vec<String>,
    /// Another token, as TOKEN=USER or TOKEN=USER,GROUP,…
    #[arg(long, value_parser = token)]
    token: Vec<StaticToken>,
    /// Changes that a watcher can look back.
    #[arg(long, default_value_t = 65_536)]
    watch_log: usize,
    /// Size of the journal at which it is replaced by a snapshot (bytes).
    #[arg(long, default_value_t = 256 << 20)]
    compact_at: u64,
    /// Address at which Pods reach the server; the one it listens on when absent.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Ranges of cluster addresses, one or one of each family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    service_cluster_ip_range: Vec<ServiceRange>,
    /// Range of node ports.
    #[arg(long, value_parser = ports, default_value = "30000-32767")]
    service_node_port_range: RangeInclusive<u16>,
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let range = parse().filter(|range: &RangeInclusive<u16>| *range.start() > 0 && !range.is_empty());
    range.ok_or_else(|| "use FIRST-LAST".to_owned())
}

fn token(text: &str) -> Result<StaticToken, String> {
    let (token, user) = text.split_once('=').ok_or("use TOKEN=USER")?;
    let mut parts = user.split(',').map(str::to_owned);
    Ok(StaticToken {
        token: token.to_owned(),
        user: parts.next().unwrap_or_default(),
        groups: parts.collect(),
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let server = ApiServer::start(Config {
        listen: args.listen,
        names: args.name,
        tokens: args.token,
        watch_log: args.watch_log,
        compact_at: args.compact_at,
        advertise: args.advertise_address,
        service_ranges: args.service_cluster_ip_range,
        node_ports: args.service_node_port_range,
        ..Config::new(&args.data)
    })
    .await?;
    // The one line that scripts read; it is written when the server answers.
    writeln!(std::io::stdout(), "{}", server.kubeconfig().display())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for SIGINT")?,
    }
    server.shutdown().await;
    Ok(())
}
