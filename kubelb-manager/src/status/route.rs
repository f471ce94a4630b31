//! The status of a Route, and of the tenant's object in it: that of a Gateway with its listeners, or of a route with its parents.
//!
//! Must not know: how it was decided. The tenant's object is told about its own generation, the Route about the Route's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kubelb_api::conditions::{self, ConditionStatus, ConditionType, Observation};
use kubelb_api::gateway_api::CONTROLLER_NAME;
use kubelb_api::names::TenantName;
use serde_json::{Map, Value, json};

use super::{HttpReport, View, joined, of, sentences};
use crate::allocate;
use crate::ir::http::{GatewayOutcome, ListenerOutcome, Outcome, ParentOutcome, RouteOutcome, Verdict};
use crate::object::ObjectName;
use crate::problem::Problem;

/// Conditions of one thing, as they were and as they become.
struct Conditions<'a> {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: &'a Time,
}

impl<'a> Conditions<'a> {
    fn new(before: Option<&Value>, generation: Option<i64>, now: &'a Time) -> Self {
        let before = before.and_then(|of| of.get("conditions")).cloned();
        Self {
            list: before
                .and_then(|list| serde_json::from_value(list).ok())
                .unwrap_or_default(),
            generation,
            now,
        }
    }

    fn set(&mut self, condition: ConditionType, verdict: &Verdict) {
        self.tell(condition, verdict.holds.into(), verdict.reason, &verdict.message);
    }

    fn tell(&mut self, condition: ConditionType, status: ConditionStatus, reason: &str, message: &str) {
        let observation = Observation {
            condition,
            status,
            reason,
            message,
            generation: self.generation,
        };
        conditions::set(&mut self.list, &observation, self.now);
    }

    fn remove(&mut self, condition: ConditionType) {
        self.list.retain(|known| known.type_ != condition.as_str());
    }
}

/// Whether there will be another answer in a moment. Until then nothing is told, so that a change is told of once.
pub(super) fn is_early(view: &View<'_>, name: &ObjectName) -> bool {
    let (outcome, served) = known(view, name);
    outcome.is_some_and(|outcome| resources(outcome).any(|used| served.programmed(used).1))
}

/// Whether something else is to be told of an outcome than before these reports. What is answered later is of no concern.
pub(super) fn is_concerned(outcome: &Outcome, before: Option<&HttpReport>, now: Option<&HttpReport>) -> bool {
    resources(outcome).any(|used| told(before, used) != told(now, used))
}

/// Resources that something is served by.
#[derive(Clone, Copy)]
struct Used<'a> {
    /// Listeners, tables, certificates and authorities.
    own: &'a [Arc<str>],
    /// Where they lead to. Only what is refused of these is told: they change with every Pod.
    clusters: &'a [Arc<str>],
}

impl<'a> Used<'a> {
    const fn by_listener(own: &'a [Arc<str>]) -> Self {
        Self { own, clusters: &[] }
    }
}

/// What is or will be told of resources.
fn told<'a>(report: Option<&'a HttpReport>, used: Used<'_>) -> Standing<'a> {
    match report.map(|report| report.standing(used)) {
        None => Standing::Pending,
        Some(Standing::Awaited) => Standing::Served,
        Some(other) => other,
    }
}

/// What an outcome is served by, listener by listener and parent by parent.
fn resources(outcome: &Outcome) -> impl Iterator<Item = Used<'_>> {
    let (listeners, parents, clusters) = match outcome {
        Outcome::Refused(_) => (&[][..], &[][..], &[][..]),
        Outcome::Gateway(gateway) => (gateway.listeners.as_slice(), &[][..], &[][..]),
        Outcome::Route(route) => (&[][..], route.parents.as_slice(), route.clusters.as_slice()),
    };
    let listeners = listeners.iter().filter(|listener| listener.accepted.holds);
    let parents = parents.iter().filter(|parent| parent.accepted.holds);
    let all = listeners
        .map(|listener| Used::by_listener(&listener.resources))
        .chain(parents.map(move |parent| Used {
            own: &parent.tables,
            clusters,
        }));
    all.filter(|used| !used.own.is_empty())
}

