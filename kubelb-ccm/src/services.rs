//! What is written into the tenant's own Services: status and finalizer. What to write is others' to say.

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service};
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use kubelb_api::finalizers::Finalizer;
use serde_json::json;

use crate::finalizers;
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
        match written {
            Ok(service) => Ok(Some(service)),
            // One that is gone, or another one by now, needs nothing.
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(None),
            Err(error) => Err(failed("the Service's status could not be written")(error)),
        }
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
        change: impl FnOnce(&mut ObjectMeta) -> bool,
    ) -> Result<(), WriteError> {
        let written = finalizers::set(&self.of(service), &service.metadata, change).await;
        written.map_err(failed("the Service's finalizers could not be written"))
    }
}

/// Whether a Service waits for us to go.
pub(crate) fn is_held(service: &Service) -> bool {
    Finalizer::CLEANUP.is_on(&service.metadata) || Finalizer::LEGACY_LOAD_BALANCER.is_on(&service.metadata)
}

fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> WriteError {
    move |source| WriteError {
        what,
        source: Box::new(source),
    }
}
