//! What is written of statuses, as whoever watches the objects sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, WatchEvent, WatchParams};
use kubelb_tests::wait;
use serde_json::Value;

/// So far.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Writes of each object's status.
    pub(super) writes: BTreeMap<String, usize>,
    /// Routes that the Gateways among them say are attached.
    pub(super) attached: u64,
    /// Since when they say so.
    pub(super) attached_since: Instant,
    /// The last write.
    pub(super) last: Instant,
}

impl Seen {
    /// Most writes of any object since then.
    pub(super) fn most_since(&self, before: &Self) -> usize {
        let since = |(name, writes): (&String, &usize)| writes - before.writes.get(name).copied().unwrap_or_default();
        self.writes.iter().map(since).max().unwrap_or_default()
    }
}

/// Watches objects of a kind, until the process ends.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Starts on this thread's runtime; nothing is there yet.
    pub(super) fn start(objects: Api<DynamicObject>, which: WatchParams) -> Self {
        let now = wait::now();
        let watch = Self(Arc::new(Mutex::new(Seen {
            writes: BTreeMap::new(),
            attached: 0,
            attached_since: now,
            last: now,
        })));
        let seen = watch.clone();
        tokio::spawn(async move {
            if let Err(error) = seen.follow(objects, which).await {
                eprintln!("layer7: a watch has ended: {error}");
            }
        });
        watch
    }

    pub(super) fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn follow(&self, objects: Api<DynamicObject>, which: WatchParams) -> Result<(), kube::Error> {
        let mut version = "0".to_owned();
        let mut statuses: BTreeMap<String, Value> = BTreeMap::new();
        loop {
            let mut events = objects.watch(&which, &version).await?.boxed();
            while let Some(event) = events.next().await {
                let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event? else {
                    continue;
                };
                version = object.resource_version().unwrap_or_default();
                let status = object.data.get("status").cloned().unwrap_or_default();
                if !status.is_null() && statuses.get(&object.name_any()) != Some(&status) {
                    self.note(&object.name_any(), &status);
                }
                statuses.insert(object.name_any(), status);
            }
        }
    }

    fn note(&self, name: &str, status: &Value) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last = wait::now();
        *seen.writes.entry(name.to_owned()).or_default() += 1;
        let listeners = status.get("listeners").and_then(Value::as_array);
        let attached = listeners
            .into_iter()
            .flatten()
            .filter_map(|listener| listener.get("attachedRoutes")?.as_u64());
        let attached = attached.sum();
        if seen.attached != attached {
            seen.attached = attached;
            seen.attached_since = seen.last;
        }
    }
}
