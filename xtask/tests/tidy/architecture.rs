//! Who may know whom: the arrows between packages, where eBPF may be loaded from, and one name for each map.

use std::collections::BTreeSet;
use std::fs;

use crate::assert_none;
use crate::metadata::{Package, packages};
use crate::source::{Source, positions, root, sources};

/// Packages of the workspace that each may use. A new package adds its line here, and argues for it in ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("kubelb-common", &[]),
    ("kubelb-ebpf", &["kubelb-common"]),
    (
        "kubelb-agent",
        &["kubelb-common", "kubelb-ebpf", "kubelb-runtime", "kubelb-xds"],
    ),
    ("kubelb-api", &[]),
    ("kubelb-manager", &["kubelb-api", "kubelb-runtime", "kubelb-xds"]),
    ("kubelb-ccm", &["kubelb-api", "kubelb-runtime"]),
    ("kubelb-runtime", &[]),
    ("kubelb-xds", &[]),
    ("xtask", &["kubelb-api"]),
    (
        "kubelb-tests",
        &[
            "kubelb-common",
            "kubelb-ebpf",
            "kubelb-agent",
            "kubelb-api",
            "kubelb-ccm",
            "kubelb-manager",
            "kubelb-runtime",
            "kubelb-xds",
        ],
    ),
];

/// All that code inside the kernel is made of.
const EBPF_DEPENDENCIES: &[&str] = &["kubelb-common", "aya-ebpf", "aya-log-ebpf"];

/// Where eBPF is loaded and maps are written; the others decide and do not touch.
const AYA_USERS: &[&str] = &[
    "kubelb-agent/src/bpf",
    "kubelb-agent/src/bpf.rs",
    "kubelb-common",
    "kubelb-ebpf",
    "tests",
];

/// Crate roots with an attribute that a workspace lint cannot say (it would hold for every package).
const UNSAFE_RULES: &[(&str, &str)] = &[
    ("kubelb-api/src/lib.rs", "forbid"),
    ("kubelb-ccm/src/lib.rs", "forbid"),
    ("kubelb-manager/src/lib.rs", "forbid"),
    ("kubelb-runtime/src/lib.rs", "forbid"),
    ("kubelb-xds/src/lib.rs", "forbid"),
    ("kubelb-agent/src/lib.rs", "deny"),
    ("xtask/src/main.rs", "forbid"),
];

/// Of the data path, and of the bench's driver.
const MAP_NAMES: [&str; 2] = ["kubelb-common/src/maps.rs", "kubelb-common/src/bench.rs"];

#[test]
fn every_package_inherits_the_lints() {
    let violations: Vec<String> = packages()
        .iter()
        .filter(|package| !inherits_lints(&fs::read_to_string(root().join(&package.manifest)).unwrap()))
        .map(|package| format!("{}: add `[lints]` with `workspace = true`", package.manifest.display()))
        .collect();
    assert_none("lints of the workspace hold for every package", &violations);
}

#[test]
fn packages_depend_along_the_arrows_only() {
    let members = packages();
    let names: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    let violations: Vec<String> = members
        .iter()
        .flat_map(|package| forbidden_arrows(package, &names))
        .collect();
    assert_none("allowed dependencies (see ARCHITECTURE.md)", &violations);
}

#[test]
fn kernel_code_has_no_other_dependencies() {
    let mut violations = Vec::new();
    for package in packages() {
        let allowed = match package.name.as_str() {
            "kubelb-common" => &[][..],
            "kubelb-ebpf" => EBPF_DEPENDENCIES,
            _ => continue,
        };
        let used = package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.for_tests && !dependency.optional);
        for dependency in used.filter(|dependency| !allowed.contains(&dependency.name.as_str())) {
            violations.push(format!(
                "{}: {} does not belong inside the kernel",
                package.manifest.display(),
                dependency.name
            ));
        }
    }
    assert_none("what runs in the kernel is small", &violations);
}

#[test]
fn aya_is_used_where_maps_are_written_only() {
    let mut violations = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| !AYA_USERS.iter().any(|user| source.is_under(user)))
    {
        violations.extend(aya_uses(source));
    }
    assert_none(
        "aya only in the agent's bpf module, kubelb-common, kubelb-ebpf and tests",
        &violations,
    );
}

