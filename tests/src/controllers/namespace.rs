//! Deletion of namespaces: everything in one, then the namespace. Pure; the lists and deletions are in [`super::execute`].

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::action::{Action, Plan};
use super::world::World;

/// Who holds a namespace until it is empty.
pub(super) const FINALIZER: &str = "kubernetes";

/// When to look again at a namespace that is not empty; what goes in it brings us back earlier.
const PAUSE: SignedDuration = SignedDuration::from_secs(2);

/// Objects of one kind that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// As `pods` or `routes.kubelb.k8c.io`.
    pub(super) resource: String,
    pub(super) count: usize,
    /// Of those objects.
    pub(super) finalizers: Vec<String>,
}

/// Starts over until nothing is left.
pub(super) fn reconcile(world: &World, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = world.namespaces.get("", name) else {
        return plan;
    };
    let held = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    let is_held = held.is_some_and(|held| held.iter().any(|one| one == FINALIZER));
    if namespace.metadata.deletion_timestamp.is_none() || !is_held {
        return plan;
    }
    let sources = world.sources.values().filter(|source| source.namespaced).cloned();
    plan.act(Action::EmptyNamespace {
        namespace: name.to_owned(),
        sources: sources.collect(),
    });
    plan.look_again(now + PAUSE);
    plan
}

/// The namespace with conditions that say what it waits for, or none when they say so already.
pub(super) fn waits_for(namespace: &Namespace, left: &[Left], now: Timestamp) -> Option<Namespace> {
    let counts: Vec<String> = left
        .iter()
        .map(|left| format!("{} has {} resource instances", left.resource, left.count))
        .collect();
    let mut finalizers: Vec<(&String, usize)> = Vec::new();
    for finalizer in left.iter().flat_map(|left| &left.finalizers) {
        match finalizers.iter_mut().find(|(known, _)| *known == finalizer) {
            Some((_, count)) => *count += 1,
            None => finalizers.push((finalizer, 1)),
        }
    }
    let finalizers: Vec<String> = finalizers
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let content = format!("Some resources are remaining: {}", counts.join(", "));
    let held = format!(
        "Some content in the namespace has finalizers remaining: {}",
        finalizers.join(", ")
    );
    let gone = "All content successfully removed".to_owned();
    let free = "All content-preserving finalizers finished".to_owned();
    let wanted = [
        (
            "NamespaceContentRemaining",
            !counts.is_empty(),
            "SomeResourcesRemain",
            "ContentRemoved",
            content,
            gone,
        ),
        (
            "NamespaceFinalizersRemaining",
            !finalizers.is_empty(),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            held,
            free,
        ),
    ];
    let mut changed = namespace.clone();
    let conditions = changed
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    for (type_, holds, why, why_not, message, message_not) in wanted {
        let status = if holds { "True" } else { "False" };
        let message = if holds { message } else { message_not };
        let known = conditions.iter().find(|known| known.type_ == type_);
        if known.is_some_and(|known| known.status == status && known.message.as_ref() == Some(&message)) {
            continue;
        }
        let since = known.filter(|known| known.status == status);
        let since = since.and_then(|known| known.last_transition_time.clone());
        conditions.retain(|known| known.type_ != type_);
        conditions.push(NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(if holds { why } else { why_not }.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        });
    }
    (changed != *namespace).then_some(changed)
}
