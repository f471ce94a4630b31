//! Takes back what a CCM did, when it is uninstalled: nothing that is left may wait for a program that is gone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Client, ResourceExt as _};
use kubelb_api::names::DEFAULT_ADDRESSES;

use crate::hub::{Hub, HubError};
use crate::layer7::removal;
use crate::orphans::orphans;
use crate::services::{Services, is_held};
use crate::writeback::Told;

/// Longest time that the management cluster is tried for.
const HUB_TIME: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds over the Services: one finds those that changed during the one before.
const ROUNDS: usize = 10;

/// Cleans both sides up. The tenant's own side does not wait for the other.
///
/// # Errors
/// When the tenant's API server does not let an object go.
pub(crate) async fn run(tenant: &Client, hub: Option<&Hub>) -> anyhow::Result<()> {
    let services = &Services::new(tenant);
    if let Some(hub) = hub {
        let removed = tokio::time::timeout(HUB_TIME, remove(hub)).await;
        match removed {
            Ok(Ok(count)) => tracing::info!(
                objects = count,
                "the management cluster has nothing of this CCM any more"
            ),
            Ok(Err(error)) => tracing::warn!(%error, "{LEFT}"),
            Err(_) => tracing::warn!("the management cluster does not answer; {LEFT}"),
        }
    }
    let all = release_services(services).await?;
    removal::release(tenant, &all).await?;
    tracing::info!("nothing waits for this CCM any more");
    Ok(())
}

/// All Services, when none waits any more.
async fn release_services(services: &Services) -> anyhow::Result<Vec<Service>> {
    let list = || async {
        let list = services.all().list(&ListParams::default()).await;
        list.map(|list| list.items).context("listing Services")
    };
    for _ in 0..ROUNDS {
        let all = list().await?;
        if !all.iter().any(is_held) {
            return Ok(all);
        }
        for service in all.iter().filter(|service| is_held(service)) {
            if let Err(error) = release(services, service).await {
                tracing::warn!(service = service.name_any(), %error, "tried again");
            }
        }
    }
    let all = list().await?;
    let left = all.iter().filter(|service| is_held(service)).count();
    ensure!(left == 0, "{left} Services still wait for this CCM, by finalizer");
    Ok(all)
}

/// What becomes of what could not be removed.
const LEFT: &str = "what is left in the management cluster goes with the tenant, or when a CCM runs again";

/// How many were removed. An answer that is final ends it; else it is tried until it succeeds.
async fn remove(hub: &Hub) -> Result<usize, HubError> {
    loop {
        match remove_once(hub).await {
            Err(HubError::Unreachable(_)) => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
    }
}

async fn remove_once(hub: &Hub) -> Result<usize, HubError> {
    let copies = orphans(Vec::<Service>::new(), hub.list().await?);
    for name in &copies {
        hub.delete(name).await?;
    }
    let more = removal::remove_copies(hub).await?;
    // Last: what is still there refers to them.
    hub.delete_addresses(DEFAULT_ADDRESSES).await?;
    Ok(copies.len().saturating_add(more))
}

async fn release(services: &Services, service: &Service) -> anyhow::Result<()> {
    if let Some(written) = services.write_status(service, &Told::default(), None).await? {
        services.let_go(&written).await?;
    }
    Ok(())
}