fn known<'a>(view: &View<'a>, name: &ObjectName) -> (Option<&'a Outcome>, Served<'a>) {
    let tenant = TenantName::from_namespace(&name.namespace);
    let http = tenant.as_ref().and_then(|tenant| view.ir.http(tenant));
    let outcome = http.and_then(|http| http.outcomes.get(&name.name));
    let report = tenant.as_ref().and_then(|tenant| view.reports.http.get(tenant));
    let served = Served {
        report,
        has_fleet: tenant.is_some_and(|tenant| view.reports.fleets.contains(&tenant)),
        awaits: view.reports.awaits,
    };
    (outcome.map(AsRef::as_ref), served)
}

/// All of the status, `None` when it is as it should be.
pub(super) fn status(view: &View<'_>, problems: &[Problem], name: &ObjectName, now: &Time) -> Option<Value> {
    let object = view.store.routes().get(name)?;
    if is_early(view, name) {
        return None;
    }
    let (outcome, served) = known(view, name);
    let mut status = object.status.clone().unwrap_or_default();
    let mut own = Conditions {
        list: std::mem::take(&mut status.conditions),
        generation: object.metadata.generation,
        now,
    };
    let resource = object
        .spec
        .source
        .as_ref()
        .and_then(|source| source.kubernetes.as_ref()?.resource.as_ref());
    let mut resources = status.resources.take().unwrap_or_default();
    let mut state = resources.route.take().unwrap_or_default();
    if let Some(resource) = resource {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        state.api_version = text(resource.api_version());
        state.kind = text(resource.kind());
        state.name = text(resource.name());
        state.namespace = text(resource.namespace());
    }
    let before = state.status.take().map(|status| Value::Object(status.fields()));
    let before = before.unwrap_or_default();
    let told = match outcome {
        None => {
            let whole = sentences(problems.iter(), "the object is not served");
            let reason = problems.first().map_or("Invalid", |problem| problem.reason.as_str());
            own.tell(ConditionType::Accepted, ConditionStatus::False, reason, &whole);
            own.set(ConditionType::Programmed, &nothing());
            Map::new()
        }
        Some(Outcome::Refused(verdict)) => {
            own.set(ConditionType::Accepted, verdict);
            own.set(ConditionType::Programmed, &nothing());
            Map::new()
        }
        Some(Outcome::Gateway(gateway)) => of_gateway(gateway, problems, &served, &before, &mut own),
        Some(Outcome::Route(route)) => of_route(route, problems, &served, &before, &mut own),
    };
    state.status = (!told.is_empty()).then(|| told.into());
    resources.source = Some("kubernetes".to_owned());
    resources.route = Some(state);
    status.resources = Some(resources);
    status.conditions = own.list;
    if object.status.as_ref() == Some(&status) {
        return None;
    }
    serde_json::to_value(status).ok()
}

fn nothing() -> Verdict {
    Verdict::no("NothingToServe", "nothing of it is served")
}

/// What data planes say of a tenant.
struct Served<'a> {
    report: Option<&'a HttpReport>,
    has_fleet: bool,
    awaits: bool,
}

impl Served<'_> {
    /// Whether all of these resources are served; early: it may be another answer in a moment.
    fn programmed(&self, used: Used<'_>) -> (Verdict, bool) {
        if !self.has_fleet {
            let message = "no Envoy of the tenant is connected";
            return (Verdict::no("NoEnvoyFleet", message), self.awaits);
        }
        let Some(report) = self.report else {
            return (Verdict::no("Pending", "Envoy has not answered yet"), true);
        };
        match report.standing(used) {
            Standing::Rejected(texts) => {
                let texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
                (Verdict::no("Invalid", joined(&texts)), false)
            }
            Standing::Awaited => (Verdict::no("Pending", "Envoy has not answered yet"), true),
            Standing::Pending => (Verdict::no("Pending", "Envoy has not answered yet"), false),
            Standing::Served => (Verdict::yes("Programmed"), false),
        }
    }
}

