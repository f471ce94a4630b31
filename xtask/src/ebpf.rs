//! Builds the eBPF objects. [`build`] is the only place that knows how; test, demo and bench all call it.

mod disassembly;

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::process;
use crate::toolchain::{self, TARGET, Toolchain};
use crate::workspace::Workspace;

pub(crate) use disassembly::check as check_instructions;

/// The eBPF CPU version to compile for: v3 has the fetching atomics, 32-bit ALU and jumps (kernel 5.12, below our minimum).
const CPU: &str = "v3";
/// Features for the linker's code generator: 32-bit ALU operations, and unaligned loads, which the verifier allows for
/// packet data where the host's processor has them.
const CPU_FEATURES: &str = "+alu32,+allows-misaligned-mem-access";

const PACKAGE: &str = "kubelb-ebpf";

/// Tells the bench where its own object is.
pub(crate) const BENCH_OBJECT_VARIABLE: &str = "KUBELB_BENCH_OBJECT";

/// The objects that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The data path.
    Product,
    /// The bench's driver and what it compares with.
    Bench,
}

impl Object {
    /// Name of the binary target.
    fn binary(self) -> &'static str {
        match self {
            Self::Product => "kubelb-programs",
            Self::Bench => "kubelb-bench-programs",
        }
    }

    /// Name of the finished object in [`Workspace::ebpf_target`].
    fn file(self) -> &'static str {
        match self {
            Self::Product => "kubelb.bpf.o",
            Self::Bench => "kubelb-bench.bpf.o",
        }
    }
}

/// Builds an object and returns its path. When nothing changed, the file is left as it is, its time of change included, so
/// that nothing that embeds it is built again.
///
/// # Errors
/// When the toolchain is missing or the build fails.
pub(crate) fn build(workspace: &Workspace, object: Object) -> anyhow::Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let target_dir = workspace.ebpf_target();
    let mut command = toolchain.compiler.cargo_build();
    command
        .current_dir(workspace.root())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain.linker, ARCH))
        .env("PATH", process::path_with(&[&toolchain::llvm_prefix().join("bin")])?)
        .args([
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            object.binary(),
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir);
    process::run(&mut command)?;

    let built = target_dir.join(TARGET).join("release").join(object.binary());
    let published = target_dir.join(object.file());
    publish(&built, &published)?;
    Ok(published)
}

/// Flags for the target's crates, in cargo's encoding, which unlike RUSTFLAGS takes paths with spaces.
fn rustflags(linker: &Path, host_arch: &str) -> String {
    // The program reads kernel structures (pt_regs) whose layout is the host's; aya-ebpf asks for its architecture so.
    let arch = if host_arch.starts_with("riscv64") {
        "riscv64"
    } else {
        host_arch
    };
    [
        "-C".to_owned(),
        format!("target-cpu={CPU}"),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{arch}\""),
        "-C".to_owned(),
        format!("linker={}", linker.display()),
        "-C".to_owned(),
        "link-arg=--btf".to_owned(),
        "-C".to_owned(),
        format!("link-arg=--cpu-features={CPU_FEATURES}"),
        // Its default keeps LLVM from turning even a 5-byte memset into stores: they become calls, some of them for every packet.
        "-C".to_owned(),
        "link-arg=--disable-expand-memcpy-in-order".to_owned(),
    ]
    .join("\x1f")
}

/// Puts `built` in place as `object` unless it is there already; by rename, so that a reader sees the old or the new one.
fn publish(built: &Path, object: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let fresh = object.with_extension(format!("o.{}", std::process::id()));
    fs::write(&fresh, &bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, object).with_context(|| format!("cannot rename {} to {}", fresh.display(), object.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{publish, rustflags};

    #[test]
    fn flags_follow_the_host_and_keep_spaces_in_paths() {
        let flags = rustflags(Path::new("/a dir/bpf-linker"), "aarch64");
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert!(flags.contains(&"bpf_target_arch=\"aarch64\""));
        assert!(flags.contains(&"linker=/a dir/bpf-linker"));
        assert!(rustflags(Path::new("l"), "riscv64gc").contains("=\"riscv64\""));
    }

    #[test]
    fn an_unchanged_object_keeps_its_time_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let (built, object) = (dir.path().join("built"), dir.path().join("kubelb.bpf.o"));
        std::fs::write(&built, b"one").unwrap();
        publish(&built, &object).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let first = inode(&object);
        publish(&built, &object).unwrap();
        assert_eq!(inode(&object), first);
        std::fs::write(&built, b"two").unwrap();
        publish(&built, &object).unwrap();
        assert_eq!(std::fs::read(&object).unwrap(), b"two");
    }
}
