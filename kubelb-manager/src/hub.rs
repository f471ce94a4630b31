//! The functions joined: objects in; claims, resources and statuses out. Time is an argument, and nothing here does I/O.
//!
//! Owns what has to be kept between two calls so that the next one costs what changed, not everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubelb_api::names::{AddressName, DEFAULT_CONFIG, TenantName};
use kubelb_api::v1alpha1::{AddressClaim, VirtualAddressOwner};
use kubelb_xds::Snapshot;
use serde_json::Value;

use crate::allocate::{self, Given};
use crate::delegate;
use crate::ir::http::ProcessSettings;
use crate::ir::{Builder, Ir};
use crate::object::{Kind, Object, ObjectKey, ObjectName};
use crate::owners::{self, Nodes};
use crate::problem::Problem;
use crate::status::{self, HttpReport, Problems, Report, Reports, StatusPatch};
use crate::store::{Objects, Seen, Store};
use crate::xds;

/// What there is to write after a change. The claims come first: nothing may be served from an address before it is on record whose it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Claims that are over.
    pub claims_over: BTreeSet<AddressName>,
    /// Claims that are new or changed.
    pub claims: Vec<AddressClaim>,
    /// Statuses that are new or changed.
    pub statuses: Vec<StatusPatch>,
    /// Objects that are gone, with their statuses.
    pub gone: BTreeSet<ObjectKey>,
    /// Objects whose problems changed.
    pub problems: BTreeSet<ObjectKey>,
    /// LoadBalancers whose part of the configuration changed: what data planes told of them is about the one before.
    pub load_balancers: BTreeSet<ObjectName>,
    /// Tenants whose layer 7 changed.
    pub http: BTreeSet<TenantName>,
}

/// Keeps the configuration of all objects.
#[derive(Clone, Debug)]
pub struct Hub {
    namespace: String,
    given: Given,
    /// Whether claims and statuses are written here.
    leads: bool,
    /// Whether addresses are given out.
    plans: bool,
    /// Whether the source has the statuses that are written; else they are kept here.
    source_keeps: bool,
    /// Everything is to be looked at again by the next call of [`Self::settle`].
    is_all_due: bool,
    /// Whether nodes are chosen for addresses.
    announces: bool,
    /// The nodes that owners of addresses were last chosen among, unless they are to be chosen again.
    owned_by: Option<Nodes>,
    store: Store,
    builder: Builder,
    snapshot: Snapshot,
    reports: Reports,
    /// Problems of addresses, which the builder does not know.
    allocation: Problems,
    /// The LoadBalancers that the last allocation saw.
    allocated: Objects<kubelb_api::v1alpha1::LoadBalancer>,
    /// What Gateways wanted then.
    gateways: BTreeMap<ObjectName, allocate::GatewayWant>,
    /// Statuses as they were last written, as JSON: a tree of values would take several times the memory.
    statuses: BTreeMap<ObjectKey, Box<str>>,
    /// Routes of which nothing is told until Envoys have answered.
    early: BTreeSet<ObjectName>,
}

