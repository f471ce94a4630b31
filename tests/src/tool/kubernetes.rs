//! kubectl and helm as users run them: which ones, and that they are new enough.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, anyhow, ensure};

/// A kubectl of 1.30 or newer: the one that `KUBELB_KUBECTL` names, else that of `PATH`.
///
/// # Errors
/// When there is none, or it is too old.
pub fn kubectl() -> anyhow::Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&FOUND, || {
        find("kubectl", "KUBELB_KUBECTL", &["version", "--client"], (1, 30))
    })
}

/// A helm of 3.10 or newer: the one that `KUBELB_HELM` names, else that of `PATH`.
///
/// # Errors
/// When there is none, or it is too old.
pub fn helm() -> anyhow::Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&FOUND, || find("helm", "KUBELB_HELM", &["version", "--short"], (3, 10)))
}

fn once(
    found: &'static OnceLock<Result<PathBuf, String>>,
    find: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<&'static Path> {
    let found = found.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("{error}"))
}

fn find(name: &str, variable: &str, version: &[&str], oldest: (u32, u32)) -> anyhow::Result<PathBuf> {
    let (major, minor) = oldest;
    let hint = || {
        format!(
            "tests need {name} {major}.{minor} or newer: `cargo xtask setup` installs one where it is missing, and \
             `cargo xtask test FILTER` runs tests with it ({variable} names another)"
        )
    };
    let program = std::env::var_os(variable).unwrap_or_else(|| OsString::from(name));
    let said = super::output(Command::new(&program).args(version)).with_context(hint)?;
    let found = read_version(&said).with_context(|| format!("cannot read the version of {name} in: {said}"))?;
    ensure!(
        found >= oldest,
        "{} is {}.{}: {}",
        program.display(),
        found.0,
        found.1,
        hint()
    );
    Ok(PathBuf::from(program))
}

/// Major and minor of the first `v1.2` in what a program says of itself.
fn read_version(said: &str) -> Option<(u32, u32)> {
    said.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '.'))
        .filter_map(|word| word.strip_prefix('v'))
        .find_map(|word| {
            let mut parts = word.split('.');
            let mut number = || parts.next()?.parse().ok();
            Some((number()?, number()?))
        })
}
