//! rustfmt and clippy of the toolchain that builds the host's code.

use super::debian;
use crate::process;
use crate::root;
use crate::workspace::Workspace;

/// Debian's packages of both, for a machine whose only cargo is Debian's.
const PACKAGES: &[&str] = &["rustfmt-web", "rust-web-clippy"];

/// # Errors
/// When one is missing and cannot be installed.
pub(super) fn ensure(workspace: &Workspace) -> anyhow::Result<()> {
    let present =
        |tool: &str| process::succeeds(process::cargo().current_dir(workspace.root()).args([tool, "--version"]));
    if present("fmt") && present("clippy") {
        return Ok(());
    }
    if process::find("rustup").is_some() {
        eprintln!("setup: adding rustfmt and clippy");
        return process::run(
            std::process::Command::new("rustup")
                .current_dir(workspace.root())
                .args(["component", "add", "rustfmt", "clippy"]),
        );
    }
    let by_hand = if debian::is_debian() {
        debian::ensure_packages(PACKAGES)?
    } else {
        vec!["install rustfmt and clippy".to_owned()]
    };
    anyhow::ensure!(
        by_hand.is_empty(),
        "rustfmt or clippy is missing{}: {}",
        if root::is_root() { "" } else { "; run as root" },
        by_hand.join("; ")
    );
    Ok(())
}
