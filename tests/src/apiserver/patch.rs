//! The patches that are computed on an object: JSON patch, merge patch, strategic merge patch.
//! (Server-side apply is in [`super::managed`].)

use serde_json::{Map, Value};

use super::schema::Shape;
use super::status::ApiError;

/// JSON patch (RFC 6902); all of it or nothing.
///
/// # Errors
/// When it is none, or does not fit the object.
pub(crate) fn json_patch(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(object, &patch).map_err(|_does_not_fit| ApiError::unprocessable())
}

/// Merge patch (RFC 7396).
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// Strategic merge patch: lists merge by the keys that the schema names, and directives (`$patch` and others) are
/// followed.
///
/// # Errors
/// When the patch is no object or a directive is unknown.
pub(crate) fn strategic(object: &mut Value, patch: &Value, shape: Shape<'_>) -> Result<(), ApiError> {
    let (Value::Object(target), Value::Object(patch)) = (object, patch) else {
        return Err(ApiError::bad_request("a strategic merge patch is an object"));
    };
    merge_map(target, patch, shape)
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, shape: Shape<'_>) -> Result<(), ApiError> {
    match directive(patch)? {
        Some("replace") => target.clear(),
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        _ => {}
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        target.retain(|name, _| keep.iter().any(|kept| kept == name));
    }
    let before = ordered_lists(target, patch);
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(list), value) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !name.starts_with('$') {
            merge_field(target, name, value, shape.field(name))?;
        }
    }
    for (name, before, order) in before {
        if let Some(Value::Array(items)) = target.get_mut(name) {
            arrange(items, order, &before, shape.field(name).patch_key());
        }
    }
    Ok(())
}

/// The lists whose order the patch gives: name, items as they are, order.
fn ordered_lists<'p>(
    target: &Map<String, Value>,
    patch: &'p Map<String, Value>,
) -> Vec<(&'p str, Vec<Value>, &'p [Value])> {
    let list = |(name, order): (&'p String, &'p Value)| {
        let name = name.strip_prefix("$setElementOrder/")?;
        let items = target.get(name).and_then(Value::as_array).cloned();
        Some((name, items.unwrap_or_default(), order.as_array()?.as_slice()))
    };
    patch.iter().filter_map(list).collect()
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, ApiError> {
    match patch.get("$patch").map(Value::as_str) {
        None => Ok(None),
        Some(Some(known @ ("replace" | "delete" | "merge"))) => Ok(Some(known)),
        Some(_) => Err(ApiError::bad_request("unknown $patch directive")),
    }
}

fn merge_field(target: &mut Map<String, Value>, name: &str, value: &Value, shape: Shape<'_>) -> Result<(), ApiError> {
    match value {
        Value::Null => {
            target.remove(name);
        }
        Value::Object(patch) => {
            let existing = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if !existing.is_object() {
                *existing = Value::Object(Map::new());
            }
            if let Value::Object(existing) = existing {
                merge_map(existing, patch, shape)?;
            }
            if directive(patch)? == Some("delete") {
                target.remove(name);
            }
        }
        Value::Array(patch) if shape.patch_merges() => {
            let existing = target.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if !existing.is_array() {
                *existing = Value::Array(Vec::new());
            }
            if let Value::Array(items) = existing {
                merge_list(items, patch, shape)?;
            }
        }
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            target.insert(name.to_owned(), value.clone());
        }
    }
    Ok(())
}

