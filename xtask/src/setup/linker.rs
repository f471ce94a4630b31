//! bpf-linker, built from the package registry against the LLVM of the eBPF compiler.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::NIGHTLY;
use crate::process;
use crate::toolchain::{self, Compiler, LINKER_VERSION, LLVM_VERSION};

/// Tells llvm-sys, by the name of its LLVM 22.1 line, where LLVM is.
const LLVM_SYS_VARIABLE: &str = "LLVM_SYS_221_PREFIX";

/// Builds the linker unless there is one that runs.
///
/// # Errors
/// When it cannot be built, or LLVM is missing.
pub(super) fn ensure(compiler: &Compiler) -> anyhow::Result<()> {
    // One that is there but does not start has lost its LLVM library to an upgrade.
    if let Some(linker) = toolchain::find_linker(compiler)?
        && process::succeeds(Command::new(linker).arg("--version"))
    {
        return Ok(());
    }
    let prefix = toolchain::llvm_prefix();
    if !prefix.join("include").is_dir() {
        bail!("no LLVM {LLVM_VERSION} to build bpf-linker with; install one yourself:\n{NIGHTLY}");
    }
    let root = toolchain::linker_root()?;
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    eprintln!(
        "setup: building bpf-linker {LINKER_VERSION} into {} (about a minute)",
        root.display()
    );
    let mut command = process::cargo();
    command
        .current_dir(&root)
        .env("LLVM_PREFIX", &prefix)
        .env(LLVM_SYS_VARIABLE, &prefix)
        // An older llvm-config in front of this one would be asked instead.
        .env("PATH", process::path_with(&[&prefix.join("bin")])?)
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{LLVM_VERSION}"), "--root"])
        .arg(&root);
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    process::run(&mut command)
}
