//! The task `crds`. The generator is behind a feature: it needs the Kubernetes types, which take longer to compile than all
//! the other tasks together, and nobody who runs the demo should wait for them.

#[cfg(feature = "crds")]
mod generate;

use crate::workspace::Workspace;

/// Name of the feature.
#[cfg(not(feature = "crds"))]
const FEATURE: &str = "crds";

/// Writes the definitions, or with `check` compares them and writes nothing.
///
/// # Errors
/// When a file differs, or cannot be read or written.
#[cfg(feature = "crds")]
pub(crate) fn run(workspace: &Workspace, check: bool) -> anyhow::Result<()> {
    if check {
        generate::check(workspace)
    } else {
        generate::write(workspace)
    }
}

/// Has the task done by an xtask with the generator.
///
/// # Errors
/// When that one fails.
#[cfg(not(feature = "crds"))]
pub(crate) fn run(workspace: &Workspace, check: bool) -> anyhow::Result<()> {
    let mut command = crate::process::cargo();
    command.current_dir(workspace.root());
    command.args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        FEATURE,
        "--",
        "crds",
    ]);
    if check {
        command.arg("--check");
    }
    crate::process::run(&mut command)
}
