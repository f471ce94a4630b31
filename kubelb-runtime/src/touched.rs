//! What a watch tells of, by the state of the store that it keeps up.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{Event, Result};

/// Every object that a watch tells of, of whose events `store` has taken in each before it comes here: when an object comes out, the store has it
/// as it is, or does not have it because it is gone.
///
/// Objects of a list come when the store has all of them, and with them those that the list does not have any more: who looked into the store at
/// the first of a list would find what was there before, and be asked never again. Errors are left out.
pub fn touched<K>(store: Store<K>, events: impl Stream<Item = Result<Event<K>>> + Send) -> impl Stream<Item = K> + Send
where
    K: Resource + Clone + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Default + Eq + Hash + Send + Sync,
{
    touched_with(store, K::DynamicType::default(), events)
}

/// As [`touched`], of a kind that is known at run time.
pub fn touched_with<K>(
    store: Store<K>,
    kind: K::DynamicType,
    events: impl Stream<Item = Result<Event<K>>> + Send,
) -> impl Stream<Item = K> + Send
where
    K: Resource + Clone + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
{
    let mut before: Vec<Arc<K>> = Vec::new();
    events.flat_map(move |event| {
        let objects = match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => vec![object],
            Ok(Event::Init) => {
                before = store.state();
                Vec::new()
            }
            Ok(Event::InitApply(_)) | Err(_) => Vec::new(),
            Ok(Event::InitDone) => {
                let all = store.state();
                let before = std::mem::take(&mut before);
                let is_gone = |object: &&Arc<K>| {
                    let reference = ObjectRef::from_obj_with(&***object, kind.clone());
                    store.get(&reference).is_none()
                };
                let gone = before.iter().filter(is_gone);
                all.iter().chain(gone).map(|object| K::clone(object)).collect()
            }
        };
        stream::iter(objects)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;
    use kube::runtime::WatchStreamExt as _;
    use kube::runtime::reflector;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("a".to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn told(name: &str, version: Option<&str>) -> (String, Option<String>) {
        (name.to_owned(), version.map(str::to_owned))
    }

    #[tokio::test]
    async fn the_store_knows_what_comes_out() {
        let events: Vec<Result<Event<ConfigMap>>> = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(object("stays", "1"))),
            Ok(Event::InitApply(object("goes", "1"))),
            Ok(Event::InitDone),
            Ok(Event::Apply(object("new", "2"))),
            Ok(Event::Delete(object("new", "3"))),
            Ok(Event::Init),
            Ok(Event::InitApply(object("stays", "4"))),
            Ok(Event::InitDone),
        ];
        let (store, writer) = reflector::store();
        let events = stream::iter(events).reflect(writer);
        let known = store.clone();
        let seen: Vec<_> = touched(store, events)
            .map(|object| {
                let found = known.get(&ObjectRef::from_obj(&object));
                let version = found.and_then(|found| found.metadata.resource_version.clone());
                (object.metadata.name.unwrap_or_default(), version)
            })
            .collect()
            .await;
        let mut first: Vec<_> = seen.iter().take(2).cloned().collect();
        first.sort();
        assert_eq!(first, [told("goes", Some("1")), told("stays", Some("1"))]);
        let rest: Vec<_> = seen.iter().skip(2).cloned().collect();
        assert_eq!(
            rest,
            [
                told("new", Some("2")),
                told("new", None),
                told("stays", Some("4")),
                told("goes", None),
            ]
        );
    }
}