fn merge_list(items: &mut Vec<Value>, patch: &[Value], shape: Shape<'_>) -> Result<(), ApiError> {
    let before = items.clone();
    let Some(key) = shape.patch_key() else {
        for value in patch {
            if !items.contains(value) {
                items.push(value.clone());
            }
        }
        arrange(items, patch, &before, None);
        return Ok(());
    };
    let replaces = |value: &Value| value.get("$patch").and_then(Value::as_str) == Some("replace");
    if patch.iter().any(replaces) {
        *items = patch.iter().filter(|value| !replaces(value)).cloned().collect();
        return Ok(());
    }
    for value in patch {
        let Value::Object(value) = value else {
            return Err(ApiError::bad_request("an item of a merged list is an object"));
        };
        let Some(identity) = value.get(key) else {
            let message = format!(
                "map: {} does not contain declared merge key: {key}",
                Value::Object(value.clone())
            );
            return Err(ApiError::bad_request(message));
        };
        if directive(value)? == Some("delete") {
            items.retain(|item| item.get(key) != Some(identity));
            continue;
        }
        match items.iter_mut().find(|item| item.get(key) == Some(identity)) {
            Some(Value::Object(item)) => merge_map(item, value, shape.items())?,
            _ => {
                let mut item = Map::new();
                merge_map(&mut item, value, shape.items())?;
                items.push(Value::Object(item));
            }
        }
    }
    arrange(items, patch, &before, Some(key));
    Ok(())
}

/// Brings the items that `order` names into that order, and the others between them: each before the first of the named that
/// it stood before, so that what is new comes before what the patch does not speak of.
fn arrange(items: &mut Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) {
    let is_same = |one: &Value, other: &Value| match key {
        Some(key) => one.get(key) == other.get(key),
        None => one == other,
    };
    let place = |list: &[Value], value: &Value| list.iter().position(|one| is_same(one, value));
    let (mut named, mut others): (Vec<_>, Vec<_>) = std::mem::take(items)
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_cached_key(|item| place(order, item));
    others.sort_by_cached_key(|item| place(before, item));
    let mut named = named.into_iter().peekable();
    for other in others {
        let stood_before = |next: &Value| match (place(before, &other), place(before, next)) {
            (Some(this), Some(next)) => this < next,
            (None, _) | (_, None) => false,
        };
        while let Some(next) = named.next_if(|next| !stood_before(next)) {
            items.push(next);
        }
        items.push(other);
    }
    items.extend(named);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::Definitions;
    use super::*;

    fn patched(mut object: Value, patch: &Value) -> Value {
        let definitions = Definitions::builtin();
        let shape = Shape::named(&definitions, "io.k8s.api.core.v1.Service");
        strategic(&mut object, patch, shape).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_their_key_and_items_can_be_deleted() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 53, "name": "b"}]}});
        let renamed = patched(
            service.clone(),
            &json!({"spec": {"ports": [{"port": 80, "name": "web"}]}}),
        );
        assert_eq!(
            renamed["spec"]["ports"],
            json!([{"port": 80, "name": "web"}, {"port": 53, "name": "b"}])
        );
        let more = patched(
            service.clone(),
            &json!({"spec": {"ports": [{"port": 99, "name": "c"}]}}),
        );
        assert_eq!(more["spec"]["ports"][0]["port"], 99, "what is new comes first: {more}");
        let order = json!([{"port": 53}, {"port": 80}]);
        let turned = patched(service.clone(), &json!({"spec": {"$setElementOrder/ports": order}}));
        assert_eq!(turned["spec"]["ports"][0]["port"], 53);
        let less = patched(service, &json!({"spec": {"ports": [{"$patch": "delete", "port": 53}]}}));
        assert_eq!(less["spec"]["ports"], json!([{"port": 80, "name": "a"}]));
    }

    #[test]
    fn plain_lists_are_replaced_and_null_removes() {
        let service = json!({"spec": {"externalIPs": ["1.1.1.1"], "type": "NodePort"}});
        let patch = json!({"spec": {"externalIPs": ["2.2.2.2"], "type": null}});
        assert_eq!(patched(service, &patch), json!({"spec": {"externalIPs": ["2.2.2.2"]}}));
    }

    #[test]
    fn a_json_patch_that_fails_in_the_middle_changes_nothing() {
        let mut object = json!({"a": 1});
        let patch = json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": 7}]);
        assert!(json_patch(&mut object, &patch).is_err());
        assert_eq!(object, json!({"a": 1}));
    }
}
