//! What is known of the tenant's cluster and of its namespace in the management cluster, for layer 7; and who is told when that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::core::PartialObjectMeta;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kubelb_api::labels::Label;
use kubelb_api::v1alpha1::{Addresses, Route};
use tokio::sync::{Notify, watch};

use super::index::{Bell, Index, Key, Topic, key_of};
use super::materials::Copies;
use super::object::{Kind, Object};
use super::writing::Objects;
use crate::hub::Hub;
use crate::plan::layer7::{
    GatewaySettings, Material, Name, View, is_our_gateway, is_our_route, permitted_materials, permitted_services, read,
};
use crate::plan::{AddressType, Settings};
use crate::tenancy::Tenancy;
use crate::watch::{Followed, Link};

/// What is known of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) enum Shelf {
    /// Nobody has answered yet whether the kind is served.
    #[default]
    Unknown,
    /// It is not: there are no objects of it.
    Empty,
    /// It is followed.
    Followed(Followed<Object>),
}

/// All of it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) objects: Objects,
    pub(crate) tenant: Arc<Link>,
    pub(crate) hub: Hub,
    pub(crate) tenancy: Tenancy,
    pub(crate) settings: Settings,
    pub(crate) gateways: GatewaySettings,
    pub(crate) address_type: AddressType,
    pub(crate) cleanup_timeout: Duration,
    /// How long something stays that nothing refers to any more.
    pub(crate) grace: Duration,
    pub(crate) services: Followed<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) nodes: Followed<Node>,
    pub(crate) namespaces: Followed<PartialObjectMeta<Namespace>>,
    pub(crate) routes: Followed<Route>,
    pub(crate) addresses: Store<Addresses>,
    pub(crate) shelves: watch::Sender<BTreeMap<Kind, Shelf>>,
    pub(crate) index: RwLock<Index>,
    pub(crate) bells: BTreeMap<Kind, Arc<Bell>>,
    /// Services whose shadow or nodes may have to change.
    pub(crate) service_bell: Bell,
    /// Rung when other Secrets or ConfigMaps may be wanted.
    pub(crate) materials_changed: Notify,
    /// Those whose copy is gone, and not by us.
    pub(crate) lost_copies: Bell<Material>,
    /// Rung when something may have been left behind.
    pub(crate) orphans_changed: Notify,
    pub(crate) copies: Copies,
    pub(crate) recorder: Recorder,
    /// Failures in a row, and the last one told, of objects that failed.
    pub(crate) failures: RwLock<BTreeMap<Key, (u32, String)>>,
}

impl World {
    pub(crate) fn bells() -> BTreeMap<Kind, Arc<Bell>> {
        Kind::ALL.into_iter().map(|kind| (kind, Arc::default())).collect()
    }

    /// Waits until everything in the tenant's cluster was seen once: with half of it, the other half would look as if it were gone.
    pub(crate) async fn settled(&self) {
        self.services.listed().await;
        self.nodes.listed().await;
        self.namespaces.listed().await;
        for kind in Kind::ALL {
            let shelf = {
                let mut shelves = self.shelves.subscribe();
                let is_known =
                    |shelves: &BTreeMap<Kind, Shelf>| !matches!(shelves.get(&kind), None | Some(Shelf::Unknown));
                match shelves.wait_for(is_known).await {
                    Ok(shelves) => shelves.get(&kind).cloned(),
                    Err(_) => None,
                }
            };
            if let Some(Shelf::Followed(followed)) = shelf {
                followed.listed().await;
            }
        }
    }

    fn store(&self, kind: Kind) -> Option<Store<Object>> {
        match self.shelves.borrow().get(&kind) {
            Some(Shelf::Followed(followed)) => Some(followed.store.clone()),
            None | Some(Shelf::Unknown | Shelf::Empty) => None,
        }
    }

