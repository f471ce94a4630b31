//! One Pod of a DaemonSet on every node that fits. Pure.
//!
//! The Pods are bound to their nodes by the scheduler, through node affinity to the node's name. Revisions are told apart by
//! the label `controller-revision-hash` alone: `kubectl rollout undo` has no history to go by.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Action, Plan};
use super::world::{Kind, World};
use super::{placement, pods, template};

/// The label that tells Pods of one template from another's.
const HASH: &str = "controller-revision-hash";

/// Taints that no Pod of a DaemonSet minds: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Nodes and the Pods that are meant for them.
struct Place<'a> {
    name: String,
    node: &'a Node,
    wanted: bool,
    new: Vec<&'a Pod>,
    old: Vec<&'a Pod>,
}

/// Compares what is with what shall be.
pub(super) fn reconcile(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(set) = world.daemon_sets.get(namespace, name) else {
        return plan;
    };
    let Some(spec) = &set.spec else { return plan };
    let Some(selector) = pods::selector(&spec.selector) else {
        return plan;
    };
    let candidates = world.pods.within(namespace);
    let owned = pods::claim((Kind::DaemonSet, set), &selector, Kind::Pod, candidates, &mut plan);
    if !plan.actions.is_empty() {
        return plan;
    }
    let hash = template::hash(&spec.template, 0);
    let places = places(world, set, spec, &owned, &hash, &mut plan);
    if set.metadata.deletion_timestamp.is_none() {
        for place in &places {
            settle(set, spec, place, &hash, &mut plan);
        }
        let strategy = spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete") {
            update(set, spec, &places, &hash, now, &mut plan);
        }
    }
    status(set, spec, &places, now, &mut plan);
    plan
}

/// The Pods by node; those that have ended are deleted, so that others take their places.
fn places<'a>(
    world: &'a World,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    owned: &[&'a Pod],
    hash: &str,
    plan: &mut Plan,
) -> Vec<Place<'a>> {
    let mut by_node: BTreeMap<String, (Vec<&Pod>, Vec<&Pod>)> = BTreeMap::new();
    for pod in owned.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        if !pods::is_live(pod) {
            plan.delete(Kind::Pod, *pod);
            plan.tell(
                Kind::DaemonSet,
                set,
                "FailedDaemonPod",
                "Found failed daemon pod, will try to kill it".to_owned(),
            );
            continue;
        }
        let place = by_node.entry(target(pod)).or_default();
        let labels = pod.metadata.labels.as_ref();
        let is_new = labels
            .and_then(|labels| labels.get(HASH))
            .is_some_and(|label| label == hash);
        if is_new { place.0.push(pod) } else { place.1.push(pod) }
    }
    let template = tolerating(&spec.template.spec.clone().unwrap_or_default());
    let mut places = Vec::new();
    for node in world.nodes.iter() {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (new, old) = by_node.remove(&name).unwrap_or_default();
        places.push(Place {
            wanted: placement::check(node, &template).is_ok(),
            name,
            node,
            new,
            old,
        });
    }
    places
}

/// The node that a Pod is on or shall be put on.
fn target(pod: &Pod) -> String {
    if !pods::node_name(pod).is_empty() {
        return pods::node_name(pod).to_owned();
    }
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
    let fields = terms.flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.flat_map(|field| field.values.iter().flatten()).next();
    name.cloned().unwrap_or_default()
}

