//! The IR of all objects, built at once or kept up with what changes, to the same result.
//!
//! Owns what depends on more than one object: references, policies, and who gets an address and port that two ask for. Nothing here
//! depends on the order in which objects came.

mod layer7;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::LoadBalancerStatus as CoreStatus;
use kubelb_api::names::{AddressName, DEFAULT_CONFIG, TenantName};
use kubelb_api::v1alpha1 as api;

use super::backends::{self, Backends};
use super::draft::{self, Context};
use super::http::Book;
use super::index::{Age, Claimant, Index};
use super::policy::Policy;
use super::{Ir, LoadBalancer, Owner, Protocol, Tenant, VirtualAddress};
use crate::allocate::Given;
use crate::delegate;
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Builds the IR of all objects. `namespace` is the manager's, where the Config is.
#[must_use]
pub fn build(store: &Store, namespace: &str) -> (Ir, Vec<Problem>) {
    let mut builder = Builder::new(namespace);
    let all = Kind::ALL.iter().flat_map(|kind| store.keys(*kind)).collect();
    builder.update(store, &all);
    let problems = builder.problems().cloned().collect();
    (builder.ir, problems)
}

/// Which answers an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// LoadBalancers whose part of the IR came, went or changed.
    pub load_balancers: BTreeSet<ObjectName>,
    /// Objects whose problems changed.
    pub problems: BTreeSet<ObjectKey>,
    /// VIPs that came, went or changed.
    pub addresses: BTreeSet<IpAddr>,
    /// Tenants of which layer 7 changed.
    pub http: BTreeSet<TenantName>,
    /// Routes of which something else is to be told.
    pub routes: BTreeSet<ObjectName>,
}

/// Keeps the IR.
#[derive(Clone, Debug)]
pub struct Builder {
    config: ObjectKey,
    given: Given,
    ir: Ir,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    drafts: BTreeMap<ObjectName, Draft>,
    /// Backends by the Addresses that they come from.
    backends: BTreeMap<ObjectName, Backends>,
    claims: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    claimed: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    index: Index,
    http: Book,
    /// Ports of layer 7, by address.
    http_ports: BTreeMap<IpAddr, (TenantName, BTreeSet<(Protocol, NonZeroU16)>)>,
}

/// A LoadBalancer by itself.
#[derive(Clone, Debug)]
struct Draft {
    load_balancer: Option<Arc<LoadBalancer>>,
    problems: Vec<Problem>,
    age: Age,
    /// The Addresses that it refers to.
    reference: Option<ObjectName>,
    /// Addresses that its status names.
    mentioned: BTreeSet<IpAddr>,
}

