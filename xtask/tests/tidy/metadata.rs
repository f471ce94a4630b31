//! What cargo knows of the workspace: its packages, what each depends on, and where its targets start.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::source::root;

/// A member of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Relative to the checkout.
    pub(crate) manifest: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// One line under `[dependencies]` and its like.
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Only for tests, examples and benches of the package itself.
    pub(crate) for_tests: bool,
    pub(crate) optional: bool,
}

/// A crate of a package.
pub(crate) struct Target {
    /// `lib`, `bin`, `test`, `custom-build`, …
    pub(crate) kind: String,
    /// Relative to the checkout.
    pub(crate) path: PathBuf,
}

/// Every member, as cargo reads the manifests.
pub(crate) fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    list(&metadata, "packages").iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let dependencies = list(value, "dependencies").iter().map(|dependency| Dependency {
        name: string(dependency, "name"),
        for_tests: dependency["kind"] == "dev",
        optional: dependency["optional"] == true,
    });
    let targets = list(value, "targets").iter().map(|target| Target {
        kind: list(target, "kind")[0].as_str().unwrap().to_owned(),
        path: relative(&string(target, "src_path")),
    });
    Package {
        name: string(value, "name"),
        manifest: relative(&string(value, "manifest_path")),
        dependencies: dependencies.collect(),
        targets: targets.collect(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("cargo metadata has no list `{key}`"))
}

fn string(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("cargo metadata has no text `{key}`"))
        .to_owned()
}

fn relative(path: &str) -> PathBuf {
    PathBuf::from(path).strip_prefix(root()).unwrap().to_owned()
}
