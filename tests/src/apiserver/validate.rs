//! What a structural schema does to an object: unknown fields found and pruned, defaults filled in, values checked.
//!
//! The order is that of a real server: prune, default, check, then the rules of [`super::cel`].

use regex::Regex;
use serde_json::{Map, Value, json};

use super::cel::join;
use super::schema::{ListKind, Shape};
use super::status::Cause;

/// Depth of nesting at which an object is not looked into any more.
const DEEPEST: usize = 64;

/// Removes what the schema does not know, and says which fields those were.
pub(crate) fn prune(value: &mut Value, shape: Shape<'_>) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(value, shape, "", 0, &mut unknown);
    unknown
}

fn prune_at(value: &mut Value, shape: Shape<'_>, path: &str, depth: usize, unknown: &mut Vec<String>) {
    if depth > DEEPEST || shape.is_int_or_string() {
        return;
    }
    match value {
        Value::Object(map) => {
            let open = shape.is_open();
            map.retain(|name, child| match shape.known_field(name) {
                Some(inner) => {
                    prune_at(child, inner, &join(path, name), depth.saturating_add(1), unknown);
                    true
                }
                None if open || (shape.is_embedded_resource() && is_object_field(name)) => true,
                None => {
                    unknown.push(join(path, name));
                    false
                }
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{index}]");
                prune_at(item, shape.items(), &path, depth.saturating_add(1), unknown);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_object_field(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Fills in the defaults of the schema.
pub(crate) fn default(value: &mut Value, shape: Shape<'_>) {
    default_at(value, shape, 0);
}

fn default_at(value: &mut Value, shape: Shape<'_>, depth: usize) {
    if depth > DEEPEST {
        return;
    }
    match value {
        Value::Object(map) => {
            if let Some(properties) = shape.properties() {
                for (name, node) in properties {
                    fill(map, name, node);
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(inner) = shape.known_field(name) {
                    default_at(child, inner, depth.saturating_add(1));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                default_at(item, shape.items(), depth.saturating_add(1));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fill(map: &mut Map<String, Value>, name: &str, node: &Value) {
    let Some(default) = node.get("default") else {
        return;
    };
    let nullable = node.get("nullable") == Some(&Value::Bool(true));
    match map.get(name) {
        None => {
            map.insert(name.to_owned(), default.clone());
        }
        Some(Value::Null) if !nullable => {
            map.insert(name.to_owned(), default.clone());
        }
        Some(_) => {}
    }
}

/// Takes out nulls that the schema does not allow: a real server drops them before it looks any further.
pub(crate) fn drop_nulls(value: &mut Value, shape: Shape<'_>) {
    match value {
        Value::Object(map) => {
            map.retain(|name, child| {
                let inner = shape.known_field(name);
                let nullable = match inner {
                    Some(inner) => inner
                        .outer()
                        .is_some_and(|node| node.get("nullable") == Some(&Value::Bool(true))),
                    None => true,
                };
                if child.is_null() {
                    return nullable;
                }
                if let Some(inner) = inner {
                    drop_nulls(child, inner);
                }
                true
            });
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(item, shape.items())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Checks `value` against the schema.
pub(crate) fn check(value: &Value, shape: Shape<'_>, path: &str, causes: &mut Vec<Cause>) {
    check_at(value, shape, path, 0, causes);
}

fn check_at(value: &Value, shape: Shape<'_>, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    let Some(node) = shape.inner() else {
        return;
    };
    if depth > DEEPEST {
        causes.push(Cause::forbidden(path, "nested too deeply"));
        return;
    }
    if shape.is_int_or_string() {
        if !value.is_string() && !value.is_i64() && !value.is_u64() {
            let why = format!(
                "{path} in body must be of type integer or string: \"{}\"",
                kind_of(value)
            );
            causes.push(Cause::wrong_type(path, kind_of(value), &why));
            return;
        }
        check_enum(value, node, path, causes);
        match value {
            Value::String(text) => check_string(text, node, path, causes),
            Value::Number(number) => check_number(number.as_f64().unwrap_or_default(), value, node, path, causes),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
        }
        return;
    }
    let nullable = |node: &Value| node.get("nullable") == Some(&Value::Bool(true));
    if value.is_null() && (nullable(node) || shape.outer().is_some_and(nullable)) {
        return;
    }
    if let Some(expected) = shape.kind()
        && !is_of_kind(value, expected)
    {
        let got = kind_of(value);
        let why = format!("{path} in body must be of type {expected}: \"{got}\"");
        causes.push(Cause::wrong_type(path, got, &why));
        return;
    }
    check_enum(value, node, path, causes);
    match value {
        Value::Object(map) => check_object(map, shape, node, path, depth, causes),
        Value::Array(items) => check_array(items, shape, node, path, depth, causes),
        Value::String(text) => check_string(text, node, path, causes),
        Value::Number(number) => check_number(number.as_f64().unwrap_or_default(), value, node, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(value, shape, node, path, causes);
}

fn check_enum(value: &Value, node: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(allowed) = node.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        causes.push(Cause::unsupported(path, value, allowed));
    }
}

fn check_object(
    map: &Map<String, Value>,
    shape: Shape<'_>,
    node: &Value,
    path: &str,
    depth: usize,
    causes: &mut Vec<Cause>,
) {
    for name in node.get("required").and_then(Value::as_array).into_iter().flatten() {
        if let Some(name) = name.as_str()
            && !map.contains_key(name)
        {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
    if let Some(most) = limit(node, "maxProperties")
        && exceeds(map.len(), most)
    {
        causes.push(Cause::too_many(path, map.len(), most));
    }
    if let Some(least) = limit(node, "minProperties")
        && falls_short(map.len(), least)
    {
        let why = format!("{path} in body should have at least {least} properties");
        causes.push(Cause::invalid(path, &json!(map.len()), &why));
    }
    for (name, child) in map {
        if let Some(inner) = shape.known_field(name) {
            check_at(child, inner, &join(path, name), depth.saturating_add(1), causes);
        }
    }
}

fn check_array(items: &[Value], shape: Shape<'_>, node: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    if let Some(most) = limit(node, "maxItems")
        && exceeds(items.len(), most)
    {
        causes.push(Cause::too_many(path, items.len(), most));
    }
    if let Some(least) = limit(node, "minItems")
        && falls_short(items.len(), least)
    {
        let why = format!("{path} in body should have at least {least} items");
        causes.push(Cause::invalid(path, &json!(items.len()), &why));
    }
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        check_at(item, shape.items(), &path, depth.saturating_add(1), causes);
    }
}

/// Lists whose items have an identity, checked after all else: that is where a real server does it.
pub(crate) fn check_lists(value: &Value, shape: Shape<'_>, path: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(inner) = shape.known_field(name) {
                    check_lists(child, inner, &join(path, name), causes);
                }
            }
        }
        Value::Array(items) => {
            let keys: Vec<Value> = match shape.list_kind() {
                ListKind::Atomic => Vec::new(),
                ListKind::Set => items.clone(),
                ListKind::Map(keys) => items.iter().map(|item| key_of(item, &keys)).collect(),
            };
            for (index, key) in keys.iter().enumerate() {
                if keys.iter().take(index).any(|other| other == key) {
                    causes.push(Cause::duplicate(format!("{path}[{index}]"), key));
                }
            }
            for (index, item) in items.iter().enumerate() {
                check_lists(item, shape.items(), &format!("{path}[{index}]"), causes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn key_of(item: &Value, keys: &[&str]) -> Value {
    let parts: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), item.get(key).cloned().unwrap_or_default()))
        .collect();
    Value::Object(parts)
}

fn check_string(text: &str, node: &Value, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count();
    if let Some(most) = limit(node, "maxLength")
        && exceeds(length, most)
    {
        causes.push(Cause::too_long(path, &format!("may not be more than {most} bytes")));
    }
    if let Some(least) = limit(node, "minLength")
        && falls_short(length, least)
    {
        let why = format!("{path} in body should be at least {least} chars long");
        causes.push(Cause::invalid(path, &Value::from(text), &why));
    }
    if let Some(pattern) = node.get("pattern").and_then(Value::as_str)
        && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
    {
        let why = format!("{path} in body should match '{pattern}'");
        causes.push(Cause::invalid(path, &Value::from(text), &why));
    }
    if let Some(format) = node.get("format").and_then(Value::as_str)
        && !has_format(text, format)
    {
        let why = format!("{path} in body must be of type {format}: {}", Value::from(text));
        causes.push(Cause::invalid(path, &Value::from(text), &why));
    }
}

fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    }
}

fn check_number(number: f64, shown: &Value, node: &Value, path: &str, causes: &mut Vec<Cause>) {
    let exclusive = |key: &str| node.get(key) == Some(&Value::Bool(true));
    if let Some(most) = node.get("maximum") {
        let over = most
            .as_f64()
            .is_some_and(|most| number > most || (exclusive("exclusiveMaximum") && number >= most));
        if over {
            let why = format!("{path} in body should be less than or equal to {most}");
            causes.push(Cause::invalid(path, shown, &why));
        }
    }
    if let Some(least) = node.get("minimum") {
        let under = least
            .as_f64()
            .is_some_and(|least| number < least || (exclusive("exclusiveMinimum") && number <= least));
        if under {
            let why = format!("{path} in body should be greater than or equal to {least}");
            causes.push(Cause::invalid(path, shown, &why));
        }
    }
}

/// `oneOf`, `anyOf`, `allOf`, `not`, which in a structural schema only check and never add fields.
fn check_combinations(value: &Value, shape: Shape<'_>, node: &Value, path: &str, causes: &mut Vec<Cause>) {
    let of = |key: &str| node.get(key).and_then(Value::as_array);
    let fits = |branch: &Value| {
        let mut inner = Vec::new();
        check_at(value, shape.with(branch), path, 0, &mut inner);
        inner.is_empty()
    };
    if let Some(branches) = of("oneOf")
        && branches.iter().filter(|branch| fits(branch)).count() != 1
    {
        let why = format!("{path} in body must validate one and only one schema (oneOf)");
        causes.push(Cause::invalid(path, value, &why));
    }
    if let Some(branches) = of("anyOf")
        && !branches.iter().any(fits)
    {
        let why = format!("{path} in body must validate at least one schema (anyOf)");
        causes.push(Cause::invalid(path, value, &why));
    }
    if let Some(branches) = of("allOf") {
        for branch in branches {
            check_at(value, shape.with(branch), path, 0, causes);
        }
    }
    if let Some(branch) = node.get("not")
        && fits(branch)
    {
        let why = format!("{path} in body must not validate the schema (not)");
        causes.push(Cause::invalid(path, value, &why));
    }
}

fn limit(node: &Value, key: &str) -> Option<u64> {
    node.get(key).and_then(Value::as_u64)
}

fn exceeds(length: usize, most: u64) -> bool {
    u64::try_from(length).is_ok_and(|length| length > most)
}

fn falls_short(length: usize, least: u64) -> bool {
    u64::try_from(length).is_ok_and(|length| length < least)
}

fn is_of_kind(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|real| real.fract() == 0.0),
        _ => true,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
