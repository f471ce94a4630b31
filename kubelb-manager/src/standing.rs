//! What peers' acknowledgements and agents' reports come to for each LoadBalancer.
//!
//! Pure but for a few notes of times: whoever drives a [`Board`] tells it the time, the peers and which of them may tell something else. Must not know:
//! how statuses are written.

mod health;
mod layer7;
mod refusals;
mod relayed;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_api::names::TenantName;
use kubelb_xds::reports::Received;
use kubelb_xds::{ResourceType, Scope, Snapshot, Tenants};

use crate::ir::{DataPlane, Ir, LoadBalancer};
use crate::object::ObjectName;
use crate::status::{Report, Reports};
use crate::xds::server::agents::Presence;
use crate::xds::server::registry::{Behind, Concerned, Peer};
use crate::xds::{LAYER7, listener_name, object_of};
use refusals::Refusals;

/// For so long after the start, and after the last peer of a kind has left, that nobody is there is not said: it is about to come back.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// For so long a peer may take to acknowledge before that is said of the objects that it serves already.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A peer as far as it matters here.
#[derive(Clone, Debug)]
pub struct View {
    name: String,
    /// The node that an agent has proved to be on.
    node: Option<String>,
    scope: Scope,
    behind: BehindObjects,
    /// Of a peer of another manager: the objects that are not the same there. What it has taken of them says nothing.
    differing: Arc<BTreeSet<ObjectName>>,
    refusals: Refusals,
    http: layer7::Told,
    /// What its agent told, if that is everything once.
    received: Option<Arc<Received>>,
}

#[derive(Clone, Debug)]
enum BehindObjects {
    Everything,
    Objects(BTreeSet<ObjectName>),
}

impl View {
    /// A peer, with what its agent reports on the same connection; `None`: it is not there, as it is not heard. `snapshot` is what is served.
    #[must_use]
    pub fn new(peer: &Peer, report: Option<&(Presence, Arc<Received>)>, snapshot: &Arc<Snapshot>) -> Option<Self> {
        if report.is_some_and(|(presence, _)| *presence != Presence::Heard) {
            return None;
        }
        let names = behind(peer, snapshot);
        let behind = names.as_ref().map_or(BehindObjects::Everything, |names| {
            BehindObjects::Objects(names.iter().filter_map(|(_, name)| object_of(name)).collect())
        });
        let http = match &peer.identity.scope {
            // They see nothing of it.
            Scope::Agent => layer7::Told::default(),
            Scope::Fleet(_) => layer7::Told::new(names.as_deref(), &peer.rejections),
        };
        let name = match &peer.identity.node {
            Some(node) => format!("node {node}"),
            None if peer.node.is_empty() => peer.identity.subject.clone(),
            None => peer.node.clone(),
        };
        Some(Self {
            name,
            node: peer.identity.node.clone(),
            scope: peer.identity.scope.clone(),
            behind,
            differing: Arc::default(),
            refusals: Refusals::new(&peer.rejections),
            http,
            received: report
                .map(|(_, received)| Arc::clone(received))
                .filter(|received| received.is_complete()),
        })
    }

    /// The node that an agent has proved to be on.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn is_behind(&self, name: &ObjectName) -> bool {
        match &self.behind {
            BehindObjects::Everything => true,
            BehindObjects::Objects(objects) => objects.contains(name) || self.differing.contains(name),
        }
    }

    /// Whether it forwards anything of the object.
    fn serves(&self, object: &LoadBalancer) -> bool {
        let wanted = match &self.scope {
            Scope::Agent => DataPlane::Ebpf,
            Scope::Fleet(Tenants::All) => DataPlane::Envoy,
            Scope::Fleet(Tenants::Only(tenants)) if tenants.contains(object.tenant.as_str()) => DataPlane::Envoy,
            Scope::Fleet(Tenants::Only(_)) => return false,
        };
        object.listeners.iter().any(|listener| listener.data_plane == wanted)
    }
}

