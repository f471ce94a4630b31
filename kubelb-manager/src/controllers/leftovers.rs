//! Finalizers that a KubeLB manager left on objects that are being deleted: nobody else would take them off, and an object that stays keeps its
//! address.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Patch, PatchParams};
use kube::core::{NamespaceResourceScope, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use kubelb_api::finalizers::Finalizer;
use kubelb_runtime::error_chain::chain;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::watch::touched;

/// Attempts for one object; it is looked at again when it changes, and whenever its kind is listed.
const ATTEMPTS: usize = 5;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// What stays of the finalizers of an object that is being deleted; `None` when there is nothing to do.
fn others(metadata: &ObjectMeta) -> Option<Vec<String>> {
    metadata.deletion_timestamp.as_ref()?;
    let mut left = metadata.clone();
    let taken = Finalizer::ALL.iter().filter(|finalizer| finalizer.take_off(&mut left));
    (taken.count() > 0).then(|| left.finalizers.unwrap_or_default())
}

/// Takes them off objects of a kind, for ever.
pub(super) async fn take_off<K>(client: &Client, what: &'static str)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let all: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let mut news = std::pin::pin!(touched(all, watcher::Config::default(), what));
    while let Some(object) = news.next().await {
        let Ok(object) = object else { continue };
        if let Some(left) = others(&object.metadata) {
            replace::<K>(client, &object.metadata, &left).await;
        }
    }
}

async fn replace<K>(client: &Client, metadata: &ObjectMeta, left: &[String])
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
        return;
    };
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    // Another's finalizer that came in between must not be lost.
    let patch = json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": left}});
    for _ in 0..ATTEMPTS {
        match api
            .patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => {
                tracing::info!(namespace, name, kind = %K::kind(&()), "took off what keeps it from going");
                return;
            }
            // Gone, or changed: then there are news of it.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
            Err(error) => {
                tracing::warn!(namespace, name, error = %chain(&error), "its finalizers could not be taken off; tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_are_taken_off_and_only_of_what_is_going() {
        let going: ObjectMeta = serde_json::from_value(json!({
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["kubelb.k8c.io/cleanup", "example.com/other", "kubelb.k8c.io/cleanup-envoy-proxy"],
        }))
        .unwrap();
        assert_eq!(others(&going), Some(vec!["example.com/other".to_owned()]));
        let staying = ObjectMeta {
            deletion_timestamp: None,
            ..going.clone()
        };
        assert_eq!(others(&staying), None);
        let theirs = ObjectMeta {
            finalizers: Some(vec!["example.com/other".to_owned()]),
            ..going
        };
        assert_eq!(others(&theirs), None);
    }
}