impl Builder {
    /// Nothing yet. `namespace` is the manager's, where the Config is.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            config: ObjectKey::new(Kind::Config, namespace, DEFAULT_CONFIG),
            given: Given::Held,
            ir: Ir::default(),
            problems: BTreeMap::new(),
            drafts: BTreeMap::new(),
            backends: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed: BTreeMap::new(),
            index: Index::default(),
            http: Book::default(),
            http_ports: BTreeMap::new(),
        }
    }

    /// What addresses of statuses mean.
    #[must_use]
    pub fn with(self, given: Given) -> Self {
        Self { given, ..self }
    }

    /// The IR as of the last update.
    #[must_use]
    pub fn ir(&self) -> &Ir {
        &self.ir
    }

    /// All problems as of the last update, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Problems of one object.
    #[must_use]
    pub fn problems_of(&self, key: &ObjectKey) -> &[Problem] {
        self.problems.get(key).map_or(&[], Vec::as_slice)
    }

    /// Takes in what changed in `store` since the last call.
    pub fn update(&mut self, store: &Store, changed: &BTreeSet<ObjectKey>) -> Update {
        let mut update = Update::default();
        let stale = self.stale(store, changed, &mut update);
        let mut policies = BTreeMap::new();
        let mut affected = BTreeSet::new();
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for name in stale {
            let draft = store
                .load_balancers()
                .get(&name)
                .map(|object| self.draft(store, &name, object, &mut policies, &mut update));
            let old = self.drafts.remove(&name);
            for (draft, is_new) in [(&old, false), (&draft, true)] {
                let Some(Draft {
                    load_balancer: Some(served),
                    age,
                    ..
                }) = draft
                else {
                    continue;
                };
                addresses.extend(&served.addresses);
                let claimant = Claimant::new(*age, served);
                if is_new {
                    self.index.insert(&claimant, served);
                } else {
                    self.index.remove(&claimant, served);
                }
            }
            if let Some(draft) = draft {
                self.drafts.insert(name.clone(), draft);
            }
            affected.insert(name);
        }
        for address in &addresses {
            affected.extend(self.index.dialled(*address).map(|claimant| claimant.name.clone()));
        }
        for name in &affected {
            self.finish(store, name, &mut update);
        }
        layer7::update(self, store, changed, &mut update, &mut addresses);
        addresses.extend(changed.iter().filter_map(owned_address));
        for address in addresses {
            self.announce(store, address, &mut update);
        }
        update
    }

    /// LoadBalancers that have to be read again; what they are read with is renewed on the way.
    fn stale(&mut self, store: &Store, changed: &BTreeSet<ObjectKey>, update: &mut Update) -> BTreeSet<ObjectName> {
        let mut stale = BTreeSet::new();
        let mut lists = BTreeSet::new();
        let mut claimed = BTreeSet::new();
        for key in changed {
            match key.kind {
                Kind::LoadBalancer => {
                    stale.insert(key.name.clone());
                }
                Kind::Addresses => {
                    lists.insert(key.name.clone());
                    let in_namespace = store.load_balancers_in(&key.name.namespace).map(|(name, _)| name);
                    let refers = |name: &&ObjectName| {
                        let draft = self.drafts.get(*name);
                        draft.is_none_or(|draft| draft.reference.as_ref() == Some(&key.name))
                    };
                    stale.extend(in_namespace.filter(refers).cloned());
                }
                Kind::Tenant => {
                    let namespace = format!("tenant-{}", key.name.name);
                    let in_namespace = |name: &&ObjectName| *name.namespace == *namespace;
                    lists.extend(store.addresses().keys().filter(in_namespace).cloned());
                    stale.extend(store.load_balancers_in(&namespace).map(|(name, _)| name.clone()));
                }
                Kind::Config if *key == self.config => {
                    lists.extend(store.addresses().keys().cloned());
                    stale.extend(store.load_balancers().keys().cloned());
                }
                Kind::AddressClaim => claimed.extend(self.claim(store, key, &mut stale)),
                Kind::Service => stale.extend(delegate::load_balancers_of(store, key)),
                Kind::Config | Kind::VirtualAddressOwner | Kind::SyncSecret | Kind::Route => {}
            }
            if !matches!(key.kind, Kind::LoadBalancer | Kind::Addresses) {
                self.note(key.clone(), malformed(store, key), update);
            }
        }
        if !claimed.is_empty() {
            self.claimed.retain(|_, addresses| !addresses.is_empty());
            let mentions = |draft: &Draft| !draft.mentioned.is_disjoint(&claimed);
            let mentioning = self.drafts.iter().filter(|(_, draft)| mentions(draft));
            stale.extend(mentioning.map(|(name, _)| name.clone()));
        }
        // All are forgotten before one is read; and those that nobody refers to are read too, so that their owner hears of mistakes.
        for name in &lists {
            self.backends.remove(name);
        }
        let mut policies = Policies::new();
        for name in lists {
            let policy = policies
                .entry(Arc::clone(&name.namespace))
                .or_insert_with(|| Self::policy(store, &self.config, &name.namespace));
            if self.resolve(store, &name, policy, update).is_none() {
                let key = ObjectKey {
                    kind: Kind::Addresses,
                    name,
                };
                self.note(key.clone(), malformed(store, &key), update);
            }
        }
        stale
    }

    /// Takes in who holds an address now; which one it is.
    fn claim(&mut self, store: &Store, key: &ObjectKey, stale: &mut BTreeSet<ObjectName>) -> Option<IpAddr> {
        let address = key.name.name.parse::<AddressName>().ok()?.address();
        let holders: Option<BTreeSet<ObjectName>> = store.address_claims().get(&key.name).map(|claim| {
            let of_tenant = |holder: &&api::Holder| {
                TenantName::from_namespace(&holder.namespace).is_some_and(|tenant| tenant.as_str() == claim.spec.tenant)
            };
            let holders = claim
                .spec
                .holders
                .iter()
                .filter(|holder| holder.kind == Kind::LoadBalancer.as_str());
            let holders = holders.filter(of_tenant);
            holders
                .map(|holder| ObjectName::new(&holder.namespace, &holder.name))
                .collect()
        });
        let old = match &holders {
            Some(holders) => self.claims.insert(address, holders.clone()),
            None => self.claims.remove(&address),
        };
        for name in old.iter().flatten() {
            if let Some(addresses) = self.claimed.get_mut(name) {
                addresses.remove(&address);
            }
        }
        for name in holders.iter().flatten() {
            self.claimed.entry(name.clone()).or_default().insert(address);
        }
        stale.extend(old.into_iter().flatten());
        stale.extend(holders.into_iter().flatten());
        Some(address)
    }

    fn policy(store: &Store, config: &ObjectKey, namespace: &str) -> TenantPolicy {
        let (tenant, policy) = Self::any_policy(store, config, namespace)?;
        let object = store.tenants().get(&ObjectName::new("", tenant.as_str()));
        let of_tenant = object.and_then(|tenant| tenant.spec.load_balancer.as_ref()?.disable);
        let settings = store.configs().get(&config.name);
        let of_all = settings.and_then(|config| config.spec.load_balancer.as_ref()?.disable);
        if of_tenant.or(of_all) == Some(true) {
            let message =
                "load balancers are switched off for this tenant (spec.loadBalancer.disable of Tenant or Config)";
            return Err((Reason::Disabled, message.to_owned()));
        }
        Ok((tenant, policy))
    }

    /// Whatever layer it is about.
    fn any_policy(store: &Store, config: &ObjectKey, namespace: &str) -> TenantPolicy {
        let Some(tenant) = TenantName::from_namespace(namespace) else {
            let message = format!("the namespace {namespace} belongs to no tenant; it would be tenant- and a name");
            return Err((Reason::NotATenant, message));
        };
        let settings = store.configs().get(&config.name);
        if settings.is_none() && store.malformed().contains_key(config) {
            let message = "the Config cannot be read, so that nobody knows which addresses it forbids".to_owned();
            return Err((Reason::ConfigInvalid, message));
        }
        let Some(object) = store.tenants().get(&ObjectName::new("", tenant.as_str())) else {
            return Err((Reason::TenantNotFound, format!("there is no Tenant {tenant}")));
        };
        let policy = Policy::new(settings.map(|config| &config.spec), &object.spec);
        Ok((tenant, policy))
    }

    fn draft(
        &mut self,
        store: &Store,
        name: &ObjectName,
        object: &api::LoadBalancer,
        policies: &mut Policies,
        update: &mut Update,
    ) -> Draft {
        let key = ObjectKey {
            kind: Kind::LoadBalancer,
            name: name.clone(),
        };
        let group = object.spec.endpoints.first();
        let reference = group
            .and_then(|group| group.addresses_reference.as_ref())
            .map(|reference| ObjectName {
                namespace: Arc::clone(&name.namespace),
                name: reference.name.as_deref().unwrap_or_default().into(),
            });
        let mut draft = Draft {
            load_balancer: None,
            problems: Vec::new(),
            age: Age::new(object.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            reference,
            mentioned: mentioned(object),
        };
        if object.metadata.deletion_timestamp.is_some() {
            return draft;
        }
        let policy = policies
            .entry(Arc::clone(&name.namespace))
            .or_insert_with(|| Self::policy(store, &self.config, &name.namespace));
        let (tenant, policy) = match policy {
            Ok((tenant, policy)) => (tenant.clone(), policy.clone()),
            Err((reason, message)) => {
                draft.problems.push(Problem::new(&key, "", *reason, message.clone()));
                return draft;
            }
        };
        let backends = match (&draft.reference, group) {
            (Some(reference), _) => {
                let found = self.resolve(store, reference, &Ok((tenant.clone(), policy)), update);
                if found.is_none() {
                    let message = format!("there is no Addresses {}", reference.name);
                    let field = "spec.endpoints[0].addressesReference.name";
                    draft
                        .problems
                        .push(Problem::new(&key, field, Reason::RefNotFound, message));
                }
                found.unwrap_or_default()
            }
            (None, Some(group)) => {
                let field = "spec.endpoints[0].addresses";
                let (backends, problems) = backends::read(&key, field, &group.addresses, &policy);
                draft.problems.extend(problems);
                backends
            }
            (None, None) => Backends::default(),
        };
        let none = BTreeSet::new();
        let delegated = self.delegated(store, &tenant, object);
        let context = Context {
            tenant: &tenant,
            claimed: self.claimed.get(name).unwrap_or(&none),
            given: self.given,
            is_claimed_by_another: &|address| self.claims.get(&address).is_some_and(|holders| !holders.contains(name)),
            delegated: delegated.as_ref(),
            backends: &backends,
        };
        let (load_balancer, problems) = draft::read(name, object, &context);
        draft.problems.extend(problems);
        draft.load_balancer = Some(Arc::new(load_balancer));
        draft
    }

    /// What became of the Service that gets its address elsewhere; `None`: kubelb gives it one.
    fn delegated(&self, store: &Store, tenant: &TenantName, object: &api::LoadBalancer) -> Option<CoreStatus> {
        let config = store.configs().get(&self.config.name)?;
        let tenant = store.tenants().get(&ObjectName::new("", tenant.as_str()))?;
        let is_delegated = self.given == Given::Wished && delegate::is_delegated(&config.spec, &tenant.spec, object);
        is_delegated.then(|| delegate::told(store, object).unwrap_or_default())
    }

    /// The backends of an Addresses; `None` when there is no such object.
    fn resolve(
        &mut self,
        store: &Store,
        name: &ObjectName,
        policy: &TenantPolicy,
        update: &mut Update,
    ) -> Option<Backends> {
        if let Some(known) = self.backends.get(name) {
            return Some(known.clone());
        }
        let object = store.addresses().get(name)?;
        let key = ObjectKey {
            kind: Kind::Addresses,
            name: name.clone(),
        };
        let mut problems = malformed(store, &key);
        let backends = match policy {
            Ok((_, policy)) => {
                let (backends, refused) = backends::read(&key, "spec.addresses", &object.spec.addresses, policy);
                problems.extend(refused);
                backends
            }
            Err((reason, message)) => {
                problems.push(Problem::new(&key, "", *reason, message.clone()));
                Backends::default()
            }
        };
        self.note(key, problems, update);
        self.backends.insert(name.clone(), backends.clone());
        Some(backends)
    }

    /// Takes away what older objects have, and puts the rest into the IR.
    fn finish(&mut self, store: &Store, name: &ObjectName, update: &mut Update) {
        let key = ObjectKey {
            kind: Kind::LoadBalancer,
            name: name.clone(),
        };
        let mut problems = malformed(store, &key);
        let mut served = None;
        if let Some(draft) = self.drafts.get(name) {
            problems.extend(draft.problems.iter().cloned());
            if let Some(load_balancer) = &draft.load_balancer {
                let claimant = Claimant::new(draft.age, load_balancer);
                served = Some(self.index.settle(&key, &claimant, load_balancer, &mut problems));
            }
        }
        self.note(key, problems, update);
        if let Some(tenant) = TenantName::from_namespace(&name.namespace)
            && put(&mut self.ir, &tenant, &name.name, served)
        {
            update.load_balancers.insert(name.clone());
        }
    }

    fn announce(&mut self, store: &Store, address: IpAddr, update: &mut Update) {
        let owner_of = || {
            let name = AddressName::new(address).to_string();
            let owner = store.virtual_address_owners().get(&ObjectName::new("", &name))?;
            Some(Owner {
                node: owner.spec.node.clone(),
                epoch: u64::try_from(owner.spec.epoch).ok()?,
            })
        };
        let http = self.http_ports.get(&address);
        let tenant = self.index.tenant_of(address).or(http.map(|(tenant, _)| tenant));
        let wanted = tenant.map(|tenant| {
            let ours = http.filter(|(owner, _)| owner == tenant).map(|(_, ports)| ports);
            let mut local_ports = self.index.local_ports(address);
            local_ports.extend(ours.into_iter().flatten());
            local_ports.sort_unstable();
            local_ports.dedup();
            Arc::new(VirtualAddress {
                tenant: tenant.clone(),
                owner: owner_of(),
                local_ports,
            })
        });
        if self.ir.addresses.get(&address) == wanted.as_ref() {
            return;
        }
        match wanted {
            Some(wanted) => self.ir.addresses.insert(address, wanted),
            None => self.ir.addresses.remove(&address),
        };
        update.addresses.insert(address);
    }

    fn note(&mut self, key: ObjectKey, problems: Vec<Problem>, update: &mut Update) {
        if self.problems_of(&key) == problems {
            return;
        }
        update.problems.insert(key.clone());
        if problems.is_empty() {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key, problems);
        }
    }
}

