//! Who runs this: network namespaces and eBPF need root, and the package manager too.

use std::os::unix::fs::MetadataExt as _;

use anyhow::bail;

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    // A process owns its own entry under its effective user id (proc(5)).
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// # Errors
/// When the user is not root: `why` and what to type instead.
pub(crate) fn require(task: &str, why: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {task}` needs root: {why}.\nRun it as root, for example: sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {task}"
    )
}
