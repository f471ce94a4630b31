//! The objects and the log of what happened to them, under one revision counter. Pure: no clock, no I/O, no HTTP.
//!
//! The log is a ring: a watcher reads it by revision, and one that asks for what has left it gets told so (410). That
//! bounds the memory of any number of slow watchers by the ring alone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use hyper::body::Bytes;
use serde_json::Value;

/// Namespace (empty when cluster-scoped) and name.
pub(crate) type Key = (String, String);

/// An object as it is stored. As JSON it is written once, whoever asks first: the journal, an answer, a watcher.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    object: Value,
    json: OnceLock<Bytes>,
}

impl Stored {
    pub(crate) fn new(object: Value) -> Self {
        Self {
            object,
            json: OnceLock::new(),
        }
    }

    /// The object as JSON.
    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.object.to_string()))
    }
}

impl Deref for Stored {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.object
    }
}

/// One change. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    /// `configmaps`, `things.rec.example.com`.
    pub(crate) resource: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `None` when the object is new.
    pub(crate) before: Option<Arc<Stored>>,
    /// `None` when the object is gone.
    pub(crate) after: Option<Arc<Stored>>,
}

/// Why the log can't be read from a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub(crate) struct Compacted {
    pub(crate) asked: u64,
    /// The oldest revision that still can be asked for.
    pub(crate) oldest: u64,
}

/// Everything the server remembers.
#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    objects: BTreeMap<Arc<str>, BTreeMap<Key, Arc<Stored>>>,
    log: VecDeque<Event>,
    capacity: usize,
    /// Events up to and including this one are not in the log.
    compacted: u64,
}

impl Store {
    /// Starts empty at `revision`, with a log of `capacity` events.
    pub(crate) fn new(revision: u64, capacity: usize) -> Self {
        Self {
            revision,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            capacity: capacity.max(1),
            compacted: revision,
        }
    }

    /// Of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        // A tuple of owned strings as the key costs an allocation per lookup; the map stays simple.
        let key = (namespace.to_owned(), name.to_owned());
        self.objects.get(resource)?.get(&key)
    }

    /// In order of namespace and name; all namespaces when `namespace` is `None`.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> {
        self.objects.get(resource).into_iter().flat_map(move |objects| {
            let from = (namespace.unwrap_or_default().to_owned(), String::new());
            objects
                .range(from..)
                .take_while(move |((of, _), _)| namespace.is_none_or(|namespace| of == namespace))
        })
    }

    /// Everything, for a snapshot.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &Key, &Arc<Stored>)> {
        self.objects
            .iter()
            .flat_map(|(resource, objects)| objects.iter().map(move |(key, object)| (resource, key, object)))
    }

    /// Creates or replaces an object; its resourceVersion is set here.
    pub(crate) fn put(&mut self, resource: &str, namespace: &str, name: &str, mut object: Value) -> Event {
        let revision = self.revision.saturating_add(1);
        set_revision(&mut object, revision);
        self.record(revision, resource, namespace, name, Some(Arc::new(Stored::new(object))))
    }

    /// Removes an object; `None` when there is none.
    pub(crate) fn remove(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Event> {
        self.get(resource, namespace, name)?;
        let revision = self.revision.saturating_add(1);
        Some(self.record(revision, resource, namespace, name, None))
    }

    /// Takes back a change that was recorded before, with the revision it had then.
    pub(crate) fn replay(&mut self, revision: u64, resource: &str, key: &Key, object: Option<Value>) {
        self.record(
            revision,
            resource,
            &key.0,
            &key.1,
            object.map(|object| Arc::new(Stored::new(object))),
        );
    }

    /// Puts an object back that a snapshot holds: it is not an event.
    pub(crate) fn restore(&mut self, resource: &str, key: Key, object: Value) {
        self.objects
            .entry(Arc::from(resource))
            .or_default()
            .insert(key, Arc::new(Stored::new(object)));
    }

    fn record(
        &mut self,
        revision: u64,
        resource: &str,
        namespace: &str,
        name: &str,
        after: Option<Arc<Stored>>,
    ) -> Event {
        let key = (namespace.to_owned(), name.to_owned());
        let resource: Arc<str> = match self.objects.get_key_value(resource) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(resource),
        };
        let objects = self.objects.entry(Arc::clone(&resource)).or_default();
        let before = match &after {
            Some(object) => objects.insert(key, Arc::clone(object)),
            None => objects.remove(&key),
        };
        self.revision = revision;
        let event = Event {
            revision,
            resource,
            namespace: Arc::from(namespace),
            name: Arc::from(name),
            before,
            after,
        };
        if self.log.len() >= self.capacity
            && let Some(oldest) = self.log.pop_front()
        {
            self.compacted = oldest.revision;
        }
        self.log.push_back(event.clone());
        event
    }

    /// Changes after `after`, up to and including `until`, oldest first and `most` at a time.
    ///
    /// # Errors
    /// When the log does not reach back that far.
    pub(crate) fn changes(&self, after: u64, until: u64, most: usize) -> Result<Vec<Event>, Compacted> {
        if after < self.compacted {
            return Err(Compacted {
                asked: after,
                oldest: self.compacted,
            });
        }
        let start = self.log.partition_point(|event| event.revision <= after);
        Ok(self
            .log
            .range(start..)
            .take_while(|event| event.revision <= until)
            .take(most)
            .cloned()
            .collect())
    }
}

/// Writes `metadata.resourceVersion`.
pub(crate) fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::from(revision.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(name: &str) -> Value {
        json!({"metadata": {"name": name}})
    }

    #[test]
    fn every_change_takes_one_revision_and_the_object_carries_it() {
        let mut store = Store::new(7, 10);
        assert_eq!(store.put("configmaps", "n", "a", named("a")).revision, 8);
        assert_eq!(
            store.remove("configmaps", "n", "a").map(|event| event.revision),
            Some(9)
        );
        assert!(store.remove("configmaps", "n", "a").is_none());
        assert_eq!(store.revision(), 9);
        let seen = store.changes(7, 9, 10).unwrap();
        assert_eq!(seen[0].after.as_ref().unwrap()["metadata"]["resourceVersion"], "8");
        assert!(seen[1].after.is_none() && seen[1].before.is_some());
    }

    #[test]
    fn a_list_of_one_namespace_ends_where_the_next_begins() {
        let mut store = Store::new(0, 10);
        for (namespace, name) in [("a", "x"), ("b", "y"), ("b", "z"), ("bb", "x")] {
            store.put("pods", namespace, name, named(name));
        }
        let names: Vec<&str> = store
            .list("pods", Some("b"))
            .map(|((_, name), _)| name.as_str())
            .collect();
        assert_eq!(names, ["y", "z"]);
        assert_eq!(store.list("pods", None).count(), 4);
    }

    #[test]
    fn what_left_the_log_is_reported_and_what_is_in_it_is_complete() {
        let mut store = Store::new(0, 2);
        for name in ["a", "b", "c"] {
            store.put("pods", "n", name, named(name));
        }
        assert_eq!(store.changes(0, 3, 10).unwrap_err(), Compacted { asked: 0, oldest: 1 });
        assert_eq!(store.changes(1, 3, 10).unwrap().len(), 2);
        assert_eq!(store.changes(1, 2, 10).unwrap().len(), 1);
    }
}
