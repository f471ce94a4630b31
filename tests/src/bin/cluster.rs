//! A simulated cluster to play with: `cargo run -p kubelb-tests --bin cluster -- --nodes 3`, as root, until Ctrl-C.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context as _;
use clap::Parser;
use kubelb_tests::cluster::{Cluster, Plan, kubectl_line};
use kubelb_tests::lan::{Host, Lan};
use kubelb_tests::{netns, tool};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Starts a cluster on this machine: an API server, controllers, and nodes in network namespaces. Needs root. Ends at Ctrl-C,
/// and leaves nothing behind.
#[derive(Debug, Parser)]
struct Args {
    /// Nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    /// Begins the names of the nodes.
    #[arg(long, default_value = "play")]
    name: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tool::require_root()?;
    let mut interrupts = Interrupts::watch()?;
    let lan = Lan::new()?;
    let client = lan.host("client")?;
    let plan = Plan {
        nodes: args.nodes,
        ..Plan::new(&args.name)
    };
    let cluster = tokio::select! {
        cluster = Cluster::start(&lan, &plan) => cluster?,
        () = interrupts.next() => return Ok(()),
    };
    writeln!(std::io::stdout(), "{}", describe(&cluster, &client)?)?;
    interrupts.next().await;
    // Its parts are ended in order; then the network goes.
    drop(cluster);
    drop(client);
    drop(lan);
    netns::remove_own()
}

struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a person needs to know to use it.
fn describe(cluster: &Cluster, client: &Host) -> Result<String, std::fmt::Error> {
    let mut text = String::from("The cluster is up, until Ctrl-C.\n\n");
    let control_plane = cluster.control_plane();
    writeln!(text, "kubectl (as kubeconfig: {}):", cluster.kubeconfig().display())?;
    let kubectl = kubectl_line(&control_plane.namespace, cluster.kubeconfig());
    writeln!(text, "  {kubectl} get nodes\n")?;
    writeln!(text, "A machine outside the cluster, {} and {}:", client.v4, client.v6)?;
    let enter = |host: &Host| format!("nsenter --net={}", host.namespace.path().display());
    let first = cluster.nodes().first().map_or(control_plane, |node| &node.host);
    writeln!(text, "  {} curl http://{}:NODEPORT/\n", enter(client), first.v4)?;
    for node in cluster.nodes() {
        writeln!(text, "{}, {} and {}:", node.name, node.host.v4, node.host.v6)?;
        writeln!(text, "  {} bash", enter(&node.host))?;
    }
    Ok(text)
}
