//! The objects as they were last seen.
//!
//! Owns them, and which of them changed since somebody asked. Must not know: what they mean, and where they come from. An object that
//! cannot be read is noted beside the last version of it that could, which stays in force: a slip of the pen takes no traffic away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kubelb_api::v1alpha1::{
    AddressClaim, Addresses, Config, LoadBalancer, Route, SyncSecret, Tenant, VirtualAddressOwner,
};

use crate::object::{Kind, Malformed, Object, ObjectKey, ObjectName};
use crate::problem::Problem;

/// Objects of one kind.
pub type Objects<T> = BTreeMap<ObjectName, Arc<T>>;

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Store {
    configs: Objects<Config>,
    tenants: Objects<Tenant>,
    addresses: Objects<Addresses>,
    load_balancers: Objects<LoadBalancer>,
    routes: Objects<Route>,
    address_claims: Objects<AddressClaim>,
    virtual_address_owners: Objects<VirtualAddressOwner>,
    sync_secrets: Objects<SyncSecret>,
    services: Objects<Service>,
    malformed: BTreeMap<ObjectKey, Malformed>,
    changed: BTreeSet<ObjectKey>,
}

/// An object as it came, read or not.
pub type Seen = Result<Object, Malformed>;

impl Store {
    /// Notes an object that was created or changed; whether it differs from what was known. That only its resourceVersion does is no
    /// difference.
    pub fn apply(&mut self, seen: Seen) -> bool {
        let (key, changed) = match seen {
            Ok(object) => {
                let key = object.key();
                let was_malformed = self.malformed.remove(&key).is_some();
                let differs = self.put(&key.name, object);
                (key, differs || was_malformed)
            }
            Err(malformed) => {
                let key = malformed.key.clone();
                let differs = self.malformed.get(&key) != Some(&malformed);
                self.malformed.insert(key.clone(), malformed);
                (key, differs)
            }
        };
        if changed {
            self.changed.insert(key);
        }
        changed
    }

