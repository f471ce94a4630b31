//! Numbers of a Deployment's templates, which `kubectl rollout history` and `undo` go by. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::super::action::Plan;
use super::super::world::Kind;
use super::scale::{DESIRED, MAXIMUM};
use super::{Rollout, annotate, annotation};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Numbers that one ReplicaSet remembers having had, as text.
const HISTORY_LENGTH: usize = 2000;

/// The number of a ReplicaSet, 0 without one.
pub(super) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// One more than all old ones.
fn next(rollout: &Rollout<'_>) -> i64 {
    let highest = rollout.old.iter().map(|set| of(&set.metadata)).max();
    highest.unwrap_or_default().saturating_add(1)
}

/// What a ReplicaSet inherits of its Deployment's annotations.
fn inherited(rollout: &Rollout<'_>) -> BTreeMap<String, String> {
    let mut annotations = rollout.deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| ![REVISION, HISTORY, LAST_APPLIED, DESIRED, MAXIMUM].contains(&key.as_str()));
    annotations
}

/// Annotations of a ReplicaSet that is made now.
pub(super) fn annotations_of_new(rollout: &Rollout<'_>) -> Value {
    let mut annotations = inherited(rollout);
    annotations.insert(REVISION.to_owned(), next(rollout).to_string());
    annotations.insert(DESIRED.to_owned(), rollout.replicas.to_string());
    let maximum = rollout.replicas.saturating_add(rollout.surge);
    annotations.insert(MAXIMUM.to_owned(), maximum.to_string());
    json!(annotations)
}

/// Keeps numbers right: the new ReplicaSet has the highest, also when it was an old one once, and the Deployment has its.
pub(super) fn keep(rollout: &Rollout<'_>, plan: &mut Plan) {
    let Some(new) = rollout.new else { return };
    let mut wanted = inherited(rollout);
    wanted.retain(|key, value| annotation(&new.metadata, key) != Some(value));
    let (had, next) = (of(&new.metadata), next(rollout));
    if had < next {
        wanted.insert(REVISION.to_owned(), next.to_string());
        if had > 0 {
            let before = annotation(&new.metadata, HISTORY).unwrap_or_default();
            let history = if before.is_empty() {
                had.to_string()
            } else {
                format!("{before},{had}")
            };
            if history.len() <= HISTORY_LENGTH {
                wanted.insert(HISTORY.to_owned(), history);
            }
        }
    }
    let minimum = rollout.spec.min_ready_seconds.unwrap_or_default();
    let known_minimum = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let mut patch = annotate(&json!(wanted));
    if known_minimum.unwrap_or_default() != minimum {
        patch = json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": minimum}});
    } else if wanted.is_empty() {
        patch = Value::Null;
    }
    if !patch.is_null() {
        plan.patch(Kind::ReplicaSet, new, patch);
    }
    let number = had.max(next);
    if of(&rollout.deployment.metadata) != number {
        let patch = annotate(&json!({REVISION: number.to_string()}));
        plan.patch(Kind::Deployment, rollout.deployment, patch);
    }
}