/// The Pod's specification with what it tolerates as a daemon.
fn tolerating(spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let on_host = (spec.host_network == Some(true)).then_some(network);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// Makes the Pod that a node lacks, deletes those that it must not have or has twice.
fn settle(set: &DaemonSet, spec: &DaemonSetSpec, place: &Place<'_>, hash: &str, plan: &mut Plan) {
    if place.wanted {
        if place.new.is_empty() && place.old.is_empty() {
            create(set, spec, &place.name, hash, plan);
        }
        let mut new = place.new.clone();
        new.sort_by_key(|pod| {
            (
                !pods::is_ready(pod),
                pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            )
        });
        for pod in new.iter().skip(1) {
            plan.delete(Kind::Pod, *pod);
        }
        return;
    }
    // It may stay though it could not be put there now, unless it is not selected or shall not run on.
    let template = tolerating(&spec.template.spec.clone().unwrap_or_default());
    let tolerations = template.tolerations.as_deref().unwrap_or_default();
    let is_driven_out = placement::untolerated(place.node, tolerations, &["NoExecute"]).is_some();
    if !placement::is_selected(place.node, &template) || is_driven_out {
        for pod in place.new.iter().chain(&place.old) {
            plan.delete(Kind::Pod, *pod);
        }
    }
}

fn create(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str, plan: &mut Plan) {
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let pod_spec = template.spec.as_ref().map(tolerating).unwrap_or_default();
    template.spec = Some(pod_spec);
    let mut pod = pods::from_template(&template, pods::owner_reference(Kind::DaemonSet, set));
    if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
        meta.insert("generateName".to_owned(), json!(prefix));
    }
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let required = json!({"nodeSelectorTerms": [term]});
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
        let affinity = affinity
            .as_object_mut()
            .map(|affinity| affinity.entry("nodeAffinity").or_insert_with(|| json!({})));
        if let Some(Value::Object(affinity)) = affinity {
            affinity.insert("requiredDuringSchedulingIgnoredDuringExecution".to_owned(), required);
        }
    }
    plan.act(Action::Create {
        kind: Kind::Pod,
        namespace: set.metadata.namespace.clone().unwrap_or_default(),
        object: pod,
    });
}

/// `RollingUpdate`: old Pods go as far as nodes may be without one, or new ones come beside them first.
fn update(set: &DaemonSet, spec: &DaemonSetSpec, places: &[Place<'_>], hash: &str, now: Timestamp, plan: &mut Plan) {
    let limits = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let wanted: Vec<&Place<'_>> = places.iter().filter(|place| place.wanted).collect();
    let total = pods::number(wanted.len());
    let mut surge = pods::resolve(limits.and_then(|limits| limits.max_surge.as_ref()), total, true);
    let missing = limits.and_then(|limits| limits.max_unavailable.as_ref());
    let mut missing = if missing.is_none() {
        1
    } else {
        pods::resolve(missing, total, true)
    };
    if surge == 0 {
        missing = missing.max(1);
    }
    let minimum = spec.min_ready_seconds.unwrap_or_default();
    let mut serves = |pods: &[&Pod]| pods.iter().any(|pod| pods::is_available(pod, minimum, now, plan));
    let states: Vec<(&Place<'_>, bool, bool)> = wanted
        .iter()
        .map(|place| (*place, serves(&place.new), serves(&place.old)))
        .collect();
    missing -= pods::number(states.iter().filter(|(_, new, old)| !new && !old).count());
    surge -= pods::number(
        states
            .iter()
            .filter(|(place, ..)| !place.new.is_empty() && !place.old.is_empty())
            .count(),
    );
    for (place, new_serves, old_serves) in states {
        if place.old.is_empty() {
            continue;
        }
        let goes =
            new_serves || !old_serves && place.new.is_empty() || missing > 0 && place.new.is_empty() && surge <= 0;
        if goes {
            if old_serves && !new_serves {
                missing -= 1;
            }
            for pod in &place.old {
                plan.delete(Kind::Pod, *pod);
            }
        } else if place.new.is_empty() && surge > 0 {
            surge -= 1;
            create(set, spec, &place.name, hash, plan);
        }
    }
}

fn status(set: &DaemonSet, spec: &DaemonSetSpec, places: &[Place<'_>], now: Timestamp, plan: &mut Plan) {
    let before = set.status.clone().unwrap_or_default();
    let minimum = spec.min_ready_seconds.unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for place in places {
        let all: Vec<&Pod> = place.new.iter().chain(&place.old).copied().collect();
        if !place.wanted {
            status.number_misscheduled += i32::from(!all.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(!all.is_empty());
        status.number_ready += i32::from(all.iter().any(|pod| pods::is_ready(pod)));
        updated += i32::from(!place.new.is_empty());
        available += i32::from(all.iter().any(|pod| pods::is_available(pod, minimum, now, plan)));
    }
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    if set.status.as_ref() != Some(&status) {
        let set = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        plan.status(Kind::DaemonSet, &set);
    }
}
