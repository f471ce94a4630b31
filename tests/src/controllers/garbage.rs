//! Deletes what nobody owns any more, and does what the finalizers `orphan` and `foregroundDeletion` stand for. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::action::{Action, Plan, Target};
use super::queue::{Controller, Work};
use super::world::{Change, Vertex, World};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// When to look again at an object whose owner is of a kind that is not served (yet).
const PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// Objects whose ownership a change touches.
pub(super) fn affected(world: &World, change: &Change) -> Vec<Work> {
    let mut uids: Vec<&str> = Vec::new();
    match &change.after {
        Some(meta) => {
            let has_owners = meta.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
            if has_owners || meta.deletion_timestamp.is_some() {
                uids.push(&change.uid);
            }
            if meta.deletion_timestamp.is_some() {
                uids.extend(world.graph.dependents(&change.uid));
            }
        }
        None => uids.extend(world.graph.dependents(&change.uid)),
    }
    let before = change
        .before
        .iter()
        .flat_map(|meta| meta.owner_references.iter().flatten());
    let deleting = |owner: &&OwnerReference| world.graph.get(&owner.uid).is_some_and(|owner| owner.deleting);
    uids.extend(before.filter(deleting).map(|owner| owner.uid.as_str()));
    uids.into_iter()
        .map(|uid| Work::new(Controller::Garbage, "", uid))
        .collect()
}

/// Looks at one object.
pub(super) fn reconcile(world: &World, uid: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(vertex) = world.graph.get(uid) else {
        return plan;
    };
    if !vertex.deleting {
        by_owners(world, uid, vertex, now, &mut plan);
    } else if has(vertex, ORPHAN) {
        let mut is_free = true;
        for (other, dependent) in dependents(world, uid) {
            is_free = false;
            let rest: Vec<&OwnerReference> = dependent.owners.iter().filter(|owner| owner.uid != uid).collect();
            plan.act(set_owners(other, dependent, &rest));
        }
        if is_free {
            plan.act(without_finalizer(uid, vertex, ORPHAN));
        }
    } else if has(vertex, FOREGROUND) {
        let mut is_free = true;
        for (other, dependent) in dependents(world, uid) {
            let blocks = |owner: &OwnerReference| owner.uid == uid && owner.block_owner_deletion == Some(true);
            is_free &= !dependent.owners.iter().any(blocks);
            if !dependent.deleting {
                by_owners(world, other, dependent, now, &mut plan);
            }
        }
        if is_free {
            plan.act(without_finalizer(uid, vertex, FOREGROUND));
        }
    }
    plan
}

fn has(vertex: &Vertex, finalizer: &str) -> bool {
    vertex.finalizers.iter().any(|one| one == finalizer)
}

fn dependents<'a>(world: &'a World, uid: &'a str) -> impl Iterator<Item = (&'a str, &'a Vertex)> {
    let found = world
        .graph
        .dependents(uid)
        .map(|uid| Some((uid, world.graph.get(uid)?)));
    found.flatten()
}

/// Keeps the object while one of its owners stays.
fn by_owners(world: &World, uid: &str, vertex: &Vertex, now: Timestamp, plan: &mut Plan) {
    let (mut solid, mut waiting, mut unsure) = (Vec::new(), false, Vec::new());
    for owner in &vertex.owners {
        match world.graph.get(&owner.uid) {
            Some(known) if known.deleting && has(known, FOREGROUND) => waiting = true,
            Some(_) => solid.push(owner),
            None if world.graph.is_gone(&owner.uid) => {}
            None => match world.source_of(&owner.api_version, &owner.kind) {
                // Only objects of the cluster can own objects of the cluster: not ours to judge.
                Some(source) if source.namespaced && !vertex.source.namespaced => solid.push(owner),
                Some(source) => {
                    let namespace = if source.namespaced {
                        vertex.key.0.clone()
                    } else {
                        String::new()
                    };
                    let target = Target {
                        resource: source.resource.clone(),
                        namespaced: source.namespaced,
                        key: (namespace, owner.name.clone()),
                    };
                    unsure.push((target, Some(owner.uid.clone())));
                }
                None => {
                    plan.look_again(now + PAUSE);
                    solid.push(owner);
                }
            },
        }
    }
    if vertex.owners.is_empty() {
        return;
    }
    if solid.is_empty() {
        let target = Target::vertex(vertex);
        let uid = uid.to_owned();
        plan.act(if unsure.is_empty() {
            // Who waits for us wants our own dependents gone as well.
            let foreground = waiting && world.graph.dependents(&uid).next().is_some() && !has(vertex, ORPHAN);
            Action::Delete {
                target,
                uid,
                grace: None,
                foreground,
            }
        } else {
            Action::DeleteIfAbsent {
                target,
                uid,
                grace: None,
                absent: unsure,
            }
        });
    } else if solid.len() < vertex.owners.len() && unsure.is_empty() {
        plan.act(set_owners(uid, vertex, &solid));
    }
}

fn set_owners(uid: &str, vertex: &Vertex, owners: &[&OwnerReference]) -> Action {
    patch(uid, vertex, "ownerReferences", json!(owners))
}

fn without_finalizer(uid: &str, vertex: &Vertex, finalizer: &str) -> Action {
    let rest: Vec<&String> = vertex.finalizers.iter().filter(|one| *one != finalizer).collect();
    patch(uid, vertex, "finalizers", json!(rest))
}

fn patch(uid: &str, vertex: &Vertex, field: &str, value: Value) -> Action {
    Action::Patch {
        target: Target::vertex(vertex),
        patch: json!({"metadata": {
            "uid": uid,
            "resourceVersion": vertex.revision.to_string(),
            field: value,
        }}),
    }
}
