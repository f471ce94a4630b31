//! Nodes that fall silent or leave, and the Pods on them. Pure.

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::action::{Action, Plan, Target, delete};
use super::placement::tolerates;
use super::pods;
use super::routes::NODE_LEASES;
use super::world::{Kind, World};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Looks at one node and at all Pods on it.
pub(super) fn reconcile(world: &World, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let on_node: Vec<&Pod> = world.pods.iter().filter(|pod| pods::node_name(pod) == name).collect();
    let Some(node) = world.nodes.get("", name) else {
        for pod in on_node {
            plan.act(abandon(pod, name));
        }
        return plan;
    };
    let Some(ready) = readiness(world, node, name, now, &mut plan) else {
        // The condition is written first; it brings us back.
        return plan;
    };
    taint(node, &ready, now, &mut plan);
    if ready == "Unknown" || ready == "False" {
        for pod in on_node.iter().filter(|pod| pods::is_live(pod)) {
            mark_not_ready(pod, now, &mut plan);
        }
    }
    for pod in on_node.iter().filter(|pod| pods::is_active(pod)) {
        evict(node, pod, now, &mut plan);
    }
    plan
}

/// A Pod on a node that is not there: nobody will confirm its end.
fn abandon(pod: &Pod, node: &str) -> Action {
    Action::DeleteIfAbsent {
        target: Target::of(Kind::Pod, pod),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        grace: Some(0),
        absent: vec![(
            Target {
                resource: Kind::Node.resource(),
                namespaced: false,
                key: (String::new(), node.to_owned()),
            },
            None,
        )],
    }
}

/// The status of the node's condition `Ready`; none when it has to be set to `Unknown` first, for the node is silent.
fn readiness(world: &World, node: &Node, name: &str, now: Timestamp, plan: &mut Plan) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let status = ready.map_or("", |ready| ready.status.as_str()).to_owned();
    let lease = world.leases.get(NODE_LEASES, name);
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| time.0);
    let heartbeat = ready
        .and_then(|ready| ready.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    // A node that has never given a sign has its time from when it was made.
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let Some(last) = renewed.max(heartbeat).or(created) else {
        return Some(status);
    };
    let silent_from = last + world.node_grace;
    if silent_from > now {
        plan.look_again(silent_from);
        return Some(status);
    }
    if ready.is_some_and(|ready| ready.status == "Unknown") {
        return Some(status);
    }
    let mut silent = node.clone();
    let conditions = silent.status.get_or_insert_default().conditions.get_or_insert_default();
    for condition in conditions.iter_mut().filter(|condition| condition.status != "Unknown") {
        unknown(condition, now);
    }
    if !conditions.iter().any(|condition| condition.type_ == "Ready") {
        let mut condition = NodeCondition {
            type_: "Ready".to_owned(),
            ..NodeCondition::default()
        };
        unknown(&mut condition, now);
        conditions.push(condition);
    }
    plan.status(Kind::Node, &silent);
    plan.tell(
        Kind::Node,
        node,
        "NodeNotReady",
        format!("Node {name} status is now: NodeNotReady"),
    );
    None
}

fn unknown(condition: &mut NodeCondition, now: Timestamp) {
    condition.status = "Unknown".to_owned();
    condition.reason = Some("NodeStatusUnknown".to_owned());
    condition.message = Some("Kubelet stopped posting node status.".to_owned());
    condition.last_transition_time = Some(Time(now));
}

/// Keeps the taints that stand for the node's condition and for `spec.unschedulable`.
fn taint(node: &Node, ready: &str, now: Timestamp, plan: &mut Plan) {
    let spec = node.spec.clone().unwrap_or_default();
    let known = spec.taints.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        // It has just come.
        "" => wanted.push((NOT_READY, "NoSchedule")),
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |taint: &Taint| [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str());
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = known
        .iter()
        .filter(|taint| !is_ours(taint) || is_wanted(taint))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    if taints != known {
        plan.patch(Kind::Node, node, json!({"spec": {"taints": taints}}));
    }
}

fn mark_not_ready(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    if !pods::is_ready(pod) {
        return;
    }
    let mut pod = pod.clone();
    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
    let conditions = conditions.into_iter().flatten();
    for condition in conditions.filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_owned();
        condition.reason = Some("NodeNotReady".to_owned());
        condition.last_transition_time = Some(Time(now));
    }
    plan.status(Kind::Pod, &pod);
}

/// Deletes a Pod that does not tolerate a `NoExecute` taint, when its time is over.
fn evict(node: &Node, pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    for taint in taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|one| tolerates(one, taint)).collect();
        let shortest = matching.iter().filter_map(|one| one.toleration_seconds).min();
        let end = match (matching.is_empty(), shortest) {
            (true, _) => now,
            (false, None) => continue,
            (false, Some(seconds)) => {
                let since = taint.time_added.as_ref().map_or(now, |time| time.0);
                since + SignedDuration::from_secs(seconds.max(0))
            }
        };
        if end <= now {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            plan.act(delete(Kind::Pod, pod, None));
            plan.tell(
                Kind::Pod,
                pod,
                "TaintManagerEviction",
                format!("Marking for deletion Pod {name}"),
            );
            return;
        }
        plan.look_again(end);
    }
}
