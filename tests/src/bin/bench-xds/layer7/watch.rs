//! What is written of statuses, as whoever watches the objects sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::StreamExt as _;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use kubelb_api::v1alpha1::Route;
use kubelb_tests::wait;

use super::objects::{GATEWAY, NAMESPACE};

/// So far.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Routes that the Gateway says are attached.
    pub(super) attached: u64,
    /// Since when it says so.
    pub(super) attached_since: Instant,
    /// Writes of the Gateway's status.
    pub(super) of_gateway: usize,
    /// Writes of a route's.
    pub(super) of_routes: BTreeMap<String, usize>,
    /// The last of all.
    pub(super) last: Instant,
}

/// Watches on a thread of its own, until the process ends.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Starts on a runtime; nothing is there yet.
    pub(super) fn start(client: Client) -> Self {
        let now = wait::now();
        let watch = Self(Arc::new(Mutex::new(Seen {
            attached: 0,
            attached_since: now,
            of_gateway: 0,
            of_routes: BTreeMap::new(),
            last: now,
        })));
        let seen = watch.clone();
        tokio::spawn(async move {
            if let Err(error) = seen.follow(client).await {
                eprintln!("layer7: the watch has ended: {error}");
            }
        });
        watch
    }

    pub(super) fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn follow(&self, client: Client) -> Result<(), kube::Error> {
        let routes: Api<Route> = Api::namespaced(client, NAMESPACE);
        let mut version = "0".to_owned();
        let mut statuses: BTreeMap<String, Option<String>> = BTreeMap::new();
        loop {
            let mut events = routes.watch(&WatchParams::default(), &version).await?.boxed();
            while let Some(event) = events.next().await {
                let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event? else {
                    continue;
                };
                version = object.resource_version().unwrap_or_default();
                let name = object.name_any();
                let status = serde_json::to_string(&object.status).ok();
                if object.status.is_some() && statuses.get(&name) != Some(&status) {
                    self.note(&name, &object);
                }
                statuses.insert(name, status);
            }
        }
    }

    fn note(&self, name: &str, object: &Route) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last = wait::now();
        if name != GATEWAY {
            *seen.of_routes.entry(name.to_owned()).or_default() += 1;
            return;
        }
        seen.of_gateway += 1;
        let status = object.status.as_ref().and_then(|status| status.resources.as_ref());
        let status = status.and_then(|resources| resources.route.as_ref()?.status.as_ref());
        let listeners = status.and_then(|status| status.get("listeners")?.as_array());
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
