//! Everything that CI runs, in the order in which a mistake shows soonest.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::agent::{self, Profile};
use crate::clients::{ENVOY, HELM, KUBECTL};
use crate::ebpf::Object;
use crate::step::Steps;
use crate::workspace::Workspace;
use crate::{ebpf, lint, process, root, setup};

/// End-to-end tests that run at a time. Each starts an agent and sends traffic; more than the cores that CI has would make
/// them wait for each other and time what is not the data path.
const END_TO_END_THREADS: &str = "2";

/// The package of end-to-end tests, and its feature that adds the long ones.
const END_TO_END: &str = "kubelb-tests";
const SOAK_FEATURE: &str = "soak";

/// The package and the test with histories of xDS sessions, and how many histories of each kind the long run tries: each time others.
const HISTORIES: (&str, &str) = ("kubelb-xds", "model");
const HISTORIES_VARIABLE: &str = "PROPTEST_CASES";
const SOAK_HISTORIES: &str = "100000";

/// Where Go's own archive is unpacked, when that is not on `PATH`; and the tests that need it.
const USUAL_GO: &str = "/usr/local/go/bin/go";
const GO_TESTS: &str = "go::";

/// Names a directory with these programs, which are then the API server of the end-to-end tests.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
const ASSETS: [&str; 2] = ["kube-apiserver", "etcd"];

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also run the long tests: kills, floods, scale
    #[arg(long)]
    soak: bool,
    /// Run only tests whose name contains one of these, and no lint
    filters: Vec<String>,
}

/// Sets up, builds, lints and tests. A failed lint or test does not keep the rest from running; what everything else needs does.
///
/// # Errors
/// When the user is not root, or any step fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    root::require(
        "test",
        "the end-to-end tests make network namespaces and load eBPF programs (those that need no root: `cargo test`)",
    )?;
    let mut steps = Steps::new();
    let built = prepare(workspace, options, &mut steps);
    if let Ok(cargo) = &built {
        check(workspace, options, &mut steps, cargo);
    }
    let passed = steps.summarize();
    drop(built?);
    if !passed {
        bail!("some steps failed, see above");
    }
    Ok(())
}

/// What every later step needs. Returns how to start cargo with the built things known to the tests.
fn prepare(
    workspace: &Workspace,
    options: &Options,
    steps: &mut Steps,
) -> anyhow::Result<impl Fn() -> Command + use<>> {
    steps.run("setup", || setup::ensure(workspace))?;
    let assets = match env::var_os(ASSETS_VARIABLE).filter(|directory| !directory.is_empty()) {
        Some(directory) => Some(steps.run("kube-apiserver", || find_assets(Path::new(&directory)))?),
        None => None,
    };
    if options.soak {
        steps.run("soak tests exist", || require_soak_tests(workspace))?;
    }
    let object = steps.run("build-ebpf", || {
        let object = ebpf::build(workspace, Object::Product)?;
        ebpf::check_instructions(&object)?;
        Ok(object)
    })?;
    let bench_object = if options.soak {
        Some(steps.run("build the bench's programs", || ebpf::build(workspace, Object::Bench))?)
    } else {
        None
    };
    let binary = steps.run("build the programs", || {
        agent::build(workspace, &object, Profile::Dev, &agent::OTHERS)
    })?;
    let mut clients = Vec::new();
    for client in [KUBECTL, HELM, ENVOY] {
        let program = client.find()?;
        clients.push((
            client.variable,
            program.with_context(|| format!("no {}", client.wanted()))?,
        ));
    }
    let root = workspace.root().to_owned();
    Ok(move || {
        let mut command = process::cargo();
        command
            .current_dir(&root)
            .env(agent::OBJECT_VARIABLE, &object)
            .env(agent::BINARY_VARIABLE, &binary)
            .envs(clients.iter().map(|(variable, program)| (variable, program)));
        if let Some(assets) = &assets {
            command.env(ASSETS_VARIABLE, assets);
        }
        if let Some(object) = &bench_object {
            command.env(ebpf::BENCH_OBJECT_VARIABLE, object);
        }
        command
    })
}

fn check(workspace: &Workspace, options: &Options, steps: &mut Steps, cargo: &impl Fn() -> Command) {
    // Each step prints its own failure when it ends; the summary repeats the verdict.
    let mut note = |name: &str, step: &dyn Fn() -> anyhow::Result<()>| {
        if let Err(error) = steps.run(name, step) {
            eprintln!("error: {error:#}");
        }
    };
    if options.filters.is_empty() {
        note("lint", &|| lint::check(workspace));
    }
    note("unit tests", &|| {
        let mut command = cargo();
        command.args(["test", "--no-fail-fast", "--workspace", "--exclude", END_TO_END]);
        command.args(["--features", "xtask/crds", "--"]);
        process::run(command.args(&options.filters))
    });
    if options.soak && options.filters.is_empty() {
        note("histories of xDS sessions", &|| {
            let mut command = cargo();
            command.env(HISTORIES_VARIABLE, SOAK_HISTORIES);
            let (package, test) = HISTORIES;
            process::run(command.args(["test", "--package", package, "--test", test]))
        });
    }
    note("end-to-end tests", &|| {
        let mut command = cargo();
        command.args(["test", "--no-fail-fast", "--package", END_TO_END]);
        if options.soak {
            command.args(["--features", SOAK_FEATURE]);
        }
        command.args(["--", "--test-threads", END_TO_END_THREADS]);
        if options.soak && !has_go() {
            eprintln!("end-to-end tests: those that need it are left out, for there is no Go on this machine");
            command.args(["--skip", GO_TESTS]);
        }
        process::run(command.args(&options.filters))
    });
}

/// The directory as tests find it, which have another working directory than we.
fn find_assets(directory: &Path) -> anyhow::Result<PathBuf> {
    let directory = std::path::absolute(directory)
        .with_context(|| format!("cannot find {ASSETS_VARIABLE}={}", directory.display()))?;
    for program in ASSETS {
        if !directory.join(program).is_file() {
            bail!("there is no {program} in {ASSETS_VARIABLE}={}", directory.display());
        }
    }
    Ok(directory)
}

fn has_go() -> bool {
    process::find("go").is_some() || Path::new(USUAL_GO).is_file()
}

fn require_soak_tests(workspace: &Workspace) -> anyhow::Result<()> {
    let manifest = workspace.root().join("tests").join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    if text
        .lines()
        .any(|line| line.split('=').next().is_some_and(|key| key.trim() == SOAK_FEATURE))
    {
        return Ok(());
    }
    bail!("there are no soak tests yet: package {END_TO_END} has no feature `{SOAK_FEATURE}`")
}
