//! kubectl: Debian 13's package, unpacked into the project's cache. Debian 12's own is too old, and apt's lists stay as they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{ByHand, debian, kept};
use crate::clients::KUBECTL;
use crate::process;

/// The release whose kubectl is taken, and the key that signs it; Debian 12 has that key too.
const SOURCE: &str =
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";
/// Where the package has its program.
const PROGRAM: &str = "usr/bin/kubectl";

/// Installs a kubectl unless there is one that serves.
///
/// # Errors
/// When apt cannot get it.
pub(super) fn ensure() -> anyhow::Result<ByHand> {
    if KUBECTL.find()?.is_some() {
        return Ok(ByHand::new());
    }
    if !debian::is_debian() {
        return Ok(vec![format!("(your package manager) install {}", KUBECTL.wanted())]);
    }
    let directory = KUBECTL.kept()?;
    eprintln!("setup: unpacking kubectl of Debian 13 into {}", directory.display());
    kept::fill(&KUBECTL, |work| {
        unpack(work).map(|()| work.join("package").join(PROGRAM))
    })
    .with_context(|| format!("cannot get Debian 13's kubectl; install {} yourself", KUBECTL.wanted()))?;
    Ok(ByHand::new())
}

fn unpack(work: &Path) -> anyhow::Result<()> {
    let sources = work.join("sources.list");
    fs::write(&sources, SOURCE).with_context(|| format!("cannot write {}", sources.display()))?;
    for part in ["lists/partial", "archives/partial"] {
        let directory = work.join(part);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    process::run(apt_get(work).arg("update"))?;
    // Into the directory that it is started in.
    process::run(apt_get(work).args(["download", KUBECTL.name]))?;
    let package = fs::read_dir(work)
        .with_context(|| format!("cannot list {}", work.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt has downloaded no package")?;
    process::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(work.join("package")),
    )
}

/// apt with a source, lists and an archive of its own: it reads the machine's settings (a proxy, say) and changes nothing of its state.
fn apt_get(work: &Path) -> Command {
    let mut command = debian::apt_get();
    let path = |name: &str| work.join(name).display().to_string();
    command.current_dir(work);
    for option in [
        format!("Dir::Etc::SourceList={}", path("sources.list")),
        "Dir::Etc::SourceParts=-".to_owned(),
        format!("Dir::State::Lists={}", path("lists")),
        format!("Dir::Cache={}", work.display()),
        "Acquire::Languages=none".to_owned(),
        // The user that apt downloads as cannot write into a home directory.
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command
}
