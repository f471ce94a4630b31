//! Builds the node agent with the eBPF object in it, and the programs that run beside it.

use std::path::{Path, PathBuf};

use crate::process;
use crate::workspace::Workspace;

/// Tells the agent's build script and the tests where the object is.
pub(crate) const OBJECT_VARIABLE: &str = "KUBELB_EBPF_OBJECT";
/// Tells the testbed which agent to start.
pub(crate) const BINARY_VARIABLE: &str = "KUBELB_AGENT_BIN";

const PACKAGE: &str = "kubelb-agent";
/// The other programs of the product, which end-to-end tests of all of it start.
pub(crate) const OTHERS: [&str; 2] = ["kubelb-ccm", "kubelb-manager"];

/// How the agent is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests and the demo: shares every dependency with the unit tests, which halves a cold build on two cores, and keeps
    /// overflow checks on. Packets do not care: they never meet the agent's code.
    Dev,
    /// For figures and for use.
    Release,
}

/// Builds the agent and `others`, whose binaries are then beside it, and returns the path of its binary.
///
/// # Errors
/// When the build fails.
pub(crate) fn build(
    workspace: &Workspace,
    object: &Path,
    profile: Profile,
    others: &[&str],
) -> anyhow::Result<PathBuf> {
    let mut command = process::cargo();
    command
        .current_dir(workspace.root())
        .env(OBJECT_VARIABLE, object)
        .arg("build");
    for package in others.iter().chain([&PACKAGE]) {
        command.args(["--package", package, "--bin", package]);
    }
    let directory = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    process::run(&mut command)?;
    Ok(workspace.target().join(directory).join(PACKAGE))
}
