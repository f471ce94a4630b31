//! Format, clippy, generated files, and cargo-deny where it is installed. The rules of `xtask/tests/tidy.rs` run with the unit tests.

use crate::crds;
use crate::process;
use crate::workspace::Workspace;

/// The part of xtask that only one task turns on.
const XTASK_CRDS: &str = "xtask/crds";

/// Checks everything and reports all that fails, not only the first.
///
/// # Errors
/// When a check fails.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let mut checks: Vec<&[&str]> = vec![
        &["fmt", "--all", "--check"],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            XTASK_CRDS,
            "--",
            "-D",
            "warnings",
        ],
    ];
    if process::find("cargo-deny").is_some() {
        // Not advisories: what they say changes with the day, and a lint must not.
        checks.push(&["deny", "check", "bans", "licenses", "sources"]);
    } else {
        eprintln!("lint: cargo-deny is not installed, deny.toml is not checked (`cargo install cargo-deny --locked`)");
    }
    let mut failed = Vec::new();
    for arguments in checks {
        eprintln!("lint: cargo {}", arguments.join(" "));
        if let Err(error) = process::run(process::cargo().current_dir(workspace.root()).args(arguments)) {
            failed.push(error.to_string());
        }
    }
    eprintln!("lint: crds --check");
    if let Err(error) = crds::run(workspace, true) {
        failed.push(format!("{error:#}"));
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
