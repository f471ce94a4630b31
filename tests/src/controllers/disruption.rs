//! How many Pods of a PodDisruptionBudget may be evicted now. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::{Selector, SelectorExt as _};

use super::action::Plan;
use super::pods;
use super::world::{Kind, World};

/// How long an eviction counts though the Pod still shows no sign of it.
const EVICTION_TIME: SignedDuration = SignedDuration::from_mins(2);

/// Compares the status with what is.
pub(super) fn reconcile(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(budget) = world.pod_disruption_budgets.get(namespace, name) else {
        return plan;
    };
    let Some(spec) = &budget.spec else { return plan };
    let Some(selector) = spec
        .selector
        .clone()
        .and_then(|selector| Selector::try_from(selector).ok())
    else {
        return plan;
    };
    let none = BTreeMap::new();
    let selected = world
        .pods
        .within(namespace)
        .filter(|pod| pods::is_live(pod) && selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)));
    let selected: Vec<&Pod> = selected.collect();
    let before = budget.status.clone().unwrap_or_default();
    let mut disrupted = before.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|name, since| {
        let pod = selected.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
        let is_pending = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        let end = since.0 + EVICTION_TIME;
        if is_pending && end > now {
            plan.look_again(end);
        }
        is_pending && end > now
    });
    let healthy = selected.iter().filter(|pod| {
        let evicted = pod
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| disrupted.contains_key(name));
        pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none() && !evicted
    });
    let healthy = pods::number(healthy.count());
    let expected = expected(world, namespace, &selected);
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(missing), _) => (expected - pods::resolve(Some(missing), expected, true)).max(0),
        (None, minimum) => pods::resolve(minimum.as_ref(), expected, true),
    };
    let allowed = if expected == 0 { 0 } else { (healthy - desired).max(0) };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(budget, &before, allowed, now)]),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    if budget.status.as_ref() != Some(&status) {
        let budget = PodDisruptionBudget {
            status: Some(status),
            ..budget.clone()
        };
        plan.status(Kind::PodDisruptionBudget, &budget);
    }
    plan
}

/// Pods that their controllers are asked for; a Pod without one counts as itself.
fn expected(world: &World, namespace: &str, selected: &[&Pod]) -> i32 {
    let mut sizes: BTreeMap<&str, i32> = BTreeMap::new();
    let mut alone = 0;
    for pod in selected {
        let Some(owner) = pods::controller_of(&pod.metadata) else {
            alone += 1;
            continue;
        };
        let size = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = world.replica_sets.get(namespace, &owner.name);
                let deployment = set.and_then(|set| pods::controller_of(&set.metadata));
                let deployment = deployment.and_then(|owner| world.deployments.get(namespace, &owner.name));
                match deployment {
                    // Old and new ReplicaSets share what the Deployment asks for.
                    Some(deployment) => {
                        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
                        let size = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                        sizes.insert(uid, size);
                        continue;
                    }
                    None => set.and_then(|set| set.spec.as_ref()?.replicas),
                }
            }
            "StatefulSet" => {
                let set = world.stateful_sets.get(namespace, &owner.name);
                set.and_then(|set| set.spec.as_ref()?.replicas)
            }
            _ => None,
        };
        match size {
            Some(size) => drop(sizes.insert(&owner.uid, size)),
            None => alone += 1,
        }
    }
    alone + sizes.values().sum::<i32>()
}

fn condition(
    budget: &PodDisruptionBudget,
    before: &PodDisruptionBudgetStatus,
    allowed: i32,
    now: Timestamp,
) -> Condition {
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let known = before
        .conditions
        .iter()
        .flatten()
        .find(|known| known.type_ == "DisruptionAllowed");
    let since = known
        .filter(|known| known.status == status)
        .map(|known| known.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}
