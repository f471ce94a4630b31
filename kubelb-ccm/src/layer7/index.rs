//! Who has to look again when something changes. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::Notify;

use super::object::{Kind, Object};
use crate::plan::layer7::{Name, References};

/// An object: its kind, namespace and name.
pub(crate) type Key = (Kind, String, String);

/// What an object depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Class(String),
    Gateway(Name),
    Service(Name),
    Secret(Name),
    /// The ReferenceGrants of a namespace.
    Grants(String),
    /// Labels of a namespace.
    Namespace(String),
}

/// What depends on what.
#[derive(Debug, Default)]
pub(crate) struct Index {
    topics: BTreeMap<Key, BTreeSet<Topic>>,
    objects: BTreeMap<Topic, BTreeSet<Key>>,
}

impl Index {
    /// Takes what an object refers to.
    pub(crate) fn set(&mut self, key: &Key, references: &References) {
        let mut topics: BTreeSet<Topic> = BTreeSet::new();
        topics.extend(references.class.iter().cloned().map(Topic::Class));
        topics.extend(references.gateways.iter().cloned().map(Topic::Gateway));
        topics.extend(references.services.keys().cloned().map(Topic::Service));
        topics.extend(references.secrets.iter().cloned().map(Topic::Secret));
        topics.extend(
            references
                .foreign(&key.1)
                .map(|namespace| Topic::Grants(namespace.to_owned())),
        );
        if matches!(key.0, Kind::HttpRoute | Kind::GrpcRoute) {
            topics.insert(Topic::Namespace(key.1.clone()));
        }
        if self.topics.get(key) == Some(&topics) {
            return;
        }
        self.remove(key);
        for topic in &topics {
            self.objects.entry(topic.clone()).or_default().insert(key.clone());
        }
        self.topics.insert(key.clone(), topics);
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        for topic in self.topics.remove(key).into_iter().flatten() {
            if let Some(keys) = self.objects.get_mut(&topic) {
                keys.remove(key);
                if keys.is_empty() {
                    self.objects.remove(&topic);
                }
            }
        }
    }

    /// A kind is gone; its objects.
    pub(crate) fn clear(&mut self, kind: Kind) -> Vec<Key> {
        let keys: Vec<Key> = self.topics.keys().filter(|key| key.0 == kind).cloned().collect();
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
        self.topics.get(key).into_iter().flatten().cloned().collect()
    }

    /// Every Service that a route refers to.
    pub(crate) fn services(&self) -> Vec<Name> {
        let services = self.objects.keys().filter_map(|topic| match topic {
            Topic::Service(name) => Some(name.clone()),
            Topic::Class(_) | Topic::Gateway(_) | Topic::Secret(_) | Topic::Grants(_) | Topic::Namespace(_) => None,
        });
        services.collect()
    }
}

/// The key of an object.
pub(crate) fn key_of(kind: Kind, object: &Object) -> Key {
    (kind, object.namespace().to_owned(), object.name().to_owned())
}

/// Names that somebody has to look at: each once, however often it is rung for, so that there are never more than there are objects.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    names: RwLock<BTreeSet<Name>>,
    rung: Notify,
}

impl Bell {
    pub(crate) fn ring(&self, name: Name) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(name);
        self.rung.notify_one();
    }

    /// Waits until there are any, and takes them.
    pub(crate) async fn taken(&self) -> BTreeSet<Name> {
        loop {
            let names = std::mem::take(&mut *self.names.write().unwrap_or_else(PoisonError::into_inner));
            if !names.is_empty() {
                return names;
            }
            self.rung.notified().await;
        }
    }

    /// All of them, for ever.
    pub(crate) fn stream(this: std::sync::Arc<Self>) -> impl Stream<Item = Name> + Send + 'static {
        stream::unfold(this, |bell| async move {
            let names = bell.taken().await;
            Some((stream::iter(names), bell))
        })
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("a".to_owned(), name.to_owned())
    }

    #[test]
    fn who_refers_to_something_is_known_until_it_does_not() {
        let mut index = Index::default();
        let key = (Kind::HttpRoute, "a".to_owned(), "r".to_owned());
        let mut references = References::default();
        references.gateways.insert(name("g"));
        references
            .services
            .insert(("b".to_owned(), "s".to_owned()), BTreeSet::from([80]));
        index.set(&key, &references);
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
        references.services.clear();
        index.set(&key, &references);
        assert!(index.interested(&Topic::Service(foreign)).is_empty());
        assert!(index.interested(&Topic::Grants("b".to_owned())).is_empty());
        assert_eq!(index.clear(Kind::HttpRoute), [key]);
        assert!(index.objects.is_empty());
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
