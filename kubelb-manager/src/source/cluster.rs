//! The objects of an API server, followed: every kind by a watch of its own.
//!
//! Objects are read one by one, so that one that its type cannot read costs itself only. Must not know: what is done with them. A server that
//! does not answer is asked until it does; what was told before stays.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DynamicObject};
use kube::core::CustomResourceExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::v1alpha1 as api;
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::pace::Pace;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::object::{Kind, ObjectKey, Unreadable, decode, decode_service};
use crate::store::Seen;

/// News that wait to be taken in; a watch that has more waits, and the server keeps them.
const WAITING: usize = 1_024;

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum News {
    /// All objects of a kind are about to be listed.
    Listing(Kind),
    /// All objects of a kind, with their versions.
    Listed(Kind, Vec<Entry>),
    /// One came or changed.
    Seen(Entry),
    /// One is gone.
    Gone(ObjectKey),
    /// The server does not answer for a kind, or refuses it.
    Failed(Kind, String),
}

/// An object with what only its server knows of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object, read or not.
    pub seen: Seen,
    /// Its resourceVersion.
    pub version: Version,
}

/// A resourceVersion. Of two of one kind, the higher one is the later (Kubernetes 1.35 says so, and etcd always did).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// Reads one. What is no number is older than all others.
    #[must_use]
    pub fn new(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()).unwrap_or_default())
    }
}

/// How a kind is asked for.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Config => api::Config::api_resource(),
        Kind::Tenant => api::Tenant::api_resource(),
        Kind::Addresses => api::Addresses::api_resource(),
        Kind::LoadBalancer => api::LoadBalancer::api_resource(),
        Kind::Route => api::Route::api_resource(),
        Kind::AddressClaim => api::AddressClaim::api_resource(),
        Kind::VirtualAddressOwner => api::VirtualAddressOwner::api_resource(),
        Kind::SyncSecret => api::SyncSecret::api_resource(),
        Kind::Service => ApiResource::erase::<Service>(&()),
    }
}

