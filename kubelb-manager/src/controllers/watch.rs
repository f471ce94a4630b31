//! Following what there is in the management cluster. Errors are told here and never reach the controllers: the last known state goes on being
//! worked with.

use std::fmt::Debug;

use futures_util::{Stream, StreamExt as _};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource, ResourceExt as _};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::guard::readable;
use kubelb_runtime::pace::Pace;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// What comes of a kind: never an error, and never an end.
pub(crate) type News<K> = Result<K, watcher::Error>;

/// Tells errors.
fn told<K: Send>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    what: &'static str,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send {
    events.inspect(move |event| {
        if let Err(error) = event {
            tracing::warn!(what, error = %chain(error), "cannot be followed; tried again");
        }
    })
}

/// Follows a kind, with a store of what there is. The stream has to be read for the store to be kept up. An object that cannot be read costs
/// itself only.
pub(crate) fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    what: &'static str,
) -> (Store<K>, impl Stream<Item = News<K>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(api, config)
        .backoff(Pace::default())
        .filter_map(move |event| {
            let told = readable(event, |invalid| {
                let (namespace, name) = (&invalid.metadata.namespace, &invalid.metadata.name);
                tracing::warn!(
                    what,
                    ?namespace,
                    ?name,
                    error = invalid.error,
                    "one cannot be read, and is passed over"
                );
            });
            std::future::ready(told)
        })
        // Who owns which field is never looked at, and is half of an object.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    let news = kubelb_runtime::touched::touched(store.clone(), told(events, what));
    (store, news.map(Ok))
}

/// Follows the metadata of a kind.
pub(crate) fn touched<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    what: &'static str,
) -> impl Stream<Item = News<PartialObjectMeta<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, config).backoff(Pace::default());
    told(events, what)
        .touched_objects()
        .filter(|object| std::future::ready(object.is_ok()))
}

/// Reads a stream, and tells that something came.
pub(crate) async fn ring<T>(stream: impl Stream<Item = T> + Send, bell: watch::Sender<()>) {
    let mut stream = std::pin::pin!(stream);
    while stream.next().await.is_some() {
        bell.send_replace(());
    }
}

/// What came while nobody looked is one item.
pub(crate) fn rings(receiver: watch::Receiver<()>) -> impl Stream<Item = ()> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}