/// Resources.
type Names = BTreeSet<(ResourceType, Arc<str>)>;

/// What a peer has not taken of what is served; `None`: perhaps everything.
fn behind<'a>(peer: &'a Peer, snapshot: &Arc<Snapshot>) -> Option<Cow<'a, Names>> {
    let Behind::Names(names) = &peer.behind else {
        return None;
    };
    if std::ptr::eq(peer.snapshot.as_ptr(), Arc::as_ptr(snapshot)) {
        return Some(Cow::Borrowed(names));
    }
    // It is to be brought to this one in a moment: what did not change since the one before, it has.
    let older = peer.snapshot.upgrade()?;
    let change = snapshot.change_since(&older)?;
    let kinds = ResourceType::ALL.into_iter();
    let changed = kinds.flat_map(|kind| change.names(kind).iter().map(move |name| (kind, Arc::clone(name))));
    Some(Cow::Owned(names.iter().cloned().chain(changed).collect()))
}

/// What all peers come to for one object.
#[must_use]
pub fn report(object: &LoadBalancer, peers: &[View]) -> Report {
    let mut report = Report::default();
    let listeners: Vec<String> = object
        .listeners
        .iter()
        .map(|listener| listener_name(object, &listener.frontend))
        .collect();
    let mut rejected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut failed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut voters: Vec<&Arc<Received>> = Vec::new();
    for peer in peers.iter().filter(|peer| peer.serves(object)) {
        let is_behind = peer.is_behind(&object.name);
        let told = peer.received.as_ref().filter(|_| !is_behind);
        voters.extend(told);
        let mut problems = told.into_iter().flat_map(|received| {
            let known = listeners.iter().filter_map(|name| received.standing(name));
            known.map(|known| &*known.problem).filter(|problem| !problem.is_empty())
        });
        if let Some(reason) = peer.refusals.of(&object.name) {
            rejected.entry(reason).or_default().push(&peer.name);
        } else if is_behind {
            report.pending += 1;
        } else if let Some(problem) = problems.next() {
            failed.entry(problem).or_default().push(&peer.name);
        } else {
            report.programmed += 1;
        }
    }
    report.rejected = sentences(&rejected);
    report.failed = sentences(&failed);
    report.health = health::of(object, &listeners, &voters);
    report
}

/// Each text once, with those who say it.
fn sentences(said: &BTreeMap<&str, Vec<&str>>) -> Vec<String> {
    let sentence = |(text, peers): (&&str, &Vec<&str>)| match peers.as_slice() {
        [] => (*text).to_owned(),
        [peer] => format!("{peer}: {text}"),
        [peer, others @ ..] => format!("{peer} and {} others: {text}", others.len()),
    };
    said.iter().map(sentence).collect()
}

/// Keeps what was found of each object, so that a change costs what it is about.
#[derive(Debug)]
pub struct Board {
    reports: BTreeMap<ObjectName, Report>,
    /// Objects with peers that have not answered.
    pending: BTreeMap<ObjectName, Pending>,
    agents: usize,
    fleets: BTreeSet<TenantName>,
    http: layer7::Tenants,
    /// Since when somebody who is expected is not there.
    missed: Instant,
    awaits: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Instant,
    /// It has been for too long, which is said.
    is_said: bool,
}

