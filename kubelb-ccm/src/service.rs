//! One Service: what it asks for into the management cluster, and what becomes of it back.
//!
//! Level-triggered: each call looks at everything and does what is missing. Decisions are [`crate::plan`]'s and [`crate::writeback`]'s.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource as _, ResourceExt as _};
use kubelb_api::v1alpha1::LoadBalancer;
use kubelb_runtime::error_chain::chain;

use crate::desk::Desk;
use crate::hub::{Hub, HubError};
use crate::plan::{AddressType, Inputs, Local, Nodes, Notice, Planned, Settings, is_ours, load_balancer};
use crate::services::{Services, WriteError, is_held};
use crate::tenancy::Tenancy;
use crate::writeback::{self, Happened, Submitted, Told};

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Pauses between attempts for one Service: doubling from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Why a Service is to be looked at again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The tenant's API server did not do something.
    #[error(transparent)]
    Tenant(#[from] WriteError),
    /// The management cluster did not.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// What Services are looked at with.
pub(crate) struct Context {
    pub(crate) services: Services,
    pub(crate) hub: Hub,
    pub(crate) tenancy: Tenancy,
    pub(crate) settings: Settings,
    pub(crate) address_type: AddressType,
    pub(crate) cleanup_timeout: Duration,
    pub(crate) nodes: Store<Node>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) load_balancers: Store<LoadBalancer>,
    pub(crate) recorder: Recorder,
    pub(crate) desk: Arc<Desk>,
    /// Failures in a row, of Services that failed.
    pub(crate) failures: RwLock<BTreeMap<(String, String), u32>>,
}

/// Looks at one Service.
pub(crate) async fn reconcile(service: Arc<Service>, context: Arc<Context>) -> Result<Action, ServiceError> {
    let key = key_of(&service);
    let result = if is_ours(&service, &context.settings) {
        if context.tenancy.is_over() {
            context.part(&service).await
        } else {
            context.serve(&service).await
        }
    } else {
        context.release(&service).await
    };
    context.desk.reconciled(&key, result.is_ok());
    if result.is_ok() {
        let mut failures = context.failures.write().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&key);
    }
    result.map(|()| Action::await_change())
}

/// When to look at a Service again after a failure.
pub(crate) fn retry(service: Arc<Service>, error: &ServiceError, context: Arc<Context>) -> Action {
    let key = key_of(&service);
    let mut failures = context.failures.write().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(key.clone()).or_default();
    tracing::warn!(namespace = key.0, service = key.1, error = %chain(error), "tried again");
    let pause = FIRST_RETRY.saturating_mul(1 << (*count).min(10)).min(LAST_RETRY);
    *count = count.saturating_add(1);
    Action::requeue(pause)
}

fn key_of(service: &Service) -> (String, String) {
    (service.namespace().unwrap_or_default(), service.name_any())
}

impl Context {
    /// What a Service of ours asks for, into the management cluster.
    async fn serve(&self, service: &Service) -> Result<(), ServiceError> {
        self.services.hold(service).await?;
        let (submitted, notices) = match self.plan(service) {
            Err(error) => (Submitted::Unservable(error), Vec::new()),
            Ok(Planned { load_balancer, notices }) => (self.submit(&load_balancer).await, notices),
        };
        self.tell(service, &submitted, &notices).await?;
        match submitted {
            Submitted::Yes | Submitted::Unservable(_) | Submitted::TenantDeleted => Ok(()),
            Submitted::Refused(why) => Err(HubError::Refused(why).into()),
            Submitted::Unauthorized(why) => Err(HubError::Unauthorized(why).into()),
            Submitted::Unreachable(why) => Err(HubError::Unreachable(why).into()),
        }
    }

    fn plan(&self, service: &Service) -> Result<Planned, crate::plan::PlanError> {
        let spec = service.spec.as_ref();
        let is_local = spec.is_some_and(|spec| spec.external_traffic_policy.as_deref() == Some("Local"));
        let (nodes, local) = if is_local && self.settings.to_nodes {
            let even_not_ready = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
            let (namespace, name) = key_of(service);
            let slices = self.slices.state().into_iter().filter(|slice| {
                slice.metadata.namespace.as_deref() == Some(&namespace)
                    && slice.labels().get(SERVICE_NAME).is_some_and(|of| *of == name)
            });
            let slices: Vec<Arc<EndpointSlice>> = slices.collect();
            let nodes = self.nodes.state();
            (
                Nodes::choose(nodes.iter().map(AsRef::as_ref), self.address_type),
                Local::count(slices.iter().map(AsRef::as_ref), even_not_ready),
            )
        } else {
            (Nodes::default(), Local::default())
        };
        let inputs = Inputs {
            nodes: &nodes,
            local: &local,
        };
        load_balancer(service, &self.settings, inputs)
    }