/// How resources are taken by all who see them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing<'a> {
    Served,
    /// It may be answered at any moment.
    Awaited,
    Pending,
    Rejected(Vec<&'a str>),
}

impl HttpReport {
    fn standing(&self, used: Used<'_>) -> Standing<'_> {
        let all = used.own.iter().chain(used.clusters);
        let rejected = all.filter_map(|name| self.rejected.get(name));
        let rejected: Vec<&str> = rejected.map(String::as_str).collect();
        if !rejected.is_empty() {
            return Standing::Rejected(rejected);
        }
        let is_among = |names: &BTreeSet<Arc<str>>| used.own.iter().any(|name| names.contains(name));
        let is_overdue = is_among(&self.overdue) || (self.everything_pending && !self.awaited);
        match self.everything_pending || is_among(&self.pending) {
            true if is_overdue => Standing::Pending,
            true => Standing::Awaited,
            false => Standing::Served,
        }
    }
}

fn of_gateway(
    gateway: &GatewayOutcome,
    problems: &[Problem],
    served: &Served<'_>,
    before: &Value,
    own: &mut Conditions<'_>,
) -> Map<String, Value> {
    let now = own.now;
    let mut conditions = Conditions::new(Some(before), gateway.generation, now);
    let is_bad = |listener: &ListenerOutcome| !listener.accepted.holds || !listener.resolved.holds;
    let bad: Vec<&str> = gateway
        .listeners
        .iter()
        .filter(|one| is_bad(one))
        .map(|one| one.name.as_str())
        .collect();
    let any_served = gateway.listeners.iter().any(|listener| listener.accepted.holds);
    let accepted = if gateway.accepted.holds && !bad.is_empty() {
        Verdict {
            holds: any_served,
            reason: "ListenersNotValid",
            message: format!("listeners that are not served as they are: {}", bad.join(", ")),
        }
    } else {
        gateway.accepted.clone()
    };
    conditions.set(ConditionType::Accepted, &accepted);
    own.set(ConditionType::Accepted, &accepted);
    let all: Vec<Arc<str>> = gateway
        .listeners
        .iter()
        .flat_map(|one| one.resources.iter().cloned())
        .collect();
    let ours = || problems.iter().filter(of(ConditionType::AddressAssigned));
    let asked = || ours().filter(|problem| !problem.field.is_empty());
    let programmed = if !accepted.holds {
        Verdict::no("Invalid", accepted.message.clone())
    } else if asked().next().is_some() {
        Verdict::no("AddressNotUsable", unusable(asked(), &gateway.addresses))
    } else if gateway.addresses.is_empty() {
        Verdict::no("AddressNotAssigned", sentences(ours(), "no address has been given yet"))
    } else {
        served.programmed(Used::by_listener(&all)).0
    };
    conditions.set(ConditionType::Programmed, &programmed);
    own.set(ConditionType::Programmed, &programmed);
    if gateway.insecure_fallback {
        let message = "clients are let in without a certificate that can be verified (mode AllowInsecureFallback)";
        let holds = ConditionStatus::True;
        conditions.tell(
            ConditionType::InsecureFrontendValidationMode,
            holds,
            "ConfigurationChanged",
            message,
        );
    } else {
        conditions.remove(ConditionType::InsecureFrontendValidationMode);
    }
    let known = before.get("listeners").and_then(Value::as_array);
    let listeners = gateway.listeners.iter().map(|listener| {
        let mut known = known.into_iter().flatten();
        let before = known.find(|one| one.get("name").and_then(Value::as_str) == Some(&listener.name));
        let mut conditions = Conditions::new(before, gateway.generation, now);
        conditions.set(ConditionType::Accepted, &listener.accepted);
        conditions.set(ConditionType::Conflicted, &listener.conflicted);
        conditions.set(ConditionType::ResolvedRefs, &listener.resolved);
        let programmed = if !listener.accepted.holds {
            Verdict::no("Invalid", listener.accepted.message.clone())
        } else if listener.resources.is_empty() && !gateway.addresses.is_empty() {
            Verdict::no("Invalid", listener.resolved.message.clone())
        } else if gateway.addresses.is_empty() {
            Verdict::no("Pending", "the Gateway has no address")
        } else {
            served.programmed(Used::by_listener(&listener.resources)).0
        };
        conditions.set(ConditionType::Programmed, &programmed);
        json!({
            "name": listener.name,
            "supportedKinds": listener.kinds,
            "attachedRoutes": listener.attached,
            "conditions": conditions.list,
        })
    });
    let listeners: Vec<Value> = listeners.collect();
    let addresses: Vec<Value> = gateway
        .addresses
        .iter()
        .map(|address| json!({"type": "IPAddress", "value": address.to_string()}))
        .collect();
    Map::from_iter([
        ("addresses".to_owned(), addresses.into()),
        ("listeners".to_owned(), listeners.into()),
        ("conditions".to_owned(), json!(conditions.list)),
    ])
}

/// What the tenant is told of addresses that its Gateway asks for and cannot have. It keeps the others.
fn unusable<'a>(problems: impl Iterator<Item = &'a Problem>, kept: &[IpAddr]) -> String {
    // The tenant knows its own object, not the Route around it.
    let said = sentences(problems, "").replace(&format!("{}.", allocate::RESOURCE), "");
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let meanwhile = if kept.is_empty() {
        String::new()
    } else {
        format!("; until then it is served at {}", kept.join(", "))
    };
    format!("{said}; ask for another address, or for none to get one of a pool{meanwhile}")
}

