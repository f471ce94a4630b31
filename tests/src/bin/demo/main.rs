//! The demonstration, on this machine alone: the whole system with two tenants, or a node agent between a client and three tenant nodes.
//!
//! `cargo xtask demo` builds everything and runs it. Everything it makes is removed at its end, also after Ctrl-C.

mod board;
mod clusters;
mod interrupt;
mod layer7;
mod load;
mod scene;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kubelb_tests::tool;

use interrupt::Interrupt;
use scene::{Mode, Scene};

const HELP: &str = "\
Shows kubelb at work on this machine, in network namespaces: two tenants' clusters and the one that serves them. Needs root.

Usage: cargo xtask demo [--data-path] [--keep]

      --data-path  Show one agent alone: round robin, failover, restart, bulk data
      --keep       At the end leave everything running to play with, until Ctrl-C
  -h, --help       Show this text
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let (mut keep, mut data_path) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--data-path" => data_path = true,
            "-h" | "--help" => return say(HELP),
            other => bail!("unknown argument {other:?}\n\n{HELP}"),
        }
    }
    tool::require_root()?;
    let interrupt = Interrupt::watch()?;
    let mut stage = Stage {
        number: 0,
        interrupt,
        terminal: std::io::stdout().is_terminal(),
    };
    if data_path {
        play(&mut stage, Mode::Xdp, false).context("in native XDP")?;
        play(&mut stage, Mode::Auto, keep).context("in automatic mode")?;
    } else {
        clusters::play(&mut stage, keep)?;
    }
    say("\nEverything worked, and everything is removed again.\n")
}

/// One run of the whole story in one attach mode.
fn play(stage: &mut Stage, mode: Mode, keep: bool) -> anyhow::Result<()> {
    say(&format!("\n=== {} ===\n", mode.title()))?;
    stage.step(
        "Network namespaces: one client, one management node, three tenant nodes; HTTP, TCP and UDP servers on each",
    )?;
    let scene = Scene::new(mode)?;
    stage.step(&format!(
        "kubelb-agent on the node, --attach-mode {}; nothing else forwards the VIPs",
        mode.flag()
    ))?;
    let mut agent = scene.start_agent()?;
    say(&indent(&agent.status_table()?))?;
    stage.step("The client opens new connections to the VIPs: every backend takes its turn")?;
    scene.show_round_robin(stage)?;
    if mode == Mode::Xdp {
        stage.step("tenant2 dies: health checks take it out; when it is back it gets traffic again")?;
        scene.show_failover(stage, &agent)?;
        stage.step("The agent is killed with SIGKILL and started again: the kernel forwards all the while")?;
        scene.show_restart(stage, &mut agent)?;
    }
    stage.step("Bulk data through the VIP with iperf3, and straight to the tenant for comparison")?;
    scene.show_throughput(stage)?;
    stage.step("What the agent says in the end: kubelb-agent status")?;
    say(&indent(&agent.status_table()?))?;
    if keep {
        say(&scene.hints(&agent))?;
        stage.interrupt.wait();
        return Ok(());
    }
    stage.step("kubelb-agent detach, and everything else is removed as well")?;
    agent.terminate()?;
    agent.detach()
}

/// Where it is told.
struct Stage {
    number: usize,
    interrupt: Interrupt,
    /// Tables are redrawn in place.
    terminal: bool,
}

impl Stage {
    fn step(&mut self, text: &str) -> anyhow::Result<()> {
        self.interrupt.check()?;
        self.number += 1;
        say(&format!("\n[{}] {text}\n", self.number))
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
