//! A Pod's status, as users and controllers read it. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::downward::Facts;
use super::images;
use super::state::{Ended, Kind, Phase, Record, State};

/// The status of `pod`, with what others have written into it.
pub(super) fn compute(pod: &Pod, state: &State, facts: &Facts, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let first = |list: &[IpAddr]| list.first().map(IpAddr::to_string);
    let (inits, mains): (Vec<&Record>, Vec<&Record>) =
        state.records.iter().partition(|record| record.kind != Kind::Main);
    let statuses = |records: &[&Record]| -> Option<Vec<ContainerStatus>> {
        let list: Vec<ContainerStatus> = records.iter().map(|record| container(record)).collect();
        (!list.is_empty()).then_some(list)
    };
    PodStatus {
        phase: Some(phase(state).to_owned()),
        reason: state.failure.as_ref().map(|(reason, _)| reason.clone()),
        message: state.failure.as_ref().map(|(_, message)| message.clone()),
        host_ip: first(&facts.host_ips),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: first(&facts.pod_ips),
        pod_ips: Some(facts.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect())
            .filter(|list: &Vec<PodIP>| !list.is_empty()),
        start_time: old.start_time.clone().or(Some(Time(now))),
        init_container_statuses: statuses(&inits),
        container_statuses: statuses(&mains),
        observed_generation: pod.metadata.generation,
        conditions: Some(conditions(pod, state, now)),
        qos_class: old.qos_class.clone().or_else(|| Some("BestEffort".to_owned())),
        ..old
    }
}

fn phase(state: &State) -> &'static str {
    if state.failure.is_some() || state.init_failed() {
        return "Failed";
    }
    let mut mains = state.of_kind(Kind::Main);
    if state.is_over() {
        let well = mains.all(|record| record.ended().is_some_and(|ended| ended.code == 0));
        return if well { "Succeeded" } else { "Failed" };
    }
    let not_yet = |record: &Record| matches!(record.phase, Phase::Waiting { .. }) && record.last.is_none();
    if !state.initialized() || mains.any(not_yet) {
        "Pending"
    } else {
        "Running"
    }
}

fn container(record: &Record) -> ContainerStatus {
    let image = record.spec.image.clone().unwrap_or_default();
    let ended_well = record.kind == Kind::Init && record.ended().is_some_and(|ended| ended.code == 0);
    let state = match &record.phase {
        Phase::Waiting { reason, message, .. } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
            }),
            ..ContainerState::default()
        },
        Phase::Running { since } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        Phase::Ended(ended) => terminated(ended),
    };
    ContainerStatus {
        name: record.spec.name.clone(),
        image_id: if record.id.is_some() {
            format!("local/{image}")
        } else {
            String::new()
        },
        image: images::normalized(&image),
        container_id: record.id.clone(),
        ready: record.ready || ended_well,
        started: Some(record.started),
        restart_count: record.restarts,
        state: Some(state),
        last_state: Some(record.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: Some(ended.reason.clone()),
            message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
            started_at: ended.started.map(Time),
            finished_at: Some(Time(ended.finished)),
            container_id: ended.id.clone(),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// Why a condition does not hold: reason and message.
type Why = Option<(&'static str, String)>;

fn conditions(pod: &Pod, state: &State, now: Timestamp) -> Vec<PodCondition> {
    let old = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let names = |wanted: &dyn Fn(&Record) -> bool| {
        let names: Vec<&str> = state
            .records
            .iter()
            .filter(|record| wanted(record))
            .map(|record| record.spec.name.as_str())
            .collect();
        names.join(" ")
    };
    let well = phase(state) == "Succeeded";
    let completed = || Some(("PodCompleted", String::new()));
    let initialized = if state.initialized() || well {
        well.then(completed).flatten()
    } else {
        let incomplete =
            |record: &Record| record.kind == Kind::Init && record.ended().is_none_or(|ended| ended.code != 0);
        Some((
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", names(&incomplete)),
        ))
    };
    let initialized_holds = state.initialized() || well;
    let unready = names(&|record| record.kind != Kind::Init && !record.ready);
    let containers: Why = if well {
        completed()
    } else if phase(state) == "Failed" {
        Some(("PodFailed", String::new()))
    } else if unready.is_empty() {
        None
    } else {
        Some((
            "ContainersNotReady",
            format!("containers with unready status: [{unready}]"),
        ))
    };
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.clone())
        .unwrap_or_default();
    let closed = gates.iter().find_map(|gate| {
        let kind = &gate.condition_type;
        match old.iter().find(|condition| condition.type_ == *kind) {
            Some(condition) if condition.status == "True" => None,
            Some(condition) => Some(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                condition.status
            )),
            None => Some(format!(
                "corresponding condition of pod readiness gate {kind:?} does not exist."
            )),
        }
    });
    let ready: Why = containers
        .clone()
        .or_else(|| closed.map(|message| ("ReadinessGatesNotReady", message)));
    let wanted: [(&str, bool, Why); 5] = [
        ("PodReadyToStartContainers", state.sandbox, None),
        ("Initialized", initialized_holds, initialized),
        ("Ready", ready.is_none(), ready),
        ("ContainersReady", containers.is_none(), containers),
        ("PodScheduled", true, None),
    ];
    let mut conditions: Vec<PodCondition> = Vec::new();
    for (kind, holds, why) in wanted {
        let before = old.iter().find(|condition| condition.type_ == kind);
        let status = if holds { "True" } else { "False" };
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone());
        let (reason, message) = why.map_or((None, None), |(reason, message)| {
            (Some(reason.to_owned()), Some(message))
        });
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message: message.filter(|message| !message.is_empty()),
            last_transition_time: since.or(Some(Time(now))),
            observed_generation: pod.metadata.generation,
            last_probe_time: None,
        });
    }
    let own = |condition: &PodCondition| wanted_kinds().contains(&condition.type_.as_str());
    conditions.extend(old.into_iter().filter(|condition| !own(condition)));
    conditions
}