    /// Notes that an object is gone; whether it was there.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        let was_malformed = self.malformed.remove(key).is_some();
        let was_there = self.remove(key) || was_malformed;
        if was_there {
            self.changed.insert(key.clone());
        }
        was_there
    }

    /// Notes all objects of a kind at once, as a list gives them; whether anything differs from what was known. What is not among them
    /// is gone.
    pub fn reset(&mut self, kind: Kind, objects: impl IntoIterator<Item = Seen>) -> bool {
        let mut gone = self.keys(kind);
        let mut changed = false;
        for seen in objects {
            let key = match &seen {
                Ok(object) => object.key(),
                Err(malformed) => malformed.key.clone(),
            };
            gone.remove(&key);
            changed |= self.apply(seen);
        }
        for key in gone {
            changed |= self.delete(&key);
        }
        changed
    }

    /// What changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.changed)
    }

    /// Keys of all objects of a kind, also of those that cannot be read.
    #[must_use]
    pub fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        fn names<T>(objects: &Objects<T>) -> Vec<ObjectName> {
            objects.keys().cloned().collect()
        }
        let names = match kind {
            Kind::Config => names(&self.configs),
            Kind::Tenant => names(&self.tenants),
            Kind::Addresses => names(&self.addresses),
            Kind::LoadBalancer => names(&self.load_balancers),
            Kind::Route => names(&self.routes),
            Kind::AddressClaim => names(&self.address_claims),
            Kind::VirtualAddressOwner => names(&self.virtual_address_owners),
            Kind::SyncSecret => names(&self.sync_secrets),
            Kind::Service => names(&self.services),
        };
        let read = names.into_iter().map(|name| ObjectKey { kind, name });
        let unread = self.malformed.keys().filter(|key| key.kind == kind).cloned();
        read.chain(unread).collect()
    }

    /// How many objects of a kind there are, those that cannot be read included.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        let unread = self
            .malformed
            .keys()
            .filter(|key| key.kind == kind && self.get(key).is_none())
            .count();
        let read = match kind {
            Kind::Config => self.configs.len(),
            Kind::Tenant => self.tenants.len(),
            Kind::Addresses => self.addresses.len(),
            Kind::LoadBalancer => self.load_balancers.len(),
            Kind::Route => self.routes.len(),
            Kind::AddressClaim => self.address_claims.len(),
            Kind::VirtualAddressOwner => self.virtual_address_owners.len(),
            Kind::SyncSecret => self.sync_secrets.len(),
            Kind::Service => self.services.len(),
        };
        read + unread
    }

    /// Whether there is such an object, also when it cannot be read.
    #[must_use]
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.malformed.contains_key(key) || self.get(key).is_some()
    }

    /// The last version of an object that could be read.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Object> {
        let name = &key.name;
        match key.kind {
            Kind::Config => self.configs.get(name).cloned().map(Object::Config),
            Kind::Tenant => self.tenants.get(name).cloned().map(Object::Tenant),
            Kind::Addresses => self.addresses.get(name).cloned().map(Object::Addresses),
            Kind::LoadBalancer => self.load_balancers.get(name).cloned().map(Object::LoadBalancer),
            Kind::Route => self.routes.get(name).cloned().map(Object::Route),
            Kind::AddressClaim => self.address_claims.get(name).cloned().map(Object::AddressClaim),
            Kind::VirtualAddressOwner => {
                let owner = self.virtual_address_owners.get(name).cloned();
                owner.map(Object::VirtualAddressOwner)
            }
            Kind::SyncSecret => self.sync_secrets.get(name).cloned().map(Object::SyncSecret),
            Kind::Service => self.services.get(name).cloned().map(Object::Service),
        }
    }

    /// Objects that cannot be read.
    #[must_use]
    pub fn malformed(&self) -> &BTreeMap<ObjectKey, Malformed> {
        &self.malformed
    }

    /// Problems of the objects that cannot be read.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.malformed.values().map(Problem::from)
    }

    /// Configs.
    #[must_use]
    pub fn configs(&self) -> &Objects<Config> {
        &self.configs
    }

    /// Tenants.
    #[must_use]
    pub fn tenants(&self) -> &Objects<Tenant> {
        &self.tenants
    }

    /// Addresses.
    #[must_use]
    pub fn addresses(&self) -> &Objects<Addresses> {
        &self.addresses
    }

    /// Services of the management cluster that were made for LoadBalancers.
    #[must_use]
    pub fn services(&self) -> &Objects<Service> {
        &self.services
    }

    /// LoadBalancers.
    #[must_use]
    pub fn load_balancers(&self) -> &Objects<LoadBalancer> {
        &self.load_balancers
    }

    /// LoadBalancers of one namespace.
    pub fn load_balancers_in(&self, namespace: &str) -> impl Iterator<Item = (&ObjectName, &Arc<LoadBalancer>)> {
        let first = ObjectName::new(namespace, "");
        self.load_balancers
            .range(first.clone()..)
            .take_while(move |(name, _)| name.namespace == first.namespace)
    }

    /// Routes.
    #[must_use]
    pub fn routes(&self) -> &Objects<Route> {
        &self.routes
    }

    /// Routes of one namespace.
    pub fn routes_in(&self, namespace: &str) -> impl Iterator<Item = (&ObjectName, &Arc<Route>)> {
        let first = ObjectName::new(namespace, "");
        self.routes
            .range(first.clone()..)
            .take_while(move |(name, _)| name.namespace == first.namespace)
    }

    /// AddressClaims.
    #[must_use]
    pub fn address_claims(&self) -> &Objects<AddressClaim> {
        &self.address_claims
    }

    /// VirtualAddressOwners.
    #[must_use]
    pub fn virtual_address_owners(&self) -> &Objects<VirtualAddressOwner> {
        &self.virtual_address_owners
    }

    /// SyncSecrets.
    #[must_use]
    pub fn sync_secrets(&self) -> &Objects<SyncSecret> {
        &self.sync_secrets
    }

    fn put(&mut self, name: &ObjectName, object: Object) -> bool {
        match object {
            Object::Config(object) => put(&mut self.configs, name, object),
            Object::Tenant(object) => put(&mut self.tenants, name, object),
            Object::Addresses(object) => put(&mut self.addresses, name, object),
            Object::LoadBalancer(object) => put(&mut self.load_balancers, name, object),
            Object::Route(object) => put(&mut self.routes, name, object),
            Object::AddressClaim(object) => put(&mut self.address_claims, name, object),
            Object::VirtualAddressOwner(object) => put(&mut self.virtual_address_owners, name, object),
            Object::SyncSecret(object) => put(&mut self.sync_secrets, name, object),
            Object::Service(object) => put(&mut self.services, name, object),
        }
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let name = &key.name;
        match key.kind {
            Kind::Config => self.configs.remove(name).is_some(),
            Kind::Tenant => self.tenants.remove(name).is_some(),
            Kind::Addresses => self.addresses.remove(name).is_some(),
            Kind::LoadBalancer => self.load_balancers.remove(name).is_some(),
            Kind::Route => self.routes.remove(name).is_some(),
            Kind::AddressClaim => self.address_claims.remove(name).is_some(),
            Kind::VirtualAddressOwner => self.virtual_address_owners.remove(name).is_some(),
            Kind::SyncSecret => self.sync_secrets.remove(name).is_some(),
            Kind::Service => self.services.remove(name).is_some(),
        }
    }
}

