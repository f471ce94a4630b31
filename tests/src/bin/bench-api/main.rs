//! The bench of the testbed's API server: how long a list of many objects takes, how many changes it makes durable in a
//! second, and how far behind its watchers are then.
//!
//! `cargo xtask bench-api` builds everything and runs it; `docs/benchmarks.md` says how it measures. The server is a process
//! of its own; all clients are one other process, which shares the machine with it.

mod client;
mod figures;
mod lists;
mod server;
mod writes;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;

use figures::Report;

/// Measures the testbed's API server on this machine, which should do nothing else.
#[derive(Debug, Parser)]
struct Args {
    /// Objects that are listed.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Changes offered in a second.
    #[arg(long, default_value_t = 1_200)]
    rate: u32,
    /// How long they are offered (seconds).
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Watchers that see every change.
    #[arg(long, default_value_t = 20)]
    watchers: usize,
    /// Clients that write.
    #[arg(long, default_value_t = 16)]
    writers: usize,
    /// Also write the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(
        args.rate > 0 && args.writers > 0 && args.objects > 0,
        "nothing to measure"
    );
    let server = server::Server::start()?;
    let filled = lists::fill(&server, args.objects, args.writers).await?;
    let lists = lists::take(&server, args.objects).await?;
    let span = Duration::from_secs(u64::from(args.seconds));
    let load = writes::Load {
        rate: args.rate,
        span,
        watchers: args.watchers,
        writers: args.writers,
    };
    let writes = writes::take(&server, load).await?;
    let report = Report {
        cpus: std::thread::available_parallelism()?.get(),
        objects: args.objects,
        filled,
        lists,
        writes,
    };
    let mut out = std::io::stdout().lock();
    out.write_all(report.text().as_bytes())?;
    if let Some(path) = args.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(
        report.passed(),
        "the API server is too slow on this machine, or the machine too busy"
    );
    Ok(())
}
