//! Services that routes of ours refer to: their shadows in the tenant's cluster, and the nodes with Pods of them in the management cluster.
//!
//! What is missing is made at once, by the route that needs it. What nothing refers to any more stays for a while, for requests may still be on
//! their way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::v1alpha1::{Addresses, AddressesSpec};
use kubelb_runtime::error_chain::chain;

use super::copy::{CopyError, tenant};
use super::world::World;
use crate::hub::FIELD_MANAGER;
use crate::plan::layer7::{Name, Reach, View as _, is_as_wanted, is_shadow_of, reach, shadow, shadow_name};
use crate::plan::{Local, Nodes};

/// Pause before looking, so that many changes at once are one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// What a Service is called in the label of what is made from it.
pub(super) const SERVICE: &str = "Service";

/// Why a Service is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Something changed, or failed before.
    Changed,
    /// It was not wanted some time ago.
    Due,
}

type Later = Pin<Box<dyn Future<Output = (Name, Why)> + Send>>;

/// Follows them for ever.
pub(crate) async fn follow(world: Arc<World>) {
    world.settled().await;
    for service in world.services.store.state() {
        // Left from before this process.
        if Label::MANAGED_BY.get(&service.metadata) == Some(MANAGED_BY_KUBELB)
            && let Some(origin) = Label::ORIGIN_NAME.get(&service.metadata)
        {
            let namespace = service.metadata.namespace.clone().unwrap_or_default();
            world.service_bell.ring((namespace, origin.to_owned()));
        }
    }
    let mut later: FuturesUnordered<Later> = FuturesUnordered::new();
    // Those that wait already, so that there are never more than there are Services.
    let mut waiting: BTreeMap<Name, bool> = BTreeMap::new();
    loop {
        let (names, why) = tokio::select! {
            names = world.service_bell.taken() => {
                tokio::time::sleep(DEBOUNCE).await;
                (names, Why::Changed)
            }
            Some((name, why)) = later.next() => {
                waiting.remove(&name);
                (BTreeSet::from([name]), why)
            }
        };
        for name in names {
            let (pause, next) = match look(&world, &name, why).await {
                Ok(Next::Done) => continue,
                Ok(Next::Unwanted) => (world.grace, Why::Due),
                Err(error) => {
                    tracing::warn!(namespace = name.0, service = name.1, error = %chain(&error), "tried again");
                    (RETRY, why)
                }
            };
            if waiting.insert(name.clone(), true).is_none() {
                later.push(Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    (name, next)
                }));
            }
        }
    }
}

enum Next {
    /// Nothing is left to do.
    Done,
    /// Something is there that nothing refers to.
    Unwanted,
}

async fn look(world: &World, name: &Name, why: Why) -> Result<Next, CopyError> {
    let Some(service) = world.service(&name.0, &name.1) else {
        // Its shadow goes with it, by its owner; its Addresses as an orphan.
        return Ok(Next::Done);
    };
    let present = world.service(&name.0, &shadow_name(&service));
    let present = present.filter(|present| is_shadow_of(present, &service));
    let has_addresses = world.has_addresses(&service);
    let Some(ports) = world.wanted_ports(name) else {
        if present.is_none() && !has_addresses {
            return Ok(Next::Done);
        }
        if why == Why::Changed {
            return Ok(Next::Unwanted);
        }
        if let Some(present) = present {
            remove_shadow(&world.client, &present).await?;
        }
        if has_addresses && !world.tenancy.is_over() {
            let uid = service.metadata.uid.as_deref().unwrap_or_default();
            world.hub.delete_addresses(uid).await?;
        }
        return Ok(Next::Done);
    };
    let found = reach(&service, present.as_deref(), &ports);
    let uses_shadow = match &found {
        Reach::NeedsShadow => {
            // Where it was never there, the route that needs it makes it.
            if present.is_some() {
                let _refusal = world.make_shadow(name, &service, &ports).await?;
            }
            return Ok(Next::Done);
        }
        Reach::Carried(carried) => {
            if carried.is_local {
                world.make_addresses(&service).await?;
            }
            carried.service.metadata.name != service.metadata.name
        }
        Reach::Not(_) => false,
    };
    let Some(present) = present else {
        return Ok(Next::Done);
    };
    let wanted = shadow(&service, &ports);
    if uses_shadow && is_as_wanted(&present, &wanted, true) {
        return Ok(Next::Done);
    }
    // It has more than is needed.
    match (why, uses_shadow) {
        (Why::Changed, _) => return Ok(Next::Unwanted),
        (Why::Due, true) => world.write_shadow(&wanted, true).await.map(|_| ())?,
        (Why::Due, false) => remove_shadow(&world.client, &present).await?,
    }
    Ok(Next::Done)
}

