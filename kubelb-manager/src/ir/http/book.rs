//! Keeps layer 7 of all tenants up with what changes: each Route by itself, and the assembly of each tenant that one of them is of.
//!
//! Must not know: layer 4.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use jiff::Timestamp;
use kubelb_api::gateway_api as api;
use kubelb_api::labels::Label;
use kubelb_api::names::{AddressName, TenantName};
use kubelb_api::v1alpha1::{Route, SyncSecret};

use super::assembly::{Context, Draft, assemble};
use super::cluster::Services;
use super::{Authorities, Certificate, Http, Settings, Verdict, gateway, route, secret};
use crate::ir::backends::{self, Backends};
use crate::ir::policy::Policy;
use crate::ir::{Host, Protocol};
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::store::Store;

/// What a tenant may do, or why it may do nothing.
pub(in crate::ir) type Allowed = Result<(TenantName, Policy), (crate::problem::Reason, String)>;

/// What is read of SyncSecrets, or why it cannot be used, by namespace and name in the tenant, then by SyncSecret.
type Read<T> = BTreeMap<(String, String), BTreeMap<ObjectName, Result<Arc<T>, String>>>;

/// All Routes.
#[derive(Clone, Debug, Default)]
pub(in crate::ir) struct Book {
    /// With the time of their creation.
    drafts: BTreeMap<ObjectName, (Option<Timestamp>, Draft)>,
    /// Backends by the Addresses that they come from.
    lists: BTreeMap<ObjectName, Backends>,
    /// Routes that hold an address.
    claims: BTreeMap<IpAddr, BTreeSet<ObjectName>>,
    /// By namespace.
    materials: BTreeMap<Arc<str>, Materials>,
    settings: Settings,
}

/// What a tenant's listeners need for TLS.
#[derive(Clone, Debug, Default)]
struct Materials {
    /// Of Secrets.
    certificates: Read<Certificate>,
    /// Of ConfigMaps.
    authorities: Read<Authorities>,
}

/// A material by what it was made from, with the name of its SyncSecret, the first of several.
fn find<T>(all: Option<&Read<T>>, kind: &str, namespace: &str, name: &str) -> Result<(Arc<str>, Arc<T>), String> {
    let found = all.and_then(|all| all.get(&(namespace.to_owned(), name.to_owned())));
    let (object, read) = found
        .and_then(BTreeMap::first_key_value)
        .ok_or_else(|| format!("there is no such {kind}"))?;
    read.clone().map(|read| (Arc::clone(&object.name), read))
}

fn forget<T>(all: &mut Read<T>, name: &ObjectName) {
    all.retain(|_, objects| {
        objects.remove(name);
        !objects.is_empty()
    });
}

impl Book {
    /// Takes in what changed; the namespaces of tenants that have to be put together again.
    pub(in crate::ir) fn update(
        &mut self,
        store: &Store,
        changed: &BTreeSet<ObjectKey>,
        config: &ObjectKey,
        allowed: &mut dyn FnMut(&str) -> Allowed,
    ) -> BTreeSet<Arc<str>> {
        let mut stale: BTreeSet<ObjectName> = BTreeSet::new();
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        for key in changed {
            match key.kind {
                Kind::Route => {
                    stale.insert(key.name.clone());
                }
                Kind::Addresses => {
                    self.lists.remove(&key.name);
                    stale.extend(store.routes_in(&key.name.namespace).map(|(name, _)| name.clone()));
                }
                Kind::Tenant => {
                    let namespace = format!("tenant-{}", key.name.name);
                    self.lists.retain(|name, _| *name.namespace != *namespace);
                    stale.extend(store.routes_in(&namespace).map(|(name, _)| name.clone()));
                }
                Kind::Config if key == config => {
                    self.lists.clear();
                    let settings = store.configs().get(&config.name);
                    self.settings = Settings::read(settings.and_then(|config| config.spec.envoy_proxy.as_ref()));
                    // Those of listeners are not of a Route by itself.
                    touched.extend(self.drafts.keys().map(|name| Arc::clone(&name.namespace)));
                    stale.extend(store.routes().keys().cloned());
                }
                Kind::AddressClaim => self.claim(store, key, &mut touched),
                Kind::SyncSecret => {
                    self.material(store, &key.name);
                    if store.routes_in(&key.name.namespace).next().is_some() {
                        touched.insert(Arc::clone(&key.name.namespace));
                    }
                }
                Kind::Config | Kind::LoadBalancer | Kind::VirtualAddressOwner | Kind::Service => {}
            }
        }
        let mut policies: BTreeMap<Arc<str>, Allowed> = BTreeMap::new();
        for name in stale {
            let draft = store
                .routes()
                .get(&name)
                .filter(|object| object.metadata.deletion_timestamp.is_none())
                .map(|object| {
                    let policy = policies
                        .entry(Arc::clone(&name.namespace))
                        .or_insert_with(|| allowed(&name.namespace));
                    self.draft(store, &name, object, policy)
                });
            let created = store
                .routes()
                .get(&name)
                .and_then(|object| object.metadata.creation_timestamp.as_ref());
            let draft = draft.map(|draft| (created.map(|time| time.0), draft));
            if self.drafts.get(&name) == draft.as_ref() {
                continue;
            }
            touched.insert(Arc::clone(&name.namespace));
            match draft {
                Some(draft) => self.drafts.insert(name, draft),
                None => self.drafts.remove(&name),
            };
        }
        touched
    }