impl Board {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            reports: BTreeMap::new(),
            pending: BTreeMap::new(),
            agents: 0,
            fleets: BTreeSet::new(),
            http: layer7::Tenants::default(),
            missed: now,
            awaits: true,
        }
    }

    /// When to look again although nothing has changed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unsaid = self.pending.values().filter(|pending| !pending.is_said);
        let waits = unsaid.map(|pending| pending.since + ANSWER_TIME).min();
        let patience = self.awaits.then(|| self.missed + PATIENCE);
        waits.into_iter().chain(patience).chain(self.http.poll_timeout()).min()
    }

    /// Looks at what `concerned` names, at objects (and resources of layer 7) whose configuration changed, and at those that have waited for long enough. Answers with
    /// what all is now, of objects only those of which something is to be told, and which these are.
    pub fn look(
        &mut self,
        ir: &Ir,
        peers: &[View],
        concerned: &Concerned,
        changed: &BTreeSet<ObjectName>,
        now: Instant,
    ) -> (Reports, BTreeSet<ObjectName>) {
        let is_layer7 = |name: &ObjectName| &*name.namespace == LAYER7;
        let (http, changed): (BTreeSet<ObjectName>, BTreeSet<ObjectName>) =
            changed.iter().cloned().partition(is_layer7);
        let mut about = changed.clone();
        about.extend(concerned.objects.iter().cloned());
        about.extend(concerned.names.iter().filter_map(|name| object_of(name)));
        let is_overdue = |pending: &Pending| !pending.is_said && pending.since + ANSWER_TIME <= now;
        let overdue = self.pending.iter().filter(|(_, pending)| is_overdue(pending));
        about.extend(overdue.map(|(name, _)| name.clone()));
        let is_for_all = self.count(ir, peers, now);
        if is_for_all || concerned.everything {
            about.extend(ir.load_balancers().map(|object| object.name.clone()));
            about.extend(self.reports.keys().cloned());
        }
        let mut answer = Reports {
            agents: self.agents,
            fleets: self.fleets.clone(),
            awaits: self.awaits,
            load_balancers: BTreeMap::new(),
            http: self.http.look(ir, peers, &http, now),
        };
        about.retain(|name| {
            let report = ir.load_balancer(name).map(|object| report(object, peers));
            let differs = self.note(name, report.clone(), now);
            let is_told = differs || is_for_all || changed.contains(name);
            if is_told && let Some(report) = self.reports.get(name) {
                answer.load_balancers.insert(name.clone(), report.clone());
            }
            is_told
        });
        (answer, about)
    }

    /// Notes who is there. True when that changes what is said of all.
    fn count(&mut self, ir: &Ir, peers: &[View], now: Instant) -> bool {
        let agents = peers.iter().filter(|peer| peer.scope == Scope::Agent).count();
        let fleets: BTreeSet<TenantName> = ir
            .tenants
            .keys()
            .filter(|tenant| peers.iter().any(|peer| sees(&peer.scope, tenant)))
            .cloned()
            .collect();
        let lost = (agents == 0 && self.agents > 0) || !self.fleets.is_subset(&fleets);
        if lost {
            self.missed = now;
        }
        let awaits = (self.awaits || lost) && now < self.missed + PATIENCE;
        let changed = (self.agents == 0) != (agents == 0) || self.fleets != fleets || self.awaits != awaits;
        self.awaits = awaits;
        self.agents = agents;
        self.fleets = fleets;
        changed
    }

    /// True when something else is to be told of an object.
    fn note(&mut self, name: &ObjectName, report: Option<Report>, now: Instant) -> bool {
        let Some(mut report) = report else {
            self.pending.remove(name);
            return self.reports.remove(name).is_some();
        };
        if report.pending == 0 {
            self.pending.remove(name);
        } else {
            let pending = self.pending.entry(name.clone()).or_insert(Pending {
                since: now,
                is_said: false,
            });
            pending.is_said |= pending.since + ANSWER_TIME <= now;
            report.awaited = !pending.is_said;
        }
        if self.reports.get(name) == Some(&report) {
            return false;
        }
        self.reports.insert(name.clone(), report);
        true
    }
}

fn sees(scope: &Scope, tenant: &TenantName) -> bool {
    match scope {
        Scope::Agent => false,
        Scope::Fleet(Tenants::All) => true,
        Scope::Fleet(Tenants::Only(tenants)) => tenants.contains(tenant.as_str()),
    }
}

#[cfg(test)]
mod tests;