type TenantPolicy = Result<(TenantName, Policy), (Reason, String)>;
type Policies = BTreeMap<Arc<str>, TenantPolicy>;

fn malformed(store: &Store, key: &ObjectKey) -> Vec<Problem> {
    store.malformed().get(key).map(Problem::from).into_iter().collect()
}

fn owned_address(key: &ObjectKey) -> Option<IpAddr> {
    let name = (key.kind == Kind::VirtualAddressOwner).then(|| key.name.name.parse::<AddressName>());
    Some(name?.ok()?.address())
}

fn mentioned(object: &api::LoadBalancer) -> BTreeSet<IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    ingress
        .iter()
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect()
}

/// Whether that changed anything. What did not change stays the same allocation.
fn put(ir: &mut Ir, tenant: &TenantName, name: &Arc<str>, served: Option<Arc<LoadBalancer>>) -> bool {
    let known = ir
        .tenants
        .get(tenant)
        .and_then(|tenant| tenant.load_balancers.get(name));
    if known == served.as_ref() {
        return false;
    }
    let mut of_tenant: Arc<Tenant> = ir.tenants.remove(tenant).unwrap_or_default();
    let load_balancers = &mut Arc::make_mut(&mut of_tenant).load_balancers;
    match served {
        Some(served) => load_balancers.insert(Arc::clone(name), served),
        None => load_balancers.remove(name),
    };
    if *of_tenant != Tenant::default() {
        ir.tenants.insert(tenant.clone(), of_tenant);
    }
    true
}

impl Age {
    fn new(created: Option<Timestamp>) -> Self {
        Self(created.is_none(), created)
    }
}
