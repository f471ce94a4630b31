//! The status of a LoadBalancer.
//!
//! Must not know: other kinds. Each condition is about one question, and none is left open in silence.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus as CoreStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubelb_api::conditions::{self, ConditionStatus, ConditionType, Observation};
use kubelb_api::names::AddressName;
use kubelb_api::v1alpha1 as api;
use serde_json::Value;

use super::{Health, Report, Reports, View, is_fatal, joined, of, sentences};
use crate::allocate::Given;
use crate::delegate;
use crate::ir::{Choice, DataPlane, LoadBalancer};
use crate::object::ObjectName;
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Answer to the question of one condition.
struct Answer {
    condition: ConditionType,
    status: ConditionStatus,
    reason: &'static str,
    message: String,
    /// It may be another one in a moment: an answer that was given stays for now.
    is_early: bool,
}

impl Answer {
    fn new(
        condition: ConditionType,
        status: impl Into<ConditionStatus>,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self {
            condition,
            status: status.into(),
            reason,
            message,
            is_early: false,
        }
    }

    fn early(mut self, is_early: bool) -> Self {
        self.is_early = is_early;
        self
    }
}

/// All of the status, `None` when it is as it should be.
pub(super) fn status(view: &View<'_>, problems: &[Problem], name: &ObjectName, now: &Time) -> Option<Value> {
    let View {
        store,
        ir,
        reports,
        given,
        ..
    } = *view;
    let object = store.load_balancers().get(name)?;
    let served = ir.load_balancer(name).map(AsRef::as_ref);
    let mut status = object.status.clone().unwrap_or_default();
    let none = Report::default();
    let report = reports.load_balancers.get(name).unwrap_or(&none);
    let elsewhere = served
        .filter(|served| served.is_delegated)
        .map(|_| delegate::told(store, object).unwrap_or_default());
    let stands_in = elsewhere
        .as_ref()
        .filter(|told| kube_proxy_serves(served, told, reports));
    let answers = [
        accepted(object, served, problems),
        resolved(problems),
        assigned(object, served, elsewhere.as_ref(), problems),
        match stands_in {
            Some(_) => Answer::new(ConditionType::Programmed, true, "KubeProxy", BY_SERVICE.to_owned()),
            None => programmed(served, reports, report),
        },
        healthy(served, problems, reports, report),
    ];
    for answer in &answers {
        if answer.is_early && conditions::get(&status.conditions, answer.condition).is_some() {
            continue;
        }
        let observation = Observation {
            condition: answer.condition,
            status: answer.status,
            reason: answer.reason,
            message: &answer.message,
            generation: object.metadata.generation,
        };
        conditions::set(&mut status.conditions, &observation, now);
    }
    let choice = |served: &LoadBalancer| match (stands_in, served.data_plane.mode) {
        (Some(_), DataPlane::Ebpf) => Choice::DELEGATED,
        _ => served.data_plane,
    };
    status.data_plane = served.map(choice).map(|choice| api::DataPlane {
        mode: match choice.mode {
            DataPlane::Ebpf => api::DataPlaneMode::Ebpf,
            DataPlane::Envoy => api::DataPlaneMode::Envoy,
            DataPlane::KubeProxy => api::DataPlaneMode::KubeProxy,
        },
        reason: Some(choice.reason.to_owned()),
    });
    match (served, given) {
        _ if elsewhere.is_some() => status.load_balancer = elsewhere.filter(has_ingress),
        (Some(served), _) if !served.addresses.is_empty() => tell_addresses(store, served, &mut status),
        (_, Given::Wished) => status.load_balancer = None,
        (_, Given::Held) => {}
    }
    if object.status.as_ref() == Some(&status) {
        return None;
    }
    serde_json::to_value(status).ok()
}

/// What is said where no node agent has anything to do with it.
const BY_SERVICE: &str = "the Service in the management cluster takes its traffic";

fn has_ingress(told: &CoreStatus) -> bool {
    told.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty())
}