/// One object of a kind, by its key.
#[must_use]
pub fn api_of(client: &Client, key: &ObjectKey) -> Api<DynamicObject> {
    let resource = resource(key.kind);
    if key.kind.is_namespaced() {
        Api::namespaced_with(client.clone(), &key.name.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// The watches. Dropping it ends them.
#[derive(Debug)]
pub struct Watches {
    news: mpsc::Receiver<News>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Follows every kind; Configs of `namespace` only, and Services that kubelb made.
    #[must_use]
    pub fn start(client: &Client, namespace: &str) -> Self {
        let (sender, news) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        for kind in Kind::ALL.iter().copied() {
            let resource = resource(kind);
            let api = if kind == Kind::Config {
                Api::namespaced_with(client.clone(), namespace, &resource)
            } else {
                Api::all_with(client.clone(), &resource)
            };
            let mut config = watcher::Config::default();
            if kind == Kind::Service {
                config = config.labels(&Label::MANAGED_BY.selector(MANAGED_BY_KUBELB));
            }
            tasks.spawn(follow(kind, api, config, sender.clone()));
        }
        Self { news, _tasks: tasks }
    }

    /// Waits for news, and takes what else there is already.
    pub async fn next(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        if self.news.recv_many(&mut all, WAITING).await == 0 {
            // Watches never end by themselves.
            tokio::time::sleep(Duration::MAX).await;
        }
        all
    }
}

async fn follow(kind: Kind, api: Api<DynamicObject>, config: watcher::Config, news: mpsc::Sender<News>) {
    let mut events = watcher(api, config).backoff(Pace::default()).boxed();
    let mut list = Vec::new();
    while let Some(event) = events.next().await {
        let told = match event {
            Ok(Event::Init) => {
                list.clear();
                Some(News::Listing(kind))
            }
            Ok(Event::InitApply(object)) => {
                list.extend(read(kind, object));
                None
            }
            Ok(Event::InitDone) => Some(News::Listed(kind, std::mem::take(&mut list))),
            Ok(Event::Apply(object)) => read(kind, object).map(News::Seen),
            Ok(Event::Delete(object)) => Some(News::Gone(key_of(kind, &object))),
            Err(error) => Some(News::Failed(kind, chain(&error).to_string())),
        };
        if let Some(told) = told
            && news.send(told).await.is_err()
        {
            return;
        }
    }
}

fn key_of(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let meta = &object.metadata;
    ObjectKey::new(
        kind,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn read(kind: Kind, mut object: DynamicObject) -> Option<Entry> {
    object.metadata.managed_fields = None;
    let version = Version::new(object.metadata.resource_version.as_deref());
    let resource = resource(kind);
    let mut value = serde_json::to_value(&object).ok()?;
    if let Some(fields) = value.as_object_mut() {
        // A list may leave them out of its items.
        fields.insert("apiVersion".to_owned(), Value::from(resource.api_version));
        fields.insert("kind".to_owned(), Value::from(resource.kind));
    }
    let decoded = match kind {
        Kind::Service => decode_service(value),
        Kind::Config
        | Kind::Tenant
        | Kind::Addresses
        | Kind::LoadBalancer
        | Kind::Route
        | Kind::AddressClaim
        | Kind::VirtualAddressOwner
        | Kind::SyncSecret => decode(value),
    };
    let seen = match decoded {
        Ok(object) => Ok(object),
        Err(Unreadable::Malformed(malformed)) => Err(malformed),
        Err(error @ (Unreadable::Foreign { .. } | Unreadable::Nameless { .. })) => {
            // An API server keeps no such object under this kind.
            tracing::warn!(%error, kind = kind.as_str(), "an object is passed over");
            return None;
        }
    };
    Some(Entry { seen, version })
}

/// What each kind's list waits for, as a sentence; `None` when all have been listed.
#[derive(Clone, Debug)]
pub struct Awaited {
    kinds: std::collections::BTreeMap<Kind, Option<Arc<str>>>,
}

impl Default for Awaited {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.iter().map(|kind| (*kind, None)).collect(),
        }
    }
}

impl Awaited {
    /// Whether nothing is awaited any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Takes news in.
    pub fn take(&mut self, news: &News) {
        match news {
            News::Listed(kind, _) => {
                self.kinds.remove(kind);
            }
            News::Failed(kind, why) => {
                if let Some(known) = self.kinds.get_mut(kind) {
                    *known = Some(why.as_str().into());
                }
            }
            News::Listing(_) | News::Seen(_) | News::Gone(_) => {}
        }
    }

    /// What is awaited.
    #[must_use]
    pub fn sentence(&self) -> String {
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, why)| match why {
                Some(why) => format!("{} ({why})", resource(*kind).plural),
                None => resource(*kind).plural,
            })
            .collect();
        format!("not listed yet: {}", kinds.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_that_cannot_be_read_is_told_as_such() {
        let object: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "tenant-x", "resourceVersion": "12"},
            "spec": {"endpoints": [], "ports": [{"port": "http"}]},
        }))
        .unwrap();
        let entry = read(Kind::LoadBalancer, object).unwrap();
        assert_eq!(entry.version, Version(12));
        let malformed = entry.seen.unwrap_err();
        assert_eq!(malformed.key, ObjectKey::new(Kind::LoadBalancer, "tenant-x", "a"));
    }

    #[test]
    fn nothing_is_complete_before_every_kind_was_listed() {
        let mut awaited = Awaited::default();
        awaited.take(&News::Failed(Kind::Tenant, "forbidden".to_owned()));
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Tenant) {
            awaited.take(&News::Listed(kind, Vec::new()));
        }
        assert_eq!(awaited.sentence(), "not listed yet: tenants (forbidden)");
        assert!(!awaited.is_over());
        awaited.take(&News::Listed(Kind::Tenant, Vec::new()));
        assert!(awaited.is_over());
    }
}
