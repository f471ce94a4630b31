//! Reading and writing what every object has: names, uid, finalizers, times.

use serde_json::{Map, Value, json};

/// Text at `metadata.<key>`; empty when there is none.
pub(crate) fn meta<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// Text at a JSON pointer; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Array at a JSON pointer; empty when there is none.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// `metadata`, made an object when it is none.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    field_mut(object, "metadata")
}

/// A field that is an object, made so when it is none; so is `object` itself.
pub(crate) fn field_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    as_map(as_map(object).entry(key).or_insert(Value::Null))
}

/// `value` as an object, made one when it is none.
pub(crate) fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("it was made an object above")
        }
    }
}

pub(crate) fn set_meta(object: &mut Value, key: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(key.to_owned(), value.into());
}

/// Sets `key` where it is absent.
pub(crate) fn default_to(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    items(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// Copies `metadata.<key>` of `from`, also when it is absent there.
pub(crate) fn carry_meta(from: &Value, to: &mut Value, key: &str) {
    let value = from.get("metadata").and_then(|metadata| metadata.get(key)).cloned();
    let metadata = metadata_mut(to);
    match value {
        Some(value) => metadata.insert(key.to_owned(), value),
        None => metadata.remove(key),
    };
}

/// Copies a top-level field of `from`, also when it is absent there.
pub(crate) fn carry(from: &Value, to: &mut Value, key: &str) {
    let value = from.get(key).cloned();
    let map = as_map(to);
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}

/// Removes empty collections of `metadata`, which are as good as absent.
pub(crate) fn tidy_metadata(object: &mut Value) {
    let metadata = metadata_mut(object);
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    });
}

/// Whether anything but metadata and status differs.
pub(crate) fn specification_differs(old: &Value, new: &Value, has_status: bool) -> bool {
    let relevant = |object: &Value| -> Map<String, Value> {
        let map = object.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(key, _)| key != "metadata" && !(has_status && key == "status"))
            .collect()
    };
    relevant(old) != relevant(new)
}

/// A random UUID (version 4).
pub(crate) fn new_uid() -> String {
    let bits = fastrand::u128(..);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// Five characters as the API appends them to `generateName`.
pub(crate) fn name_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    std::iter::repeat_with(|| fastrand::choice(LETTERS).copied().map_or('x', char::from))
        .take(5)
        .collect()
}
