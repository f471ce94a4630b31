//! Layer 7's part of what is taken back when a CCM is uninstalled.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kubelb_api::finalizers::Finalizer;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_runtime::error_chain::chain;
use serde_json::{Value, json};

use super::backends::{SERVICE, remove_shadow};
use super::copy::CopyError;
use super::object::{Kind, Object};
use super::orphans::orphans;
use super::writing::Objects;
use crate::hub::{Hub, HubError};
use crate::plan::layer7::{MaterialKind, accepted, is_shadow_of};
use crate::writeback::layer7::status;

/// Rounds over the objects: one finds those that changed during the one before.
const ROUNDS: usize = 10;

/// Removes every copy from the management cluster; how many there were.
pub(crate) async fn remove_copies(hub: &Hub) -> Result<usize, HubError> {
    let none = BTreeSet::new();
    let mut removed = 0_usize;
    let routes = hub.list_routes().await?;
    for name in Kind::COPIED
        .iter()
        .flat_map(|kind| orphans(&routes, &kind.qualified(), &none))
    {
        hub.delete_route(&name).await?;
        removed = removed.saturating_add(1);
    }
    let copies = hub.list_secrets().await?;
    let of_kind = |kind: MaterialKind| orphans(&copies, kind.as_str(), &none);
    for name in MaterialKind::ALL.into_iter().flat_map(of_kind) {
        hub.delete_secret(&name).await?;
        removed = removed.saturating_add(1);
    }
    for name in orphans(&hub.list_addresses().await?, SERVICE, &none) {
        hub.delete_addresses(&name).await?;
        removed = removed.saturating_add(1);
    }
    Ok(removed)
}

/// Takes statuses and finalizers back from the tenant's objects, and removes the Services that were made for them.
///
/// # Errors
/// When the tenant's API server does not let an object go.
pub(crate) async fn release(client: &Client, services: &[Service]) -> anyhow::Result<()> {
    for shadow in shadows(services) {
        remove_shadow(client, shadow).await?;
    }
    let objects = Objects::new(client);
    for class in objects.all(Kind::GatewayClass).await? {
        objects.write_status(Kind::GatewayClass, &class, unclaimed).await?;
    }
    for kind in Kind::COPIED {
        let held = || async {
            let mut held = objects.all(kind).await.with_context(|| kind.as_str())?;
            held.retain(|object| Finalizer::CLEANUP.is_on(&object.metadata));
            anyhow::Ok(held)
        };
        for _ in 0..ROUNDS {
            let held = held().await?;
            if held.is_empty() {
                break;
            }
            for object in &held {
                if let Err(error) = release_one(&objects, kind, object).await {
                    tracing::warn!(kind = kind.as_str(), name = object.name(), error = %chain(&error), "tried again");
                }
            }
        }
        let left = held().await?.len();
        ensure!(
            left == 0,
            "{left} {}s still wait for this CCM, by finalizer",
            kind.as_str()
        );
    }
    Ok(())
}

async fn release_one(objects: &Objects, kind: Kind, object: &Object) -> Result<(), CopyError> {
    let wanted = |object: &Object| status(kind, object, None);
    if let Some(written) = objects.write_status(kind, object, wanted).await? {
        objects.let_go(kind, &written).await?;
    }
    Ok(())
}

/// Services that were made to give others node ports.
fn shadows(services: &[Service]) -> impl Iterator<Item = &Service> {
    services.iter().filter(|shadow| {
        let metadata = &shadow.metadata;
        let of_the_same = |origin: &&Service| {
            origin.metadata.namespace == metadata.namespace
                && origin.metadata.name.as_deref() == Label::ORIGIN_NAME.get(metadata)
        };
        Label::MANAGED_BY.get(metadata) == Some(MANAGED_BY_KUBELB)
            && services
                .iter()
                .find(of_the_same)
                .is_some_and(|origin| is_shadow_of(shadow, origin))
    })
}

/// A class of ours that nobody takes any more says nothing of it.
fn unclaimed(class: &Object) -> Option<Value> {
    let status = accepted(class).map(|_| class.status.value())?;
    let conditions = status.get("conditions")?.as_array()?;
    let is_claim = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some("Accepted");
    let claim = conditions.iter().find(is_claim)?;
    if claim.get("status").and_then(Value::as_str) == Some("Unknown") {
        return None;
    }
    let kept: Vec<&Value> = conditions.iter().filter(|condition| !is_claim(condition)).collect();
    // Where nothing is said, the API's own default is.
    let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
    Some(json!({ "conditions": kept }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, labels: &Value, owner: &str) -> Service {
        serde_json::from_value(json!({"metadata": {
            "namespace": "a", "name": name, "uid": format!("uid-{name}"), "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": owner}],
        }}))
        .unwrap()
    }

    #[test]
    fn only_services_of_our_making_are_shadows() {
        let ours = json!({"kubelb.k8c.io/managed-by": "kubelb", "kubelb.k8c.io/origin-name": "web"});
        let services = [
            service("web", &json!({}), "else"),
            service("web-nodeport", &ours, "uid-web"),
            service("of-another", &ours, "uid-gone"),
            service("theirs", &json!({"kubelb.k8c.io/origin-name": "web"}), "uid-web"),
        ];
        let names: Vec<_> = shadows(&services)
            .map(|shadow| shadow.metadata.name.as_deref())
            .collect();
        assert_eq!(names, [Some("web-nodeport")]);
    }

    #[test]
    fn a_class_of_ours_is_nobodys_afterwards() {
        let class = |controller: &str, status: &str| -> Object {
            serde_json::from_value(json!({
                "metadata": {"name": "edge"}, "spec": {"controllerName": controller},
                "status": {"conditions": [{"type": "Accepted", "status": status}]},
            }))
            .unwrap()
        };
        let ours = "kubelb.k8c.io/gateway-controller";
        assert_eq!(unclaimed(&class(ours, "True")), Some(json!({"conditions": null})));
        assert_eq!(unclaimed(&class(ours, "Unknown")), None);
        assert_eq!(unclaimed(&class("example.com/other", "True")), None);
    }
}