/// Whether the Service of the management cluster forwards by itself: where no address is dialled at a node, and where no node agent takes a short
/// cut.
fn kube_proxy_serves(served: Option<&LoadBalancer>, told: &CoreStatus, reports: &Reports) -> bool {
    let is_cut_short = |served: &LoadBalancer| {
        let needs_more = served.data_plane.mode == DataPlane::Envoy;
        !served.listeners.is_empty() && (needs_more || reports.agents > 0)
    };
    has_ingress(told) && !served.is_some_and(is_cut_short)
}

/// Addresses that the object holds by a claim; others are told by whoever gave them.
fn tell_addresses(store: &Store, served: &LoadBalancer, status: &mut api::LoadBalancerStatus) {
    let is_claimed = |address: &IpAddr| {
        let name = AddressName::new(*address).to_string();
        store.address_claims().contains_key(&ObjectName::new("", &name))
    };
    if !served.addresses.iter().all(is_claimed) {
        return;
    }
    let ingress = served.addresses.iter().map(|address| LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    });
    status.load_balancer = Some(CoreStatus {
        ingress: Some(ingress.collect()),
    });
}

fn accepted(object: &api::LoadBalancer, served: Option<&LoadBalancer>, problems: &[Problem]) -> Answer {
    let answer = |status: bool, reason, message| Answer::new(ConditionType::Accepted, status, reason, message);
    let ours = || problems.iter().filter(of(ConditionType::Accepted));
    let said = sentences(ours(), "");
    let first = ours()
        .find(|problem| is_fatal(problem.reason))
        .or_else(|| ours().next());
    match (served, first) {
        (None, first) if object.metadata.deletion_timestamp.is_some() => answer(
            false,
            first.map_or("Deleting", |_| "Deleting"),
            "the object is being deleted".to_owned(),
        ),
        (None, first) => answer(false, first.map_or("Invalid", |problem| problem.reason.as_str()), said),
        (Some(_), _) if object.spec.ports.is_empty() => {
            answer(false, "NoPorts", "spec.ports: there is no port to serve".to_owned())
        }
        (Some(served), Some(first)) if served.listeners.is_empty() && !served.addresses.is_empty() => {
            answer(false, first.reason.as_str(), said)
        }
        (Some(_), Some(_)) => answer(true, "PartiallyInvalid", said),
        (Some(_), None) => answer(true, "Accepted", String::new()),
    }
}

fn resolved(problems: &[Problem]) -> Answer {
    let condition = ConditionType::ResolvedRefs;
    match problems.iter().find(of(condition)) {
        Some(problem) => {
            let message = sentences(problems.iter().filter(of(condition)), "");
            Answer::new(condition, false, problem.reason.as_str(), message)
        }
        None => Answer::new(condition, true, "ResolvedRefs", String::new()),
    }
}

fn assigned(
    object: &api::LoadBalancer,
    served: Option<&LoadBalancer>,
    elsewhere: Option<&CoreStatus>,
    problems: &[Problem],
) -> Answer {
    let condition = ConditionType::AddressAssigned;
    let said = sentences(problems.iter().filter(of(condition)), "");
    let first = problems
        .iter()
        .find(of(condition))
        .map(|problem| problem.reason.as_str());
    let has_addresses = served.is_some_and(|served| !served.addresses.is_empty()) || elsewhere.is_some_and(has_ingress);
    match (has_addresses, first) {
        (false, None) if elsewhere.is_some() => {
            let name = delegate::service_name(object.metadata.name.as_deref().unwrap_or_default());
            let message = format!(
                "Config.spec.addressPools is empty, so the address is asked of the Service {name} in the management cluster, which nobody has \
                 given one yet"
            );
            Answer::new(condition, false, "ServicePending", message)
        }
        (true, None) => Answer::new(condition, true, "AddressAssigned", String::new()),
        (true, Some(reason)) => Answer::new(condition, true, reason, said),
        (false, Some(reason)) => Answer::new(condition, false, reason, said),
        (false, None) if object.spec.type_ == "LoadBalancer" => {
            Answer::new(condition, false, "Pending", "no address has been given yet".to_owned())
        }
        (false, None) => {
            let message = format!("spec.type {} asks for no address", object.spec.type_);
            Answer::new(condition, false, "NotRequested", message)
        }
    }
}

