//! What the controllers know: the last seen state of every object, and who owns whom. No I/O.
//!
//! Watches and the answers of our own writes both end here, in any order: an object never goes back to an older
//! resourceVersion and never returns after its deletion, so a decision that follows a write sees that write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::SignedDuration;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};

/// Deleted objects that are remembered so that a late answer does not bring them back.
const REMEMBERED: usize = 8192;

/// Namespace (empty for objects of the cluster) and name.
pub(super) type Key = (String, String);

/// Objects of one kind.
#[derive(Clone, Debug)]
pub(super) struct Store<K>(BTreeMap<Key, K>);

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K> Store<K> {
    /// The object of that name; the namespace is empty for objects of the cluster.
    #[must_use]
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&K> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All objects in a namespace, by name.
    pub(super) fn within<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a K> {
        self.0
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((other, _), _)| other == namespace)
            .map(|(_, object)| object)
    }

    /// All objects, by namespace and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.values()
    }
}

macro_rules! kinds {
    ($($field:ident: $kind:ident, $namespaced:literal;)*) => {
        /// Kinds that a controller reads whole.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Kind {
            $(
                #[doc = concat!("`", stringify!($kind), "`.")]
                $kind,
            )*
        }

        impl Kind {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Where the API serves it.
            #[must_use]
            pub(super) fn resource(self) -> ApiResource {
                match self {
                    $(Self::$kind => ApiResource::erase::<$kind>(&()),)*
                }
            }

            /// Whether its objects live in namespaces.
            #[must_use]
            pub(super) const fn namespaced(self) -> bool {
                match self {
                    $(Self::$kind => $namespaced,)*
                }
            }
        }

        /// The last seen state of the cluster.
        #[derive(Debug, Default)]
        pub(super) struct World {
            $(
                #[doc = concat!("`", stringify!($kind), "`s.")]
                pub(super) $field: Store<$kind>,
            )*
            /// Every object of every kind, as far as ownership and deletion need it.
            pub(super) graph: Graph,
            /// Every resource whose objects can be listed and deleted.
            pub(super) sources: BTreeMap<(String, String), Arc<Source>>,
            /// The authority that clients inside the cluster shall trust, PEM.
            pub(super) api_ca: String,
            /// How long a node may be silent.
            pub(super) node_grace: SignedDuration,
        }

        impl World {
            /// Keeps a typed object. False when it is not of its kind's shape.
            fn put(&mut self, kind: Kind, key: Key, object: &DynamicObject) -> bool {
                match kind {
                    $(Kind::$kind => match object.clone().try_parse::<$kind>() {
                        Ok(object) => {
                            self.$field.0.insert(key, object);
                            true
                        }
                        Err(_) => false,
                    },)*
                }
            }

            fn take(&mut self, kind: Kind, key: &Key) {
                match kind {
                    $(Kind::$kind => drop(self.$field.0.remove(key)),)*
                }
            }

            fn known(&self, kind: Kind, key: &Key) -> Option<&ObjectMeta> {
                match kind {
                    $(Kind::$kind => self.$field.0.get(key).map(Resource::meta),)*
                }
            }
        }
    };
}

kinds! {
    config_maps: ConfigMap, true;
    controller_revisions: ControllerRevision, true;
    daemon_sets: DaemonSet, true;
    deployments: Deployment, true;
    endpoint_slices: EndpointSlice, true;
    jobs: Job, true;
    leases: Lease, true;
    namespaces: Namespace, false;
    nodes: Node, false;
    pod_disruption_budgets: PodDisruptionBudget, true;
    pods: Pod, true;
    replica_sets: ReplicaSet, true;
    secrets: Secret, true;
    service_accounts: ServiceAccount, true;
    services: Service, true;
    stateful_sets: StatefulSet, true;
}

/// Where objects come from: one resource of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Set when a controller reads the objects whole.
    pub(super) kind: Option<Kind>,
    /// Where the API serves it.
    pub(super) resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub(super) namespaced: bool,
}

