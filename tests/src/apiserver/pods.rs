//! Paths below Pods that change them: binding to a node, eviction, ephemeral containers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::Answer;
use super::body;
use super::call::{Request, Target};
use super::deletion::{self, DeleteOptions};
use super::object::{as_map, field_mut, is_deleting, items, meta, name, text};
use super::selectors::matches_selector;
use super::server::{Server, Txn};
use super::status::ApiError;
use super::verbs::{live, success};

const BUDGETS: &str = "poddisruptionbudgets.policy";

fn done(revision: u64) -> Answer {
    let mut status = success(Value::Null);
    as_map(&mut status).remove("details");
    Answer::json(201, &status).after(revision)
}

/// Puts a Pod on a node: what a scheduler does.
pub(crate) fn bind(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let mut body = body::read(request, &server.definitions, "Binding", "io.k8s.api.core.v1.Binding")?;
    body::identify_as(&mut body, "v1", "Binding")?;
    let mut target = target.clone();
    if target.resource.is("", "bindings") {
        // The older path names the Pod in the body.
        let registry = server.registry();
        let pods = registry.get("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
        target.resource = Arc::clone(pods);
        name(&body).clone_into(&mut target.name);
    }
    let node = text(&body, "/target/name").to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: Required value"));
    }
    let mut txn = server.begin(request.dry_run()?);
    let pod = live(&txn, &target)?;
    check_bindable(&pod, &target.name)?;
    let mut next = Value::clone(&pod);
    field_mut(&mut next, "spec").insert("nodeName".to_owned(), Value::from(node));
    for key in ["annotations", "labels"] {
        if let Some(more) = body.pointer(&format!("/metadata/{key}")).and_then(Value::as_object) {
            let own = field_mut(&mut next, "metadata").entry(key).or_insert(Value::Null);
            as_map(own).extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    set_condition(
        &mut next,
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": txn.timestamp()}),
    );
    txn.put(&target.resource, next);
    Ok(done(txn.end()))
}

fn check_bindable(pod: &Value, pod_name: &str) -> Result<(), ApiError> {
    let node = text(pod, "/spec/nodeName");
    let why = if is_deleting(pod) {
        format!("pod {pod_name} is being deleted, cannot be assigned to a host")
    } else if !node.is_empty() {
        format!("pod {pod_name} is already assigned to node {}", Value::from(node))
    } else if !items(pod, "/spec/schedulingGates").is_empty() {
        format!("pod {pod_name} has non-empty .spec.schedulingGates")
    } else {
        return Ok(());
    };
    let details = json!({"name": pod_name, "kind": "pods/binding"});
    Err(ApiError::conflict_on("pods/binding", details, pod_name, &why))
}

/// Sets a condition of a Pod, in the place of the one of the same type.
fn set_condition(pod: &mut Value, condition: Value) {
    let kind = text(&condition, "/type").to_owned();
    let conditions = field_mut(pod, "status").entry("conditions").or_insert(json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|other| text(other, "/type") != kind);
        conditions.push(condition);
    }
}

/// Deletes a Pod if its disruption budget lets it go.
pub(crate) fn evict(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let definition = "io.k8s.api.policy.v1.Eviction";
    let body = body::read(request, &server.definitions, "Eviction", definition)?;
    let wanted = body.get("deleteOptions").cloned().unwrap_or(json!({}));
    let options = DeleteOptions::of(request, &wanted)?;
    let mut txn = server.begin(options.dry_run);
    let pod = live(&txn, target)?;
    // Whoever does not run, or is on its way, disrupts nothing.
    let runs = !matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed" | "Pending") && !is_deleting(&pod);
    if runs {
        spend_budget(&mut txn, &pod)?;
    }
    deletion::delete(&mut txn, &target.resource, &pod, &options)?;
    Ok(done(txn.end()))
}

fn spend_budget(txn: &mut Txn<'_>, pod: &Value) -> Result<(), ApiError> {
    let namespace = meta(pod, "namespace");
    let budgets: Vec<_> = txn
        .store
        .list(BUDGETS, Some(namespace))
        .filter(|(_, budget)| {
            let selector = budget.pointer("/spec/selector");
            selector.is_some_and(|selector| matches_selector(selector, pod))
        })
        .map(|(_, budget)| Arc::clone(budget))
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [only] => only,
        _ => {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::internal(why));
        }
    };
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if !is_ready(pod) {
        // Whoever serves no one costs nothing, as long as enough others do.
        let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
        let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if always || (desired > 0 && healthy >= desired) {
            return Ok(());
        }
    }
    let allowed = number("/status/disruptionsAllowed");
    if number("/status/observedGeneration") < number("/metadata/generation") || allowed < 1 {
        let why = format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            name(budget),
            number("/status/desiredHealthy"),
            number("/status/currentHealthy"),
        );
        return Err(ApiError::disruption(&why));
    }
    let mut next = Value::clone(budget);
    let now = txn.timestamp();
    let status = field_mut(&mut next, "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed.saturating_sub(1)));
    let disrupted = as_map(status.entry("disruptedPods").or_insert(Value::Null));
    disrupted.insert(name(pod).to_owned(), Value::from(now));
    let registry = txn.registry();
    if let Some(resource) = registry.get("policy", "v1", "poddisruptionbudgets") {
        txn.put(resource, next);
    }
    Ok(())
}

fn is_ready(pod: &Value) -> bool {
    items(pod, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once_and_not_when_it_goes_or_waits() {
        assert!(check_bindable(&json!({"spec": {}}), "p").is_ok());
        let error = check_bindable(&json!({"spec": {"nodeName": "n"}}), "p").unwrap_err();
        let wanted = r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n""#;
        assert_eq!((error.code, error.message.as_str()), (409, wanted));
        let gated = json!({"spec": {"schedulingGates": [{"name": "g"}]}});
        assert!(check_bindable(&gated, "p").is_err());
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
        assert!(check_bindable(&going, "p").is_err());
    }

    #[test]
    fn a_condition_takes_the_place_of_its_like() {
        let mut pod = json!({"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "B"}]}});
        set_condition(&mut pod, json!({"type": "A", "status": "True"}));
        assert_eq!(
            pod["status"]["conditions"],
            json!([{"type": "B"}, {"type": "A", "status": "True"}])
        );
    }
}