fn programmed(served: Option<&LoadBalancer>, reports: &Reports, report: &Report) -> Answer {
    let answer = |status: ConditionStatus, reason, message: String| {
        Answer::new(ConditionType::Programmed, status, reason, message)
    };
    let Some(served) = served.filter(|served| !served.listeners.is_empty()) else {
        return answer(
            ConditionStatus::False,
            "NothingToServe",
            "nothing of it can be served".to_owned(),
        );
    };
    let missing = match served.data_plane.mode {
        DataPlane::KubeProxy => {
            return answer(ConditionStatus::True, "KubeProxy", BY_SERVICE.to_owned());
        }
        DataPlane::Ebpf => (reports.agents == 0).then_some(("NoNodeAgent", "no node agent is connected".to_owned())),
        DataPlane::Envoy => (!reports.fleets.contains(&served.tenant)).then(|| {
            let message = format!("no Envoy is connected, which it needs: {}", served.data_plane.reason);
            ("NoEnvoyFleet", message)
        }),
    };
    if let Some((reason, message)) = missing {
        answer(ConditionStatus::False, reason, message).early(reports.awaits)
    } else if !report.rejected.is_empty() {
        answer(ConditionStatus::False, "Rejected", joined(&report.rejected))
    } else if report.awaited {
        let message = "the data planes have not answered yet".to_owned();
        answer(ConditionStatus::False, "Pending", message).early(true)
    } else if !report.failed.is_empty() {
        answer(ConditionStatus::False, "NotForwarded", joined(&report.failed))
    } else if report.pending > 0 || report.programmed == 0 {
        let message = format!(
            "{} of {} data planes serve it",
            report.programmed,
            report.programmed + report.pending
        );
        answer(ConditionStatus::False, "Pending", message)
    } else {
        let message = format!("{} data planes serve it", report.programmed);
        answer(ConditionStatus::True, "Programmed", message)
    }
}

fn healthy(served: Option<&LoadBalancer>, problems: &[Problem], reports: &Reports, report: &Report) -> Answer {
    let condition = ConditionType::BackendsHealthy;
    let ours = || problems.iter().filter(of(condition));
    let none = ours().find(|problem| problem.reason == Reason::NoEndpoints);
    let said = |text: String| sentences(ours(), &text);
    match (served, none, report.health) {
        (None, _, _) => Answer::new(condition, ConditionStatus::Unknown, "NotServed", String::new()),
        (Some(_), Some(problem), _) => Answer::new(condition, false, problem.reason.as_str(), said(String::new())),
        (Some(served), None, None) if served.clusters.iter().all(|cluster| cluster.health_check.is_none()) => {
            let message = said("no health check is configured".to_owned());
            Answer::new(condition, ConditionStatus::Unknown, "NotChecked", message)
        }
        (Some(_), None, None | Some(Health { checked: 0, .. })) => {
            let message = said("no data plane has said anything about them".to_owned());
            let is_early = reports.awaits || report.awaited;
            Answer::new(condition, ConditionStatus::Unknown, "NoReports", message).early(is_early)
        }
        (
            Some(_),
            None,
            Some(Health {
                healthy: 0, checked, ..
            }),
        ) => {
            let message = format!("none of {checked} is healthy, so all of them get traffic");
            Answer::new(condition, false, "NoneHealthy", message)
        }
        (Some(_), None, Some(health)) => {
            let Health {
                healthy,
                checked,
                disputed,
            } = health;
            let mut text = format!("{healthy} of {checked} are healthy");
            if disputed > 0 {
                text.push_str(&format!(", and nodes do not agree about {disputed}"));
            }
            Answer::new(condition, true, "BackendsHealthy", said(text))
        }
    }
}
