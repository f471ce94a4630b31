//! How operations are called and sorted, and how they name types.

use serde_json::{Map, Value, json};

/// `rbac.authorization.k8s.io` as the names of operations have it: `RbacAuthorization`.
pub(super) fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let words = group.trim_end_matches(".k8s.io").split(['.', '-']);
    words.map(capital).collect()
}

pub(super) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// `core_v1`: what operations are sorted by.
pub(super) fn tag(group: &str, version: &str) -> String {
    let camel = camel(group);
    let mut letters = camel.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string());
    let first = first.unwrap_or_default() + letters.as_str();
    if version.is_empty() {
        first
    } else {
        format!("{first}_{version}")
    }
}

pub(super) fn article(kind: &str) -> &'static str {
    match kind.chars().next() {
        _ if kind == "Endpoints" => "",
        Some('A' | 'E' | 'I' | 'O' | 'U') => "an ",
        _ => "a ",
    }
}

pub(super) fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `body` in each of the content types.
pub(super) fn content(types: &[&str], body: &Value) -> Value {
    types
        .iter()
        .map(|kind| ((*kind).to_owned(), json!({"schema": body})))
        .collect::<Map<String, Value>>()
        .into()
}
