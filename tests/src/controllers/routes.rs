//! Which work follows from a change. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

use super::queue::{Controller, Work};
use super::world::{Change, Kind, Store, World};
use super::{accounts, endpoint_slice, garbage, pods};

/// Where a node says that it lives.
pub(super) const NODE_LEASES: &str = "kube-node-lease";

/// All work that a change asks for. Too much is harmless, for work that finds nothing to do ends at once.
pub(super) fn affected(world: &World, change: &Change) -> Vec<Work> {
    let mut work = garbage::affected(world, change);
    let states: Vec<&ObjectMeta> = change.before.iter().chain(&change.after).collect();
    for meta in states {
        of_state(world, change, meta, &mut work);
    }
    work
}

fn of_state(world: &World, change: &Change, meta: &ObjectMeta, work: &mut Vec<Work>) {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    if change.after.is_none() && is_ending(world, namespace) {
        work.push(Work::new(Controller::Namespace, "", namespace));
    }
    let Some(kind) = change.source.kind else { return };
    let mut add = |controller, name: &str| work.push(Work::new(controller, namespace, name));
    match kind {
        Kind::ConfigMap => add(Controller::Accounts, ""),
        Kind::ControllerRevision => owner(meta, &mut add),
        Kind::DaemonSet => add(Controller::DaemonSet, name),
        Kind::Deployment => add(Controller::Deployment, name),
        Kind::EndpointSlice => {
            if let Some(service) = meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(endpoint_slice::SERVICE))
            {
                add(Controller::EndpointSlice, service);
            }
        }
        Kind::Job => add(Controller::Job, name),
        Kind::Lease => {
            if namespace == NODE_LEASES {
                work.push(Work::new(Controller::Node, "", name));
            }
        }
        Kind::Namespace => {
            work.push(Work::new(Controller::Namespace, "", name));
            work.push(Work::new(Controller::Accounts, name, ""));
        }
        Kind::Node => {
            work.push(Work::new(Controller::Node, "", name));
            work.push(Work::new(Controller::Scheduler, "", ""));
            for set in world.daemon_sets.iter() {
                let key = (set.meta().namespace.as_deref(), set.meta().name.as_deref());
                if let (Some(namespace), Some(name)) = key {
                    work.push(Work::new(Controller::DaemonSet, namespace, name));
                }
            }
        }
        Kind::Pod => pod(world, meta, work),
        Kind::PodDisruptionBudget => add(Controller::Disruption, name),
        Kind::ReplicaSet => {
            add(Controller::ReplicaSet, name);
            if pods::controller_of(meta).is_some() {
                owner(meta, &mut add);
            } else {
                each(&world.deployments, namespace, |name| add(Controller::Deployment, name));
            }
        }
        Kind::Secret => add(Controller::Token, name),
        Kind::Service => add(Controller::EndpointSlice, name),
        Kind::ServiceAccount => {
            add(Controller::Accounts, "");
            for secret in accounts::tokens_of(world, namespace, name) {
                add(Controller::Token, &secret);
            }
        }
        Kind::StatefulSet => add(Controller::StatefulSet, name),
    }
}

fn is_ending(world: &World, namespace: &str) -> bool {
    let namespace = world.namespaces.get("", namespace);
    namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
}

/// The controller that manages the object.
fn owner(meta: &ObjectMeta, add: &mut impl FnMut(Controller, &str)) {
    let Some(owner) = pods::controller_of(meta) else { return };
    let controller = match owner.kind.as_str() {
        "DaemonSet" => Controller::DaemonSet,
        "Deployment" => Controller::Deployment,
        "Job" => Controller::Job,
        "ReplicaSet" => Controller::ReplicaSet,
        "StatefulSet" => Controller::StatefulSet,
        _ => return,
    };
    add(controller, &owner.name);
}

fn each<K: Resource>(store: &Store<K>, namespace: &str, mut add: impl FnMut(&str)) {
    for object in store.within(namespace) {
        add(object.meta().name.as_deref().unwrap_or_default());
    }
}

fn pod(world: &World, meta: &ObjectMeta, work: &mut Vec<Work>) {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let mut add = |controller, name: &str| work.push(Work::new(controller, namespace, name));
    if pods::controller_of(meta).is_some() {
        owner(meta, &mut add);
    } else {
        each(&world.replica_sets, namespace, |name| add(Controller::ReplicaSet, name));
        each(&world.daemon_sets, namespace, |name| add(Controller::DaemonSet, name));
        each(&world.stateful_sets, namespace, |name| {
            add(Controller::StatefulSet, name)
        });
    }
    each(&world.pod_disruption_budgets, namespace, |name| {
        add(Controller::Disruption, name)
    });
    for service in world.services.within(namespace) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let has = |(key, value)| meta.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value);
        if selector.is_some_and(|selector| selector.iter().all(has)) {
            add(
                Controller::EndpointSlice,
                service.metadata.name.as_deref().unwrap_or_default(),
            );
        }
    }
    work.push(Work::new(Controller::Scheduler, "", ""));
    let node = world.pods.get(namespace, name).map(pods::node_name).unwrap_or_default();
    if !node.is_empty() {
        work.push(Work::new(Controller::Node, "", node));
    }
}
