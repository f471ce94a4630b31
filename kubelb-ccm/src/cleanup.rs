//! Takes back what a CCM did, when it is uninstalled: nothing that is left may wait for a program that is gone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kubelb_api::names::DEFAULT_ADDRESSES;

use crate::hub::{Hub, HubError};
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
/// When the tenant's API server does not let a Service go.
pub(crate) async fn run(services: &Services, hub: Option<&Hub>) -> anyhow::Result<()> {
    if let Some(hub) = hub {
        let removed = tokio::time::timeout(HUB_TIME, remove(hub)).await;
        match removed {
            Ok(Ok(count)) => tracing::info!(
                load_balancers = count,
                "the management cluster has nothing of this CCM any more"
            ),
            Ok(Err(error)) => tracing::warn!(%error, "{LEFT}"),
            Err(_) => tracing::warn!("the management cluster does not answer; {LEFT}"),
        }
    }
    for _ in 0..ROUNDS {
        let list = services
            .all()
            .list(&ListParams::default())
            .await
            .context("listing Services")?;
        let held: Vec<Service> = list.items.into_iter().filter(is_held).collect();
        if held.is_empty() {
            tracing::info!("no Service waits for this CCM any more");
            return Ok(());
        }
        for service in &held {
            if let Err(error) = release(services, service).await {
                tracing::warn!(service = service.name_any(), %error, "tried again");
            }
        }
    }
    let list = services
        .all()
        .list(&ListParams::default())
        .await
        .context("listing Services")?;
    let left = list.items.iter().filter(|service| is_held(service)).count();
    ensure!(left == 0, "{left} Services still wait for this CCM, by finalizer");
    Ok(())
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
    hub.delete_addresses(DEFAULT_ADDRESSES).await?;
    Ok(copies.len())
}

async fn release(services: &Services, service: &Service) -> anyhow::Result<()> {
    if let Some(written) = services.write_status(service, &Told::default(), None).await? {
        services.let_go(&written).await?;
    }
    Ok(())
}
