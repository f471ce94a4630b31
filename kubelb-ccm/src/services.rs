//! What is written into the tenant's own Services: status and finalizer. What to write is others' to say.

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use kubelb_api::finalizers::Finalizer;
use serde_json::json;

use crate::hub::FIELD_MANAGER;
use crate::writeback::Told;

/// The tenant's API server did not do something.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct WriteError {
    what: &'static str,
    #[source]
    source: Box<kube::Error>,
}

/// The tenant's Services.
#[derive(Clone)]
pub(crate) struct Services {
    client: Client,
}

impl Services {
    pub(crate) fn new(client: &Client) -> Self {
        Self { client: client.clone() }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Api<Service> {
        Api::all(self.client.clone())
    }

    fn of(&self, service: &Service) -> Api<Service> {
        Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default())
    }

    /// Writes what is told. Addresses that nothing is known about become those of `kept`. Returns the Service as it is then, unless it is gone.
    pub(crate) async fn write_status(
        &self,
        service: &Service,
        told: &Told,
        kept: Option<&LoadBalancerStatus>,
    ) -> Result<Option<Service>, WriteError> {
        let mut status = serde_json::Map::new();
        // What is left out is taken away, so what shall stay is said again.
        if let Some(load_balancer) = told.load_balancer.as_ref().or(kept) {
            status.insert("loadBalancer".to_owned(), json!(load_balancer));
        }
        if !told.conditions.is_empty() {
            status.insert("conditions".to_owned(), json!(told.conditions));
        }
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Service",
            // Not another one of the same name.
            "metadata": {"name": service.name_any(), "namespace": service.namespace(), "uid": service.metadata.uid},
            "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let written = self
            .of(service)
            .patch_status(&service.name_any(), &parameters, &Patch::Apply(&patch))
            .await;
        unless_gone(written, "the Service's status could not be written")
    }

    /// From now on the Service goes only when its copy is gone.
    pub(crate) async fn hold(&self, service: &Service) -> Result<(), WriteError> {
        self.set_finalizers(service, |metadata| {
            let put = Finalizer::CLEANUP.put_on(metadata);
            let legacy = Finalizer::LEGACY_LOAD_BALANCER.take_off(metadata);
            put || legacy
        })
        .await
    }

    /// The Service may go.
    pub(crate) async fn let_go(&self, service: &Service) -> Result<(), WriteError> {
        self.set_finalizers(service, |metadata| {
            let current = Finalizer::CLEANUP.take_off(metadata);
            let legacy = Finalizer::LEGACY_LOAD_BALANCER.take_off(metadata);
            current || legacy
        })
        .await
    }

    async fn set_finalizers(
        &self,
        service: &Service,
        change: impl FnOnce(&mut kube::core::ObjectMeta) -> bool,
    ) -> Result<(), WriteError> {
        let mut metadata = service.metadata.clone();
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
        let written = self
            .of(service)
            .patch(&service.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        unless_gone(written, "the Service's finalizers could not be written").map(drop)
    }
}

/// Whether a Service waits for us to go.
pub(crate) fn is_held(service: &Service) -> bool {
    Finalizer::CLEANUP.is_on(&service.metadata) || Finalizer::LEGACY_LOAD_BALANCER.is_on(&service.metadata)
}

/// One that is gone, or another one by now, needs nothing.
fn unless_gone(written: kube::Result<Service>, what: &'static str) -> Result<Option<Service>, WriteError> {
    match written {
        Ok(service) => Ok(Some(service)),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
        Err(source) => Err(WriteError {
            what,
            source: Box::new(source),
        }),
    }
}
