//! Kinds that may not be there: each is followed from when its definition is established until that goes.

use std::sync::Arc;

use futures_util::StreamExt as _;
use kube::Api;
use kube::runtime::Controller;
use kube::runtime::controller::Config as ControllerConfig;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::{self, watch_object};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::pace::Pace;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;

use super::copy;
use super::index::Bell;
use super::object::{Definition, Kind, Object};
use super::world::{Shelf, World};
use crate::run::news_of;
use crate::watch::{drain, follow_with};

/// Objects of one kind that are looked at in parallel.
const CONCURRENCY: u16 = 16;

/// Follows the definition of a kind for ever, and the kind while it is served.
pub(crate) async fn follow_kind(kind: Kind, world: Arc<World>, again: Receiver<()>) {
    let api: Api<Definition> = Api::all(world.client.clone());
    let stream = StreamBackoff::new(watch_object(api, &kind.definition()), Pace::default());
    let mut stream = std::pin::pin!(stream);
    let mut running: Option<JoinSet<()>> = None;
    while let Some(seen) = stream.next().await {
        let definition = match seen {
            Ok(definition) => definition,
            Err(error) => {
                world.tenant.fails(&chain(&error).to_string());
                continue;
            }
        };
        world.tenant.works();
        let is_served = definition
            .as_ref()
            .is_some_and(|definition| definition.serves(kind.version()));
        if is_served && running.is_none() {
            tracing::info!(kind = kind.as_str(), "is served");
            running = Some(start(kind, &world, &again));
        } else if !is_served {
            if definition.is_some() {
                tracing::warn!(
                    kind = kind.as_str(),
                    version = kind.version(),
                    "is defined, and this version is not served"
                );
            } else {
                tracing::info!(kind = kind.as_str(), "is not defined; followed when it is");
            }
            if let Some(mut tasks) = running.take() {
                tasks.shutdown().await;
            }
            world.shelves.send_modify(|shelves| {
                shelves.insert(kind, Shelf::Empty);
            });
            world.kind_gone(kind);
        }
    }
}

fn start(kind: Kind, world: &Arc<World>, again: &Receiver<()>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let api = Api::all_with(world.client.clone(), &kind);
    let (followed, news) = follow_with::<Object>(api, kind, watcher::Config::default(), Arc::clone(&world.tenant));
    let store = followed.store.clone();
    world.shelves.send_modify(|shelves| {
        shelves.insert(kind, Shelf::Followed(followed));
    });
    let seen = Arc::clone(world);
    if kind == Kind::ReferenceGrant {
        tasks.spawn(drain(news, move |grant| seen.object_changed(kind, &grant)));
        return tasks;
    }
    let news = news.inspect(move |item| {
        if let Ok(object) = item {
            seen.object_changed(kind, object);
        }
    });
    let bell = world.bells.get(&kind).cloned().unwrap_or_default();
    let rung = Bell::stream(bell).map(move |(namespace, name)| {
        let reference = ObjectRef::new_with(&name, kind);
        if namespace.is_empty() {
            reference
        } else {
            reference.within(&namespace)
        }
    });
    let context = Arc::new(copy::Context {
        kind,
        world: Arc::clone(world),
    });
    let controller = Controller::for_stream_with(news, store, kind)
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .reconcile_on(rung)
        .reconcile_all_on(news_of(again.clone()))
        .run(copy::reconcile, copy::retry, context);
    tasks.spawn(controller.for_each(|_| std::future::ready(())));
    tasks
}