fn of_route(
    route: &RouteOutcome,
    problems: &[Problem],
    served: &Served<'_>,
    before: &Value,
    own: &mut Conditions<'_>,
) -> Map<String, Value> {
    let now = own.now;
    let known = before.get("parents").and_then(Value::as_array);
    let parents = route.parents.iter().map(|parent| {
        let reference = json!(parent.parent);
        let before = known
            .into_iter()
            .flatten()
            .find(|one| one.get("parentRef") == Some(&reference));
        let mut conditions = Conditions::new(before, route.generation, now);
        conditions.set(ConditionType::Accepted, &parent.accepted);
        conditions.set(ConditionType::ResolvedRefs, &parent.resolved);
        match &parent.partial {
            Some(partial) => conditions.set(ConditionType::PartiallyInvalid, partial),
            None => conditions.remove(ConditionType::PartiallyInvalid),
        }
        conditions.set(ConditionType::Programmed, &programmed(route, parent, served));
        json!({"parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": conditions.list})
    });
    let parents: Vec<Value> = parents.collect();
    let attached: Vec<&ParentOutcome> = route.parents.iter().filter(|parent| parent.accepted.holds).collect();
    let shown = attached.first().copied().or(route.parents.first());
    let none = || {
        Verdict::no(
            "NoMatchingParent",
            sentences(problems.iter(), "no Gateway of ours is a parent of it"),
        )
    };
    own.set(
        ConditionType::Accepted,
        &shown.map_or_else(none, |parent| parent.accepted.clone()),
    );
    if let Some(parent) = shown {
        own.set(ConditionType::ResolvedRefs, &parent.resolved);
    }
    let mut all: BTreeMap<bool, Verdict> = BTreeMap::new();
    for parent in &attached {
        let answer = programmed(route, parent, served);
        all.entry(answer.holds).or_insert(answer);
    }
    own.set(
        ConditionType::Programmed,
        &all.into_values().next().unwrap_or_else(nothing),
    );
    if parents.is_empty() {
        return Map::new();
    }
    Map::from_iter([("parents".to_owned(), parents.into())])
}

fn programmed(route: &RouteOutcome, parent: &ParentOutcome, served: &Served<'_>) -> Verdict {
    if !parent.accepted.holds {
        Verdict::no("Invalid", parent.accepted.message.clone())
    } else if parent.tables.is_empty() {
        Verdict::no("Pending", "the Gateway serves nothing yet")
    } else {
        let used = Used {
            own: &parent.tables,
            clusters: &route.clusters,
        };
        served.programmed(used).0
    }
}
