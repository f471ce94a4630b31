//! The definitions of the custom resources as files of the manager's chart: written, and checked to be what the types say.
//!
//! Must not know: what is in them, beyond a name and a plural.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Map, Number, Value, json};

use crate::workspace::Workspace;

const DIRECTORY: &str = "charts/kubelb-manager/files/crds";

const HEADER: &str = "# Generated from kubelb-api by `cargo xtask crds`. Change the types there, then run it again.\n";

/// What helm is told about each definition: removing the chart must not remove every object of every tenant.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// Writes one file for each kind, and removes files of kinds that are gone.
///
/// # Errors
/// When a file cannot be read, written or removed.
pub(crate) fn write(workspace: &Workspace) -> anyhow::Result<()> {
    let directory = workspace.root().join(DIRECTORY);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let wanted = files()?;
    for (name, text) in &wanted {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for path in present(&directory)?.difference(&wanted.keys().map(PathBuf::from).collect()) {
        let path = directory.join(path);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    eprintln!("{} definitions in {DIRECTORY}", wanted.len());
    Ok(())
}

/// Compares and writes nothing.
///
/// # Errors
/// When a file is missing, differs, or belongs to no kind; all of them are named.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let differences = compare(&workspace.root().join(DIRECTORY), &files()?)?;
    ensure!(
        differences.is_empty(),
        "not what the types say; run `cargo xtask crds` and commit:\n  {}",
        differences.join("\n  ")
    );
    Ok(())
}

fn compare(directory: &Path, wanted: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let mut differences = Vec::new();
    for (name, text) in wanted {
        match fs::read_to_string(directory.join(name)) {
            Ok(present) if present == *text => {}
            Ok(_) => differences.push(format!("{DIRECTORY}/{name} differs")),
            Err(error) => differences.push(format!("{DIRECTORY}/{name}: {error}")),
        }
    }
    for path in present(directory)?.difference(&wanted.keys().map(PathBuf::from).collect()) {
        differences.push(format!("{DIRECTORY}/{} belongs to no kind", path.display()));
    }
    Ok(differences)
}

/// Names of the files that are there; none when there is no directory.
fn present(directory: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    if !directory.exists() {
        return Ok(BTreeSet::new());
    }
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect())
        .with_context(|| format!("cannot read {}", directory.display()))
}

/// Text of each file, by its name.
fn files() -> anyhow::Result<BTreeMap<String, String>> {
    kubelb_api::crds::all()
        .iter()
        .map(|crd| {
            let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            let text = render(&serde_json::to_value(crd)?).with_context(|| format!("{name} has no YAML form"))?;
            Ok((name, text))
        })
        .collect()
}

fn render(crd: &Value) -> anyhow::Result<String> {
    let mut crd = canonical(crd);
    if let Some(metadata) = crd.get_mut("metadata").and_then(Value::as_object_mut) {
        let (key, value) = KEEP;
        metadata.insert("annotations".to_owned(), json!({key: value}));
        metadata.sort_keys();
    }
    Ok(format!("{HEADER}{}", serde_saphyr::to_string(&crd)?))
}

/// Keys in alphabetical order, whatever the order that serde_json was built to keep, and whole numbers without a fraction.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            let fields = sorted.into_iter().map(|(key, value)| (key.clone(), canonical(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Number(number) => Value::Number(whole(number).unwrap_or_else(|| number.clone())),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn whole(number: &Number) -> Option<Number> {
    let value = number.as_f64().filter(|value| value.fract() == 0.0)?;
    format!("{value:.0}").parse::<i64>().ok().map(Number::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_types_say() {
        check(&Workspace::locate().unwrap()).unwrap();
    }

    #[test]
    fn a_file_says_the_same_as_the_type() {
        for crd in kubelb_api::crds::all() {
            let written = render(&serde_json::to_value(&crd).unwrap()).unwrap();
            let read: Value = serde_saphyr::from_str(&written).unwrap();
            let mut expected = canonical(&serde_json::to_value(&crd).unwrap());
            expected["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
            assert_eq!(read, expected, "{}", crd.spec.names.kind);
        }
    }

    #[test]
    fn every_difference_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("same.yaml"), "a: 1\n").unwrap();
        fs::write(directory.path().join("other.yaml"), "a: 1\n").unwrap();
        fs::write(directory.path().join("extra.yaml"), "a: 1\n").unwrap();
        let wanted = ["same.yaml", "other.yaml", "missing.yaml"].map(|name| {
            (
                name.to_owned(),
                if name == "same.yaml" { "a: 1\n" } else { "a: 2\n" }.to_owned(),
            )
        });
        let differences = compare(directory.path(), &wanted.into()).unwrap();
        assert_eq!(differences.len(), 3, "{differences:?}");
        assert!(differences[0].contains("missing.yaml"));
        assert!(differences[1].contains("other.yaml differs"));
        assert!(differences[2].contains("extra.yaml belongs to no kind"));
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        let text = render(&json!({"b": 1.0, "a": 0.5, "c": 65535.0})).unwrap();
        assert_eq!(text, format!("{HEADER}a: 0.5\nb: 1\nc: 65535\n"));
    }
}
