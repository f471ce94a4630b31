//! What is written into the tenant's own objects of the Gateway API: status and finalizer. What to write is others' to say.

use kube::api::{ListParams, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use kubelb_api::finalizers::Finalizer;
use serde_json::{Value, json};

use super::copy::{CopyError, tenant};
use super::object::{Kind, Object};
use crate::finalizers;

/// How often a status is tried that somebody else writes at the same time.
const STATUS_ATTEMPTS: u32 = 4;

/// The tenant's objects.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
}

impl Objects {
    pub(crate) fn new(client: &Client) -> Self {
        Self { client: client.clone() }
    }

    fn of(&self, kind: Kind, object: &Object) -> Api<Object> {
        match object.namespace() {
            "" => Api::all_with(self.client.clone(), &kind),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &kind),
        }
    }

    /// All of a kind; none of one that is not served, or that this program may not have touched.
    pub(crate) async fn all(&self, kind: Kind) -> Result<Vec<Object>, CopyError> {
        let api: Api<Object> = Api::all_with(self.client.clone(), &kind);
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 403 | 404) => Ok(Vec::new()),
            Err(error) => Err(tenant("objects of the Gateway API could not be listed")(error)),
        }
    }

    /// Writes what `wanted` makes of the object, and of nothing older: what others wrote meanwhile must not be lost. Returns the object as
    /// it is then, unless it is gone.
    pub(crate) async fn write_status(
        &self,
        kind: Kind,
        object: &Object,
        wanted: impl Fn(&Object) -> Option<Value>,
    ) -> Result<Option<Object>, CopyError> {
        let api = self.of(kind, object);
        let failed = "its status could not be written";
        let mut seen = object.clone();
        for attempt in 1..=STATUS_ATTEMPTS {
            let Some(status) = wanted(&seen) else { break };
            let patch = json!({
                "metadata": {"resourceVersion": seen.metadata.resource_version, "uid": seen.metadata.uid},
                "status": status,
            });
            match api
                .patch_status(object.name(), &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(written) => return Ok(Some(written)),
                Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(None),
                Err(kube::Error::Api(answer)) if answer.code == 409 && attempt < STATUS_ATTEMPTS => {
                    let found = api.get_opt(object.name()).await.map_err(tenant(failed))?;
                    match found.filter(|found| found.metadata.uid == object.metadata.uid) {
                        Some(found) => seen = found,
                        None => return Ok(None),
                    }
                }
                Err(error) => return Err(tenant(failed)(error)),
            }
        }
        Ok(Some(seen))
    }

    /// From now on the object goes only when its Route is gone.
    pub(crate) async fn hold(&self, kind: Kind, object: &Object) -> Result<(), CopyError> {
        self.set_finalizers(kind, object, |metadata| Finalizer::CLEANUP.put_on(metadata))
            .await
    }

    /// The object may go.
    pub(crate) async fn let_go(&self, kind: Kind, object: &Object) -> Result<(), CopyError> {
        self.set_finalizers(kind, object, |metadata| Finalizer::CLEANUP.take_off(metadata))
            .await
    }

    async fn set_finalizers(
        &self,
        kind: Kind,
        object: &Object,
        change: impl FnOnce(&mut ObjectMeta) -> bool,
    ) -> Result<(), CopyError> {
        let written = finalizers::set(&self.of(kind, object), &object.metadata, change).await;
        written.map_err(tenant("its finalizers could not be written"))
    }
}
