//! Keeps as many Pods as a ReplicaSet asks for. Pure.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::action::{Action, Plan};
use super::pods;
use super::world::{Kind, World};

/// Pods that are made or deleted at once; the rest follows.
const BURST: usize = 500;

/// Compares what is with what shall be.
pub(super) fn reconcile(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.replica_sets.get(namespace, name) else {
        return plan;
    };
    let Some(spec) = &set.spec else { return plan };
    let Some(selector) = pods::selector(&spec.selector) else {
        return plan;
    };
    let candidates = world.pods.within(namespace).filter(|pod| pods::is_live(pod));
    let owned = pods::claim((Kind::ReplicaSet, set), &selector, Kind::Pod, candidates, &mut plan);
    if !plan.actions.is_empty() {
        // They count when they are ours.
        return plan;
    }
    let (active, terminating): (Vec<&Pod>, Vec<&Pod>) = owned.into_iter().partition(|pod| pods::is_active(pod));
    if set.metadata.deletion_timestamp.is_none() {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
        scale(set, namespace, &active, wanted, &mut plan);
    }
    let minimum = spec.min_ready_seconds.unwrap_or_default();
    let template_labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let template_labels = template_labels.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let fully_labeled = active.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
        template_labels.iter().all(has)
    });
    let available = active
        .iter()
        .filter(|pod| pods::is_available(pod, minimum, now, &mut plan));
    let available = available.count();
    let status = ReplicaSetStatus {
        replicas: pods::number(active.len()),
        fully_labeled_replicas: pods::count(fully_labeled.count()),
        ready_replicas: pods::count(active.iter().filter(|pod| pods::is_ready(pod)).count()),
        available_replicas: pods::count(available),
        terminating_replicas: Some(pods::number(terminating.len())),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    if set.status.as_ref() != Some(&status) {
        let set = ReplicaSet {
            status: Some(status),
            ..set.clone()
        };
        plan.status(Kind::ReplicaSet, &set);
    }
    plan
}

fn scale(set: &ReplicaSet, namespace: &str, active: &[&Pod], wanted: usize, plan: &mut Plan) {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return;
    };
    for _ in active.len()..wanted.min(active.len() + BURST) {
        let mut pod = pods::from_template(template, pods::owner_reference(Kind::ReplicaSet, set));
        if let Some(meta) = pod.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
            meta.insert("generateName".to_owned(), json!(prefix));
        }
        plan.act(Action::Create {
            kind: Kind::Pod,
            namespace: namespace.to_owned(),
            object: pod,
        });
    }
    let mut ranked = active.to_vec();
    pods::rank_for_deletion(&mut ranked);
    for pod in ranked.iter().take(active.len().saturating_sub(wanted).min(BURST)) {
        plan.delete(Kind::Pod, *pod);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        plan.tell(
            Kind::ReplicaSet,
            set,
            "SuccessfulDelete",
            format!("Deleted pod: {name}"),
        );
    }
}
