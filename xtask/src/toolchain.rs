//! Which compiler and linker build the eBPF object: found on the machine, never installed here.
//!
//! Two ways serve. A distribution's rustc that ships a prebuilt `core` for the BPF target (Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`), or rustup's nightly with `rust-src`, which builds `core` itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::process;
use crate::workspace::Workspace;

/// The version that [`crate::setup`] installs. It links what LLVM [`LLVM_VERSION`] and older write.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// Major version of the LLVM that the installed linker is built with: that of Debian's rustc.
pub(crate) const LLVM_VERSION: &str = "22";

/// Rust's name of the BPF target with this machine's byte order.
pub(crate) const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// Debian's compiler; rustup's proxies come first on `PATH`, so it is named in full.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
const DISTRIBUTION_CARGO: &str = "/usr/bin/cargo";
const DISTRIBUTION_CORE: &str = "/usr/lib/rustlib";

/// A compiler that can build for [`TARGET`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// The distribution's, with a prebuilt `core` for the target.
    Distribution,
    /// Rustup's nightly, which builds `core` from `rust-src`.
    Nightly,
}

/// A compiler and the linker that understands what it writes.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// The toolchain on this machine.
    ///
    /// # Errors
    /// When a part is missing; says which.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let Some(compiler) = Compiler::find() else {
            bail!("no compiler for {TARGET} on this machine; `cargo xtask setup` installs one");
        };
        let Some(linker) = find_linker(&compiler)? else {
            bail!("bpf-linker is missing; `cargo xtask setup` installs it");
        };
        Ok(Self { compiler, linker })
    }
}

impl Compiler {
    /// The first of the two that is complete. The distribution's comes first: it needs no build of `core`, and the linker's
    /// LLVM is known to fit.
    pub(crate) fn find() -> Option<Self> {
        let distribution = [Path::new(DISTRIBUTION_RUSTC), Path::new(DISTRIBUTION_CARGO)]
            .iter()
            .all(|tool| tool.is_file())
            && Path::new(DISTRIBUTION_CORE).join(TARGET).join("lib").is_dir();
        if distribution {
            return Some(Self::Distribution);
        }
        nightly_has_source().then_some(Self::Nightly)
    }

    /// `cargo build` by this compiler, free of the environment of the toolchain that runs this program.
    pub(crate) fn cargo_build(&self) -> Command {
        match self {
            Self::Distribution => {
                let mut command = Command::new(DISTRIBUTION_CARGO);
                process::forget_toolchain(&mut command);
                // aya-ebpf and this project's atomics use feature gates of a stable compiler.
                command
                    .env("RUSTC", DISTRIBUTION_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .arg("build");
                command
            }
            Self::Nightly => {
                let mut command = Command::new("rustup");
                process::forget_toolchain(&mut command);
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                command
            }
        }
    }
}

/// The linker for `compiler`: the one that setup built, which fits Debian's LLVM, or the one on `PATH`. Each of the two
/// compilers prefers the linker that was most likely chosen for it.
///
/// # Errors
/// When there is no cache directory.
pub(crate) fn find_linker(compiler: &Compiler) -> anyhow::Result<Option<PathBuf>> {
    let built = Some(linker_root()?.join("bin").join("bpf-linker")).filter(|path| path.is_file());
    let on_path = process::find("bpf-linker");
    Ok(match compiler {
        Compiler::Distribution => built.or(on_path),
        Compiler::Nightly => on_path.or(built),
    })
}

/// `cargo install --root` of the linker that setup builds; its version is in the name, so that a newer checkout gets its own.
///
/// # Errors
/// When there is no cache directory.
pub(crate) fn linker_root() -> anyhow::Result<PathBuf> {
    Ok(Workspace::cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm{LLVM_VERSION}")))
}

/// Where Debian's packages put this LLVM.
pub(crate) fn llvm_prefix() -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{LLVM_VERSION}"))
}

fn nightly_has_source() -> bool {
    let mut command = Command::new("rustup");
    process::forget_toolchain(&mut command);
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    process::capture(&mut command).is_ok_and(|sysroot| {
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        library.is_dir()
    })
}
