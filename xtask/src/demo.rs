//! The programs that show the system to a person: demo and benches, binaries of the testbed package.

use anyhow::Context as _;

use crate::agent::{self, Profile};
use crate::clients::{Client, ENVOY, HELM, KUBECTL};
use crate::ebpf::Object;
use crate::step::Steps;
use crate::workspace::Workspace;
use crate::{ebpf, process, root, setup};

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Two tenants and what serves them, or the data path alone.
    Demo,
    /// What the data path costs.
    Bench,
    /// What the testbed's API server does in a second.
    BenchApi,
    /// What the control plane costs with many objects and peers.
    BenchXds,
}

impl Show {
    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Bench => "bench",
            Self::BenchApi => "bench-api",
            Self::BenchXds => "bench-xds",
        }
    }

    /// Figures are taken with the agent and the bench optimised; for the demo what matters is that it starts soon.
    fn profile(self) -> Profile {
        match self {
            Self::Demo => Profile::Dev,
            Self::Bench | Self::BenchApi | Self::BenchXds => Profile::Release,
        }
    }

    /// Programs that it starts, beside itself.
    fn beside(self) -> &'static [&'static str] {
        match self {
            Self::Bench => &[],
            Self::Demo => &["--bins"],
            Self::BenchApi | Self::BenchXds => &["--bin", "apiserver"],
        }
    }
}

/// Sets up, builds, and runs it with `args`.
///
/// # Errors
/// When the user is not root (but for the API server's bench), or a step fails.
pub(crate) fn run(workspace: &Workspace, show: Show, args: &[String]) -> anyhow::Result<()> {
    if show != Show::BenchApi {
        root::require(show.name(), "it makes network namespaces and loads eBPF programs")?;
    }
    let mut steps = Steps::new();
    steps.run("setup", || setup::ensure(workspace))?;
    let object = steps.run("build-ebpf", || ebpf::build(workspace, Object::Product))?;
    let bench_object = match show {
        Show::Demo | Show::BenchApi | Show::BenchXds => None,
        Show::Bench => Some(steps.run("build the bench's programs", || ebpf::build(workspace, Object::Bench))?),
    };
    let binary = steps.run("build the agent", || {
        let others: &[&str] = if show == Show::Demo { &agent::OTHERS } else { &[] };
        agent::build(workspace, &object, show.profile(), others)
    })?;
    let clients: &[Client] = match show {
        Show::Bench | Show::BenchApi => &[],
        Show::Demo => &[KUBECTL, HELM, ENVOY],
        Show::BenchXds => &[ENVOY],
    };
    let clients = clients.iter().map(|client| {
        let program = client.find()?.with_context(|| format!("no {}", client.wanted()))?;
        Ok((client.variable, program))
    });
    let clients: Vec<_> = clients.collect::<anyhow::Result<_>>()?;
    let cargo = || {
        let mut command = process::cargo();
        command
            .current_dir(workspace.root())
            .env(agent::OBJECT_VARIABLE, &object)
            .env(agent::BINARY_VARIABLE, &binary);
        if let Some(object) = &bench_object {
            command.env(ebpf::BENCH_OBJECT_VARIABLE, object);
        }
        command.envs(clients.iter().map(|(variable, program)| (variable, program)));
        command
    };
    let package = ["--package", "kubelb-tests", "--bin", show.name()];
    let release: &[&str] = if show.profile() == Profile::Release {
        &["--release"]
    } else {
        &[]
    };
    steps.run(&format!("build the {}", show.name()), || {
        process::run(cargo().arg("build").args(package).args(show.beside()).args(release))
    })?;
    // From here on screen and Ctrl-C are the program's own: it cleans up when it is interrupted.
    process::replace(
        cargo()
            .args(["run", "--quiet"])
            .args(package)
            .args(release)
            .arg("--")
            .args(args),
    )
}