fn put<T>(objects: &mut Objects<T>, name: &ObjectName, mut object: Arc<T>) -> bool
where
    T: Clone + PartialEq + kube::Resource,
{
    // Changes with every write, also with one that changes nothing; nobody here compares and swaps.
    if object.meta().resource_version.is_some() {
        Arc::make_mut(&mut object).meta_mut().resource_version = None;
    }
    if objects.get(name).is_some_and(|known| *known == object) {
        return false;
    }
    objects.insert(name.clone(), object);
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::{Unreadable, decode};

    fn seen(name: &str, version: &str, port: impl Into<serde_json::Value>) -> Seen {
        let object = json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
            "metadata": {"name": name, "namespace": "tenant-x", "resourceVersion": version},
            "spec": {"endpoints": [], "ports": [{"port": port.into()}]},
        });
        match decode(object) {
            Ok(object) => Ok(object),
            Err(Unreadable::Malformed(malformed)) => Err(malformed),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_same_again_is_no_change() {
        let mut store = Store::default();
        assert!(store.apply(seen("a", "1", 80)));
        assert!(!store.apply(seen("a", "2", 80)));
        assert!(store.apply(seen("a", "3", 81)));
        let key = seen("a", "", 1).unwrap().key();
        assert_eq!(store.take_changed(), BTreeSet::from([key.clone()]));
        assert!(store.take_changed().is_empty());
        assert!(store.delete(&key));
        assert!(!store.delete(&key));
    }

    #[test]
    fn an_object_that_cannot_be_read_leaves_the_last_that_could() {
        let mut store = Store::default();
        store.apply(seen("a", "1", 80));
        assert!(store.apply(seen("a", "2", "http")));
        assert!(!store.apply(seen("a", "3", "http")));
        let problems: Vec<Problem> = store.problems().collect();
        assert_eq!(problems[0].field, "spec.ports[0].port");
        assert_eq!(store.load_balancers().len(), 1);
        assert_eq!(store.count(Kind::LoadBalancer), 1);
        assert!(store.apply(seen("a", "4", 80)), "the problem is gone");
        assert_eq!(store.problems().count(), 0);
    }

    #[test]
    fn a_list_says_what_is_gone() {
        let mut store = Store::default();
        store.apply(seen("a", "1", 80));
        store.apply(seen("b", "1", "http"));
        store.take_changed();
        assert!(!store.reset(Kind::LoadBalancer, [seen("a", "1", 80), seen("b", "1", "http")]));
        assert!(store.reset(Kind::LoadBalancer, [seen("c", "1", 80)]));
        let changed: Vec<String> = store.take_changed().iter().map(ToString::to_string).collect();
        assert_eq!(
            changed,
            [
                "LoadBalancer tenant-x/a",
                "LoadBalancer tenant-x/b",
                "LoadBalancer tenant-x/c"
            ]
        );
    }
}
