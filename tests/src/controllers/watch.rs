//! Watches the API: streams of changes into the loop's channel, and which resources there are. No decisions.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use tokio::sync::{Notify, mpsc};

use super::Message;
use super::world::{Kind, Source};

/// Pauses after a watch has broken or a server has not answered.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A new definition is served a moment after it is written: look again after that long, and once more.
const LOOKS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// Pauses that double until something comes through again.
#[derive(Default)]
struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = PAUSES.0.saturating_mul(1 << self.0.min(16)).min(PAUSES.1);
        self.0 = self.0.saturating_add(1);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Objects that nobody owns and that come in masses.
fn is_noise(source: &Source) -> bool {
    source.resource.kind == "Event"
}

/// Sends every change of a resource, for as long as somebody listens. A broken watch is taken up again, from where it was
/// if the server still knows, else with a new list.
pub(super) async fn follow(client: Client, source: Arc<Source>, into: mpsc::Sender<Message>) {
    if is_noise(&source) {
        return;
    }
    let config = watcher::Config::default();
    if source.kind.is_some() {
        let api: Api<DynamicObject> = Api::all_with(client, &source.resource);
        let events = kube::runtime::watcher(api, config).backoff(Pauses::default());
        pump(events, source, into).await;
    } else {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &source.resource);
        let events = kube::runtime::watcher(api, config).backoff(Pauses::default());
        let events = events.map(|event| event.map(of_metadata));
        pump(events, source, into).await;
    }
}

async fn pump(
    events: impl futures_util::Stream<Item = Result<Event<DynamicObject>, watcher::Error>>,
    source: Arc<Source>,
    into: mpsc::Sender<Message>,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        // The watcher tries again by itself.
        let Ok(event) = event else { continue };
        if into
            .send(Message::Watched(Arc::clone(&source), Box::new(event)))
            .await
            .is_err()
        {
            return;
        }
    }
}

fn of_metadata(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<DynamicObject> {
    let object = |meta: PartialObjectMeta<DynamicObject>| DynamicObject {
        types: None,
        metadata: meta.metadata,
        data: serde_json::Value::Null,
    };
    match event {
        Event::Apply(meta) => Event::Apply(object(meta)),
        Event::Delete(meta) => Event::Delete(object(meta)),
        Event::Init => Event::Init,
        Event::InitApply(meta) => Event::InitApply(object(meta)),
        Event::InitDone => Event::InitDone,
    }
}

/// Tells which resources there are, now and when `changed` says so.
pub(super) async fn discover(client: Client, changed: Arc<Notify>, into: mpsc::Sender<Message>) {
    let mut looks = LOOKS.iter();
    let mut pauses = Pauses::default();
    loop {
        let wait = match Discovery::new(client.clone()).run().await {
            Ok(found) => {
                if into.send(Message::Discovered(sources(&found))).await.is_err() {
                    return;
                }
                pauses.reset();
                looks.next().copied()
            }
            Err(_) => pauses.next(),
        };
        let changed_in_time = match wait {
            Some(wait) => tokio::time::timeout(wait, changed.notified()).await.is_ok(),
            None => {
                changed.notified().await;
                true
            }
        };
        if changed_in_time {
            looks = LOOKS.iter();
        }
    }
}

/// Resources whose objects can be listed, watched and deleted.
fn sources(found: &Discovery) -> Vec<Arc<Source>> {
    let mut sources: Vec<Arc<Source>> = Vec::new();
    for (resource, capabilities) in found
        .groups_alphabetical()
        .into_iter()
        .flat_map(|group| group.recommended_resources())
    {
        let serves = |verb| capabilities.supports_operation(verb);
        if !serves(verbs::LIST) || !serves(verbs::WATCH) || !serves(verbs::DELETE) {
            continue;
        }
        let mut kinds = Kind::ALL.iter().copied();
        let kind = kinds.find(|kind| {
            let known = kind.resource();
            (&known.group, &known.plural) == (&resource.group, &resource.plural)
        });
        sources.push(Arc::new(Source {
            kind,
            resource: kind.map_or(resource, Kind::resource),
            namespaced: capabilities.scope == Scope::Namespaced,
        }));
    }
    sources
}

/// Whether the object defines a resource.
pub(super) fn is_definition(source: &Source) -> bool {
    source.resource.kind == "CustomResourceDefinition" || source.resource.kind == "APIService"
}
