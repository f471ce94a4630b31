//! Tables, as `kubectl get` asks for them: columns by kind, one row an object.

mod builtin;
mod columns;
mod json_path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{meta, name, text};
use super::resource::{Column, Resource};
use super::schema::{Definitions, OBJECT_META};

/// A column: name, `string` or `integer` or `date`, description, and 1 when only `-o wide` shows it.
pub(crate) fn column(name: &str, kind: &str, description: &str, priority: i64) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// A Table of `objects`.
pub(crate) fn table<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    now: Timestamp,
    include_object: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells = match &resource.custom {
                Some(custom) => custom_cells(&custom.columns, object, now),
                None => builtin::cells(resource, object, now),
            };
            let mut row = json!({"cells": cells});
            if include_object {
                super::object::as_map(&mut row).insert("object".to_owned(), partial(object));
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": resource.columns,
        "rows": rows,
    })
}

/// What a Table of a resource says of its columns.
pub(crate) fn columns(resource: &Resource, definitions: &Definitions) -> Vec<Value> {
    match &resource.custom {
        Some(custom) => custom_columns(&custom.columns, definitions),
        None => columns::describe(resource, definitions),
    }
}

fn custom_columns(columns: &[Column], definitions: &Definitions) -> Vec<Value> {
    let name = definitions.described(OBJECT_META, "name").unwrap_or_default();
    let name = column("Name", "string", name, 0);
    let more = columns.iter().map(|column| {
        let described = match column.description.as_str() {
            "" => format!(
                "Custom resource definition column (in JSONPath format): {}",
                column.path
            ),
            described => described.to_owned(),
        };
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": described,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(more).collect()
}

fn custom_cells(columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let more = columns.iter().map(|column| {
        let found = json_path::find(object, &column.path);
        match (column.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [time, ..]) => Value::from(age(time.as_str().unwrap_or_default(), now)),
            ("integer" | "number" | "boolean", [value, ..]) => (*value).clone(),
            (_, [Value::String(text)]) => Value::from(text.as_str()),
            (_, values) => {
                let shown: Vec<String> = values
                    .iter()
                    .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                    .collect();
                Value::from(shown.join(","))
            }
        }
    });
    std::iter::once(Value::from(name(object))).chain(more).collect()
}

/// An object without all but its metadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or(json!({})),
    })
}

/// How long ago an object was made.
fn object_age(object: &Value, now: Timestamp) -> String {
    age(meta(object, "creationTimestamp"), now)
}

/// How long ago a time was, in the units that people read: `3s`, `2m5s`, `90m`, `5h`, `3d`.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(time).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        172_800..691_200 if hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        _ if days < 730 => format!("{days}d"),
        _ => format!("{}y{}d", days / 365, days % 365),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text.to_owned()
    }
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    or_none(&parts.collect::<Vec<&str>>().join(","))
}

fn cell<'a>(object: &'a Value, pointer: &str) -> &'a str {
    text(object, pointer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_people_say_them() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (time, shown) in [
            ("2026-01-09T23:59:57Z", "3s"),
            ("2026-01-09T23:57:55Z", "2m5s"),
            ("2026-01-09T23:00:00Z", "60m"),
            ("2026-01-09T18:30:00Z", "5h30m"),
            ("2026-01-07T00:00:00Z", "3d"),
            ("", "<unknown>"),
        ] {
            assert_eq!(age(time, now), shown, "{time}");
        }
    }
}
