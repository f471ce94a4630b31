//! The command line: which task, with which arguments. Each task lives in a module of its own.

use clap::{Parser, Subcommand};

use crate::ebpf::Object;
use crate::step::Steps;
use crate::workspace::Workspace;
use crate::{agent, crds, demo, ebpf, lint, setup, test};

/// Project tasks. Start with `cargo xtask demo`; check a change with `cargo xtask test`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the other tasks need (safe to repeat; quick when nothing is missing)
    Setup,
    /// Build the eBPF object into target/ebpf/kubelb.bpf.o
    BuildEbpf {
        /// Also check that it holds the instructions that its source asks for
        #[arg(long)]
        check: bool,
        /// Also build the bench's programs, into target/ebpf/kubelb-bench.bpf.o
        #[arg(long)]
        bench: bool,
    },
    /// Build the agent, eBPF object included, in release mode
    Build,
    /// Write the definitions of the custom resources into charts/kubelb-manager/files/crds/
    Crds {
        /// Write nothing; fail when the files are not what the types in kubelb-api say
        #[arg(long)]
        check: bool,
    },
    /// Check formatting, clippy, generated files and, where it is installed, cargo-deny
    Lint,
    /// Everything that CI runs: setup, eBPF, lint, unit tests, end-to-end tests (root)
    Test(test::Options),
    /// Show it all at work on this machine: two tenants, what serves them, real traffic (root)
    Demo {
        /// Passed on: `--keep` leaves it running, `--data-path` shows an agent alone
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure the data path (root)
    Bench {
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure the control plane with many LoadBalancers and peers (root)
    BenchXds {
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure how soon packets go where a tenant's change sends them (root)
    BenchL4 {
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure thousands of routes in Envoy, and how soon a new one answers (root)
    BenchL7 {
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure the testbed's API server
    BenchApi {
        /// Passed on to the bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Runs the task that the command line names.
pub(crate) fn run() -> anyhow::Result<()> {
    let task = Cli::parse().task;
    let workspace = Workspace::locate()?;
    let mut steps = Steps::new();
    match task {
        Task::Setup => setup::ensure(&workspace),
        Task::BuildEbpf { check, bench } => {
            let object = ebpf::build(&workspace, Object::Product)?;
            if bench {
                ebpf::build(&workspace, Object::Bench)?;
            }
            if check {
                ebpf::check_instructions(&object)
            } else {
                Ok(())
            }
        }
        Task::Build => {
            steps.run("setup", || setup::ensure(&workspace))?;
            let object = steps.run("build-ebpf", || ebpf::build(&workspace, Object::Product))?;
            let binary = steps.run("build the agent", || {
                agent::build(&workspace, &object, agent::Profile::Release, &[])
            })?;
            eprintln!("{}", binary.display());
            Ok(())
        }
        Task::Crds { check } => crds::run(&workspace, check),
        Task::Lint => {
            // Clippy checks the agent, whose build script embeds the object.
            ebpf::build(&workspace, Object::Product)?;
            lint::check(&workspace)
        }
        Task::Test(options) => test::run(&workspace, &options),
        Task::Demo { args } => demo::run(&workspace, demo::Show::Demo, &args),
        Task::Bench { args } => demo::run(&workspace, demo::Show::Bench, &args),
        Task::BenchXds { args } => demo::run(&workspace, demo::Show::BenchXds, &args),
        Task::BenchL4 { args } => bench_part(&workspace, "tenants", args),
        Task::BenchL7 { args } => bench_part(&workspace, "layer7", args),
        Task::BenchApi { args } => demo::run(&workspace, demo::Show::BenchApi, &args),
    }
}

/// One part of the control plane's bench.
fn bench_part(workspace: &Workspace, part: &str, mut args: Vec<String>) -> anyhow::Result<()> {
    args.push(format!("--parts={part}"));
    demo::run(workspace, demo::Show::BenchXds, &args)
}
