//! What lies in the checkout: sizes, kinds, and the documents that a newcomer meets.

use std::fs;

use crate::assert_none;
use crate::source::{files, root, sources};

/// The longest Rust file, in lines.
const LINES: usize = 600;

/// Longer files, each with its own limit. The list only gets shorter.
const LONG_FILES: &[(&str, usize)] = &[];

/// The largest committed file, in bytes. Cargo.lock and the licences are text and well below.
const BYTES: u64 = 1 << 20;

/// Files with bytes that are no text.
const BINARY_FILES: &[&str] = &[];

#[test]
fn files_have_a_readable_length() {
    let mut violations = Vec::new();
    for source in sources() {
        let path = source.path.display().to_string();
        let lines = source.text.lines().count();
        let exception = LONG_FILES.iter().find(|(name, _)| *name == path);
        let limit = exception.map_or(LINES, |(_, limit)| *limit);
        if lines > limit {
            violations.push(format!(
                "{path}: {lines} lines, {limit} allowed; split it by what it owns"
            ));
        } else if exception.is_some() && lines <= LINES {
            violations.push(format!("{path}: {lines} lines; take it off the list of long files"));
        }
    }
    let gone = LONG_FILES.iter().filter(|(name, _)| !root().join(name).exists());
    violations.extend(gone.map(|(name, _)| format!("{name} is gone; take it off the list of long files")));
    assert_none("file length", &violations);
}

#[test]
fn only_text_is_committed() {
    let mut violations = Vec::new();
    for path in files() {
        let name = path.display().to_string();
        let full = root().join(&path);
        let size = full.metadata().unwrap().len();
        if size > BYTES {
            violations.push(format!("{name}: {size} bytes, {BYTES} allowed"));
        } else if !BINARY_FILES.contains(&name.as_str()) && fs::read(&full).unwrap().contains(&0) {
            violations.push(format!("{name}: not text; build it, do not commit it"));
        }
    }
    assert_none("no binaries", &violations);
}

#[test]
fn the_readme_shows_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is missing");
    for command in ["cargo xtask demo", "cargo xtask test"] {
        assert!(
            readme.lines().any(|line| line.trim() == command),
            "README.md has no line `{command}` to copy"
        );
    }
}

#[test]
fn the_architecture_fits_one_reading() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is missing");
    assert!(text.lines().count() <= 200, "ARCHITECTURE.md has more than 200 lines");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut violations = Vec::new();
    for path in files()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = fs::read_to_string(root().join(path)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let external = link.is_empty() || link.contains("://") || link.starts_with("mailto:");
            if !external && !root().join(path).parent().unwrap().join(link).exists() {
                violations.push(format!("{}: {link} does not exist", path.display()));
            }
        }
    }
    assert_none("links in documents", &violations);
}