    /// All of a tenant; `None` when it has no Routes.
    pub(in crate::ir) fn assemble(&self, tenant: &TenantName, namespace: &Arc<str>) -> Option<Http> {
        let first = ObjectName::new(namespace, "");
        let own = self
            .drafts
            .range(first..)
            .take_while(|(name, _)| name.namespace == *namespace);
        let mut drafts: Vec<(Option<Timestamp>, &ObjectName, &Draft)> =
            own.map(|(name, (created, draft))| (*created, name, draft)).collect();
        drafts.sort_by_key(|(created, name, _)| (created.is_none(), *created, *name));
        let drafts: Vec<(&ObjectName, &Draft)> = drafts.into_iter().map(|(_, name, draft)| (name, draft)).collect();
        let of_tenant = self.materials.get(namespace);
        let context = Context {
            tenant,
            addresses: &|name| {
                let held = self.claims.iter().filter(|(_, holders)| holders.contains(name));
                held.map(|(address, _)| *address).collect()
            },
            certificate: &|namespace, name| {
                let all = of_tenant.map(|materials| &materials.certificates);
                find(all, "Secret", namespace, name)
            },
            authorities: &|namespace, name| {
                let all = of_tenant.map(|materials| &materials.authorities);
                find(all, "ConfigMap", namespace, name)
            },
            settings: self.settings.listener,
        };
        (!drafts.is_empty()).then(|| assemble(&drafts, &context))
    }

    fn claim(&mut self, store: &Store, key: &ObjectKey, touched: &mut BTreeSet<Arc<str>>) {
        let Ok(address) = key.name.name.parse::<AddressName>().map(AddressName::address) else {
            return;
        };
        let claim = store.address_claims().get(&key.name);
        let holders = claim
            .into_iter()
            .flat_map(|claim| claim.spec.holders.iter().map(move |holder| (claim, holder)));
        let ours = holders.filter(|(claim, holder)| {
            let tenant = TenantName::from_namespace(&holder.namespace);
            holder.kind == Kind::Route.as_str() && tenant.is_some_and(|tenant| tenant.as_str() == claim.spec.tenant)
        });
        let now: BTreeSet<ObjectName> = ours
            .map(|(_, holder)| ObjectName::new(&holder.namespace, &holder.name))
            .collect();
        let before = if now.is_empty() {
            self.claims.remove(&address)
        } else {
            self.claims.insert(address, now.clone())
        };
        let all = before.into_iter().flatten().chain(now);
        touched.extend(all.map(|name| name.namespace));
    }

