//! Files that only this user may read, put in their place whole.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// Mode of the files: they hold keys.
const FILE_MODE: u32 = 0o600;
/// Mode of a directory that is made for them.
const DIRECTORY_MODE: u32 = 0o700;

/// Makes the directory, and those above it, unless it exists.
///
/// # Errors
/// When the file system refuses.
pub fn create(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
}

/// Writes or replaces a file in one step.
///
/// # Errors
/// When the file system refuses.
pub fn replace(path: &Path, content: &str) -> io::Result<()> {
    written(path, content)?
        .persist(path)
        .map(drop)
        .map_err(|error| error.error)
}

/// Writes a file unless it exists; of several who do so at once, one wins. Whether it was this one.
///
/// # Errors
/// When the file system refuses.
pub fn create_new(path: &Path, content: &str) -> io::Result<bool> {
    match written(path, content)?.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

fn written(path: &Path, content: &str) -> io::Result<tempfile::NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(FILE_MODE))
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}
