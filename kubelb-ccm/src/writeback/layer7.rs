//! Route's status → status of the tenant's object, beside what other controllers wrote there. No I/O, no clock.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubelb_api::conditions::TENANT_DELETED;
use kubelb_api::gateway_api::CONTROLLER_NAME;
use kubelb_api::v1alpha1::Route;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{DELETED, MAX_MESSAGE};
use crate::layer7::object::{Kind, Object};

/// Types of conditions that others have among Gateway API's are qualified by a domain.
const PREFIX: &str = "kubelb.k8c.io/";

/// What the status of an object shall be; `None` when it says so already, or nobody has judged it yet. Without a Route nothing of ours stays.
#[must_use]
pub fn status(kind: Kind, object: &Object, route: Option<&Route>) -> Option<Value> {
    let answer = match route {
        None => Some(Map::new()),
        Some(route) => answer_of(route),
    }?;
    beside_others(kind, object, answer)
}

/// What the status of an object of ours shall be when the tenant is deleted; `None` when it says so already. `parents`: those of a route that are
/// ours.
#[must_use]
pub fn parted(kind: Kind, object: &Object, parents: &[Value], now: &Time) -> Option<Value> {
    let say = |present: Option<&Value>, type_: &str| {
        let of_type = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(type_);
        let present = present.and_then(Value::as_array).into_iter().flatten().find(of_type);
        let present = present.and_then(|condition| Condition::deserialize(condition).ok());
        json!(condition(
            present.as_ref(),
            type_,
            ("False", TENANT_DELETED, DELETED),
            object,
            now
        ))
    };
    let status = object.status.value();
    let mut answer = Map::new();
    if kind == Kind::Gateway {
        let present = status.get("conditions");
        let conditions = ["Accepted", "Programmed"].map(|type_| say(present, type_));
        answer.insert("conditions".to_owned(), json!(conditions));
    } else {
        let told = status.get("parents").and_then(Value::as_array);
        let parent = |reference: &Value| {
            let is_this = |told: &&Value| is_ours(told) && told.get("parentRef") == Some(reference);
            let present = told.into_iter().flatten().find(is_this);
            let present = present.and_then(|told| told.get("conditions"));
            json!({"parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": [say(present, "Accepted")]})
        };
        answer.insert("parents".to_owned(), parents.iter().map(parent).collect());
    }
    beside_others(kind, object, answer)
}

/// Whether what is said of a parent was said by this controller.
fn is_ours(parent: &Value) -> bool {
    parent.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

fn beside_others(kind: Kind, object: &Object, answer: Map<String, Value>) -> Option<Value> {
    let present: Map<String, Value> = object.status.read().unwrap_or_default();
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

fn answer_of(route: &Route) -> Option<Map<String, Value>> {
    let status = route
        .status
        .as_ref()?
        .resources
        .as_ref()?
        .route
        .as_ref()?
        .status
        .as_ref()?;
    Some(status.fields())
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
    } else if !kept.is_empty() {
        // Where nothing is said, the API's own default is.
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
    let told = class.status.value();
    let conditions = told.get("conditions").and_then(Value::as_array);
    let mut kept: Vec<Value> = conditions.into_iter().flatten().cloned().collect();
    let place = kept
        .iter()
        .position(|condition| condition.get("type").and_then(Value::as_str) == Some("Accepted"));
    let present: Option<Condition> = place.and_then(|place| serde_json::from_value(kept.remove(place)).ok());
    let wanted = condition(present.as_ref(), "Accepted", (status, reason, &message), class, now);
    if present.as_ref() == Some(&wanted) {
        return None;
    }
    kept.push(json!(wanted));
    Some(json!({"conditions": kept}))
}

/// The time of transition moves with the status only.
fn condition(
    present: Option<&Condition>,
    type_: &str,
    (status, reason, message): (&str, &str, &str),
    object: &Object,
    now: &Time,
) -> Condition {
    let since = present
        .filter(|present| present.status == status)
        .map(|present| present.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        observed_generation: object.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| now.clone()),
    }
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
    fn of_a_deleted_tenant_nothing_is_left_but_the_reason() {
        let at = |text: &str| Time(text.parse().unwrap());
        let now = at("2026-01-02T00:00:00Z");
        let accepted = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let gateway =
            object(&json!({"conditions": [accepted], "addresses": [{"value": "192.0.2.1"}], "listeners": []}));
        let said = parted(Kind::Gateway, &gateway, &[], &now).unwrap();
        assert_eq!((&said["addresses"], &said["listeners"]), (&Value::Null, &Value::Null));
        let reasons: Vec<&Value> = said["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["reason"])
            .collect();
        assert_eq!(reasons, ["TenantDeleted", "TenantDeleted"]);
        let after = object(&json!({"conditions": said["conditions"]}));
        assert_eq!(parted(Kind::Gateway, &after, &[], &at("2026-01-03T00:00:00Z")), None);

        let (ours, other) = ("kubelb.k8c.io/gateway-controller", "example.com/other");
        let route = object(&json!({"parents": [parent(ours, "old"), parent(other, "theirs")]}));
        let said = parted(Kind::HttpRoute, &route, &[json!({"name": "g"})], &now).unwrap();
        assert_eq!(said["parents"][0], parent(other, "theirs"));
        assert_eq!(said["parents"][1]["conditions"][0]["reason"], json!("TenantDeleted"));
        assert_eq!(
            parted(Kind::HttpRoute, &object(&said), &[json!({"name": "g"})], &now),
            None
        );
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
