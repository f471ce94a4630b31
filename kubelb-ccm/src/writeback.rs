//! LoadBalancer's status → Service's status and Events. No I/O, no clock.

pub mod layer7;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubelb_api::conditions::{ConditionStatus, ConditionType, TENANT_DELETED};
use kubelb_api::v1alpha1::LoadBalancer;

use crate::plan::{Notice, PlanError};

/// Prefix of the conditions that are set on a Service, among those of others.
const PREFIX: &str = "kubelb.k8c.io/";
/// Whether everything that the Service asks for is done.
const SUPPORTED: &str = "kubelb.k8c.io/Supported";
/// Whether the management cluster has what the Service asks for.
const SUBMITTED: &str = "kubelb.k8c.io/Submitted";
/// What a Service is told when its tenant goes.
pub(crate) const DELETED: &str = "the tenant was deleted in the management cluster, and nothing of it is served any more; one that is registered anew needs its kubeconfig here";
/// Longest message of a condition and of an event, in characters.
const MAX_MESSAGE: usize = 1_024;

/// How it went with the management cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It has what the Service asks for.
    Yes,
    /// Nothing of the Service can be served.
    Unservable(PlanError),
    /// It said no.
    Refused(String),
    /// The tenant is deleted there, and nothing of it is served any more.
    TenantDeleted,
    /// It does not take the credential; traffic goes on as it was last configured.
    Unauthorized(String),
    /// It did not answer; traffic goes on as it was last configured.
    Unreachable(String),
}

/// What a Service's status shall say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The addresses; `None`: nothing is known, so those that are there stay.
    pub load_balancer: Option<LoadBalancerStatus>,
    /// Our conditions, and no others.
    pub conditions: Vec<Condition>,
}

/// Something that happened to a Service, for its Events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Whether somebody should look at it.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What the status of a Service shall say.
#[must_use]
pub fn told(
    service: &Service,
    load_balancer: Option<&LoadBalancer>,
    submitted: &Submitted,
    notices: &[Notice],
    now: &Time,
) -> Told {
    let mut conditions = Vec::new();
    let mut say = |type_: &str, status: ConditionStatus, reason: &str, message: &str| {
        conditions.push(condition(service, type_, status.as_str(), reason, message, now));
    };
    let (status, reason, message) = match submitted {
        Submitted::Yes => (ConditionStatus::True, "Submitted", String::new()),
        Submitted::Unservable(error) => (ConditionStatus::False, "Unservable", error.to_string()),
        Submitted::Refused(why) => (ConditionStatus::False, "Refused", why.clone()),
        Submitted::TenantDeleted => (ConditionStatus::False, TENANT_DELETED, DELETED.to_owned()),
        Submitted::Unauthorized(why) => (
            ConditionStatus::Unknown,
            "CredentialRefused",
            format!("{why}; traffic goes on as it was last configured"),
        ),
        Submitted::Unreachable(why) => (
            ConditionStatus::Unknown,
            "ManagementClusterUnreachable",
            format!("{why}; traffic goes on as it was last configured"),
        ),
    };
    say(SUBMITTED, status, reason, &message);
    if notices.is_empty() {
        say(SUPPORTED, ConditionStatus::True, "Supported", "");
    } else {
        let all: Vec<String> = notices.iter().map(ToString::to_string).collect();
        say(SUPPORTED, ConditionStatus::False, "NotSupported", &all.join("; "));
    }
    // What is left of a tenant that goes says nothing of what is to come.
    let load_balancer = load_balancer.filter(|_| *submitted != Submitted::TenantDeleted);
    let status = load_balancer.and_then(|object| object.status.as_ref());
    let generation = load_balancer.and_then(|object| object.metadata.generation);
    for known in CARRIED {
        let carried = status.and_then(|status| kubelb_api::conditions::get(&status.conditions, *known));
        // What is about an older state of the object says nothing about this one.
        let Some(carried) = carried.filter(|carried| carried.observed_generation == generation) else {
            continue;
        };
        let type_ = format!("{PREFIX}{}", known.as_str());
        say(&type_, status_of(&carried.status), &carried.reason, &carried.message);
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    // An object that nobody has looked at yet says nothing of addresses.
    let is_over = *submitted == Submitted::TenantDeleted;
    let is_judged =
        is_over || status.is_some_and(|status| status.load_balancer.is_some() || !status.conditions.is_empty());
    Told {
        load_balancer: is_judged.then(|| {
            status
                .and_then(|status| status.load_balancer.clone())
                .unwrap_or_default()
        }),
        conditions,
    }
}

/// Conditions of a LoadBalancer that its Service shows as well.
const CARRIED: &[ConditionType] = &[
    ConditionType::Accepted,
    ConditionType::ResolvedRefs,
    ConditionType::AddressAssigned,
    ConditionType::Programmed,
    ConditionType::BackendsHealthy,
];

fn status_of(text: &str) -> ConditionStatus {
    match text {
        "True" => ConditionStatus::True,
        "False" => ConditionStatus::False,
        _ => ConditionStatus::Unknown,
    }
}

/// The time of transition moves with the status only.
fn condition(service: &Service, type_: &str, status: &str, reason: &str, message: &str, now: &Time) -> Condition {
    let since = of(service, type_)
        .filter(|known| known.status == status)
        .map_or_else(|| now.clone(), |known| known.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
        last_transition_time: since,
        observed_generation: service.metadata.generation.filter(|generation| *generation > 0),
    }
}

fn of<'a>(service: &'a Service, type_: &str) -> Option<&'a Condition> {
    ours(service).find(|condition| condition.type_ == type_)
}

