//! Zero values of the built-in types: which are never written and which always are, as a real server does when it turns its own
//! types into JSON. Pure.

use serde_json::{Map, Value, json};

use super::fields::{Arity, Field, Fields, Message, Zero};

/// Takes zero values out of an object of the type `kind` that mean the same as none.
pub(crate) fn omit(fields: &Fields, kind: &str, object: &mut Value) {
    if let (Some(message), Value::Object(map)) = (fields.message(kind), object) {
        omit_in(fields, message, map);
    }
}

fn omit_in(fields: &Fields, message: &Message, map: &mut Map<String, Value>) {
    for field in &message.fields {
        if field.name == "-" {
            if let Some(inlined) = fields.message(&field.kind) {
                omit_in(fields, inlined, map);
            }
            continue;
        }
        let Some(value) = map.get_mut(field.name) else {
            continue;
        };
        for_each(field, value, |inner| omit(fields, &field.kind, inner));
        if is_unset(field, value) {
            map.remove(field.name);
        }
    }
}

/// Puts into an object of the type `kind` what is written even when it is zero.
pub(crate) fn show(fields: &Fields, kind: &str, object: &mut Value) {
    if let (Some(message), Value::Object(map)) = (fields.message(kind), object) {
        show_in(fields, message, map);
    }
}

fn show_in(fields: &Fields, message: &Message, map: &mut Map<String, Value>) {
    for field in &message.fields {
        if field.name == "-" {
            if let Some(inlined) = fields.message(&field.kind) {
                show_in(fields, inlined, map);
            }
            continue;
        }
        match (map.get_mut(field.name), field.zero) {
            (Some(value), _) if !value.is_null() => for_each(field, value, |inner| show(fields, &field.kind, inner)),
            (_, Some(Zero::Show)) => drop(map.insert(field.name.to_owned(), zero_of(fields, &field.kind))),
            (_, Some(Zero::Null)) => drop(map.insert(field.name.to_owned(), Value::Null)),
            (_, Some(Zero::Omit) | None) => {}
        }
    }
}

/// An object of the type `kind` of which nothing was set.
pub(crate) fn blank(fields: &Fields, kind: &str) -> Value {
    let mut object = json!({});
    show(fields, kind, &mut object);
    object
}

/// Whether a value says no more than that the field is not set.
pub(crate) fn is_unset(field: &Field, value: &Value) -> bool {
    match field.zero {
        Some(Zero::Omit) => is_zero(value) || (field.arity != Arity::One && is_empty(value)),
        Some(Zero::Show) => is_zero(value),
        Some(Zero::Null) | None => false,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        // An object of which nothing is set can still mean something.
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn zero_of(fields: &Fields, kind: &str) -> Value {
    match kind.rsplit('.').next().unwrap_or(kind) {
        "string" | "bytes" => Value::from(""),
        "bool" => Value::from(false),
        "Quantity" => Value::from("0"),
        "Duration" => Value::from("0s"),
        _ if kind.contains('.') && !kind.ends_with(".IntOrString") => blank(fields, kind),
        _ => Value::from(0),
    }
}

/// Every message in the value of a field.
fn for_each(field: &Field, value: &mut Value, act: impl Fn(&mut Value)) {
    match (field.arity, value) {
        (Arity::One, value) => act(value),
        (Arity::List, Value::Array(items)) => items.iter_mut().for_each(act),
        (Arity::Map, Value::Object(map)) => map.values_mut().for_each(act),
        (Arity::List | Arity::Map, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "io.k8s.api.core.v1.Pod";

    #[test]
    fn a_zero_value_goes_unless_it_can_be_told_from_none() {
        let mut pod = json!({
            "metadata": {"name": "p", "generation": 0},
            "spec": {
                "hostNetwork": false,
                "nodeSelector": {},
                "priority": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": "", "args": [], "env": [{"name": "a", "value": ""}], "securityContext": {}}],
                "volumes": [{"name": "v", "emptyDir": {"medium": ""}}],
            },
        });
        omit(&Fields::parse(), POD, &mut pod);
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "p"},
                "spec": {
                    "priority": 0,
                    "automountServiceAccountToken": false,
                    "containers": [{"env": [{"name": "a"}], "securityContext": {}}],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
            })
        );
    }

    #[test]
    fn what_has_no_way_to_be_absent_is_always_there() {
        let fields = Fields::parse();
        let mut pod = json!({"spec": {"containers": [{"env": [{"name": "a"}]}]}, "status": {"conditions": [{}]}});
        show(&fields, POD, &mut pod);
        let condition = json!({"type": "", "status": "", "lastProbeTime": null, "lastTransitionTime": null});
        assert_eq!(
            pod,
            json!({
                "metadata": {},
                "spec": {"containers": [{"name": "", "resources": {}, "env": [{"name": "a"}]}]},
                "status": {"conditions": [condition]},
            })
        );
        assert_eq!(
            blank(&fields, "io.k8s.api.core.v1.Service"),
            json!({"metadata": {}, "spec": {}, "status": {"loadBalancer": {}}})
        );
    }
}
