//! How many Pods each ReplicaSet of a Deployment gets. Pure arithmetic.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::super::action::{Action, Plan};
use super::super::world::Kind;
use super::{Rollout, annotation, available, size};

/// Annotation: what the Deployment asked for when the ReplicaSet was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: that, with the surge.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// What each ReplicaSet has and shall have, by name.
pub(super) struct Counts {
    counts: BTreeMap<String, (i32, i32)>,
}

fn name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().unwrap_or_default()
}

impl Counts {
    pub(super) fn of(rollout: &Rollout<'_>) -> Self {
        let counts = rollout.all().map(|set| (name(set), (size(set), size(set))));
        Self {
            counts: counts.collect(),
        }
    }

    pub(super) fn set(&mut self, set: &ReplicaSet, count: i32) {
        if let Some((_, wanted)) = self.counts.get_mut(&name(set)) {
            *wanted = count.max(0);
        }
    }

    fn get(&self, set: &ReplicaSet) -> i32 {
        self.counts.get(&name(set)).map_or(0, |(_, wanted)| *wanted)
    }

    fn total(&self) -> i32 {
        self.counts.values().map(|(_, wanted)| wanted).sum()
    }

    pub(super) fn changed(&self) -> bool {
        self.counts.values().any(|(had, wanted)| had != wanted)
    }

    /// Patches those whose count, or whose note of what was asked for, has changed.
    pub(super) fn write(&self, rollout: &Rollout<'_>, plan: &mut Plan) {
        let maximum = rollout.replicas.saturating_add(rollout.surge).to_string();
        let desired = rollout.replicas.to_string();
        for set in rollout.all() {
            let (had, wanted) = (size(set), self.get(set));
            let noted = annotation(&set.metadata, DESIRED) == Some(&desired)
                && annotation(&set.metadata, MAXIMUM) == Some(&maximum);
            if had == wanted && (noted || wanted == 0) || is_patched(set, plan) {
                continue;
            }
            let annotations = json!({DESIRED: desired, MAXIMUM: maximum});
            let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": wanted}});
            plan.patch(Kind::ReplicaSet, set, patch);
            if had != wanted {
                let direction = if had < wanted { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {} from {had} to {wanted}", name(set));
                plan.tell(Kind::Deployment, rollout.deployment, "ScalingReplicaSet", message);
            }
        }
    }
}

/// This plan patches it already: the next one sees what came of it.
fn is_patched(set: &ReplicaSet, plan: &Plan) -> bool {
    plan.actions.iter().any(|action| {
        matches!(action, Action::Patch { target, .. }
            if target.resource.kind == "ReplicaSet" && Some(&target.key.1) == set.metadata.name.as_ref())
    })
}

/// What a new ReplicaSet that has `now` Pods may have.
pub(super) fn room(rollout: &Rollout<'_>, counts: &Counts, now: i32) -> i32 {
    let free = rollout
        .replicas
        .saturating_add(rollout.surge)
        .saturating_sub(counts.total());
    now.saturating_add(free.min(rollout.replicas - now).max(0))
}

/// Scales the new one towards what is asked for.
pub(super) fn up(rollout: &Rollout<'_>, new: &ReplicaSet, counts: &mut Counts) {
    let now = size(new);
    let wanted = if now > rollout.replicas {
        rollout.replicas
    } else {
        room(rollout, counts, now)
    };
    counts.set(new, wanted);
}

/// Scales old ones down by as much as can be missed: first what does not serve anyway.
pub(super) fn down(rollout: &Rollout<'_>, new: &ReplicaSet, counts: &mut Counts) {
    let minimum = rollout.replicas - rollout.unavailable;
    let not_yet = size(new) - available(new);
    let mut allowed = counts.total() - minimum - not_yet;
    for old in &rollout.old {
        let unhealthy = (counts.get(old) - available(old)).clamp(0, allowed.max(0));
        counts.set(old, counts.get(old) - unhealthy);
        allowed -= unhealthy;
    }
    let serving: i32 = rollout.all().map(available).sum();
    let mut spare = (serving - minimum).min(allowed);
    for old in &rollout.old {
        let less = counts.get(old).min(spare.max(0));
        counts.set(old, counts.get(old) - less);
        spare -= less;
    }
}

/// Whether the number that is asked for has changed since ReplicaSets were last scaled.
pub(super) fn was_resized(rollout: &Rollout<'_>) -> bool {
    let desired = rollout.replicas.to_string();
    rollout
        .all()
        .filter(|set| size(set) > 0)
        .any(|set| annotation(&set.metadata, DESIRED).is_some_and(|noted| noted != desired))
}

/// Follows a new number of replicas without going on with the rollout: each active ReplicaSet keeps its share.
pub(super) fn to_size(rollout: &Rollout<'_>, plan: &mut Plan) {
    let mut counts = Counts::of(rollout);
    let active: Vec<&ReplicaSet> = rollout.all().filter(|set| size(set) > 0).collect();
    let is_saturated = |new: &&ReplicaSet| size(new) == rollout.replicas && available(new) == rollout.replicas;
    if let Some(only) = match active.as_slice() {
        [] => rollout.new.or(rollout.old.last().copied()),
        [only] => Some(*only),
        _ => None,
    } {
        counts.set(only, rollout.replicas);
    } else if rollout.new.as_ref().is_some_and(is_saturated) || rollout.is_recreated() {
        for old in &rollout.old {
            counts.set(old, 0);
        }
    } else {
        share(rollout, active, &mut counts);
    }
    counts.write(rollout, plan);
}

fn share(rollout: &Rollout<'_>, mut active: Vec<&ReplicaSet>, counts: &mut Counts) {
    let allowed = if rollout.replicas > 0 {
        rollout.replicas.saturating_add(rollout.surge)
    } else {
        0
    };
    let mut rest = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    // The largest takes what rounding leaves; of equal ones the newer.
    active.reverse();
    active.sort_by_key(|set| std::cmp::Reverse(size(set)));
    for set in &active {
        let noted = annotation(&set.metadata, MAXIMUM).and_then(|text| text.parse::<i64>().ok());
        let before = noted
            .filter(|before| *before > 0)
            .unwrap_or_else(|| i64::from(allowed.max(1)));
        let scaled = (i64::from(size(set)) * i64::from(allowed) * 2 + before) / (before * 2);
        let change = i32::try_from(scaled).unwrap_or(i32::MAX) - size(set);
        let change = if rest >= 0 {
            change.clamp(0, rest)
        } else {
            change.clamp(rest, 0)
        };
        counts.set(set, size(set) + change);
        rest -= change;
    }
    if let Some(first) = active.first() {
        counts.set(first, counts.get(first) + rest);
    }
}
