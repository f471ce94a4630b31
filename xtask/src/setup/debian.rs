//! Debian's packages: which are missing, and apt without questions.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::{ByHand, NIGHTLY};
use crate::{process, root};

/// Debian's rustc with a prebuilt `core` for the BPF targets: neither nightly nor a build of `core` is needed.
pub(super) const EBPF_COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// What bpf-linker is built with: the LLVM of that rustc, and what it links to.
pub(super) const LINKER_BUILD: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"];

/// How long to wait for another apt or dpkg to finish, in seconds.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=600";
/// `apt-get update` takes a lock that it does not wait for: how often to try, and the pause between.
const UPDATE_TRIES: u32 = 6;
const UPDATE_PAUSE: Duration = Duration::from_secs(10);

pub(super) fn is_debian() -> bool {
    process::find("apt-get").is_some() && process::find("dpkg-query").is_some()
}

/// Installs those of `packages` that are missing.
///
/// # Errors
/// When apt fails.
pub(super) fn ensure_packages(packages: &[&str]) -> anyhow::Result<ByHand> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(ByHand::new());
    }
    if !root::is_root() {
        return Ok(vec![format!(
            "apt-get update && apt-get install --yes {}",
            missing.join(" ")
        )]);
    }
    eprintln!("setup: installing {} packages: {}", missing.len(), missing.join(" "));
    update()?;
    // --no-remove: Debian's compiler conflicts with Debian's rustup package, and what the user has must stay.
    process::run(apt_get().args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(&missing)).with_context(|| {
        format!("apt could not install the packages; if this release of Debian has no such compiler, the other way is:\n{NIGHTLY}\nand then this again")
    })?;
    Ok(ByHand::new())
}

/// Those of `packages` that dpkg does not have completely, in the same order.
fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages);
    // It ends with code 1 when one is unknown, and lists the others all the same.
    let listed = query
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    missing_from(packages, &listed)
}

fn missing_from<'a>(packages: &[&'a str], listed: &str) -> Vec<&'a str> {
    let installed = |package: &str| {
        listed
            .lines()
            .any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

fn update() -> anyhow::Result<()> {
    let mut tries = 1;
    loop {
        match process::run(apt_get().arg("update")) {
            Ok(()) => return Ok(()),
            Err(error) if tries == UPDATE_TRIES => return Err(error),
            Err(error) => {
                eprintln!("setup: {error:#}; again in {} s", UPDATE_PAUSE.as_secs());
                tries += 1;
                thread::sleep(UPDATE_PAUSE);
            }
        }
    }
}

/// apt-get that asks nothing and waits for others.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", LOCK_TIMEOUT, "-o", "Dpkg::Use-Pty=0"]);
    command
}

#[cfg(test)]
mod tests {
    use super::missing_from;

    #[test]
    fn half_installed_and_unknown_packages_are_missing() {
        let listed = "curl installed\nethtool config-files\n";
        assert_eq!(
            missing_from(&["curl", "ethtool", "iperf3"], listed),
            ["ethtool", "iperf3"]
        );
    }
}
