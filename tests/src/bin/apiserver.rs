//! The test API server as a program: `cargo run -p kubelb-tests --bin apiserver -- --data DIR`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use kubelb_tests::apiserver::{ApiServer, Config, StaticToken};
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
