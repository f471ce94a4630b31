//! Route's status → status of the tenant's object, beside what other controllers wrote there. No I/O, no clock.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubelb_api::gateway_api::CONTROLLER_NAME;
use kubelb_api::v1alpha1::Route;
use serde_json::{Map, Value, json};

use super::MAX_MESSAGE;
use crate::layer7::object::{Kind, Object};

/// Types of conditions that others have among Gateway API's are qualified by a domain.
const PREFIX: &str = "kubelb.k8c.io/";

/// What the status of an object shall be; `None` when it says so already, or nobody has judged it yet. Without a Route nothing of ours stays.
#[must_use]
pub fn status(kind: Kind, object: &Object, route: Option<&Route>) -> Option<Value> {
    let answer = match route {
        None => Some(Map::new()),
        Some(route) => answer_of(route).cloned(),
    }?;
    let present = object.status.as_object().cloned().unwrap_or_default();
    let mut wanted = match kind {
        Kind::HttpRoute | Kind::GrpcRoute => of_route(&present, &answer),
        Kind::Gateway => of_gateway(&present, answer),
        Kind::GatewayClass | Kind::ReferenceGrant => return None,
    };
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let is_said = wanted.iter().all(|(key, value)| match present.get(key) {
        Some(present) => present == value,
        None => is_empty(value),
    });
    let is_gone = present.keys().all(|key| wanted.contains_key(key));
    if is_said && is_gone {
        return None;
    }
    // In a merge patch, what is to go is said so.
    for key in present.keys() {
        wanted.entry(key.clone()).or_insert(Value::Null);
    }
    Some(Value::Object(wanted))
}

fn answer_of(route: &Route) -> Option<&Map<String, Value>> {
    route
        .status
        .as_ref()?
        .resources
        .as_ref()?
        .route
        .as_ref()?
        .status
        .as_ref()
}

/// Our parents in the place of those that were ours, those of others untouched.
fn of_route(present: &Map<String, Value>, answer: &Map<String, Value>) -> Map<String, Value> {
    let list = |status: &Map<String, Value>| {
        status
            .get("parents")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let is_ours = |parent: &Value| parent.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME);
    let mut parents: Vec<Value> = list(present).into_iter().filter(|parent| !is_ours(parent)).collect();
    for mut parent in list(answer) {
        // A manager that has a controller of its own below it is still ours.
        if let Some(fields) = parent.as_object_mut() {
            fields.insert("controllerName".to_owned(), json!(CONTROLLER_NAME));
        }
        parents.push(parent);
    }
    let mut status = present.clone();
    status.insert("parents".to_owned(), Value::Array(parents));
    status
}

/// A Gateway is one controller's; only conditions of other domains are others'.
fn of_gateway(present: &Map<String, Value>, answer: Map<String, Value>) -> Map<String, Value> {
    let is_others = |condition: &Value| {
        let type_ = condition.get("type").and_then(Value::as_str).unwrap_or_default();
        type_.contains('/') && !type_.starts_with(PREFIX)
    };
    let kept = present
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut kept: Vec<Value> = kept.filter(|condition| is_others(condition)).cloned().collect();
    let mut status = answer;
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.append(&mut kept);
    } else {
        status.insert("conditions".to_owned(), Value::Array(kept));
    }
    status
}