impl Hub {
    /// Without objects. `namespace` is the manager's, where the Config is.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            given: Given::Held,
            leads: true,
            plans: true,
            source_keeps: false,
            is_all_due: false,
            announces: true,
            owned_by: None,
            store: Store::default(),
            builder: Builder::new(namespace),
            snapshot: Snapshot::default(),
            reports: Reports::default(),
            allocation: Problems::new(),
            allocated: Objects::new(),
            gateways: BTreeMap::new(),
            statuses: BTreeMap::new(),
            early: BTreeSet::new(),
        }
    }

    /// As [`Self::new`], for objects of an API server, which has the statuses and whose claims alone say whose an address is. It writes
    /// nothing before it [leads](Self::lead).
    #[must_use]
    pub fn of_cluster(namespace: &str) -> Self {
        Self {
            given: Given::Wished,
            leads: false,
            source_keeps: true,
            builder: Builder::new(namespace).with(Given::Wished),
            ..Self::new(namespace)
        }
    }

    /// Whether claims and statuses are written here from now on. Who begins to looks at everything once.
    pub fn lead(&mut self, leads: bool) {
        self.is_all_due |= leads && !self.leads;
        self.leads = leads;
    }

    /// Whether addresses are given out from now on; while claims cannot be written they are not. Who begins to looks at everything once.
    pub fn plan_addresses(&mut self, plans: bool) {
        self.is_all_due |= plans && !self.plans;
        self.plans = plans;
    }

    /// Chooses who announces each address, among `nodes`; what there is to write, and then to [settle](Self::settle).
    pub fn own(&mut self, nodes: Nodes, now: &Time) -> owners::Plan {
        if !self.leads || !self.announces || self.owned_by.as_ref() == Some(&nodes) {
            return owners::Plan::default();
        }
        // Who gave an address away announces it: that is kubelb where there is a claim, or no API server to keep one.
        let is_ours = |address: &IpAddr| {
            let name = ObjectName::new("", &AddressName::new(*address).to_string());
            self.given == Given::Held || self.store.address_claims().contains_key(&name)
        };
        let served = self.builder.ir().addresses.keys().copied().filter(is_ours);
        let plan = owners::plan(&self.store, served, &nodes, now.0.as_second());
        for owner in &plan.write {
            self.store.apply(Ok(Object::VirtualAddressOwner(owner.clone().into())));
        }
        for name in &plan.over {
            let key = ObjectKey::new(Kind::VirtualAddressOwner, "", &name.to_string());
            self.store.delete(&key);
        }
        self.owned_by = Some(nodes);
        plan
    }

    /// Whether a node is chosen for each address. If not, those count that somebody else has chosen, such as a manifest.
    pub fn announce(&mut self, announces: bool) {
        self.announces = announces;
    }

    /// Owners are to be chosen again, though the nodes may be the same.
    pub fn own_again(&mut self) {
        self.owned_by = None;
    }

    /// What was written last of the status of an object is what its source has by now, or will never have.
    pub fn forget_status(&mut self, key: &ObjectKey) {
        self.statuses.remove(key);
    }

    /// Takes in what an earlier process wrote.
    pub fn restore(
        &mut self,
        claims: Vec<AddressClaim>,
        owners: Vec<VirtualAddressOwner>,
        statuses: BTreeMap<ObjectKey, Value>,
    ) {
        for claim in claims {
            self.store.apply(Ok(Object::AddressClaim(claim.into())));
        }
        for owner in owners {
            self.store.apply(Ok(Object::VirtualAddressOwner(owner.into())));
        }
        let statuses = statuses.into_iter();
        self.statuses = statuses.map(|(key, status)| (key, status.to_string().into())).collect();
    }

    /// Takes in an object: it has the status that was last written for it, unless that is [forgotten](Self::forget_status).
    pub fn apply(&mut self, seen: Seen) -> bool {
        let seen = seen.map(|object| self.with_status(object));
        self.store.apply(seen)
    }

    /// Takes in that an object is gone.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        self.store.delete(key)
    }

    /// Data planes are about to connect, or to be told of: what objects were told of them stays, until [`Self::report`] says more.
    pub fn await_peers(&mut self) {
        self.reports.awaits = true;
        for report in self.reports.load_balancers.values_mut() {
            *report = Report {
                awaited: true,
                ..Report::default()
            };
        }
        for report in self.reports.http.values_mut() {
            report.everything_pending = true;
            report.awaited = true;
        }
    }

    /// Takes in what data planes tell of the objects `about`, and of themselves.
    pub fn report(&mut self, reports: Reports, about: &BTreeSet<ObjectName>, now: &Time) -> Vec<StatusPatch> {
        let Reports {
            agents,
            fleets,
            awaits,
            load_balancers,
            http,
        } = reports;
        for name in about {
            self.reports.load_balancers.remove(name);
        }
        self.reports.load_balancers.extend(load_balancers);
        let is_other = self.reports.fleets != fleets || self.reports.awaits != awaits;
        self.reports.agents = agents;
        self.reports.fleets = fleets;
        self.reports.awaits = awaits;
        let objects = about.iter().map(|name| ObjectKey {
            kind: Kind::LoadBalancer,
            name: name.clone(),
        });
        let mut objects: BTreeSet<ObjectKey> = objects.collect();
        objects.extend(self.routes_of(is_other, &http));
        self.reports.http = http;
        self.tell(objects, now)
    }

    /// Routes of the tenants of which something else is told.
    fn routes_of(&self, all: bool, http: &BTreeMap<TenantName, HttpReport>) -> Vec<ObjectKey> {
        let known = &self.reports.http;
        let tenants = self
            .builder
            .ir()
            .tenants
            .iter()
            .filter(|(name, _)| all || known.get(*name) != http.get(*name));
        let routes = tenants.filter_map(|(name, tenant)| Some((name, tenant.http.as_ref()?)));
        let keys = routes.flat_map(|(tenant, routes)| {
            let (before, now) = (known.get(tenant), http.get(tenant));
            let namespace: Arc<str> = tenant.namespace().into();
            let names = routes.outcomes.iter().map(move |(name, outcome)| {
                let name = ObjectName {
                    namespace: Arc::clone(&namespace),
                    name: Arc::clone(name),
                };
                (name, outcome)
            });
            names
                .filter(move |(name, outcome)| {
                    all || self.early.contains(name) || status::is_concerned(outcome, before, now)
                })
                .map(|(name, _)| ObjectKey {
                    kind: Kind::Route,
                    name,
                })
        });
        keys.collect()
    }

    /// Brings everything up with the objects.
    pub fn settle(&mut self, now: &Time) -> Settled {
        let mut settled = Settled::default();
        let mut changed = self.store.take_changed();
        let is_all_due = std::mem::take(&mut self.is_all_due);
        if (self.is_about_addresses(&changed) || is_all_due) && self.leads && self.plans {
            self.allocate(&mut settled);
            changed.extend(self.store.take_changed());
        }
        let before = self.builder.ir().clone();
        let update = self.builder.update(&self.store, &changed);
        self.snapshot = xds::follow(&self.snapshot, &before, self.builder.ir(), &update);
        if !update.addresses.is_empty() || is_all_due {
            self.own_again();
        }
        settled.problems.extend(update.problems);
        for tenant in &update.http {
            if let Some(report) = self.reports.http.get_mut(tenant) {
                // What they told was about what they had.
                report.everything_pending = true;
                report.awaited = true;
            }
        }
        settled.http = update.http;
        settled.load_balancers = update.load_balancers.clone();
        for name in &update.load_balancers {
            if let Some(report) = self.reports.load_balancers.get_mut(name) {
                report.awaited = true;
            }
        }
        let served = update.load_balancers.into_iter().map(|name| ObjectKey {
            kind: Kind::LoadBalancer,
            name,
        });
        let mut concerned = changed;
        let services: Vec<ObjectKey> = concerned
            .iter()
            .filter(|key| key.kind == Kind::Service)
            .cloned()
            .collect();
        for service in &services {
            let delegating = delegate::load_balancers_of(&self.store, service).into_iter();
            concerned.extend(delegating.map(|name| ObjectKey {
                kind: Kind::LoadBalancer,
                name,
            }));
        }
        concerned.extend(served);
        let routes = update.routes.into_iter().map(|name| ObjectKey {
            kind: Kind::Route,
            name,
        });
        concerned.extend(routes);
        concerned.extend(settled.problems.iter().cloned());
        if is_all_due {
            concerned.extend(Kind::ALL.iter().flat_map(|kind| self.store.keys(*kind)));
        }
        for key in &concerned {
            if !self.store.contains(key) && self.statuses.remove(key).is_some() {
                settled.gone.insert(key.clone());
            }
        }
        settled.statuses = self.tell(concerned, now);
        settled
    }

    /// The resources as of the last call of [`Self::settle`].
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The IR as of the last call of [`Self::settle`].
    #[must_use]
    pub fn ir(&self) -> &Ir {
        self.builder.ir()
    }

    /// What the Config says of each Envoy as a whole.
    #[must_use]
    pub fn process_settings(&self) -> ProcessSettings {
        let config = self
            .store
            .configs()
            .get(&ObjectName::new(&self.namespace, DEFAULT_CONFIG));
        ProcessSettings::read(config.and_then(|config| config.spec.envoy_proxy.as_ref()))
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Problems of one object.
    #[must_use]
    pub fn problems_of(&self, key: &ObjectKey) -> Vec<Problem> {
        let of_addresses = self.allocation.get(key).into_iter().flatten();
        self.builder
            .problems_of(key)
            .iter()
            .chain(of_addresses)
            .cloned()
            .collect()
    }

    /// All problems, by object.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self
            .builder
            .problems()
            .chain(self.allocation.values().flatten())
            .cloned()
            .collect();
        all.sort();
        all
    }

    /// Most changes are about endpoints, and no reason to look for addresses.
    fn is_about_addresses(&mut self, changed: &BTreeSet<ObjectKey>) -> bool {
        let mut any = false;
        for key in changed {
            any |= match key.kind {
                Kind::Tenant | Kind::Config | Kind::AddressClaim => true,
                Kind::Addresses | Kind::VirtualAddressOwner | Kind::SyncSecret | Kind::Service => false,
                Kind::Route => self.is_about_gateway(key),
                Kind::LoadBalancer => {
                    let new = self.store.load_balancers().get(&key.name);
                    let old = match new {
                        Some(new) => self.allocated.insert(key.name.clone(), new.clone()),
                        None => self.allocated.remove(&key.name),
                    };
                    match (&old, new) {
                        (Some(old), Some(new)) => !allocate::wants_the_same(old, new),
                        (None, None) => false,
                        (Some(_), None) | (None, Some(_)) => true,
                    }
                }
            };
        }
        any
    }

    /// Whether a Gateway wants something else of the pools than at the last allocation.
    fn is_about_gateway(&mut self, key: &ObjectKey) -> bool {
        let new = self
            .store
            .routes()
            .get(&key.name)
            .and_then(|route| allocate::gateway_want(route));
        let old = match &new {
            Some(new) => self.gateways.insert(key.name.clone(), new.clone()),
            None => self.gateways.remove(&key.name),
        };
        old != new
    }

    fn allocate(&mut self, settled: &mut Settled) {
        let plan = allocate::plan(&self.store, &self.namespace, self.given);
        for name in &plan.delete {
            self.store
                .delete(&ObjectKey::new(Kind::AddressClaim, "", &name.to_string()));
        }
        for claim in &plan.write {
            self.store.apply(Ok(Object::AddressClaim(claim.clone().into())));
        }
        let mut problems = Problems::new();
        for problem in plan.problems {
            problems.entry(problem.object.clone()).or_default().push(problem);
        }
        let keys: BTreeSet<&ObjectKey> = problems.keys().chain(self.allocation.keys()).collect();
        let differing = keys
            .into_iter()
            .filter(|key| problems.get(*key) != self.allocation.get(*key));
        settled.problems.extend(differing.cloned());
        self.allocation = problems;
        // What was freed is given out only after it is on record that it is free.
        let freed = !plan.delete.is_empty();
        settled.claims_over = plan.delete;
        settled.claims = plan.write;
        if freed {
            let again = allocate::plan(&self.store, &self.namespace, self.given);
            if !again.write.is_empty() {
                let mut more = Settled::default();
                self.allocate(&mut more);
                settled.problems.extend(more.problems);
                let written: BTreeSet<_> = more
                    .claims
                    .iter()
                    .filter_map(|claim| claim.metadata.name.clone())
                    .collect();
                settled
                    .claims
                    .retain(|claim| !claim.metadata.name.as_ref().is_some_and(|name| written.contains(name)));
                settled.claims_over.retain(|name| !written.contains(&name.to_string()));
                settled.claims.extend(more.claims);
                settled.claims_over.extend(more.claims_over);
            }
        }
    }

    /// Statuses that differ, which are from now on what the objects have.
    fn tell(&mut self, objects: BTreeSet<ObjectKey>, now: &Time) -> Vec<StatusPatch> {
        if !self.leads {
            return Vec::new();
        }
        let problems: Problems = objects.iter().map(|key| (key.clone(), self.problems_of(key))).collect();
        let view = status::View {
            store: &self.store,
            ir: self.builder.ir(),
            problems: &problems,
            reports: &self.reports,
            given: self.given,
        };
        for key in objects.iter().filter(|key| key.kind == Kind::Route) {
            if status::is_early(&view, &key.name) {
                self.early.insert(key.name.clone());
            } else {
                self.early.remove(&key.name);
            }
        }
        let patches = status::compute(&view, objects, now);
        for patch in &patches {
            self.statuses
                .insert(patch.object.clone(), patch.status.to_string().into());
            if let Some(object) = self.store.get(&patch.object) {
                let object = self.with_status(object);
                self.store.apply(Ok(object));
            }
        }
        // Nothing but statuses changed, and nothing is read from those that are written here.
        let changed = self.store.take_changed();
        self.is_about_addresses(&changed);
        self.builder.update(&self.store, &changed);
        patches
    }

    /// The object with the status that was last written for it. Addresses of the own status of a source that keeps none stay; those that were
    /// written here hold as long as there are claims for them.
    fn with_status(&self, object: Object) -> Object {
        let Some(written) = self.statuses.get(&object.key()) else {
            return object;
        };
        match object {
            Object::LoadBalancer(object) => {
                let mut object = kubelb_api::v1alpha1::LoadBalancer::clone(&object);
                let given = object.status.take().and_then(|status| status.load_balancer);
                let mut status: kubelb_api::v1alpha1::LoadBalancerStatus =
                    serde_json::from_str(written).unwrap_or_default();
                let ingress = status
                    .load_balancer
                    .as_ref()
                    .and_then(|status| status.ingress.as_deref());
                let is_claimed = ingress.unwrap_or_default().iter().all(|entry| {
                    let address = entry.ip.as_deref().and_then(|ip| ip.parse().ok());
                    let name = address.map(|address| AddressName::new(address).to_string());
                    let claims = self.store.address_claims();
                    name.is_some_and(|name| claims.contains_key(&ObjectName::new("", &name)))
                });
                if !self.source_keeps && (given.is_some() || !is_claimed) {
                    status.load_balancer = given;
                }
                object.status = Some(status);
                Object::LoadBalancer(object.into())
            }
            Object::Route(object) => {
                let mut object = kubelb_api::v1alpha1::Route::clone(&object);
                object.status = serde_json::from_str(written).ok();
                Object::Route(object.into())
            }
            Object::Addresses(object) => {
                let mut object = kubelb_api::v1alpha1::Addresses::clone(&object);
                object.status = serde_json::from_str(written).ok();
                Object::Addresses(object.into())
            }
            Object::Config(object) => {
                let mut object = kubelb_api::v1alpha1::Config::clone(&object);
                object.status = serde_json::from_str(written).ok();
                Object::Config(object.into())
            }
            other @ (Object::Tenant(_)
            | Object::AddressClaim(_)
            | Object::VirtualAddressOwner(_)
            | Object::SyncSecret(_)
            | Object::Service(_)) => other,
        }
    }
}

#[cfg(test)]
mod tests;