    async fn submit(&self, wanted: &LoadBalancer) -> Submitted {
        let is_there = self
            .present(wanted.metadata.name.as_deref().unwrap_or_default())
            .is_some_and(|present| is_as_wanted(&present, wanted));
        if is_there {
            return Submitted::Yes;
        }
        match self.hub.apply(wanted).await {
            Ok(_) => Submitted::Yes,
            Err(HubError::Refused(why)) => Submitted::Refused(why),
            Err(HubError::Unauthorized(why)) => Submitted::Unauthorized(why),
            Err(HubError::Unreachable(why)) => Submitted::Unreachable(why),
        }
    }

    /// The LoadBalancer of this name, as the management cluster last told.
    fn present(&self, name: &str) -> Option<Arc<LoadBalancer>> {
        let key = ObjectRef::new(name).within(self.hub.namespace());
        self.load_balancers.get(&key)
    }

    /// Writes the Service's status, and what is new in it as Events. Returns the Service as it was written.
    async fn tell(
        &self,
        service: &Service,
        submitted: &Submitted,
        notices: &[Notice],
    ) -> Result<Option<Service>, ServiceError> {
        let present = self.present(service.metadata.uid.as_deref().unwrap_or_default());
        let now = Time(Timestamp::now());
        let mut told = writeback::told(service, present.as_deref(), submitted, notices, &now);
        if !self.settings.to_nodes {
            // Its addresses are another implementation's.
            told.load_balancer = None;
        }
        if writeback::says(service, &told) {
            return Ok(None);
        }
        for happened in writeback::happened(service, &told) {
            self.publish(service, happened).await;
        }
        self.write_status(service, &told).await
    }

    async fn write_status(&self, service: &Service, told: &Told) -> Result<Option<Service>, ServiceError> {
        let present = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let kept = present.filter(|_| self.settings.to_nodes && is_ours(service, &self.settings));
        Ok(self.services.write_status(service, told, kept).await?)
    }

    /// Events are for people; that one is lost is no reason to stop.
    async fn publish(&self, service: &Service, happened: Happened) {
        let event = Event {
            type_: if happened.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: happened.reason,
            note: Some(happened.message),
            action: "Serve".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &service.object_ref(&())).await {
            tracing::debug!(error = %chain(&error), "an event could not be written");
        }
    }

    /// Nothing serves a Service of ours any more, and nobody has to be waited for.
    async fn part(&self, service: &Service) -> Result<(), ServiceError> {
        let written = self.tell(service, &Submitted::TenantDeleted, &[]).await?;
        Ok(self.services.let_go(written.as_ref().unwrap_or(service)).await?)
    }

    /// Takes away what was made for a Service that is not, or no longer, ours.
    async fn release(&self, service: &Service) -> Result<(), ServiceError> {
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        if !is_held(service) && self.present(uid).is_none() {
            return Ok(());
        }
        // With the tenant, everything of it goes, and it may delete nothing itself any more.
        if !self.tenancy.is_over()
            && let Err(error) = self.hub.delete(uid).await
        {
            let Some(since) = &service.metadata.deletion_timestamp else {
                return Err(error.into());
            };
            let waited = Timestamp::now().duration_since(since.0);
            if Duration::try_from(waited).unwrap_or_default() < self.cleanup_timeout {
                return Err(error.into());
            }
            let message =
                format!("{error}; the Service goes now, and what is left there is removed when it answers again");
            tracing::warn!(service = %service.name_any(), message);
            let given_up = Happened {
                is_warning: true,
                reason: "CleanupPostponed".to_owned(),
                message,
            };
            self.publish(service, given_up).await;
        }
        let written = if service.metadata.deletion_timestamp.is_none() {
            self.write_status(service, &Told::default()).await?
        } else {
            None
        };
        Ok(self.services.let_go(written.as_ref().unwrap_or(service)).await?)
    }
}

/// Whether nothing has to be written.
fn is_as_wanted(present: &LoadBalancer, wanted: &LoadBalancer) -> bool {
    let labels = present.labels();
    present.spec == wanted.spec
        && wanted
            .labels()
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
        && present.annotations() == wanted.annotations()
        && present.metadata.deletion_timestamp.is_none()
}