impl Source {
    /// A kind that controllers read.
    #[must_use]
    pub(super) fn typed(kind: Kind) -> Arc<Self> {
        Arc::new(Self {
            kind: Some(kind),
            resource: kind.resource(),
            namespaced: kind.namespaced(),
        })
    }

    /// Group and plural, which no two resources share.
    #[must_use]
    pub(super) fn id(&self) -> (String, String) {
        (self.resource.group.clone(), self.resource.plural.clone())
    }
}

/// What ownership and deletion need of an object.
#[derive(Clone, Debug)]
pub(super) struct Vertex {
    /// Its resource.
    pub(super) source: Arc<Source>,
    /// Namespace and name.
    pub(super) key: Key,
    /// Owners, whether or not they exist.
    pub(super) owners: Vec<OwnerReference>,
    /// What holds it after its deletion was asked for.
    pub(super) finalizers: Vec<String>,
    /// Its deletion was asked for.
    pub(super) deleting: bool,
    /// As the server counts.
    pub(super) revision: u64,
}

/// Objects by uid, and the ways from owner to dependent.
#[derive(Debug, Default)]
pub(super) struct Graph {
    vertices: BTreeMap<String, Vertex>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    names: BTreeMap<((String, String), Key), String>,
    gone: BTreeSet<String>,
    gone_order: VecDeque<String>,
    relisting: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Graph {
    /// The object with that uid.
    #[must_use]
    pub(super) fn get(&self, uid: &str) -> Option<&Vertex> {
        self.vertices.get(uid)
    }

    /// Uids of the objects that name this one as an owner.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &str> {
        self.dependents.get(uid).into_iter().flatten().map(String::as_str)
    }

    /// The uid of the object of that name.
    #[must_use]
    pub(super) fn uid(&self, source: &Source, key: &Key) -> Option<&str> {
        self.names.get(&(source.id(), key.clone())).map(String::as_str)
    }

    /// Whether an object with this uid was seen to go.
    #[must_use]
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// Every object with its uid.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Vertex)> {
        self.vertices.iter().map(|(uid, vertex)| (uid.as_str(), vertex))
    }

    fn insert(&mut self, uid: &str, vertex: Vertex) {
        self.remove(uid);
        for owner in &vertex.owners {
            let dependents = self.dependents.entry(owner.uid.clone()).or_default();
            dependents.insert(uid.to_owned());
        }
        self.names
            .insert((vertex.source.id(), vertex.key.clone()), uid.to_owned());
        self.vertices.insert(uid.to_owned(), vertex);
    }

    fn remove(&mut self, uid: &str) -> Option<Vertex> {
        let vertex = self.vertices.remove(uid)?;
        for owner in &vertex.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        let name = (vertex.source.id(), vertex.key.clone());
        if self.names.get(&name).is_some_and(|other| other == uid) {
            self.names.remove(&name);
        }
        Some(vertex)
    }

    fn bury(&mut self, uid: &str) {
        if self.gone.insert(uid.to_owned()) {
            self.gone_order.push_back(uid.to_owned());
        }
        while self.gone_order.len() > REMEMBERED {
            if let Some(oldest) = self.gone_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
    }
}

/// What has changed: the object as it was and as it is, as far as work depends on it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Its resource.
    pub(super) source: Arc<Source>,
    /// Metadata before, unless it is new.
    pub(super) before: Option<ObjectMeta>,
    /// Metadata after, unless it is gone.
    pub(super) after: Option<ObjectMeta>,
    /// Its uid.
    pub(super) uid: String,
}