/// Removes the shadow of a Service.
pub(super) async fn remove_shadow(client: &Client, present: &Service) -> Result<(), CopyError> {
    let namespace = present.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let name = present.metadata.name.as_deref().unwrap_or_default();
    let mut parameters = DeleteParams::background();
    parameters.preconditions = Some(kube::api::Preconditions {
        uid: present.metadata.uid.clone(),
        resource_version: None,
    });
    match api.delete(name, &parameters).await {
        Ok(_) => {
            tracing::info!(namespace, service = name, "removed; no route refers to it");
            Ok(())
        }
        // Gone, or another one by now.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
        Err(error) => Err(tenant("a Service that no route refers to could not be removed")(error)),
    }
}

impl World {
    /// The shadow of a Service, with the ports of all routes and these. The inner error says why there can be none.
    pub(super) async fn make_shadow(
        &self,
        name: &Name,
        service: &Service,
        ports: &BTreeSet<i32>,
    ) -> Result<Result<Service, String>, CopyError> {
        let mut all = self.wanted_ports(name).unwrap_or_default();
        all.extend(ports);
        let wanted = shadow(service, &all);
        let present = self.service(&name.0, &shadow_name(service));
        // What KubeLB's CCM has made is taken over.
        let is_there = present.is_some_and(|present| is_shadow_of(&present, service));
        match self.write_shadow(&wanted, is_there).await {
            Ok(made) if is_shadow_of(&made, service) => Ok(Ok(made)),
            Ok(made) => Ok(Err(format!(
                "the Service {} is somebody else's",
                made.metadata.name.unwrap_or_default()
            ))),
            Err(CopyError::Tenant { what, source }) => {
                if let kube::Error::Api(answer) = &*source
                    && matches!(answer.code, 403 | 422)
                {
                    return Ok(Err(format!("{what}: {}", answer.message)));
                }
                Err(tenant(what)(*source))
            }
            Err(error) => Err(error),
        }
    }

    async fn write_shadow(&self, wanted: &Service, force: bool) -> Result<Service, CopyError> {
        let namespace = wanted.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let mut parameters = PatchParams::apply(FIELD_MANAGER);
        parameters.force = force;
        let name = wanted.metadata.name.as_deref().unwrap_or_default();
        let written = api.patch(name, &parameters, &Patch::Apply(wanted)).await;
        written.map_err(tenant("the Service that gives it node ports could not be written"))
    }

    fn addresses_of(&self, service: &Service) -> Option<Arc<Addresses>> {
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        self.addresses.get(&ObjectRef::new(uid).within(self.hub.namespace()))
    }

    fn has_addresses(&self, service: &Service) -> bool {
        self.addresses_of(service).is_some()
    }

    /// The nodes with Pods of a Service, as Addresses that its routes refer to: so Pods that move are one write, for however many routes.
    pub(super) async fn make_addresses(&self, service: &Service) -> Result<(), CopyError> {
        let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        let slices: Vec<Arc<EndpointSlice>> = self.slices.state();
        let of_service = slices.iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace.as_deref() == namespace
                && labels.and_then(|labels| labels.get(SERVICE_NAME)).map(String::as_str) == name
        });
        let even_not_ready = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses);
        let nodes = self.nodes.store.state();
        let nodes = Nodes::choose(nodes.iter().map(AsRef::as_ref), self.address_type);
        let local = Local::count(of_service.map(AsRef::as_ref), even_not_ready.unwrap_or(false));
        let (addresses, too_many) = local.addresses(&nodes);
        if too_many > 0 {
            tracing::warn!(
                namespace,
                service = name,
                too_many,
                "nodes with Pods of it found no room"
            );
        }
        // The kind refuses an empty list: what was there before is better than nothing.
        if addresses.is_empty() {
            return Ok(());
        }
        let spec = AddressesSpec { addresses };
        if self.addresses_of(service).is_some_and(|present| present.spec == spec) {
            return Ok(());
        }
        let mut metadata = ObjectMeta {
            name: service.metadata.uid.clone(),
            namespace: Some(self.hub.namespace().to_owned()),
            ..ObjectMeta::default()
        };
        Label::ORIGIN_NAMESPACE.set(&mut metadata, namespace.unwrap_or_default());
        Label::ORIGIN_NAME.set(&mut metadata, name.unwrap_or_default());
        Label::ORIGIN_RESOURCE_KIND.set(&mut metadata, SERVICE);
        Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
        let object = Addresses {
            metadata,
            spec,
            status: None,
        };
        self.hub.apply_addresses(&object).await?;
        Ok(())
    }
}