/// The conditions that we set on a Service.
fn ours(service: &Service) -> impl Iterator<Item = &Condition> {
    let all = service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    all.filter(|condition| condition.type_.starts_with(PREFIX))
}

/// Whether a Service's status says this already. Servers that do not know `ipMode` or a port's error leave them out; that is no difference.
#[must_use]
pub fn says(service: &Service, told: &Told) -> bool {
    let mut conditions: Vec<&Condition> = ours(service).collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    let present = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let is_same = |told: &LoadBalancerStatus| {
        let present = present.and_then(|present| present.ingress.as_deref()).unwrap_or(&[]);
        let wanted = told.ingress.as_deref().unwrap_or(&[]);
        present.len() == wanted.len() && present.iter().zip(wanted).all(|(a, b)| is_same_ingress(a, b))
    };
    told.load_balancer.as_ref().is_none_or(is_same) && conditions.into_iter().eq(&told.conditions)
}

fn is_same_ingress(present: &LoadBalancerIngress, wanted: &LoadBalancerIngress) -> bool {
    present.ip == wanted.ip
        && present.hostname == wanted.hostname
        && (present.ip_mode.is_none() || present.ip_mode == wanted.ip_mode)
}

/// What is new in what a Service's status shall say, against what it says: one event for each condition whose status or reason changes, and
/// for a change of addresses.
#[must_use]
pub fn happened(service: &Service, told: &Told) -> Vec<Happened> {
    let mut events = Vec::new();
    for condition in &told.conditions {
        let before = of(service, &condition.type_);
        let is_same =
            before.is_some_and(|before| before.status == condition.status && before.reason == condition.reason);
        let is_bad = condition.status != "True";
        // That all is well is worth a word only when it was not before.
        let is_news = if is_bad {
            true
        } else {
            before.is_some_and(|before| before.status != "True")
        };
        // Not known yet is how everything starts.
        let is_silence = condition.status == "Unknown" && condition.reason != "ManagementClusterUnreachable";
        if is_same || !is_news || is_silence {
            continue;
        }
        let name = condition.type_.strip_prefix(PREFIX).unwrap_or(&condition.type_);
        events.push(Happened {
            is_warning: is_bad,
            reason: condition.reason.clone(),
            message: if condition.message.is_empty() {
                format!("{name} is {}", condition.status)
            } else {
                format!("{name} is {}: {}", condition.status, condition.message)
            },
        });
    }
    let before = addresses(service.status.as_ref().and_then(|status| status.load_balancer.as_ref()));
    let after = addresses(told.load_balancer.as_ref());
    if told.load_balancer.is_some() && before != after {
        let (is_warning, reason, message) = if after.is_empty() {
            (true, "AddressRemoved", format!("no longer reachable at {before}"))
        } else {
            (false, "AddressAssigned", format!("reachable at {after}"))
        };
        events.push(Happened {
            is_warning,
            reason: reason.to_owned(),
            message,
        });
    }
    events
}

fn addresses(status: Option<&LoadBalancerStatus>) -> String {
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    let named = ingress.filter_map(|ingress| ingress.ip.as_deref().or(ingress.hostname.as_deref()));
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
