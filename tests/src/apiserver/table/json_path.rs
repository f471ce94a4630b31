//! The JSONPath of printer columns: fields, indices, `[*]`, and filters by equality.

use serde_json::Value;

/// What `path` selects, for example `.status.conditions[?(@.type=="Ready")].status`.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps(path) {
        found = found.into_iter().flat_map(|value| take(value, &step)).collect();
    }
    found.retain(|value| !value.is_null());
    found
}

enum Step {
    Field(String),
    Index(usize),
    All,
    /// Items whose field has this value.
    Where(String, String),
}

fn take<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => items.get(*index).into_iter().collect(),
        Step::All => items.iter().collect(),
        Step::Where(field, wanted) => items
            .iter()
            .filter(|item| {
                let found = find(item, field);
                let shown = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                found.first().is_some_and(|value| shown(value) == *wanted)
            })
            .collect(),
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path
        .trim()
        .trim_start_matches('{')
        .trim_end_matches('}')
        .trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').unwrap_or(inside.len());
            let (bracket, after) = inside.split_at(end);
            rest = after.strip_prefix(']').unwrap_or(after);
            steps.extend(bracketed(bracket));
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let mut name = String::new();
        let mut characters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                other => name.push(other),
            }
        }
        rest = rest.split_at(end).1;
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
    }
    steps
}

fn bracketed(inside: &str) -> Option<Step> {
    let inside = inside.trim();
    if inside == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (field, wanted) = filter.split_once("==")?;
        let field = field.trim().trim_start_matches('@').to_owned();
        let wanted = wanted.trim().trim_matches(['"', '\'']).to_owned();
        return Some(Step::Where(field, wanted));
    }
    match inside.parse() {
        Ok(index) => Some(Step::Index(index)),
        Err(_name) => Some(Step::Field(inside.trim_matches(['"', '\'']).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_reach_conditions_and_annotations() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        assert_eq!(
            find(&object, r#".status.conditions[?(@.type=="Ready")].status"#),
            [&json!("True")]
        );
        assert_eq!(find(&object, r".metadata.annotations.a\.b/c"), [&json!("x")]);
        assert_eq!(find(&object, ".status.conditions[*].type").len(), 2);
        assert_eq!(find(&object, ".status.conditions[0].type"), [&json!("A")]);
        assert!(find(&object, ".spec.none").is_empty());
    }
}
