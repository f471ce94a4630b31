//! Installs what the other tasks need: idempotent, quick when nothing is missing, and plain about what it cannot do.

mod bpffs;
mod debian;
mod envoy;
mod helm;
mod kept;
mod kubectl;
mod linker;
mod lints;

use anyhow::bail;

use crate::root;
use crate::toolchain::{self, Compiler};
use crate::workspace::Workspace;

/// What a step could not do itself: commands for a person, to be run as root.
type ByHand = Vec<String>;

/// Programs that the tests and the demo call, with Debian's package of each.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("bpftool", "bpftool"),
    ("curl", "curl"),
    ("ps", "procps"),
    ("cc", "build-essential"),
    ("pkg-config", "pkg-config"),
];

/// Installs everything that is missing.
///
/// # Errors
/// When something is missing that this cannot install (no root, not Debian): the message holds the commands.
pub(crate) fn ensure(workspace: &Workspace) -> anyhow::Result<()> {
    let mut by_hand = ByHand::new();
    if debian::is_debian() {
        by_hand.extend(debian::ensure_packages(&packages()?)?);
    } else {
        by_hand.extend(other_distribution());
    }
    if by_hand.is_empty() {
        let Some(compiler) = Compiler::find() else {
            bail!(
                "the installed packages hold no compiler for {}; the other way is:\n{NIGHTLY}",
                toolchain::TARGET
            );
        };
        linker::ensure(&compiler)?;
        lints::ensure(workspace)?;
    }
    by_hand.extend(kubectl::ensure()?);
    by_hand.extend(helm::ensure()?);
    by_hand.extend(envoy::ensure()?);
    by_hand.extend(bpffs::ensure()?);
    if by_hand.is_empty() {
        eprintln!("setup: everything is in place");
        return Ok(());
    }
    let who = if root::is_root() { "by hand" } else { "as root" };
    bail!(
        "setup cannot do everything here. Run this {who}, then the same task again:\n\n  {}\n",
        by_hand.join("\n  ")
    )
}

/// How to get the eBPF toolchain where the distribution has none.
const NIGHTLY: &str = "  rustup toolchain install nightly --component rust-src\n  cargo install bpf-linker   (needs the LLVM that it names, or newer, with headers)";

/// Debian's packages for this machine: none for what it has in another way.
fn packages() -> anyhow::Result<Vec<&'static str>> {
    let mut packages: Vec<&str> = TOOLS.iter().map(|(_, package)| *package).collect();
    let compiler = Compiler::find();
    let complete_nightly = match &compiler {
        Some(Compiler::Nightly) => toolchain::find_linker(&Compiler::Nightly)?.is_some(),
        Some(Compiler::Distribution) | None => false,
    };
    if !complete_nightly {
        packages.extend(debian::EBPF_COMPILER);
        packages.extend(debian::LINKER_BUILD);
    }
    Ok(packages)
}

fn other_distribution() -> ByHand {
    let mut by_hand = ByHand::new();
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| crate::process::find(tool).is_none())
        .map(|(tool, _)| *tool)
        .collect();
    if !missing.is_empty() {
        by_hand.push(format!(
            "(your package manager) install the packages with these programs: {}",
            missing.join(" ")
        ));
    }
    if Compiler::find().is_none() {
        by_hand.push("rustup toolchain install nightly --component rust-src".to_owned());
    }
    by_hand
}
