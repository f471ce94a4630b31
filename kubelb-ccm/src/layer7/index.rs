//! Who has to look again when something changes. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::{Stream, StreamExt as _, stream};
use kube::core::ObjectMeta;
use tokio::sync::Notify;

use super::object::{Kind, Object};
use crate::plan::layer7::{Material, Name, References, read};

/// An object: its kind, namespace and name.
pub(crate) type Key = (Kind, String, String);

/// What an object depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Class(String),
    Gateway(Name),
    Service(Name),
    Material(Material),
    /// The ReferenceGrants of a namespace.
    Grants(String),
    /// Labels of a namespace.
    Namespace(String),
}

/// What others may depend on of an object: as long as it is the same, they have nothing to look at. Statuses and labels are not among it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    uid: Option<String>,
    generation: Option<i64>,
    is_deleting: bool,
}

impl Version {
    fn of(metadata: &ObjectMeta) -> Self {
        Self {
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            is_deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is known of an object.
#[derive(Debug)]
struct Entry {
    version: Version,
    references: Arc<References>,
    topics: BTreeSet<Topic>,
}

/// What depends on what.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<Key, Entry>,
    objects: BTreeMap<Topic, BTreeSet<Key>>,
}

impl Index {
    /// Takes in an object; whether it is another one than before for those that depend on it.
    pub(crate) fn set(&mut self, key: &Key, object: &Object) -> bool {
        let version = Version::of(&object.metadata);
        if self.entries.get(key).is_some_and(|known| known.version == version) {
            return false;
        }
        let references = read(key.0, object);
        let mut topics: BTreeSet<Topic> = BTreeSet::new();
        topics.extend(references.class.iter().cloned().map(Topic::Class));
        topics.extend(references.gateways.iter().cloned().map(Topic::Gateway));
        topics.extend(references.services.keys().cloned().map(Topic::Service));
        topics.extend(references.materials.iter().cloned().map(Topic::Material));
        topics.extend(
            references
                .foreign(&key.1)
                .map(|namespace| Topic::Grants(namespace.to_owned())),
        );
        if matches!(key.0, Kind::HttpRoute | Kind::GrpcRoute) {
            topics.insert(Topic::Namespace(key.1.clone()));
        }
        self.remove(key);
        for topic in &topics {
            self.objects.entry(topic.clone()).or_default().insert(key.clone());
        }
        let references = Arc::new(references);
        let entry = Entry {
            version,
            references,
            topics,
        };
        self.entries.insert(key.clone(), entry);
        true
    }

    /// An object is gone; whether it was known.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        for topic in entry.topics {
            if let Some(keys) = self.objects.get_mut(&topic) {
                keys.remove(key);
                if keys.is_empty() {
                    self.objects.remove(&topic);
                }
            }
        }
        true
    }

    /// What an object refers to.
    pub(crate) fn references(&self, key: &Key) -> Option<Arc<References>> {
        self.entries.get(key).map(|entry| Arc::clone(&entry.references))
    }

    /// A kind is gone; its objects.
    pub(crate) fn clear(&mut self, kind: Kind) -> Vec<Key> {
        let keys: Vec<Key> = self.entries.keys().filter(|key| key.0 == kind).cloned().collect();
        for key in &keys {
            self.remove(key);
        }
        keys
    }

    /// Who depends on it.
    pub(crate) fn interested(&self, topic: &Topic) -> Vec<Key> {
        self.objects.get(topic).into_iter().flatten().cloned().collect()
    }

    /// What an object depends on.
    pub(crate) fn topics(&self, key: &Key) -> Vec<Topic> {
        let topics = self.entries.get(key).map(|entry| &entry.topics);
        topics.into_iter().flatten().cloned().collect()
    }

    /// Every Service that a route refers to.
    pub(crate) fn services(&self) -> Vec<Name> {
        let services = self.objects.keys().filter_map(|topic| match topic {
            Topic::Service(name) => Some(name.clone()),
            Topic::Class(_) | Topic::Gateway(_) | Topic::Material(_) | Topic::Grants(_) | Topic::Namespace(_) => None,
        });
        services.collect()
    }
}