#[test]
fn unsafe_code_is_kept_out_by_the_crate_root() {
    let sources = sources();
    let mut violations = Vec::new();
    for (path, level) in UNSAFE_RULES {
        let source = sources
            .iter()
            .find(|source| source.is_under(path))
            .unwrap_or_else(|| panic!("{path} is gone"));
        if source
            .find(&["#", "!", "[", level, "(", "unsafe_code", ")", "]"])
            .next()
            .is_none()
        {
            violations.push(format!("{path}: add `#![{level}(unsafe_code)]`"));
        }
    }
    assert_none("unsafe code has its places", &violations);
}

#[test]
fn both_sides_agree_on_map_names() {
    let sources = sources();
    let in_kernel: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.is_under("kubelb-ebpf/src"))
        .flat_map(declared_maps)
        .collect();
    let contract: BTreeSet<String> = sources
        .iter()
        .filter(|source| MAP_NAMES.iter().any(|path| source.is_under(path)))
        .flat_map(string_constants)
        .collect();
    assert_eq!(
        in_kernel, contract,
        "left: maps of kubelb-ebpf, right: constants of {MAP_NAMES:?}"
    );
}

#[test]
fn the_rules_catch_what_they_are_for() {
    assert!(inherits_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
    assert!(!inherits_lints(
        "[package]\nname = \"a\"\nrust-version.workspace = true\n"
    ));

    let source = Source::parse(
        "kubelb-agent/src/tables.rs",
        "use aya::Ebpf;\nfn f() { aya_obj::x() }\n// aya::Bpf\nlet aya = 1;",
    );
    assert_eq!(aya_uses(&source).len(), 2);

    let source = Source::parse(
        "kubelb-ebpf/src/maps.rs",
        "#[map(name = \"FLOWS\")]\nstatic FLOW_MAP: X = X::new();\n#[map]\npub(crate) static mut STATS: X = X::new();\nstatic OTHER: u8 = 0;",
    );
    assert_eq!(declared_maps(&source), ["FLOWS", "STATS"]);
    let source = Source::parse(
        "kubelb-common/src/maps.rs",
        "pub const FLOWS: &str = \"FLOWS\";\npub const SIZE: u32 = 1;",
    );
    assert_eq!(string_constants(&source), ["FLOWS"]);
}

fn inherits_lints(manifest: &str) -> bool {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[lints]")
        .nth(1)
        .is_some_and(|line| line.trim() == "workspace = true")
}

fn forbidden_arrows(package: &Package, members: &BTreeSet<&str>) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        return vec![format!(
            "{}: xtask/tests/tidy/architecture.rs does not say what it may depend on",
            package.name
        )];
    };
    let used = package
        .dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .filter(|name| members.contains(name));
    used.filter(|name| !allowed.contains(name))
        .map(|name| format!("{} must not depend on {name}", package.manifest.display()))
        .collect()
}

fn aya_uses(source: &Source) -> Vec<String> {
    let crates = ["aya", "aya_obj", "aya_log"];
    let mut violations = Vec::new();
    for name in crates {
        violations.extend(
            source
                .find(&[name, ":", ":"])
                .map(|token| source.at(token, &format!("uses {name}"))),
        );
    }
    violations
}

/// Names of the statics under `#[map]`, or what `#[map(name = "…")]` says.
fn declared_maps(source: &Source) -> Vec<String> {
    let tokens = &source.tokens;
    let attributes =
        positions(tokens, &["#", "[", "map"]).filter(|at| matches!(tokens[at + 3].text.as_str(), "]" | "("));
    attributes
        .map(|at| {
            if tokens[at + 3].text == "(" {
                return unquoted(&tokens[at + 6].text);
            }
            let after = &tokens[at..];
            let keyword = after.iter().position(|token| token.text == "static").unwrap();
            after[keyword + 1..]
                .iter()
                .find(|token| token.text != "mut")
                .unwrap()
                .text
                .clone()
        })
        .collect()
}

/// Values of `const X: &str = "…"`.
fn string_constants(source: &Source) -> Vec<String> {
    let starts = positions(&source.tokens, &[":", "&", "str", "="]);
    starts.map(|at| unquoted(&source.tokens[at + 4].text)).collect()
}

fn unquoted(literal: &str) -> String {
    literal.trim_matches('"').to_owned()
}
