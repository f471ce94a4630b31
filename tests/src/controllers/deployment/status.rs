//! What a Deployment's status says: counts and the conditions `Available` and `Progressing`. Pure.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::super::action::{Action, Plan};
use super::super::world::Kind;
use super::{Rollout, Step, available, size};

const DONE: &str = "NewReplicaSetAvailable";

/// A condition that shall hold: type, status, reason, message.
type Wanted = (&'static str, &'static str, &'static str, String);

/// Whether all Pods are of the new template and serve, as the status says.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    let Some(status) = &rollout.deployment.status else {
        return false;
    };
    completes(rollout, status) && status.observed_generation >= rollout.deployment.metadata.generation
}

fn completes(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let all = Some(rollout.replicas).filter(|replicas| *replicas > 0);
    [status.updated_replicas, status.replicas, status.available_replicas].map(|count| count.filter(|count| *count > 0))
        == [all; 3]
}

/// Writes the status if it differs from what is there.
pub(super) fn write(rollout: &Rollout<'_>, step: Option<Step>, now: Timestamp, plan: &mut Plan) {
    let deployment = rollout.deployment;
    let is_patched = plan.actions.iter().any(
        |action| matches!(action, Action::Patch { target, .. } if target.resource.kind == Kind::Deployment.resource().kind),
    );
    if is_patched {
        // It would be refused; the change brings us back.
        return;
    }
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = counts(rollout, &before);
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let missing = status.available_replicas.unwrap_or_default() < rollout.replicas - rollout.unavailable;
    set(
        &mut conditions,
        now,
        if missing {
            let message = "Deployment does not have minimum availability.";
            ("Available", "False", "MinimumReplicasUnavailable", message.to_owned())
        } else {
            let message = "Deployment has minimum availability.";
            ("Available", "True", "MinimumReplicasAvailable", message.to_owned())
        },
    );
    if let Some(Step::Collided) = step {
        status.collision_count = Some(before.collision_count.unwrap_or_default().saturating_add(1));
    }
    progress(rollout, &status, &before, step.as_ref(), &mut conditions, now, plan);
    status.conditions = Some(conditions);
    if deployment.status.as_ref() != Some(&status) {
        let deployment = Deployment {
            status: Some(status),
            ..deployment.clone()
        };
        plan.status(Kind::Deployment, &deployment);
    }
}

fn counts(rollout: &Rollout<'_>, before: &DeploymentStatus) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| -> i32 { rollout.all().map(count).sum() };
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let serving = sum(available);
    let terminating: i32 = rollout.all().filter_map(|set| status(set).terminating_replicas).sum();
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: some(rollout.all().map(|set| status(set).replicas).sum()),
        updated_replicas: some(rollout.new.map(|set| status(set).replicas).unwrap_or_default()),
        ready_replicas: some(rollout.all().filter_map(|set| status(set).ready_replicas).sum()),
        available_replicas: some(serving),
        unavailable_replicas: some(sum(size) - serving),
        terminating_replicas: Some(terminating),
        collision_count: before.collision_count,
        conditions: None,
    }
}

fn progress(
    rollout: &Rollout<'_>,
    status: &DeploymentStatus,
    before: &DeploymentStatus,
    step: Option<&Step>,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let known = conditions
        .iter()
        .find(|condition| condition.type_ == "Progressing")
        .cloned();
    let reason = known
        .as_ref()
        .and_then(|known| known.reason.clone())
        .unwrap_or_default();
    if rollout.spec.paused == Some(true) {
        if reason != "ProgressDeadlineExceeded" {
            let message = "Deployment is paused".to_owned();
            set(conditions, now, ("Progressing", "Unknown", "DeploymentPaused", message));
        }
        return;
    }
    let named = rollout.new.and_then(|set| set.metadata.name.clone());
    let of_set = |what: &str| match &named {
        Some(name) => format!("ReplicaSet \"{name}\" {what}"),
        None => format!("Deployment {what}"),
    };
    let deadline = rollout.spec.progress_deadline_seconds.unwrap_or(600);
    if let Some(Step::Created(name)) = step {
        let message = format!("Created new replica set \"{name}\"");
        set(
            conditions,
            now,
            ("Progressing", "True", "NewReplicaSetCreated", message),
        );
    } else if completes(rollout, status) && rollout.new.is_some() {
        if reason != DONE || status.updated_replicas != before.updated_replicas {
            let message = of_set("has successfully progressed.");
            set(conditions, now, ("Progressing", "True", DONE, message));
        }
        return;
    } else if reason == DONE && status.replicas == status.updated_replicas && rollout.new.is_some() {
        // A Pod that fails after the rollout does not undo it.
        return;
    } else if reason == "DeploymentPaused" {
        let message = "Deployment is resumed".to_owned();
        set(
            conditions,
            now,
            ("Progressing", "Unknown", "DeploymentResumed", message),
        );
    } else if known.is_none() || has_progressed(status, before) {
        touch(
            conditions,
            now,
            ("Progressing", "True", "ReplicaSetUpdated", of_set("is progressing.")),
        );
    } else if let Some(since) = known.as_ref().and_then(|known| known.last_update_time.as_ref()) {
        // A second more: times in conditions have no fractions.
        let end = since.0 + SignedDuration::from_secs(i64::from(deadline) + 1);
        if deadline == i32::MAX || reason == "ProgressDeadlineExceeded" {
            return;
        }
        if end < now {
            let message = of_set("has timed out progressing.");
            set(
                conditions,
                now,
                ("Progressing", "False", "ProgressDeadlineExceeded", message),
            );
            return;
        }
    }
    if deadline != i32::MAX {
        let since = conditions.iter().find(|condition| condition.type_ == "Progressing");
        let since = since
            .and_then(|condition| condition.last_update_time.as_ref())
            .map_or(now, |time| time.0);
        plan.look_again((since + SignedDuration::from_secs(i64::from(deadline) + 1)).max(now));
    }
}

/// More of the new, less of the old, or more that serve.
fn has_progressed(status: &DeploymentStatus, before: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or_default();
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(before.updated_replicas)
        || old(status) < old(before)
        || count(status.ready_replicas) > count(before.ready_replicas)
        || count(status.available_replicas) > count(before.available_replicas)
}

/// Sets a condition; the same status and reason leave it untouched.
fn set(conditions: &mut Vec<DeploymentCondition>, now: Timestamp, wanted: Wanted) {
    let known = conditions.iter().find(|condition| condition.type_ == wanted.0);
    let is_same = known.is_some_and(|known| known.status == wanted.1 && known.reason.as_deref() == Some(wanted.2));
    if !is_same {
        touch(conditions, now, wanted);
    }
}

/// Sets a condition, with the time of its update.
fn touch(conditions: &mut Vec<DeploymentCondition>, now: Timestamp, (type_, status, reason, message): Wanted) {
    let now = Time(now);
    let known = conditions.iter().find(|condition| condition.type_ == type_);
    let kept = known.filter(|known| known.status == status);
    let since = kept.and_then(|known| known.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or_else(|| Some(now.clone())),
        last_update_time: Some(now),
    };
    match conditions.iter_mut().find(|known| known.type_ == type_) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}
