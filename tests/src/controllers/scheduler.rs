//! Puts Pods on nodes: of those that fit, the one with the fewest Pods of the same owner, then the fewest Pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::action::{Action, Event, Plan, event};
use super::placement::{self, Misfit};
use super::pods::{controller_of, is_live, node_name};
use super::world::{Kind, World};

/// `spec.schedulerName` of the Pods that are ours.
const NAME: &str = "default-scheduler";

/// A host port that is taken: address, protocol, number.
type HostPort = (String, String, i32);

/// A node with what has been put on it, also by this very plan.
struct Seat<'a> {
    name: &'a str,
    node: &'a Node,
    pods: usize,
    owners: BTreeMap<String, usize>,
    ports: BTreeSet<HostPort>,
}

impl Seat<'_> {
    fn take(&mut self, pod: &Pod, spec: &PodSpec) {
        self.pods += 1;
        *self.owners.entry(owner(pod)).or_default() += 1;
        self.ports.extend(host_ports(spec));
    }
}

/// Places all Pods that wait.
pub(super) fn reconcile(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut waiting: Vec<(&Pod, &PodSpec)> = world.pods.iter().filter_map(is_waiting).collect();
    if waiting.is_empty() {
        return plan;
    }
    waiting.sort_by_key(|(pod, spec)| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (std::cmp::Reverse(spec.priority.unwrap_or_default()), created)
    });
    let mut seats = seats(world);
    for (pod, spec) in waiting {
        match choose(&seats, pod, spec) {
            Ok(chosen) => {
                if let Some(seat) = seats.get_mut(chosen) {
                    seat.take(pod, spec);
                    bind(pod, seat.name, &mut plan);
                }
            }
            Err(message) => refuse(pod, &message, now, &mut plan),
        }
    }
    plan
}

fn is_waiting(pod: &Pod) -> Option<(&Pod, &PodSpec)> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let waits = node_name(pod).is_empty() && is_live(pod) && pod.metadata.deletion_timestamp.is_none();
    (ours && waits && !gated).then_some((pod, spec))
}

fn seats(world: &World) -> Vec<Seat<'_>> {
    let mut seats: Vec<Seat<'_>> = Vec::new();
    for node in world.nodes.iter() {
        seats.push(Seat {
            name: node.metadata.name.as_deref().unwrap_or_default(),
            node,
            pods: 0,
            owners: BTreeMap::new(),
            ports: BTreeSet::new(),
        });
    }
    for pod in world.pods.iter().filter(|pod| is_live(pod)) {
        let seat = seats.binary_search_by_key(&node_name(pod), |seat| seat.name);
        let seat = seat.ok().and_then(|at| seats.get_mut(at));
        if let (Some(seat), Some(spec)) = (seat, pod.spec.as_ref()) {
            seat.take(pod, spec);
        }
    }
    seats
}

/// The best of the nodes that fit, or what users read when there is none.
fn choose(seats: &[Seat<'_>], pod: &Pod, spec: &PodSpec) -> Result<usize, String> {
    let mut misfits: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<((usize, usize), usize)> = None;
    for (at, seat) in seats.iter().enumerate() {
        if let Some(why) = misfit(seat, spec) {
            *misfits.entry(why).or_default() += 1;
            continue;
        }
        let load = (seat.owners.get(&owner(pod)).copied().unwrap_or_default(), seat.pods);
        if best.is_none_or(|(known, _)| load < known) {
            best = Some((load, at));
        }
    }
    best.map(|(_, at)| at).ok_or_else(|| {
        let reasons: Vec<String> = misfits.iter().map(|(why, count)| format!("{count} {why}")).collect();
        match reasons.as_slice() {
            [] => "no nodes available to schedule pods".to_owned(),
            _ => format!("0/{} nodes are available: {}.", seats.len(), reasons.join(", ")),
        }
    })
}

fn misfit(seat: &Seat<'_>, spec: &PodSpec) -> Option<String> {
    let cordoned = seat.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    // DaemonSets' Pods tolerate it, as a taint that the node's own field stands for.
    let tolerated = spec.tolerations.iter().flatten().any(|toleration| {
        toleration.key.as_deref() == Some("node.kubernetes.io/unschedulable")
            || toleration.key.is_none() && toleration.operator.as_deref() == Some("Exists")
    });
    if cordoned && !tolerated {
        return Some("node(s) were unschedulable".to_owned());
    }
    match placement::check(seat.node, spec) {
        Err(Misfit::Affinity) => Some("node(s) didn't match Pod's node affinity/selector".to_owned()),
        Err(Misfit::Taint(taint)) => Some(format!("node(s) had untolerated taint {{{taint}}}")),
        Ok(()) if host_ports(spec).any(|port| seat.ports.iter().any(|taken| clash(taken, &port))) => {
            Some("node(s) didn't have free ports for the requested pod ports".to_owned())
        }
        Ok(()) => None,
    }
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.clone().unwrap_or_default();
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((address, protocol, number))
    })
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    (&one.1, one.2) == (&other.1, other.2) && (any(&one.0) || any(&other.0) || one.0 == other.0)
}

fn owner(pod: &Pod) -> String {
    controller_of(&pod.metadata)
        .map(|owner| owner.uid.clone())
        .unwrap_or_default()
}

fn bind(pod: &Pod, node: &str, plan: &mut Plan) {
    let (namespace, name) = (
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    );
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    plan.act(Action::Bind {
        pod: (namespace, name),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: node.to_owned(),
    });
    plan.act(Action::Event(said(pod, "Scheduled", message, false)));
}

/// Says why the Pod waits, once for each reason.
fn refuse(pod: &Pod, message: &str, now: Timestamp, plan: &mut Plan) {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    if known.is_some_and(|known| known.message.as_deref() == Some(message) && known.status == "False") {
        return;
    }
    let since = known.filter(|known| known.status == "False");
    let since = since.and_then(|known| known.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.or(Some(Time(now))),
        ..PodCondition::default()
    };
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(condition);
    plan.status(Kind::Pod, &pod);
    plan.act(Action::Event(said(&pod, "FailedScheduling", message.to_owned(), true)));
}

fn said(pod: &Pod, reason: &str, message: String, warning: bool) -> Event {
    Event {
        component: NAME,
        ..event(Kind::Pod, pod, reason, message, warning)
    }
}
