//! What is left in the management cluster of objects that are gone: what a deletion could not remove, or what went while no CCM ran.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::core::{ObjectMeta, PartialObjectMeta};
use kubelb_api::labels::Label;
use kubelb_api::v1alpha1::SyncSecret;
use kubelb_runtime::or_never::or_never;
use tokio::time::sleep;

use super::backends::SERVICE;
use super::object::Kind;
use super::world::World;
use crate::hub::HubError;
use crate::orphans::is_uid;
use crate::plan::layer7::MaterialKind;
use crate::watch::Followed;

/// Pause after a failed removal.
const RETRY: Duration = Duration::from_secs(5);
/// Pause before looking, so that many changes at once are one.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Removes them for ever.
pub(crate) async fn follow(world: Arc<World>, copies: Followed<PartialObjectMeta<SyncSecret>>) {
    world.settled().await;
    world.routes.listed().await;
    copies.listed().await;
    loop {
        let failed = remove(&world, &copies).await;
        tokio::select! {
            () = world.orphans_changed.notified() => sleep(DEBOUNCE).await,
            () = or_never(failed.then(|| sleep(RETRY))) => {}
        }
    }
}

async fn remove(world: &World, present: &Followed<PartialObjectMeta<SyncSecret>>) -> bool {
    let mut failed = false;
    if world.tenancy.is_over() {
        return failed;
    }
    let mut removed = |what: &str, name: &str, result: Result<(), HubError>| match result {
        Ok(()) => tracing::info!(what, name, "removed; what it was made from is gone"),
        Err(error) => {
            tracing::warn!(what, name, %error, "what it was made from is gone, and it could not be removed");
            failed = true;
        }
    };
    let routes = world.routes.store.state();
    for kind in Kind::COPIED {
        let Some(uids) = world.uids(kind) else { continue };
        for name in orphans(routes.iter().map(|route| &route.metadata), &kind.qualified(), &uids) {
            removed("Route", &name, world.hub.delete_route(&name).await);
        }
    }
    if let Some(copies) = world.copies.names(&world.wanted_materials()) {
        let present = present.store.state();
        let of_kind = |kind: MaterialKind| orphans(present.iter().map(|copy| &copy.metadata), kind.as_str(), &copies);
        for name in MaterialKind::ALL.into_iter().flat_map(of_kind) {
            removed("SyncSecret", &name, world.hub.delete_secret(&name).await);
        }
    }
    let services = world.services.store.state();
    let services = services
        .iter()
        .filter_map(|service| service.metadata.uid.clone())
        .collect();
    let present = world.addresses.state();
    for name in orphans(present.iter().map(|addresses| &addresses.metadata), SERVICE, &services) {
        removed("Addresses", &name, world.hub.delete_addresses(&name).await);
    }
    failed
}

/// Names of the copies of objects of a kind that are not among `uids`.
pub(super) fn orphans<'a>(
    copies: impl IntoIterator<Item = &'a ObjectMeta>,
    kind: &str,
    uids: &BTreeSet<String>,
) -> Vec<String> {
    let all = copies.into_iter().filter_map(|metadata| {
        let name = metadata.name.as_ref()?;
        let is_copy = Label::ORIGIN_RESOURCE_KIND.get(metadata) == Some(kind) && is_uid(name);
        let is_orphan = is_copy && !uids.contains(name) && metadata.deletion_timestamp.is_none();
        is_orphan.then(|| name.clone())
    });
    all.collect()
}
