//! Layer 7: a tenant's objects of the Gateway API into Routes of the management cluster, and their statuses back.
//!
//! ```text
//! definitions ──► discovery ──► a store and a stream for each kind that is served ──► index: who has to look again
//! Gateway, HTTPRoute, GRPCRoute ──► copy ──► Route; its status ──► the object's
//! Services that routes of ours refer to ──► backends ──► shadow Service, Addresses
//! Secrets and ConfigMaps that Gateways of ours refer to ──► materials ──► SyncSecret
//! ```
//!
//! Decisions are [`crate::plan::layer7`]'s and [`crate::writeback::layer7`]'s; here they are carried out, level-triggered as for Services. Must not
//! know: what the manager makes of a Route. Nothing is cached of Secrets but the names of those that are referred to.

mod backends;
mod copy;
mod discovery;
mod index;
mod materials;
pub mod object;
mod orphans;
pub(crate) mod removal;
mod world;
pub(crate) mod writing;

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kubelb_api::v1alpha1::SyncSecret;
use tokio::task::JoinSet;

use crate::watch::{Link, drain, follow};

pub(crate) use world::World;

/// Spawns everything of it. `again` tells when all objects have to be looked at.
pub(crate) fn spawn(
    world: &Arc<World>,
    hub: &Arc<Link>,
    again: &tokio::sync::watch::Receiver<()>,
    tasks: &mut JoinSet<()>,
) {
    let (copies, news) = follow::<PartialObjectMeta<SyncSecret>>(
        world.hub.copied_secrets.clone(),
        watcher::Config::default(),
        Arc::clone(hub),
    );
    let (rung, store) = (Arc::clone(world), copies.store.clone());
    tasks.spawn(drain(news, move |copy: PartialObjectMeta<SyncSecret>| {
        if store.get(&ObjectRef::from_obj(&copy)).is_none() {
            rung.copy_gone(&copy.name_any());
        }
        rung.orphans_changed.notify_one();
    }));
    for kind in object::Kind::ALL {
        tasks.spawn(discovery::follow_kind(kind, Arc::clone(world), again.clone()));
    }
    tasks.spawn(backends::follow(Arc::clone(world)));
    tasks.spawn(materials::follow(Arc::clone(world)));
    tasks.spawn(orphans::follow(Arc::clone(world), copies));
}