/// The key of an object.
pub(crate) fn key_of(kind: Kind, object: &Object) -> Key {
    (kind, object.namespace().to_owned(), object.name().to_owned())
}

/// Names that somebody has to look at: each once, however often it is rung for, so that there are never more than there are objects.
#[derive(Debug)]
pub(crate) struct Bell<T = Name> {
    names: RwLock<BTreeSet<T>>,
    rung: Notify,
}

impl<T> Default for Bell<T> {
    fn default() -> Self {
        Self {
            names: RwLock::default(),
            rung: Notify::new(),
        }
    }
}

impl<T: Ord + Send + Sync + 'static> Bell<T> {
    pub(crate) fn ring(&self, name: T) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(name);
        self.rung.notify_one();
    }

    /// Waits until there are any, and takes them.
    pub(crate) async fn taken(&self) -> BTreeSet<T> {
        loop {
            let names = std::mem::take(&mut *self.names.write().unwrap_or_else(PoisonError::into_inner));
            if !names.is_empty() {
                return names;
            }
            self.rung.notified().await;
        }
    }

    /// All of them, for ever.
    pub(crate) fn stream(this: Arc<Self>) -> impl Stream<Item = T> + Send + 'static {
        stream::unfold(this, |bell| async move {
            let names = bell.taken().await;
            Some((stream::iter(names), bell))
        })
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> Name {
        ("a".to_owned(), name.to_owned())
    }

    #[test]
    fn who_refers_to_something_is_known_until_it_does_not() {
        let mut index = Index::default();
        let key = (Kind::HttpRoute, "a".to_owned(), "r".to_owned());
        let route = |generation: i64, backends: serde_json::Value| -> Object {
            serde_json::from_value(json!({
                "metadata": {"name": "r", "namespace": "a", "uid": "1", "generation": generation},
                "spec": {"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": backends}]},
            }))
            .unwrap()
        };
        let object = route(1, json!([{"name": "s", "namespace": "b", "port": 80}]));
        assert!(index.set(&key, &object));
        let foreign = ("b".to_owned(), "s".to_owned());
        for topic in [
            Topic::Gateway(name("g")),
            Topic::Service(foreign.clone()),
            Topic::Grants("b".to_owned()),
            Topic::Namespace("a".to_owned()),
        ] {
            assert_eq!(index.interested(&topic), std::slice::from_ref(&key), "{topic:?}");
        }
        assert_eq!(index.services(), std::slice::from_ref(&foreign));
        assert_eq!(index.references(&key).unwrap().services[&foreign], [80].into());
        assert!(index.set(&key, &route(2, json!([]))));
        assert!(index.interested(&Topic::Service(foreign)).is_empty());
        assert!(index.interested(&Topic::Grants("b".to_owned())).is_empty());
        assert_eq!(index.clear(Kind::HttpRoute), [key]);
        assert!(index.objects.is_empty());
    }

    #[test]
    fn a_status_is_no_news_for_others_but_a_deletion_and_a_successor_are() {
        let mut index = Index::default();
        let key = (Kind::Gateway, "a".to_owned(), "g".to_owned());
        let gateway = |metadata: serde_json::Value, status: serde_json::Value| -> Object {
            let spec = json!({"gatewayClassName": "kubelb", "listeners": []});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
        };
        let known = json!({"uid": "1", "generation": 1});
        assert!(index.set(&key, &gateway(known.clone(), json!(null))));
        let told = json!({"listeners": [{"name": "http", "attachedRoutes": 7}]});
        assert!(!index.set(&key, &gateway(known, told)));
        let deleting = json!({"uid": "1", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(index.set(&key, &gateway(deleting, json!(null))));
        assert!(index.set(&key, &gateway(json!({"uid": "2", "generation": 1}), json!(null))));
        assert!(index.remove(&key));
        assert!(!index.remove(&key));
    }

    #[tokio::test]
    async fn a_name_that_is_rung_for_twice_is_looked_at_once() {
        let bell = Bell::default();
        bell.ring(name("x"));
        bell.ring(name("x"));
        bell.ring(name("y"));
        assert_eq!(bell.taken().await, BTreeSet::from([name("x"), name("y")]));
    }
}