    pub(crate) fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let reference = ObjectRef::new_with(name, kind);
        let reference = if namespace.is_empty() {
            reference
        } else {
            reference.within(namespace)
        };
        self.store(kind)?.get(&reference)
    }

    /// Every object of a kind.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Arc<Object>> {
        self.store(kind).map(|store| store.state()).unwrap_or_default()
    }

    /// UIDs of all objects of a kind; `None` while that is not known.
    pub(crate) fn uids(&self, kind: Kind) -> Option<BTreeSet<String>> {
        let shelf = self.shelves.borrow().get(&kind).cloned();
        match shelf {
            None | Some(Shelf::Unknown) => None,
            Some(Shelf::Empty) => Some(BTreeSet::new()),
            Some(Shelf::Followed(followed)) if followed.is_listed() => {
                let all = followed.store.state();
                Some(all.iter().filter_map(|object| object.metadata.uid.clone()).collect())
            }
            Some(Shelf::Followed(_)) => None,
        }
    }

    pub(crate) fn is_ours(&self, kind: Kind, object: &Object) -> bool {
        match kind {
            Kind::Gateway => is_our_gateway(object, self.gateways, self),
            Kind::HttpRoute | Kind::GrpcRoute => is_our_route(object, &read(kind, object), &mut |name| {
                let gateway = self.gateway(&name.0, &name.1);
                gateway.is_some_and(|gateway| is_our_gateway(&gateway, self.gateways, self))
            }),
            Kind::GatewayClass | Kind::ReferenceGrant => false,
        }
    }

    /// Ports of a Service that routes of ours may send requests to; `None` when there is no such route.
    pub(crate) fn wanted_ports(&self, service: &Name) -> Option<BTreeSet<i32>> {
        if self.tenancy.is_over() {
            return None;
        }
        let keys = self.interested(&Topic::Service(service.clone()));
        let mut ports = None;
        let mut gateways: BTreeMap<Name, bool> = BTreeMap::new();
        for key in keys {
            let (kind, namespace, name) = &key;
            let found = (self.object(*kind, namespace, name), self.index().references(&key));
            let (Some(object), Some(references)) = found else {
                continue;
            };
            // Many routes, few Gateways.
            let mut is_ours = |name: &Name| {
                let known = gateways.get(name).copied();
                known.unwrap_or_else(|| {
                    let gateway = self.gateway(&name.0, &name.1);
                    let is_ours = gateway.is_some_and(|gateway| self.is_ours(Kind::Gateway, &gateway));
                    gateways.insert(name.clone(), is_ours);
                    is_ours
                })
            };
            if !is_our_route(&object, &references, &mut is_ours) {
                continue;
            }
            let permitted = permitted_services(*kind, &object, &references, self).find(|(name, _)| *name == service);
            if let Some((_, wanted)) = permitted {
                ports.get_or_insert_with(BTreeSet::new).extend(wanted);
            }
        }
        ports
    }

    /// What Gateways of ours may have certificates and authorities from.
    pub(crate) fn wanted_materials(&self) -> BTreeSet<Material> {
        let mut wanted = BTreeSet::new();
        if self.tenancy.is_over() {
            return wanted;
        }
        for gateway in self.all(Kind::Gateway) {
            if self.is_ours(Kind::Gateway, &gateway) {
                let references = read(Kind::Gateway, &gateway);
                wanted.extend(permitted_materials(&gateway, &references, self).cloned());
            }
        }
        wanted
    }

    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn interested(&self, topic: &Topic) -> Vec<Key> {
        self.index().interested(topic)
    }

    /// That object has to be looked at.
    pub(crate) fn ring(&self, (kind, namespace, name): Key) {
        if let Some(bell) = self.bells.get(&kind) {
            bell.ring((namespace, name));
        }
    }

    /// Everything that depends on it has to be looked at.
    pub(crate) fn tell(&self, topic: &Topic) {
        for key in self.interested(topic) {
            // A route may become ours, or not, by its Gateway; and a Gateway by its class.
            if key.0 == Kind::Gateway && matches!(topic, Topic::Class(_) | Topic::Grants(_)) {
                self.gateway_changed(&key);
            }
            if matches!(topic, Topic::Gateway(_) | Topic::Grants(_)) {
                self.ring_backends(&key);
            }
            self.ring(key);
        }
    }

    fn gateway_changed(&self, (_, namespace, name): &Key) {
        self.materials_changed.notify_one();
        self.tell(&Topic::Gateway((namespace.clone(), name.clone())));
    }

    fn ring_backends(&self, key: &Key) {
        let topics = self.index().topics(key);
        self.ring_services_of(topics);
    }

    fn ring_services_of(&self, topics: Vec<Topic>) {
        for topic in topics {
            if let Topic::Service(service) = topic {
                self.service_bell.ring(service);
            }
        }
    }

    /// An object of the Gateway API came, changed or went.
    pub(crate) fn object_changed(&self, kind: Kind, seen: &Object) {
        let key = key_of(kind, seen);
        let present = self.object(kind, &key.1, &key.2);
        // Backends of before and after.
        let before = self.index().topics(&key);
        let is_news = {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            match &present {
                Some(object) => index.set(&key, object),
                None => index.remove(&key),
            }
        };
        if !is_news {
            return;
        }
        self.ring_services_of(before);
        match kind {
            Kind::GatewayClass => self.tell(&Topic::Class(key.2.clone())),
            Kind::Gateway => self.gateway_changed(&key),
            Kind::HttpRoute | Kind::GrpcRoute => self.ring_backends(&key),
            Kind::ReferenceGrant => self.tell(&Topic::Grants(key.1.clone())),
        }
        self.orphans_changed.notify_one();
    }

    /// A kind is not served any more.
    pub(crate) fn kind_gone(&self, kind: Kind) {
        let gone = self.index.write().unwrap_or_else(PoisonError::into_inner).clear(kind);
        for (_, namespace, name) in gone {
            self.tell(&Topic::Gateway((namespace, name)));
        }
        self.materials_changed.notify_one();
        self.orphans_changed.notify_one();
        self.ring_services();
    }

    /// The tenant is deleted, or there is one again. Its objects have to be looked at as well.
    pub(crate) fn tenancy_changed(&self) {
        self.materials_changed.notify_one();
        self.orphans_changed.notify_one();
        self.ring_services();
    }

    /// A Service came, changed or went.
    pub(crate) fn service_changed(&self, service: &Service) {
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let own = service.metadata.name.clone();
        let origin = Label::ORIGIN_NAME.get(&service.metadata).map(str::to_owned);
        for name in own.into_iter().chain(origin) {
            let name = (namespace.clone(), name);
            self.tell(&Topic::Service(name.clone()));
            self.service_bell.ring(name);
        }
        self.orphans_changed.notify_one();
    }

    /// Pods of a Service came or went.
    pub(crate) fn endpoints_changed(&self, namespace: &str, service: &str) {
        let name = (namespace.to_owned(), service.to_owned());
        if !self.interested(&Topic::Service(name.clone())).is_empty() {
            self.service_bell.ring(name);
        }
    }

    /// A namespace came, changed or went.
    pub(crate) fn namespace_changed(&self, name: &str) {
        self.tell(&Topic::Namespace(name.to_owned()));
    }

    /// Addresses in the management cluster came, changed or went.
    pub(crate) fn addresses_changed(&self, addresses: &Addresses) {
        let metadata = &addresses.metadata;
        if let (Some(namespace), Some(name)) = (Label::ORIGIN_NAMESPACE.get(metadata), Label::ORIGIN_NAME.get(metadata))
        {
            self.service_bell.ring((namespace.to_owned(), name.to_owned()));
            self.orphans_changed.notify_one();
        }
    }

    /// A copy of a Secret or ConfigMap is gone from the management cluster.
    pub(crate) fn copy_gone(&self, name: &str) {
        if let Some(original) = self.copies.original(name) {
            self.lost_copies.ring(original);
        }
    }

    /// A node came, changed or went.
    pub(crate) fn nodes_changed(&self) {
        self.ring_services();
    }

    fn ring_services(&self) {
        let services = self.index().services();
        for service in services {
            self.service_bell.ring(service);
        }
    }

    /// A Route in the management cluster came, changed or went.
    pub(crate) fn route_changed(&self, route: &Route) {
        let source = route.spec.source.as_ref().and_then(|source| source.kubernetes.as_ref());
        let Some(resource) = source.and_then(|source| source.resource.as_ref()) else {
            return;
        };
        let kind = Kind::COPIED.into_iter().find(|kind| kind.as_str() == resource.kind());
        if let Some(kind) = kind {
            self.ring((kind, resource.namespace().to_owned(), resource.name().to_owned()));
        }
        self.orphans_changed.notify_one();
    }
}

impl View for World {
    fn class(&self, name: &str) -> Option<Arc<Object>> {
        self.object(Kind::GatewayClass, "", name)
    }

    fn gateway(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.object(Kind::Gateway, namespace, name)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.store.get(&ObjectRef::new(name).within(namespace))
    }

    fn grants(&self, namespace: &str) -> Vec<Arc<Object>> {
        let mut all = self.all(Kind::ReferenceGrant);
        all.retain(|grant| grant.namespace() == namespace);
        all
    }

    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let found = self.namespaces.store.get(&ObjectRef::new(namespace));
        found
            .and_then(|namespace| namespace.metadata.labels.clone())
            .unwrap_or_default()
    }
}
