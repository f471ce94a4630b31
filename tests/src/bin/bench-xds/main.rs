//! The bench of the control plane: what thousands of LoadBalancers cost manager and agent, how soon hundreds of peers have a change, and how
//! soon packets go where a tenant's change sends them.
//!
//! `cargo xtask bench-xds` and `bench-l4` build everything and run it; `docs/benchmarks.md` says how it measures. Manager and CCMs are processes
//! of their own (this program, started again), so is the agent; peers are sessions of this process.

mod change;
mod cold;
mod hub;
mod layer7;
mod manager;
mod maps;
mod network;
mod peer;
mod peers;
mod process;
mod report;
mod scale;
mod scenario;
mod served;
mod tenants;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use kubelb_manager::args::Command;
use kubelb_tests::{netns, tool};
use nix::sys::signal::{SigSet, Signal};

use report::Report;
use scenario::Scenario;

/// Changes to each row of the part about scale, at most.
const SCALE_CHANGES: usize = 5;

/// Measures the control plane on this machine, which should do nothing else. Needs root.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// LoadBalancers.
    #[arg(long, default_value_t = 10_000)]
    load_balancers: u32,
    /// Endpoints of each.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Peers, half of them agents, half of them fleets.
    #[arg(long, default_value_t = 400)]
    peers: usize,
    /// LoadBalancers in the part about peers.
    #[arg(long, default_value_t = 1_000)]
    peer_load_balancers: u32,
    /// Changes that peers are sent.
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// Changes of each kind that tenants make.
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// LoadBalancers in the part about tenants.
    #[arg(long, default_value_t = 2_000)]
    tenant_load_balancers: u32,
    /// What manager, CCMs and agent log there, as RUST_LOG has it.
    #[arg(long, default_value = "error")]
    log: String,
    /// Only these parts.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "change,cold,peers,scale,tenants,layer7"
    )]
    parts: Vec<Part>,
    /// A small one that says nothing about time: that everything works.
    #[arg(long)]
    quick: bool,
    /// Also write the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One endpoint changes, in this process.
    Change,
    /// Manager and agent from nothing to everything.
    Cold,
    /// Many peers of one manager.
    Peers,
    /// Very many resources in one Envoy.
    Scale,
    /// A tenant changes something: until packets take the new way.
    Tenants,
    /// Routes of layer 7.
    Layer7,
}

/// This program as a process that is measured.
#[derive(Debug, Subcommand)]
enum Role {
    /// `kubelb-manager`.
    #[command(hide = true)]
    Manager {
        #[command(subcommand)]
        command: Box<Command>,
    },
    /// `kubelb-ccm`.
    #[command(hide = true)]
    Ccm {
        #[command(flatten)]
        cli: Box<kubelb_ccm::args::Cli>,
    },
}

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    match args.role.take() {
        Some(Role::Manager { command }) => return kubelb_manager::run::run(*command),
        Some(Role::Ccm { cli }) => return kubelb_ccm::run::run(*cli),
        None => {}
    }
    tool::require_root()?;
    remove_everything_when_interrupted()?;
    if args.quick {
        (args.load_balancers, args.peer_load_balancers, args.peers, args.changes) = (100, 100, 20, 3);
        (args.tenant_load_balancers, args.samples) = (60, 2);
    }
    let scenario = |load_balancers| Scenario::new(load_balancers, args.endpoints);
    let mut report = Report::new(args.quick)?;
    for part in &args.parts {
        match part {
            Part::Change => change::take(&scenario(args.load_balancers), args.changes, &mut report)?,
            Part::Cold => cold::take(&scenario(args.load_balancers), &mut report)?,
            Part::Peers => {
                let plan = peers::Plan {
                    peers: args.peers,
                    changes: args.changes,
                };
                peers::take(&scenario(args.peer_load_balancers), plan, &mut report)?;
            }
            Part::Scale => scale::take(args.changes.min(SCALE_CHANGES), args.quick, &mut report)?,
            Part::Tenants => {
                let plan = tenants::Plan {
                    load_balancers: args.tenant_load_balancers,
                    samples: args.samples,
                    log: args.log.clone(),
                };
                tenants::take(&plan, &mut report)?;
            }
            Part::Layer7 => {
                let part = if args.quick { 100 } else { 1 };
                let plan = layer7::Plan {
                    attached: 1_000 / part,
                    loaded: 3_000 / part,
                    routes: 5_000 / part,
                    samples: args.samples,
                    quiet: Duration::from_millis(if args.quick { 500 } else { 3_000 }),
                    span: Duration::from_secs(if args.quick { 1 } else { 10 }),
                    turns: if args.quick { 1 } else { 3 },
                    log: args.log.clone(),
                };
                layer7::take(&plan, &mut report)?;
            }
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(report.text().as_bytes())?;
    if let Some(path) = args.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(report.passed(), "over a bar on this machine, or the machine too busy");
    Ok(())
}

/// Ctrl-C and SIGTERM leave no namespace or mount behind.
fn remove_everything_when_interrupted() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Threads that are started from here on inherit the mask, so only the one below sees them.
    signals.thread_block().context("cannot block signals")?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                if let Err(error) = netns::remove_own() {
                    eprintln!("error: {error:#}");
                }
                std::process::exit(130);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}