/// What the status of a GatewayClass of ours shall be; `None` when it says so already.
#[must_use]
pub fn class_status(class: &Object, accepted: &Result<(), String>, now: &Time) -> Option<Value> {
    let (status, reason, message) = match accepted {
        Ok(()) => ("True", "Accepted", "Gateways of this class are served".to_owned()),
        Err(why) => ("False", "InvalidParameters", why.clone()),
    };
    let conditions = class.status.get("conditions").and_then(Value::as_array);
    let mut kept: Vec<Value> = conditions.into_iter().flatten().cloned().collect();
    let place = kept
        .iter()
        .position(|condition| condition.get("type").and_then(Value::as_str) == Some("Accepted"));
    let present: Option<Condition> = place.and_then(|place| serde_json::from_value(kept.remove(place)).ok());
    let generation = class.metadata.generation;
    let since = present
        .as_ref()
        .filter(|present| present.status == status)
        .map(|present| present.last_transition_time.clone());
    let wanted = Condition {
        type_: "Accepted".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| now.clone()),
    };
    if present.as_ref() == Some(&wanted) {
        return None;
    }
    kept.push(json!(wanted));
    Some(json!({"conditions": kept}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(status: &Value) -> Object {
        serde_json::from_value(json!({"metadata": {"name": "x", "generation": 2}, "spec": {}, "status": status}))
            .unwrap()
    }

    fn route(status: &Value) -> Route {
        serde_json::from_value(json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route", "metadata": {"name": "u"}, "spec": {"endpoints": []},
            "status": {"resources": {"route": {"status": status}}},
        }))
        .unwrap()
    }

    fn parent(controller: &str, said: &str) -> Value {
        json!({"parentRef": {"name": "g"}, "controllerName": controller, "conditions": [{"type": "Accepted", "message": said}]})
    }

    #[test]
    fn parents_of_others_stay_and_ours_are_replaced() {
        let (ours, other) = ("kubelb.k8c.io/gateway-controller", "example.com/other");
        let before = object(&json!({"parents": [parent(ours, "old"), parent(other, "theirs")]}));
        let answer = route(&json!({"parents": [parent(ours, "new")]}));
        let wanted = json!({"parents": [parent(other, "theirs"), parent(ours, "new")]});
        assert_eq!(status(Kind::HttpRoute, &before, Some(&answer)), Some(wanted.clone()));
        assert_eq!(
            status(Kind::HttpRoute, &object(&wanted), Some(&answer)),
            None,
            "it says so"
        );
        let left = json!({"parents": [parent(other, "theirs")]});
        assert_eq!(status(Kind::HttpRoute, &object(&wanted), None), Some(left.clone()));
        assert_eq!(status(Kind::HttpRoute, &object(&left), None), None);
        assert_eq!(
            status(Kind::HttpRoute, &object(&Value::Null), None),
            None,
            "there was nothing"
        );
        let silent: Route = serde_json::from_value(json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Route", "metadata": {"name": "u"}, "spec": {"endpoints": []},
        }))
        .unwrap();
        assert_eq!(
            status(Kind::HttpRoute, &before, Some(&silent)),
            None,
            "nobody has judged it"
        );
    }

    #[test]
    fn a_gateway_says_what_its_manager_says() {
        let theirs = json!({"type": "example.com/Watched", "status": "True"});
        let pending = json!({"type": "Accepted", "status": "Unknown"});
        let before = object(&json!({"conditions": [pending, theirs], "addresses": [{"value": "192.0.2.1"}]}));
        let accepted = json!({"type": "Accepted", "status": "True"});
        let answer = route(&json!({"conditions": [accepted], "listeners": [{"name": "l"}]}));
        let wanted = json!({"conditions": [accepted, theirs], "listeners": [{"name": "l"}], "addresses": null});
        assert_eq!(status(Kind::Gateway, &before, Some(&answer)), Some(wanted));
        let after = object(&json!({"conditions": [accepted, theirs], "listeners": [{"name": "l"}]}));
        assert_eq!(status(Kind::Gateway, &after, Some(&answer)), None);
    }

    #[test]
    fn a_class_is_accepted_once_for_each_generation() {
        let at = |text: &str| Time(text.parse().unwrap());
        let first = class_status(&object(&Value::Null), &Ok(()), &at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(first["conditions"][0]["observedGeneration"], json!(2));
        assert_eq!(
            class_status(&object(&first), &Ok(()), &at("2026-01-02T00:00:00Z")),
            None
        );
        let refused = class_status(&object(&first), &Err("why".to_owned()), &at("2026-01-02T00:00:00Z")).unwrap();
        assert_eq!(refused["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            refused["conditions"][0]["lastTransitionTime"],
            json!("2026-01-02T00:00:00Z")
        );
    }
}
