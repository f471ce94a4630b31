//! What objects are told about themselves: conditions, addresses, and what forwards their traffic.
//!
//! A patch is made only where something changes. Must not know: how it is written, and by whom.

mod load_balancer;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubelb_api::conditions::{self, ConditionStatus, ConditionType, Observation};
use kubelb_api::names::TenantName;
use serde::Serialize;
use serde_json::Value;

use crate::allocate::Given;
use crate::ir::Ir;
use crate::ir::http::Outcome;
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Problems shown in one condition; the rest is counted.
const MAX_SHOWN: usize = 8;
/// Longest message of a condition, in bytes (the API's limit is 32,768).
const MAX_MESSAGE: usize = 4_096;

/// Problems by object.
pub type Problems = BTreeMap<ObjectKey, Vec<Problem>>;

/// A new status of one object, as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusPatch {
    /// The object.
    pub object: ObjectKey,
    /// All of its status.
    pub status: Value,
}

/// What data planes tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Node agents that are connected.
    pub agents: usize,
    /// Tenants with an Envoy that is connected.
    pub fleets: BTreeSet<TenantName>,
    /// Somebody who is not there is expected to come: that nobody is there is not said yet of objects that were told otherwise.
    pub awaits: bool,
    /// What is known of each object.
    pub load_balancers: BTreeMap<ObjectName, Report>,
    /// What is known of layer 7 of each tenant.
    pub http: BTreeMap<TenantName, HttpReport>,
}

/// What a tenant's Envoys tell of layer 7.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpReport {
    /// Some Envoy has not acknowledged these resources.
    pub pending: BTreeSet<Arc<str>>,
    /// Those among them that it was to acknowledge by now; the others may be at any moment.
    pub overdue: BTreeSet<Arc<str>>,
    /// Some Envoy has acknowledged nothing yet.
    pub everything_pending: bool,
    /// It may do so at any moment.
    pub awaited: bool,
    /// Resources that an Envoy refused, with its text.
    pub rejected: BTreeMap<Arc<str>, String>,
}

/// What data planes tell of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Peers that serve it as it is.
    pub programmed: usize,
    /// Peers that have not answered yet.
    pub pending: usize,
    /// Those that have not answered may do so at any moment: an object that was told that it is served is not told otherwise yet.
    pub awaited: bool,
    /// What peers refused, and why.
    pub rejected: Vec<String>,
    /// Why peers do not forward what they took.
    pub failed: Vec<String>,
    /// Endpoints that are checked, and how many of them are healthy.
    pub health: Option<Health>,
}

/// How many endpoints are healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Healthy ones.
    pub healthy: usize,
    /// All that are checked.
    pub checked: usize,
    /// Those of which agents do not say the same.
    pub disputed: usize,
}

/// What statuses are computed from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The objects, with the statuses that they have.
    pub store: &'a Store,
    /// What is served.
    pub ir: &'a Ir,
    /// What is wrong.
    pub problems: &'a Problems,
    /// What data planes tell.
    pub reports: &'a Reports,
    /// What addresses of statuses mean.
    pub given: Given,
}

/// Whether nothing is told of a Route because there will be another answer in a moment.
pub(crate) fn is_early(view: &View<'_>, name: &ObjectName) -> bool {
    route::is_early(view, name)
}

/// Whether these reports of a tenant change what is told of a Route that was told of.
pub(crate) fn is_concerned(outcome: &Outcome, before: Option<&HttpReport>, now: Option<&HttpReport>) -> bool {
    route::is_concerned(outcome, before, now)
}

/// Computes the status of `objects`, and says where it differs from what they have.
#[must_use]
pub fn compute(view: &View<'_>, objects: impl IntoIterator<Item = ObjectKey>, now: &Time) -> Vec<StatusPatch> {
    let store = view.store;
    let one = |object: ObjectKey| {
        let problems = view.problems.get(&object).map_or(&[][..], Vec::as_slice);
        let status = match object.kind {
            Kind::LoadBalancer => load_balancer::status(view, problems, &object.name, now),
            Kind::Route => route::status(view, problems, &object.name, now),
            Kind::Addresses => {
                let object = store.addresses().get(&object.name)?;
                let mut status = object.status.clone().unwrap_or_default();
                let changed = accepted(&mut status.conditions, object.metadata.generation, problems, now);
                changed.then(|| serde_json::to_value(status).ok()).flatten()
            }
            Kind::Config => {
                let object = store.configs().get(&object.name)?;
                let mut status = object.status.clone().unwrap_or_default();
                let changed = accepted(&mut status.conditions, object.metadata.generation, problems, now);
                changed.then(|| serde_json::to_value(status).ok()).flatten()
            }
            // Their statuses belong to those who make what they stand for.
            Kind::Tenant | Kind::AddressClaim | Kind::VirtualAddressOwner | Kind::SyncSecret | Kind::Service => None,
        }?;
        Some(StatusPatch { object, status })
    };
    objects.into_iter().filter_map(one).collect()
}

/// The one condition of an object of which every part counts by itself.
fn accepted(conditions: &mut Vec<Condition>, generation: Option<i64>, problems: &[Problem], now: &Time) -> bool {
    let whole = problems.iter().find(|problem| problem.field.is_empty());
    let (status, reason) = match (whole, problems) {
        (Some(problem), _) => (ConditionStatus::False, problem.reason.as_str()),
        (None, []) => (ConditionStatus::True, "Accepted"),
        (None, [_, ..]) => (ConditionStatus::True, "PartiallyInvalid"),
    };
    let message = sentences(problems.iter(), "");
    let observation = Observation {
        condition: ConditionType::Accepted,
        status,
        reason,
        message: &message,
        generation,
    };
    conditions::set(conditions, &observation, now)
}

/// Problems in a row, `otherwise` when there are none.
fn sentences<'a>(problems: impl Iterator<Item = &'a Problem>, otherwise: &str) -> String {
    let mut text = String::new();
    let mut left_out = 0_usize;
    for (index, problem) in problems.enumerate() {
        let sentence = if problem.field.is_empty() {
            problem.message.clone()
        } else {
            format!("{}: {}", problem.field, problem.message)
        };
        // One that is too long by itself still says which field it is about.
        let sentence: String = if index == 0 && sentence.len() > MAX_MESSAGE {
            sentence.chars().take(MAX_MESSAGE / 4).chain(['…']).collect()
        } else {
            sentence
        };
        if index >= MAX_SHOWN || text.len() + sentence.len() > MAX_MESSAGE {
            left_out += 1;
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&sentence);
    }
    if left_out > 0 {
        text.push_str(&format!("; and {left_out} more"));
    }
    if text.is_empty() { otherwise.to_owned() } else { text }
}

fn of(condition: ConditionType) -> impl Fn(&&Problem) -> bool {
    move |problem| problem.reason.condition() == condition
}

/// Reasons that leave nothing of an object.
const fn is_fatal(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotATenant | Reason::TenantNotFound | Reason::Disabled | Reason::ConfigInvalid | Reason::Malformed
    )
}

/// As many as are read, and no more than a condition takes.
fn joined(texts: &[String]) -> String {
    let mut message = texts.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if let Some(more) = texts.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        message.push_str(&format!("; and {more} more"));
    }
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message
}
