//! Which finalizers the tenant's own objects have. Why they are put on or taken off is others' to say.

use std::fmt::Debug;

use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Writes what `change` makes of an object's finalizers, if it says that they are others then. One that is gone, or another one by now, needs nothing.
pub(crate) async fn set<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    metadata: &ObjectMeta,
    change: impl FnOnce(&mut ObjectMeta) -> bool,
) -> kube::Result<()> {
    let mut metadata = metadata.clone();
    if !change(&mut metadata) {
        return Ok(());
    }
    let patch = json!({
        "metadata": {
            // Another's finalizer that came in between must not be lost.
            "resourceVersion": metadata.resource_version,
            "uid": metadata.uid,
            "finalizers": metadata.finalizers.unwrap_or_default(),
        },
    });
    let name = metadata.name.unwrap_or_default();
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