impl World {
    /// Takes in an object as a watch or a write tells it. What is older than what is known changes nothing.
    pub(super) fn apply(&mut self, source: &Arc<Source>, object: &DynamicObject) -> Vec<Change> {
        let meta = &object.metadata;
        let (Some(uid), Some(name)) = (&meta.uid, &meta.name) else {
            return Vec::new();
        };
        if self.graph.gone.contains(uid) {
            return Vec::new();
        }
        if let Some(listed) = self.graph.relisting.get_mut(&source.id()) {
            listed.insert(uid.clone());
        }
        let key = (meta.namespace.clone().unwrap_or_default(), name.clone());
        let revision = revision(meta);
        let mut changes = Vec::new();
        if let Some(known) = self.graph.get(uid) {
            if known.revision >= revision {
                return Vec::new();
            }
        } else if let Some(other) = self.graph.uid(source, &key).map(str::to_owned) {
            // The same name again: the one before is gone, whether or not we are told.
            if self.graph.get(&other).is_some_and(|known| known.revision > revision) {
                return Vec::new();
            }
            changes.extend(self.remove(source, &other));
        }
        let before = self.meta(source, &key);
        if let Some(kind) = source.kind
            && !self.put(kind, key.clone(), object)
        {
            return changes;
        }
        let vertex = Vertex {
            source: Arc::clone(source),
            key,
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            revision,
        };
        let before = before.or_else(|| self.graph.get(uid).map(Vertex::meta));
        self.graph.insert(uid, vertex);
        changes.push(Change {
            source: Arc::clone(source),
            before,
            after: Some(meta.clone()),
            uid: uid.clone(),
        });
        changes
    }

    /// Forgets an object that is gone.
    pub(super) fn remove(&mut self, source: &Arc<Source>, uid: &str) -> Vec<Change> {
        self.graph.bury(uid);
        let Some(vertex) = self.graph.remove(uid) else {
            return Vec::new();
        };
        let before = self.meta(source, &vertex.key).or_else(|| Some(vertex.meta()));
        if let Some(kind) = source.kind {
            self.take(kind, &vertex.key);
        }
        vec![Change {
            source: Arc::clone(source),
            before,
            after: None,
            uid: uid.to_owned(),
        }]
    }

    /// A list of all objects of a resource begins.
    pub(super) fn relist(&mut self, source: &Source) {
        self.graph.relisting.insert(source.id(), BTreeSet::new());
    }

    /// The list is complete: what was not in it, and was not written meanwhile, is gone.
    pub(super) fn listed(&mut self, source: &Arc<Source>) -> Vec<Change> {
        let id = source.id();
        let Some(listed) = self.graph.relisting.remove(&id) else {
            return Vec::new();
        };
        let missing: Vec<String> = self
            .graph
            .iter()
            .filter(|(uid, vertex)| vertex.source.id() == id && !listed.contains(*uid))
            .map(|(uid, _)| uid.to_owned())
            .collect();
        missing.iter().flat_map(|uid| self.remove(source, uid)).collect()
    }

    /// A resource is no longer served: its objects are gone.
    pub(super) fn unserved(&mut self, source: &Arc<Source>) -> Vec<Change> {
        self.relist(source);
        self.listed(source)
    }

    /// The resource that serves a kind, of any version.
    #[must_use]
    pub(super) fn source_of(&self, api_version: &str, kind: &str) -> Option<&Arc<Source>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let mut sources = self.sources.values();
        sources.find(|source| source.resource.kind == kind && source.resource.group == group)
    }

    fn meta(&self, source: &Source, key: &Key) -> Option<ObjectMeta> {
        self.known(source.kind?, key).cloned()
    }
}

impl Vertex {
    /// As much metadata as is kept of every object.
    fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            namespace: Some(self.key.0.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(self.key.1.clone()),
            owner_references: Some(self.owners.clone()),
            ..ObjectMeta::default()
        }
    }
}

/// resourceVersions are opaque on paper; every server that there is counts, and KEP-5504 makes it a promise.
fn revision(meta: &ObjectMeta) -> u64 {
    let text = meta.resource_version.as_deref().unwrap_or_default();
    text.parse().unwrap_or(u64::MAX)
}
