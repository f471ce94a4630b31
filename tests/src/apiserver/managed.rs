//! Who owns which field: `metadata.managedFields`, kept through every kind of write, and server-side apply.

use serde_json::{Map, Value, json};

use super::fieldset::{FieldSet, compare, merge};
use super::schema::Shape;
use super::status::ApiError;

/// Managed by the server itself, so never owned.
const NOT_OWNED: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
];
/// Owners by update of one object; the oldest are dropped, as a real server merges them.
const MOST_ENTRIES: usize = 32;

/// A write, as far as ownership cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) api_version: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// RFC 3339.
    pub(crate) now: &'a str,
    /// The status has a path of its own, so writes elsewhere do not own it.
    pub(crate) has_status: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn is(&self, writer: Writer<'_>, apply: bool) -> bool {
        self.manager == writer.manager
            && self.apply == apply
            && self.subresource == writer.subresource
            && self.api_version == writer.api_version
    }

    fn from_json(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = entry.get("operation")?.as_str()?;
        Some(Self {
            manager: text("manager"),
            apply: operation == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_json(entry.get("fieldsV1")?),
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_json(),
        });
        if !self.subresource.is_empty()
            && let Some(map) = entry.as_object_mut()
        {
            map.insert("subresource".to_owned(), Value::from(self.subresource.as_str()));
        }
        entry
    }
}

fn decode(object: &Value) -> Vec<Entry> {
    object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Entry::from_json)
        .collect()
}

fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    let order = |entry: &Entry| (!entry.apply, entry.time.clone(), entry.manager.clone());
    entries.sort_by_cached_key(|entry| (order(entry), entry.subresource.clone()));
    while entries.len() > MOST_ENTRIES {
        match entries.iter().position(|entry| !entry.apply) {
            Some(oldest) => drop(entries.remove(oldest)),
            None => break,
        }
    }
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        let entries = entries.iter().map(Entry::to_json).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// Takes out what no one owns, and what this path does not write.
fn strip(set: &mut FieldSet, writer: Writer<'_>) {
    set.without(&["f:apiVersion"]);
    set.without(&["f:kind"]);
    for field in NOT_OWNED {
        set.without(&["f:metadata", field]);
    }
    set.unmark("f:metadata");
    if writer.subresource == "status" {
        set.keep_only("f:status");
    } else if writer.has_status {
        set.without(&["f:status"]);
    }
}

/// An object without what ownership does not look at.
fn without_entries(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Puts the owners into `new` after a create, update or patch; `live` is what it replaces, which for a new object has what
/// objects of its type always have.
pub(crate) fn record(live: &Value, new: &mut Value, shape: Shape<'_>, writer: Writer<'_>) {
    // Someone may set the entries themselves, which is how kubectl moves from one way of applying to the other.
    let given = new.pointer("/metadata/managedFields").cloned();
    let reset = given.as_ref() == Some(&json!([{}]));
    let mut entries = decode(new);
    if (entries.is_empty() && !reset) || !writer.subresource.is_empty() {
        entries = decode(live);
    }
    let mut difference = compare(&without_entries(live), &without_entries(new), shape);
    strip(&mut difference.changed, writer);
    let touched = difference.changed.clone().union(&difference.removed);
    let mut mine = None;
    for entry in &mut entries {
        let left = entry.set.minus(&touched);
        if entry.is(writer, false) {
            let next = left.union(&difference.changed);
            if !difference.changed.is_empty() {
                writer.now.clone_into(&mut entry.time);
            }
            entry.set = next;
            mine = Some(());
        } else if left != entry.set {
            entry.set = left;
        }
    }
    if mine.is_none() && !difference.changed.is_empty() && !reset {
        entries.push(Entry {
            manager: writer.manager.to_owned(),
            apply: false,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            set: difference.changed,
        });
    }
    encode(new, entries);
}

/// Server-side apply: `applied` is all that `writer` wants to own. Answers the object as it is to be stored.
///
/// # Errors
/// When another manager owns a field that would change, and it is not forced.
pub(crate) fn apply(
    live: Option<&Value>,
    applied: &Value,
    shape: Shape<'_>,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let mut entries = live.map(decode).unwrap_or_default();
    let base = live.map_or_else(|| Value::Object(Map::new()), without_entries);
    let applied = without_entries(applied);
    let mut wanted = FieldSet::applied(&applied, shape);
    strip(&mut wanted, writer);
    let mut merged = merge(&base, &applied, shape);

    let position = entries.iter().position(|entry| entry.is(writer, true));
    let last = position.map(|index| entries.remove(index));
    if let Some(last) = &last {
        let mut gone = last.set.minus(&wanted);
        for other in &entries {
            gone = gone.minus(&other.set);
        }
        gone.remove_from(&mut merged, shape);
    }
    let mut difference = compare(&base, &merged, shape);
    strip(&mut difference.changed, writer);
    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let taken = entry.set.common(&difference.changed);
        if !taken.is_empty() && !force {
            let who = holder(entry, writer);
            conflicts.extend(taken.paths().into_iter().map(|path| (who.clone(), path)));
        }
        entry.set = entry.set.minus(&difference.changed).minus(&difference.removed);
    }
    if !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(&conflicts));
    }
    let time = match &last {
        Some(last) if last.set == wanted => last.time.clone(),
        _ => writer.now.to_owned(),
    };
    entries.push(Entry {
        manager: writer.manager.to_owned(),
        apply: true,
        api_version: writer.api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time,
        set: wanted,
    });
    encode(&mut merged, entries);
    Ok(merged)
}

fn holder(entry: &Entry, writer: Writer<'_>) -> String {
    let mut who = format!("\"{}\"", entry.manager);
    if !entry.subresource.is_empty() {
        who.push_str(&format!(" with subresource \"{}\"", entry.subresource));
    }
    if !entry.apply {
        who.push_str(&format!(" using {}", entry.api_version));
        who.push_str(&format!(" at {}", entry.time));
    } else if entry.api_version != writer.api_version {
        who.push_str(&format!(" using {}", entry.api_version));
    }
    who
}
