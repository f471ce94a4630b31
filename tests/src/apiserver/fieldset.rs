//! Sets of fields in the form that `metadata.managedFields` has (FieldsV1), and how they come out of objects.
//!
//! A set is a tree of path elements as they are written there: `f:name`, `k:{"port":80}` (an item by its keys),
//! `v:"a"` (an item by its value). Knows nothing of managers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::schema::{ListKind, Shape};

/// Fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// The element itself is in the set, beside what is below it.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

/// What one version of an object has that another had not, and the other way round.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// New or with another value.
    pub(crate) changed: FieldSet,
    pub(crate) removed: FieldSet,
}

impl FieldSet {
    fn leaf() -> Self {
        Self {
            member: true,
            children: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// From FieldsV1.
    pub(crate) fn from_json(fields: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.member = true;
            } else {
                let mut child = Self::from_json(below);
                child.member |= child.children.is_empty();
                set.children.insert(element.clone(), child);
            }
        }
        set
    }

    /// To FieldsV1.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            map.insert(element.clone(), child.to_json());
        }
        Value::Object(map)
    }

    /// The fields that `value`, as someone applied it, speaks of.
    pub(crate) fn applied(value: &Value, shape: Shape<'_>) -> Self {
        let mut set = Self::default();
        for (element, child, inner) in elements(value, shape) {
            let mut below = Self::applied(child, inner);
            below.member |= !element.starts_with("f:") || below.children.is_empty();
            set.children.insert(element, below);
        }
        if set.children.is_empty() {
            set.member = true;
        }
        set
    }

    /// `value` itself and every field in it.
    fn whole(value: &Value, shape: Shape<'_>) -> Self {
        let mut set = Self::leaf();
        for (element, child, inner) in elements(value, shape) {
            set.children.insert(element, Self::whole(child, inner));
        }
        set
    }

    /// In either.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().add(child);
        }
    }

    /// In this and not in `other`.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let mut set = Self {
            member: self.member && !other.member,
            children: BTreeMap::new(),
        };
        for (element, child) in &self.children {
            let left = match other.children.get(element) {
                Some(taken) => child.minus(taken),
                None => child.clone(),
            };
            if !left.is_empty() {
                set.children.insert(element.clone(), left);
            }
        }
        set
    }

    /// In both.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut set = Self {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (element, child) in &self.children {
            if let Some(there) = other.children.get(element) {
                let both = child.common(there);
                if !both.is_empty() {
                    set.children.insert(element.clone(), both);
                }
            }
        }
        set
    }

    /// Without one field and all below it.
    pub(crate) fn without(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.without(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Only what is below one top-level element.
    pub(crate) fn keep_only(&mut self, element: &str) {
        self.children.retain(|name, _| name == element);
    }

    /// Takes the member mark off the element at `path`, keeping what is below.
    pub(crate) fn unmark(&mut self, element: &str) {
        if let Some(child) = self.children.get_mut(element) {
            child.member = false;
            if child.is_empty() {
                self.children.remove(element);
            }
        }
    }

    /// Paths as error messages have them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            paths.push(path.clone());
        }
        for (element, child) in &self.children {
            let length = path.len();
            path.push_str(&shown(element));
            child.collect(path, paths);
            path.truncate(length);
        }
    }

    /// Takes the set out of the value of a field. What merges stays as long as there is something in it that is not
    /// in the set, for it has other owners or none.
    fn empties(&self, value: &mut Value, shape: Shape<'_>) -> bool {
        let (merges, empty) = match value {
            Value::Object(map) => (!shape.is_atomic_map(), map.is_empty()),
            Value::Array(items) => (shape.list_kind() != ListKind::Atomic, items.is_empty()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (false, false),
        };
        if merges {
            (self.member && empty) || self.remove_from(value, shape)
        } else {
            self.member
        }
    }

    /// Takes the fields of the set out of `value`. `true` when that left nothing of it.
    pub(crate) fn remove_from(&self, value: &mut Value, shape: Shape<'_>) -> bool {
        match value {
            Value::Object(map) => {
                for (element, child) in &self.children {
                    let Some(name) = element.strip_prefix("f:") else {
                        continue;
                    };
                    let empty = match map.get_mut(name) {
                        Some(inner) => child.empties(inner, shape.field(name)),
                        None => false,
                    };
                    if empty {
                        map.remove(name);
                    }
                }
                map.is_empty() && !self.children.is_empty()
            }
            Value::Array(items) => {
                let kind = shape.list_kind();
                let before = items.len();
                items.retain_mut(|item| {
                    let child = element_of(item, &kind, shape).and_then(|element| self.children.get(&element));
                    match child {
                        Some(child) if child.member => false,
                        Some(child) => !child.remove_from(item, shape.items()),
                        None => true,
                    }
                });
                items.is_empty() && before > 0
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
}

/// What is twice in a list whose items have an identity, in lines as error messages have them.
pub(crate) fn duplicates(value: &Value, shape: Shape<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    find_duplicates(value, shape, "", &mut lines);
    lines
}

fn find_duplicates(value: &Value, shape: Shape<'_>, path: &str, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                find_duplicates(child, shape.field(name), &format!("{path}.{name}"), lines);
            }
        }
        Value::Array(items) => {
            let kind = shape.list_kind();
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = element_of(item, &kind, shape);
                let key = element.as_deref().map_or_else(|| format!("[{index}]"), shown);
                if element.is_some() && !seen.insert(key.clone()) {
                    lines.push(format!("{path}: duplicate entries for key {key}"));
                }
                find_duplicates(item, shape.items(), &format!("{path}{key}"), lines);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at_checked(2).unwrap_or((element, ""));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}

/// Children with an identity: fields of a map that is not atomic, items of a list that is a set or has keys.
fn elements<'v, 's>(value: &'v Value, shape: Shape<'s>) -> Vec<(String, &'v Value, Shape<'s>)> {
    match value {
        Value::Object(map) if !shape.is_atomic_map() => map
            .iter()
            .map(|(name, child)| (format!("f:{name}"), child, shape.field(name)))
            .collect(),
        Value::Array(items) => {
            let kind = shape.list_kind();
            items
                .iter()
                .filter_map(|item| Some((element_of(item, &kind, shape)?, item, shape.items())))
                .collect()
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn element_of(item: &Value, kind: &ListKind<'_>, shape: Shape<'_>) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut parts = Map::new();
            for key in keys {
                let value = item.get(key).cloned().or_else(|| {
                    let node = shape.items().field(key).outer()?;
                    node.get("default").cloned()
                });
                if let Some(value) = value {
                    parts.insert((*key).to_owned(), value);
                }
            }
            Some(format!("k:{}", Value::Object(parts)))
        }
    }
}

/// What became of the fields of `old` in `new`.
pub(crate) fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Difference {
    let mut difference = Difference::default();
    compare_at(old, new, shape, &mut difference);
    difference
}

fn compare_at(old: &Value, new: &Value, shape: Shape<'_>, difference: &mut Difference) {
    if old == new {
        return;
    }
    let walkable = match (old, new) {
        // What was null was there, and had nothing in it.
        (Value::Object(_) | Value::Null, Value::Object(_)) => !shape.is_atomic_map(),
        (Value::Array(_) | Value::Null, Value::Array(_)) => shape.list_kind() != ListKind::Atomic,
        _ => false,
    };
    if !walkable {
        let mut after = FieldSet::whole(new, shape);
        let before = FieldSet::whole(old, shape);
        after.member = true;
        difference.removed.add(&before.minus(&after));
        difference.changed.add(&after);
        return;
    }
    let before = elements(old, shape);
    let after = elements(new, shape);
    let of = |list: &[(String, &Value, Shape<'_>)]| -> BTreeSet<String> {
        list.iter().map(|(element, ..)| element.clone()).collect()
    };
    let (had, has) = (of(&before), of(&after));
    for (element, child, inner) in &after {
        if had.contains(element) {
            continue;
        }
        let added = FieldSet::whole(child, *inner);
        difference.changed.children.insert(element.clone(), added);
    }
    for (element, child, inner) in &before {
        if !has.contains(element) {
            let gone = FieldSet::whole(child, *inner);
            difference.removed.children.insert(element.clone(), gone);
            continue;
        }
        let Some((_, now, _)) = after.iter().find(|(other, ..)| other == element) else {
            continue;
        };
        let mut below = Difference::default();
        compare_at(child, now, *inner, &mut below);
        for (all, part) in [
            (&mut difference.changed, below.changed),
            (&mut difference.removed, below.removed),
        ] {
            if !part.is_empty() {
                all.children.insert(element.clone(), part);
            }
        }
    }
}

/// `applied` laid over `live`: maps and lists with an identity merge, all else is replaced.
pub(crate) fn merge(live: &Value, applied: &Value, shape: Shape<'_>) -> Value {
    match (live, applied) {
        (Value::Object(base), Value::Object(over)) if !shape.is_atomic_map() => {
            let mut merged = base.clone();
            for (name, child) in over {
                let value = match base.get(name) {
                    Some(existing) => merge(existing, child, shape.field(name)),
                    None => child.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(base), Value::Array(over)) => {
            let kind = shape.list_kind();
            if kind == ListKind::Atomic {
                return applied.clone();
            }
            let mut merged: Vec<(Option<String>, Value)> = base
                .iter()
                .map(|item| (element_of(item, &kind, shape), item.clone()))
                .collect();
            for item in over {
                let element = element_of(item, &kind, shape);
                match merged.iter_mut().find(|(other, _)| *other == element) {
                    Some((_, existing)) => *existing = merge(existing, item, shape.items()),
                    None => merged.push((element, item.clone())),
                }
            }
            Value::Array(merged.into_iter().map(|(_, item)| item).collect())
        }
        _ => applied.clone(),
    }
}
