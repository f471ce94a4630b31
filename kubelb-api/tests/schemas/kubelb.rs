//! Whatever KubeLB's definitions accept, these accept: every field is there, with the same type, and no more is asked for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::assert_none;
use crate::definition::{Definition, all, words};

const FIELDS: &str = include_str!("../data/kubelb-fields.txt");

/// Fields that KubeLB lets objects leave out, and these definitions do not: an object without them says nothing.
const NEWLY_REQUIRED: &[(&str, &str)] = &[("addresses", ".spec"), ("loadbalancers", ".spec"), ("routes", ".spec")];

/// What KubeLB has of one kind.
#[derive(Default)]
struct Kind {
    scope: &'static str,
    short_names: Vec<&'static str>,
    /// Name and path, in their order.
    columns: Vec<(&'static str, &'static str)>,
    fields: BTreeMap<&'static str, Field>,
}

#[derive(Default)]
struct Field {
    type_: &'static str,
    required: bool,
    default: Option<Value>,
    values: Option<Vec<Value>>,
}

#[test]
fn every_field_is_there_with_its_type() {
    let mut violations = Vec::new();
    for (plural, kind) in listed() {
        let definition = definition(plural);
        let nodes = definition.nodes();
        for (path, field) in &kind.fields {
            let Some(node) = nodes.iter().find(|node| node.path == *path) else {
                violations.push(format!("{plural} {path}: missing"));
                continue;
            };
            let type_ = type_of(node.schema);
            if type_ != field.type_ {
                violations.push(format!("{plural} {path}: {type_}, KubeLB's is {}", field.type_));
            }
            if node.schema.get("default") != field.default.as_ref() && !(*path == ".spec" && field.default.is_none()) {
                violations.push(format!("{plural} {path}: another default than {:?}", field.default));
            }
            let values = node.schema["enum"].as_array();
            let allowed = |value: &Value| values.is_none_or(|values| values.contains(value));
            if !field.values.iter().flatten().all(allowed) {
                violations.push(format!("{plural} {path}: not every value of {:?}", field.values));
            }
        }
    }
    assert_none("fields of KubeLB", &violations);
}

#[test]
fn nothing_more_is_required() {
    let mut violations = Vec::new();
    for (plural, kind) in listed() {
        let definition = definition(plural);
        for node in definition.nodes().iter().filter(|node| node.required) {
            let optional = kind.fields.get(node.path.as_str()).is_some_and(|field| !field.required);
            let parent = node.path.rsplit_once('.').map_or("", |(parent, _)| parent);
            // Below a field of our own, what is required is ours to say.
            let added = !kind.fields.contains_key(node.path.as_str())
                && (parent.is_empty() || kind.fields.contains_key(parent))
                && !parent.ends_with(".conditions[]");
            if (optional && !NEWLY_REQUIRED.contains(&(plural, node.path.as_str()))) || added {
                violations.push(format!("{plural} {}: required", node.path));
            }
        }
    }
    assert_none("objects of KubeLB are accepted", &violations);
}

#[test]
fn kinds_are_called_and_shown_the_same() {
    for (plural, kind) in listed() {
        let definition = definition(plural);
        let spec = &definition.json["spec"];
        assert_eq!(spec["scope"], kind.scope, "{plural}");
        assert_eq!(words(&spec["names"], "shortNames"), kind.short_names, "{plural}");
        assert_eq!(spec["names"]["listKind"], format!("{}List", definition.kind));
        assert!(definition.version()["subresources"]["status"].is_object(), "{plural}");
        let columns: Vec<(&str, &str)> = definition.version()["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| (column["name"].as_str().unwrap(), column["jsonPath"].as_str().unwrap()))
            .filter(|column| kind.columns.contains(column))
            .collect();
        assert_eq!(columns, kind.columns, "{plural}");
    }
}

#[test]
fn the_list_is_read_whole() {
    let kinds = listed();
    assert_eq!(kinds.len(), 7);
    let fields: usize = kinds.values().map(|kind| kind.fields.len()).sum();
    let lines = FIELDS.lines().filter(|line| line.starts_with('.')).count();
    assert_eq!(fields, lines);
    let topology = &kinds["configs"].fields[".spec.envoyProxy.topology"];
    assert_eq!(topology.default, Some("shared".into()));
    assert_eq!(topology.values.as_ref().unwrap().len(), 3);
    assert!(kinds["routes"].fields[".spec.endpoints"].required);
}

fn definition(plural: &str) -> Definition {
    all()
        .into_iter()
        .find(|definition| definition.plural == plural)
        .unwrap_or_else(|| panic!("no definition of {plural}"))
}

fn type_of(schema: &Value) -> &str {
    if schema["x-kubernetes-int-or-string"] == true {
        "int-or-string"
    } else {
        schema["type"].as_str().unwrap_or("any")
    }
}

fn listed() -> BTreeMap<&'static str, Kind> {
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    let mut current = "";
    for line in FIELDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "kind" => {
                current = words.next().unwrap();
                let kind = kinds.entry(current).or_default();
                kind.scope = words.next().unwrap();
                kind.short_names = words.collect();
            }
            "column" => {
                let column = (words.next().unwrap(), words.next().unwrap());
                kinds.get_mut(current).unwrap().columns.push(column);
            }
            path => {
                let mut field = Field {
                    type_: words.next().unwrap(),
                    ..Field::default()
                };
                for word in words {
                    match word.split_once('=') {
                        None if word == "required" => field.required = true,
                        Some(("default", json)) => field.default = Some(serde_json::from_str(json).unwrap()),
                        Some(("enum", json)) => field.values = Some(serde_json::from_str(json).unwrap()),
                        _ => panic!("{line}: {word:?}"),
                    }
                }
                kinds.get_mut(current).unwrap().fields.insert(path, field);
            }
        }
    }
    kinds
}
