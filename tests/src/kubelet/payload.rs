//! Files of a volume on the disk, changed all at once: each version is a directory, `..data` a link to the present one, and
//! what a container opens are links through `..data`.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use super::volumes::Files;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes the volume in `directory` hold exactly `files`, which belong to `group` when one is given. `version` names this
/// state and must differ from the one before.
pub(super) fn write(directory: &Path, files: &Files, group: Option<u32>, version: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let name = format!("..{version}");
    let target = directory.join(&name);
    for (path, file) in files {
        let path = target.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
        // A group that a Pod names may read what its owner may.
        let shared = if group.is_some() { (file.mode & 0o400) >> 3 } else { 0 };
        if group.is_some() {
            chown(&path, None, group)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode | shared))?;
    }
    fs::create_dir_all(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    let next = directory.join(NEXT);
    if fs::symlink_metadata(&next).is_ok() {
        fs::remove_file(&next)?;
    }
    let before = fs::read_link(directory.join(DATA)).ok();
    symlink(&name, &next)?;
    fs::rename(&next, directory.join(DATA))?;
    link(directory, files)?;
    match before {
        Some(before) => fs::remove_dir_all(directory.join(before)),
        None => Ok(()),
    }
}

/// One link for each first part of a path; what is no longer wanted goes.
fn link(directory: &Path, files: &Files) -> io::Result<()> {
    let wanted: std::collections::BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(directory.join(&*name))?;
        }
    }
    for name in wanted {
        let path = directory.join(name);
        if fs::symlink_metadata(&path).is_err() {
            symlink(Path::new(DATA).join(name), path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::volumes::File;
    use super::*;

    #[test]
    fn a_new_version_replaces_the_old_one_whole() {
        let directory = tempfile::TempDir::new().unwrap();
        let at = directory.path().join("v");
        let file = |text: &str| File {
            mode: 0o640,
            content: text.as_bytes().to_vec(),
        };
        write(
            &at,
            &[("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))].into(),
            None,
            "1",
        )
        .unwrap();
        assert_eq!(fs::read_to_string(at.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(at.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        write(&at, &[("a".to_owned(), file("3"))].into(), None, "2").unwrap();
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "3");
        assert!(!at.join("d").exists() && !at.join("..1").exists());
    }
}