    fn material(&mut self, store: &Store, name: &ObjectName) {
        let of_tenant = self.materials.entry(Arc::clone(&name.namespace)).or_default();
        forget(&mut of_tenant.certificates, name);
        forget(&mut of_tenant.authorities, name);
        let object: Option<&Arc<SyncSecret>> = store.sync_secrets().get(name);
        if let Some(object) = object.filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let origin = |label: Label| label.get(&object.metadata).unwrap_or_default().to_owned();
            let origin = (origin(Label::ORIGIN_NAMESPACE), origin(Label::ORIGIN_NAME));
            let is_config_map = Label::ORIGIN_RESOURCE_KIND.get(&object.metadata) == Some("ConfigMap");
            if origin.1.is_empty() {
                // Nobody could refer to it.
            } else if is_config_map {
                let read = secret::authorities(object).map(Arc::new);
                let objects = of_tenant.authorities.entry(origin).or_default();
                objects.insert(name.clone(), read);
            } else {
                let read = secret::read(object).map(Arc::new);
                let objects = of_tenant.certificates.entry(origin).or_default();
                objects.insert(name.clone(), read);
            }
        }
        if of_tenant.certificates.is_empty() && of_tenant.authorities.is_empty() {
            self.materials.remove(&name.namespace);
        }
    }

    fn draft(&mut self, store: &Store, name: &ObjectName, object: &Route, allowed: &Allowed) -> Draft {
        let refused = |reason, message: String| Draft::Refused(Verdict::no(reason, message));
        let (tenant, policy) = match allowed {
            Ok(allowed) => allowed,
            Err((reason, message)) => return refused(reason.as_str(), message.clone()),
        };
        let source = object
            .spec
            .source
            .as_ref()
            .and_then(|source| source.kubernetes.as_ref());
        let Some((source, resource)) = source.and_then(|source| Some((source, source.resource.as_ref()?))) else {
            return refused("Invalid", "spec.source.kubernetes.resource: there is none".to_owned());
        };
        let kind = resource.kind();
        if resource.group() != api::GROUP || !matches!(kind, "Gateway" | "HTTPRoute" | "GRPCRoute") {
            return refused("Unsupported", format!("{kind}.{} is not served", resource.group()));
        }
        let unread =
            |error: kubelb_api::raw_object::ReadError| refused("Invalid", format!("{error}: {}", error.source));
        let hosts = self.hosts(store, name, object, policy);
        let hosts = |place: usize| hosts.get(place).cloned().unwrap_or_default();
        let services = || {
            Services::new(tenant, resource.namespace(), source, &object.spec.endpoints, &hosts)
                .with(self.settings.cluster)
        };
        let labels = &source.namespace_labels;
        match kind {
            "Gateway" => match resource.read() {
                Ok(view) => Draft::Gateway(Arc::new(gateway::read(&view, source))),
                Err(error) => unread(error),
            },
            "HTTPRoute" => match resource.read() {
                Ok(view) => Draft::Route(Arc::new(route::http(&view, labels, services()))),
                Err(error) => unread(error),
            },
            _ => match resource.read() {
                Ok(view) => Draft::Route(Arc::new(route::grpc(&view, labels, services()))),
                Err(error) => unread(error),
            },
        }
    }

    /// Addresses of each group of endpoints.
    fn hosts(&mut self, store: &Store, name: &ObjectName, object: &Route, policy: &Policy) -> Vec<Arc<[Host]>> {
        let key = ObjectKey {
            kind: Kind::Route,
            name: name.clone(),
        };
        let mut all = Vec::new();
        for (index, group) in object.spec.endpoints.iter().enumerate().take(64) {
            let backends = match &group.addresses_reference {
                Some(reference) => {
                    let list = ObjectName {
                        namespace: Arc::clone(&name.namespace),
                        name: reference.name.as_deref().unwrap_or_default().into(),
                    };
                    self.list(store, &list, policy)
                }
                None => {
                    let field = format!("spec.endpoints[{index}].addresses");
                    backends::read(&key, &field, &group.addresses, policy).0
                }
            };
            all.push(together(&backends));
        }
        all
    }

    fn list(&mut self, store: &Store, name: &ObjectName, policy: &Policy) -> Backends {
        if let Some(known) = self.lists.get(name) {
            return known.clone();
        }
        let Some(object) = store.addresses().get(name) else {
            return Backends::default();
        };
        let key = ObjectKey {
            kind: Kind::Addresses,
            name: name.clone(),
        };
        let (backends, _) = backends::read(&key, "spec.addresses", &object.spec.addresses, policy);
        self.lists.insert(name.clone(), backends.clone());
        backends
    }
}

impl Http {
    /// Its addresses, with the ports that Envoy accepts on.
    pub(in crate::ir) fn ports(&self) -> BTreeMap<IpAddr, BTreeSet<(Protocol, NonZeroU16)>> {
        let mut ports: BTreeMap<IpAddr, BTreeSet<(Protocol, NonZeroU16)>> = BTreeMap::new();
        for listener in self.listeners.values() {
            let protocol = if listener.is_quic { Protocol::Udp } else { Protocol::Tcp };
            ports
                .entry(listener.address)
                .or_default()
                .insert((protocol, listener.port));
        }
        ports
    }
}

/// Both families: a proxy reaches either.
fn together(backends: &Backends) -> Arc<[Host]> {
    if !backends.dns.is_empty() {
        return Arc::clone(&backends.dns);
    }
    if backends.v6.is_empty() {
        return Arc::clone(&backends.v4);
    }
    backends.v4.iter().chain(backends.v6.iter()).cloned().collect()
}
