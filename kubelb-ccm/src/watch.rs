//! One kind of one cluster, followed: a store of what there is, and a stream of what changes.
//!
//! Owns what is known about the connection to each cluster. A cluster that does not answer costs nothing but its own news: errors are told
//! here and never reach the streams, because whoever reads several of them would slow down for all.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt as _};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::guard::readable;
use kubelb_runtime::pace::Pace;
use kubelb_runtime::touched::touched_with;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// What is known of the connection to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Why the last request failed; `None` when it did not.
    pub(crate) error: Option<String>,
    /// How many times a kind was listed whole.
    pub(crate) lists: u64,
}

/// The connection to a cluster.
#[derive(Debug)]
pub(crate) struct Link {
    name: &'static str,
    state: watch::Sender<State>,
}

impl Link {
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: watch::Sender::new(State::default()),
        })
    }

    /// What is known now, and news of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Something was answered.
    pub(crate) fn works(&self) {
        self.state.send_if_modified(|state| {
            let was_down = state.error.take().is_some();
            if was_down {
                tracing::info!(cluster = self.name, "answers again");
            }
            was_down
        });
    }

    fn listed(&self) {
        self.works();
        self.state
            .send_modify(|state| state.lists = state.lists.saturating_add(1));
    }

    /// A request failed in a way that is the connection's.
    pub(crate) fn fails(&self, why: &str) {
        self.state.send_if_modified(|state| {
            let is_news = state.error.as_deref() != Some(why);
            if state.error.is_none() {
                tracing::warn!(cluster = self.name, why, "does not answer; tried again until it does");
            }
            state.error = Some(why.to_owned());
            is_news
        });
    }
}

/// What there is of a kind, as last told.
#[derive(Clone, Debug)]
pub(crate) struct Followed<K: Resource + 'static>
where
    K::DynamicType: Debug + Eq + Hash,
{
    pub(crate) store: Store<K>,
    is_listed: watch::Receiver<bool>,
}

impl<K: Resource + Clone + 'static> Followed<K>
where
    K::DynamicType: Debug + Eq + Hash + Clone,
{
    /// Whether all of the kind was listed once.
    pub(crate) fn is_listed(&self) -> bool {
        *self.is_listed.borrow()
    }

    /// Waits until all of the kind was listed once. Any number of tasks may wait, which the store's own signal does not serve.
    pub(crate) async fn listed(&self) {
        let mut is_listed = self.is_listed.clone();
        if is_listed.wait_for(|is_listed| *is_listed).await.is_err() {
            // Nobody follows any more: everything is about to end.
            std::future::pending::<()>().await;
        }
    }
}

/// Follows a kind. An object that cannot be read costs itself only. The stream ends never, and has to be read for the store to be kept up; when it
/// tells of an object, the store has it as it is, or does not have it because it is gone.
pub(crate) fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    link: Arc<Link>,
) -> (
    Followed<K>,
    impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    follow_with(api, (), config, link)
}

/// As [`follow`], of a kind that is known at run time.
pub(crate) fn follow_with<K>(
    api: Api<DeserializeGuard<K>>,
    kind: K::DynamicType,
    config: watcher::Config,
    link: Arc<Link>,
) -> (
    Followed<K>,
    impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Debug + Eq + Hash + Clone,
{
    let text = K::kind(&kind).into_owned();
    let dynamic = kind.clone();
    let writer = reflector::store::Writer::new(kind);
    let store = writer.as_reader();
    let (listed, is_listed) = watch::channel(false);
    let cluster = link.name;
    let events = watcher(api, config)
        .backoff(Pace::default())
        .filter_map(move |event| {
            let told = readable(event, |invalid| {
                let name = &invalid.metadata.name;
                tracing::warn!(
                    cluster,
                    kind = text,
                    ?name,
                    error = invalid.error,
                    "one cannot be read, and is passed over"
                );
            });
            std::future::ready(told)
        })
        // Who owns which field is never looked at, and is half of an object.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| match event {
            Ok(Event::InitDone) => {
                listed.send_replace(true);
                link.listed();
            }
            Ok(Event::Apply(_) | Event::Delete(_)) => link.works(),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => link.fails(&chain(error).to_string()),
        });
    let stream = touched_with(store.clone(), dynamic, events).map(Ok);
    (Followed { store, is_listed }, stream)
}

/// Reads a stream for ever.
pub(crate) async fn drain<T>(
    stream: impl Stream<Item = Result<T, watcher::Error>> + Send,
    mut seen: impl FnMut(T) + Send,
) {
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        if let Ok(object) = item {
            seen(object);
        }
    }
}
