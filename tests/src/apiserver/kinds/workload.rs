//! What makes Pods: the defaults that controllers rely on, and a few checks.

use serde_json::{Map, Value, json};

use super::super::object::{as_map, default_to, field_mut, meta, text};
use super::super::resource::Resource;
use super::super::status::Cause;
use super::pod;

/// Defaults of what has a Pod template.
pub(super) fn default(resource: &Resource, object: &mut Value) {
    let kind = resource.kind.as_str();
    let template = match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "/spec/template/spec"
        }
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => return,
    };
    if let Some(Value::Object(pod)) = object.pointer_mut(template) {
        pod::default_template(pod);
    }
    let spec = field_mut(object, "spec");
    match kind {
        "Deployment" => {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "progressDeadlineSeconds", 600);
            let strategy = as_map(spec.entry("strategy").or_insert(Value::Null));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type") == Some(&json!("RollingUpdate")) {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
                default_to(rolling, "maxUnavailable", "25%");
                default_to(rolling, "maxSurge", "25%");
            }
        }
        "ReplicaSet" | "ReplicationController" => default_to(spec, "replicas", 1),
        "StatefulSet" => {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "podManagementPolicy", "OrderedReady");
            let retained = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
            default_to(spec, "persistentVolumeClaimRetentionPolicy", retained);
            let strategy = as_map(spec.entry("updateStrategy").or_insert(Value::Null));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type") == Some(&json!("RollingUpdate")) {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
                default_to(rolling, "partition", 0);
            }
        }
        "DaemonSet" => {
            default_to(spec, "revisionHistoryLimit", 10);
            let strategy = as_map(spec.entry("updateStrategy").or_insert(Value::Null));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type") == Some(&json!("RollingUpdate")) {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
                default_to(rolling, "maxUnavailable", 1);
                default_to(rolling, "maxSurge", 0);
            }
        }
        "Job" => {
            // A Job that sets neither runs one Pod; with parallelism alone it is a work queue.
            if !spec.contains_key("parallelism") {
                default_to(spec, "completions", 1);
            }
            for (key, value) in [
                ("parallelism", json!(1)),
                ("backoffLimit", json!(6)),
                ("completionMode", json!("NonIndexed")),
                ("suspend", json!(false)),
                ("manualSelector", json!(false)),
            ] {
                default_to(spec, key, value);
            }
            let failed_only = spec.contains_key("podFailurePolicy");
            let replaced = if failed_only { "Failed" } else { "TerminatingOrFailed" };
            default_to(spec, "podReplacementPolicy", replaced);
        }
        "CronJob" => {
            for (key, value) in [
                ("concurrencyPolicy", json!("Allow")),
                ("suspend", json!(false)),
                ("successfulJobsHistoryLimit", json!(3)),
                ("failedJobsHistoryLimit", json!(1)),
            ] {
                default_to(spec, key, value);
            }
        }
        _ => {}
    }
}

/// Gives a new Job the labels by which it finds its Pods.
pub(super) fn new_job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, named) = (meta(object, "uid").to_owned(), meta(object, "name").to_owned());
    let spec = field_mut(object, "spec");
    let template = spec.entry("template").or_insert(Value::Null);
    let labels = as_map(field_mut(template, "metadata").entry("labels").or_insert(Value::Null));
    for (key, value) in [("controller-uid", &uid), ("job-name", &named)] {
        labels.insert(key.to_owned(), json!(value));
        labels.insert(format!("batch.kubernetes.io/{key}"), json!(value));
    }
    let labels = Value::Object(labels.clone());
    let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    spec.insert("selector".to_owned(), selector);
    default_to(field_mut(object, "metadata"), "labels", labels);
}

/// What is wrong with a Job.
pub(super) fn check_job(object: &Value, causes: &mut Vec<Cause>) {
    pod::check_template(object, "/spec/template/spec", "spec.template.spec", causes);
    let policy = text(object, "/spec/template/spec/restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let known = ["OnFailure", "Never"].map(Value::from);
        let field = "spec.template.spec.restartPolicy";
        causes.push(Cause::unsupported(field, &json!(policy), &known));
    }
}

/// What is wrong with an object of the group `apps`.
pub(super) fn check(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if resource.kind == "ControllerRevision" {
        return;
    }
    pod::check_template(object, "/spec/template/spec", "spec.template.spec", causes);
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    let empty = selector.as_object().is_none_or(Map::is_empty);
    if empty {
        causes.push(Cause::required("spec.selector", ""));
    }
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .cloned()
        .unwrap_or_default();
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let unmatched = wanted
        .into_iter()
        .flatten()
        .any(|(key, value)| labels.get(key) != Some(value));
    if unmatched {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &labels, why));
    }
    if let Some(old) = old
        && old.pointer("/spec/selector") != object.pointer("/spec/selector")
        && !meta(old, "uid").is_empty()
    {
        causes.push(Cause::invalid("spec.selector", &selector, "field is immutable"));
    }
}
