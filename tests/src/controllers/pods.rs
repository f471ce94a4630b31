//! What every controller asks of Pods and their owners. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use kube::core::{Selector, SelectorExt as _};
use serde_json::{Value, json};

use super::action::Plan;
use super::world::Kind;

/// Characters that cannot make words or be mistaken for each other, as in names of ReplicaSets.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `Pending`, `Running`, `Succeeded`, `Failed`, or empty.
pub(super) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// It has not ended.
pub(super) fn is_live(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed")
}

/// It has not ended and shall not.
pub(super) fn is_active(pod: &Pod) -> bool {
    is_live(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Name of its node; empty while it waits for one.
pub(super) fn node_name(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// When it became ready, if it is. The time is unknown (the epoch) when nobody wrote it.
pub(super) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let since = ready.last_transition_time.as_ref().map(|time| time.0);
    (ready.status == "True").then(|| since.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// It serves.
pub(super) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// It has been ready for that many seconds. When it only needs time, `plan` looks again then.
pub(super) fn is_available(pod: &Pod, seconds: i32, now: Timestamp, plan: &mut Plan) -> bool {
    let Some(since) = ready_since(pod) else {
        return false;
    };
    let from = since + SignedDuration::from_secs(i64::from(seconds));
    if seconds == 0 || from <= now {
        return true;
    }
    plan.look_again(from);
    false
}

/// The owner that manages the object.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The object is managed by the one with this uid.
pub(super) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&String>) -> bool {
    controller_of(meta).is_some_and(|owner| Some(&owner.uid) == uid)
}

/// How an object names the one that manages it.
pub(super) fn owner_reference<K: Resource>(kind: Kind, owner: &K) -> Value {
    let (resource, meta) = (kind.resource(), owner.meta());
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// An object from a Pod template, without its name: add `name` or `generateName` to its metadata.
pub(super) fn from_template(template: &PodTemplateSpec, owner: Value) -> Value {
    let meta = template.metadata.clone().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": meta.labels,
            "annotations": meta.annotations,
            "finalizers": meta.finalizers,
            "ownerReferences": [owner],
        },
        "spec": template.spec,
    })
}

/// The selector of a controller; none when it is malformed, or empty and would select all.
pub(super) fn selector(selector: &LabelSelector) -> Option<Selector> {
    let selector = Selector::try_from(selector.clone()).ok()?;
    (!selector.selects_all()).then_some(selector)
}

/// Whether labels are selected; no labels are like none.
pub(super) fn selects(selector: &Selector, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches(labels.unwrap_or(&BTreeMap::new()))
}

/// Objects that `owner` manages, of those given. What it selects and nobody manages is adopted, what it manages and no
/// longer selects is let go; both are only counted when that is done.
pub(super) fn claim<'a, O: Resource, K: Resource + 'a>(
    (owner_kind, owner): (Kind, &O),
    wanted: &Selector,
    kind: Kind,
    candidates: impl Iterator<Item = &'a K>,
    plan: &mut Plan,
) -> Vec<&'a K> {
    let uid = owner.meta().uid.as_ref();
    let mut owned = Vec::new();
    for candidate in candidates {
        let meta = candidate.meta();
        let selected = selects(wanted, meta.labels.as_ref());
        let free_to_change = meta.deletion_timestamp.is_none() && owner.meta().deletion_timestamp.is_none();
        match controller_of(meta) {
            Some(controller) if Some(&controller.uid) == uid => {
                if selected || !free_to_change {
                    owned.push(candidate);
                    continue;
                }
                let others = meta.owner_references.iter().flatten();
                let others: Vec<_> = others.filter(|other| Some(&other.uid) != uid).collect();
                plan.patch(kind, candidate, json!({"metadata": {"ownerReferences": others}}));
            }
            Some(_) => {}
            None if selected && free_to_change => {
                let mut owners: Vec<Value> = Vec::new();
                owners.extend(meta.owner_references.iter().flatten().map(|other| json!(other)));
                owners.push(owner_reference(owner_kind, owner));
                plan.patch(kind, candidate, json!({"metadata": {"ownerReferences": owners}}));
            }
            None => {}
        }
    }
    owned
}

/// Pods in the order in which they can be missed: those that serve least and longest ago, first.
pub(super) fn rank_for_deletion(pods: &mut [&Pod]) {
    let mut on_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node_name(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by_key(|pod| {
        let age = |time: Option<Timestamp>| std::cmp::Reverse(time);
        (
            !node_name(pod).is_empty(),
            match phase(pod) {
                "Pending" => 0_u8,
                "Running" => 2,
                _ => 1,
            },
            is_ready(pod),
            deletion_cost(pod),
            std::cmp::Reverse(on_node.get(node_name(pod)).copied().unwrap_or_default()),
            age(ready_since(pod)),
            age(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            pod.metadata.name.clone(),
        )
    });
}

fn deletion_cost(pod: &Pod) -> i64 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or_default()
}

/// A number, or a share of `total` rounded up or down.
pub(super) fn resolve(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or_default();
            let hundredths = percent.max(0).saturating_mul(total);
            let rest = i32::from(up && hundredths % 100 != 0);
            hundredths / 100 + rest
        }
    }
}

/// A short word for a content, for names: FNV-1a of its JSON.
pub(super) fn short_hash(content: &impl serde::Serialize, collisions: i32) -> String {
    let text = serde_json::to_string(content).unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes().chain(collisions.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut word = String::new();
    for _ in 0..10 {
        let at = usize::try_from(hash % 27).unwrap_or_default();
        word.extend(ALPHABET.get(at).map(|byte| char::from(*byte)));
        hash /= 27;
    }
    word
}

/// A count as a status holds it: servers leave zero out.
pub(super) fn count(number: usize) -> Option<i32> {
    i32::try_from(number).ok().filter(|number| *number > 0)
}

/// A number of objects.
pub(super) fn number(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
