//! Programs in the project's cache: put there whole or not at all, whoever else is at it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::clients::Client;

/// Lets `get` make the program of `client` somewhere below an empty directory, and moves it to where it is found.
///
/// # Errors
/// When `get` fails, what it got does not serve, or the cache cannot be written.
pub(super) fn fill(client: &Client, get: impl FnOnce(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<()> {
    let directory = client.kept()?;
    let mut work = directory.clone().into_os_string();
    work.push(format!(".partial-{}", std::process::id()));
    let work = PathBuf::from(work);
    let made = make(client, &directory, &work, get);
    // A directory that cannot be removed is in nobody's way.
    drop(fs::remove_dir_all(&work));
    made
}

fn make(
    client: &Client,
    directory: &Path,
    work: &Path,
    get: impl FnOnce(&Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    for path in [directory, work] {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let program = get(work)?;
    ensure!(
        client.serves(&program),
        "what was downloaded does not run, or is not {}",
        client.wanted()
    );
    let place = directory.join(client.name);
    fs::rename(&program, &place).with_context(|| format!("cannot put {} in its place", place.display()))
}
