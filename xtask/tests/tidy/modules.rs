//! How modules are laid out: each reachable, each introduced, none catch-all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::assert_none;
use crate::metadata::packages;
use crate::source::{Source, Token, sources};

/// Names that say nothing of what a file holds.
const VAGUE_NAMES: &[&str] = &[
    "mod",
    "util",
    "utils",
    "types",
    "misc",
    "helper",
    "helpers",
    "traits",
    "consts",
    "constants",
];

/// The longest `main.rs` beside a library, in lines: it only calls.
const MAIN_LINES: usize = 30;

#[test]
fn every_source_file_is_compiled() {
    let sources = sources();
    let mut pending: Vec<PathBuf> = packages()
        .into_iter()
        .flat_map(|package| package.targets)
        .map(|target| target.path)
        .collect();
    let roots: BTreeSet<PathBuf> = pending.iter().cloned().collect();
    let mut reached: BTreeSet<PathBuf> = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if let Some(source) = sources.iter().find(|source| source.path == path)
            && reached.insert(path)
        {
            pending.extend(declared_modules(source, roots.contains(&source.path)));
        }
    }
    let violations: Vec<String> = sources
        .iter()
        .filter(|source| !reached.contains(&source.path))
        .map(|source| format!("{}: no `mod` and no target leads here", source.path.display()))
        .collect();
    assert_none("no dead files", &violations);
}

#[test]
fn every_module_says_what_it_owns() {
    let violations: Vec<String> = sources()
        .iter()
        // A module's tests are introduced by the module.
        .filter(|source| !source.path.ends_with("tests.rs") && !source.text.starts_with("//! "))
        .map(|source| {
            format!(
                "{}:1: open with `//!`: what it owns, what it must not know",
                source.path.display()
            )
        })
        .collect();
    assert_none("modules introduce themselves", &violations);
}

#[test]
fn no_file_has_a_vague_name() {
    let violations: Vec<String> = sources()
        .iter()
        .filter(|source| {
            source
                .path
                .file_stem()
                .is_some_and(|stem| VAGUE_NAMES.iter().any(|name| stem == *name))
        })
        .map(|source| format!("{}: name it after the noun that it holds", source.path.display()))
        .collect();
    assert_none("file names (and `foo.rs` with `foo/`, not `foo/mod.rs`)", &violations);
}

#[test]
fn no_module_is_moved_by_an_attribute() {
    let violations: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            source
                .find(&["#", "[", "path", "="])
                .map(|token| source.at(token, "#[path] hides where a module is"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none("modules are where their names say", &violations);
}

#[test]
fn main_only_calls_the_library() {
    let sources = sources();
    let mut violations = Vec::new();
    for package in packages().iter().filter(|package| package.name != "kubelb-ebpf") {
        let has_library = package.targets.iter().any(|target| target.kind == "lib");
        let mains = package
            .targets
            .iter()
            .filter(|target| target.kind == "bin" && target.path.ends_with("src/main.rs"));
        for main in mains.filter(|_| has_library) {
            let lines = sources
                .iter()
                .find(|source| source.path == main.path)
                .map_or(0, |source| source.text.lines().count());
            if lines > MAIN_LINES {
                violations.push(format!(
                    "{}: {lines} lines, {MAIN_LINES} allowed; the rest belongs in the library",
                    main.path.display()
                ));
            }
        }
    }
    assert_none("main.rs is an entry point", &violations);
}

#[test]
fn the_rules_catch_what_they_are_for() {
    let text = "//! x\npub mod a;\n#[cfg(test)]\nmod tests;\nmod inline { pub(crate) mod deep; }\n// mod comment;\n";
    let paths = |is_root| {
        let source = Source::parse("k/src/foo.rs", text);
        declared_modules(&source, is_root)
            .into_iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths(false),
        ["k/src/foo/a.rs", "k/src/foo/tests.rs", "k/src/foo/inline/deep.rs"]
    );
    assert_eq!(paths(true), ["k/src/a.rs", "k/src/tests.rs", "k/src/inline/deep.rs"]);
}

/// Files that the `mod name;` items of `source` stand for. A crate's root has its modules beside it, any other file in a
/// directory of its name.
fn declared_modules(source: &Source, is_root: bool) -> Vec<PathBuf> {
    let parent = source.path.parent().unwrap_or(Path::new(""));
    let mut dir = if is_root {
        parent.to_owned()
    } else {
        parent.join(source.path.file_stem().unwrap_or_default())
    };
    let mut modules = Vec::new();
    // The closing depth of each inline module that we are in.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0_usize;
    let mut rest: &[Token] = &source.tokens;
    while let [first, after @ ..] = rest {
        match (first.text.as_str(), after) {
            ("mod", [name, end, ..]) if end.text == ";" => modules.push(dir.join(&name.text).with_extension("rs")),
            ("mod", [name, open, ..]) if open.text == "{" => {
                dir.push(&name.text);
                inline.push(depth);
            }
            ("{", _) => depth += 1,
            ("}", _) => {
                depth = depth.saturating_sub(1);
                if inline.last() == Some(&depth) {
                    inline.pop();
                    dir.pop();
                }
            }
            _ => {}
        }
        rest = after;
    }
    modules
}
