//! What the operations take in their paths and queries.

use serde_json::{Value, json};

use super::super::schema::Definitions;

const TABLE: &str = include_str!("parameters.txt");
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// What a patch says of the manager beyond what other writes do.
const OF_PATCH: &str = "fieldManager-of-patch";

/// Of a list, and of a watch.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
];
/// Of a create and an update.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
/// Of a patch.
pub(super) const PATCH: &[&str] = &["dryRun", OF_PATCH, "fieldValidation", "force"];
/// Of a deletion.
pub(super) const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];

/// A parameter of the query by its name in the table; a name that is not there is a text without description.
pub(super) fn query(definitions: &Definitions, name: &str) -> Value {
    let row = |wanted: &str| {
        TABLE.lines().find_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            let (kind, text) = rest.split_once(' ').unwrap_or((rest, "\"\""));
            (name == wanted).then(|| (kind, serde_json::from_str::<String>(text).unwrap_or_default()))
        })
    };
    let (kind, mut text) = row(name).unwrap_or(("string", String::new()));
    let mut shown = name;
    if name == OF_PATCH {
        shown = "fieldManager";
        text = format!("{} {text}", row(shown).unwrap_or_default().1);
    } else if text.is_empty() && DELETE.contains(&name) {
        definitions
            .described(DELETE_OPTIONS, name)
            .unwrap_or_default()
            .clone_into(&mut text);
    }
    described(shown, "query", kind, &text)
}

/// `{namespace}`, `{name}` or `{path}` of a path.
pub(super) fn of_path(name: &str, text: &str) -> Value {
    let mut parameter = described(name, "path", "string", text);
    super::super::object::as_map(&mut parameter).insert("required".to_owned(), Value::Bool(true));
    parameter
}

/// A parameter of a kind that is not in the table.
pub(super) fn described(name: &str, place: &str, kind: &str, text: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if !text.is_empty() {
        super::super::object::as_map(&mut parameter).insert("description".to_owned(), Value::from(text));
    }
    parameter
}
