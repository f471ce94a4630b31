//! What a controller wants done, as data: a decision makes it, [`super::execute`] carries it out. No I/O.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::{Value, json};

use super::world::{Key, Kind, Source, Vertex};

/// An object that a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Where the API serves it.
    pub(super) resource: ApiResource,
    /// Whether it lives in a namespace.
    pub(super) namespaced: bool,
    /// Namespace and name.
    pub(super) key: Key,
}

impl Target {
    /// An object of a kind that controllers read.
    #[must_use]
    pub(super) fn of<K: Resource>(kind: Kind, object: &K) -> Self {
        let meta = object.meta();
        Self {
            resource: kind.resource(),
            namespaced: kind.namespaced(),
            key: (
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ),
        }
    }

    /// An object of any kind.
    #[must_use]
    pub(super) fn vertex(vertex: &Vertex) -> Self {
        Self {
            resource: vertex.source.resource.clone(),
            namespaced: vertex.source.namespaced,
            key: vertex.key.clone(),
        }
    }
}

/// One request, or a few that belong together.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Makes an object.
    Create {
        /// Its kind.
        kind: Kind,
        /// Where; empty for objects of the cluster.
        namespace: String,
        /// The object.
        object: Value,
    },
    /// Merges a patch (RFC 7386) into an object.
    Patch {
        /// Which.
        target: Target,
        /// With a resourceVersion where the decision depends on what was read.
        patch: Value,
    },
    /// Replaces an object's status.
    Status {
        /// Which.
        target: Target,
        /// The object with its new status.
        object: Value,
    },
    /// Deletes an object, if it is still the same.
    Delete {
        /// Which.
        target: Target,
        /// Of the object that was seen.
        uid: String,
        /// Seconds; the object's own when absent.
        grace: Option<u32>,
        /// Its dependents go first.
        foreground: bool,
    },
    /// Deletes an object, if what it depends on is really gone and not only unknown to us.
    DeleteIfAbsent {
        /// Which.
        target: Target,
        /// Of the object that was seen.
        uid: String,
        /// Seconds; the object's own when absent.
        grace: Option<u32>,
        /// What it depends on, each with the uid that it had, if known.
        absent: Vec<(Target, Option<String>)>,
    },
    /// Puts a Pod on a node.
    Bind {
        /// The Pod.
        pod: Key,
        /// Of the Pod.
        uid: String,
        /// Name of the node.
        node: String,
    },
    /// Tells users what happened.
    Event(Event),
    /// Fills a Secret with a token of its ServiceAccount.
    FillToken {
        /// The Secret.
        secret: Key,
        /// Name of the ServiceAccount.
        account: String,
        /// Of the Secret.
        uid: String,
    },
    /// Deletes everything in a namespace and, when nothing is left, the namespace.
    EmptyNamespace {
        /// Its name.
        namespace: String,
        /// Of what there may be objects.
        sources: Vec<Arc<Source>>,
    },
}

/// What `kubectl describe` shows of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// An object reference.
    pub(super) regarding: Value,
    /// Where it goes.
    pub(super) namespace: String,
    /// One word.
    pub(super) reason: String,
    /// A sentence.
    pub(super) message: String,
    /// Something is wrong.
    pub(super) warning: bool,
    /// Who says it.
    pub(super) component: &'static str,
}

/// What to do, and when to look again though nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// In this order.
    pub(super) actions: Vec<Action>,
    /// Time passes for a grace period, a deadline or the like.
    pub(super) again: Option<Timestamp>,
}

impl Plan {
    /// Adds an action.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Asks to look again, if not asked to do so earlier.
    pub(super) fn look_again(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }

    /// Says something about an object.
    pub(super) fn tell<K: Resource>(&mut self, kind: Kind, object: &K, reason: &str, message: String) {
        self.act(Action::Event(event(kind, object, reason, message, false)));
    }

    /// Deletes an object with its own grace period.
    pub(super) fn delete<K: Resource>(&mut self, kind: Kind, object: &K) {
        self.act(delete(kind, object, None));
    }

    /// Merges a patch into the object as it was read: refused when it has changed since.
    pub(super) fn patch<K: Resource>(&mut self, kind: Kind, object: &K, mut patch: Value) {
        if let Some(Value::Object(patch)) = patch
            .as_object_mut()
            .map(|patch| patch.entry("metadata").or_insert_with(|| json!({})))
        {
            patch.insert("resourceVersion".to_owned(), json!(object.meta().resource_version));
        }
        self.act(Action::Patch {
            target: Target::of(kind, object),
            patch,
        });
    }

    /// Replaces the status by that of `object`, refused when it has changed since it was read.
    pub(super) fn status<K: Resource + Serialize>(&mut self, kind: Kind, object: &K) {
        if let Ok(value) = serde_json::to_value(object) {
            self.act(Action::Status {
                target: Target::of(kind, object),
                object: value,
            });
        }
    }
}

/// Deletes the object that was seen.
#[must_use]
pub(super) fn delete<K: Resource>(kind: Kind, object: &K, grace: Option<u32>) -> Action {
    Action::Delete {
        target: Target::of(kind, object),
        uid: object.meta().uid.clone().unwrap_or_default(),
        grace,
        foreground: false,
    }
}

/// Something to say about an object.
#[must_use]
pub(super) fn event<K: Resource>(kind: Kind, object: &K, reason: &str, message: String, warning: bool) -> Event {
    let (resource, meta) = (kind.resource(), object.meta());
    Event {
        regarding: json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        }),
        namespace: meta.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        reason: reason.to_owned(),
        message,
        warning,
        component: "controllers",
    }
}