const fn wanted_kinds() -> [&'static str; 5] {
    [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::state::BackOff;
    use super::*;

    fn pod(spec: Value, status: Value) -> (Pod, State) {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let back_off = BackOff::new(Duration::from_secs(10), Duration::from_secs(300));
        let state = State::new(&pod, back_off, Timestamp::UNIX_EPOCH);
        (pod, state)
    }

    fn holds(status: &PodStatus, kind: &str) -> (String, Option<String>) {
        let condition = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (condition.status.clone(), condition.message.clone())
    }

    #[test]
    fn readiness_waits_for_containers_and_gates() {
        let spec =
            json!({"containers": [{"name": "a", "readinessProbe": {}}], "readinessGates": [{"conditionType": "x/y"}]});
        let open = json!({"type": "x/y", "status": "True"});
        let (mut pod, mut state) = pod(spec, json!({}));
        let now = Timestamp::UNIX_EPOCH;
        let facts = Facts::default();
        assert_eq!(compute(&pod, &state, &facts, now).phase.as_deref(), Some("Pending"));
        state.records[0].on_started("id".to_owned(), now);
        let status = compute(&pod, &state, &facts, now);
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let message = holds(&status, "Ready").1.unwrap();
        assert_eq!(message, "containers with unready status: [a]");
        state.records[0].ready = true;
        let status = compute(&pod, &state, &facts, now);
        assert_eq!(holds(&status, "ContainersReady").0, "True");
        assert_eq!(holds(&status, "Ready").0, "False");
        pod.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(open).unwrap()]);
        let status = compute(&pod, &state, &facts, now);
        assert_eq!(holds(&status, "Ready").0, "True");
        assert_eq!(holds(&status, "x/y").0, "True");
    }

    #[test]
    fn transitions_keep_their_time() {
        let (mut pod, mut state) = pod(json!({"containers": [{"name": "a"}]}), json!({}));
        let later = Timestamp::from_second(100).unwrap();
        pod.status = Some(compute(&pod, &state, &Facts::default(), Timestamp::UNIX_EPOCH));
        state.records[0].on_started("id".to_owned(), later);
        let status = compute(&pod, &state, &Facts::default(), later);
        let time = |kind: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions
                .find(|condition| condition.type_ == kind)
                .unwrap()
                .last_transition_time
                .clone()
                .unwrap()
                .0
        };
        assert_eq!((time("Ready"), time("PodScheduled")), (later, Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn the_phase_of_what_has_ended() {
        for (code, wanted) in [(0, "Succeeded"), (1, "Failed")] {
            let ended = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}});
            let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
            let (pod, state) = pod(spec, json!({"containerStatuses": [ended]}));
            let status = compute(&pod, &state, &Facts::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(status.phase.as_deref(), Some(wanted));
        }
    }
}
