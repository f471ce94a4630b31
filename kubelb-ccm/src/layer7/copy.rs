//! One Gateway, HTTPRoute or GRPCRoute: its Route, and what becomes of that back. And one GatewayClass: whether it is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kubelb_api::conditions::TENANT_DELETED;
use kubelb_api::finalizers::Finalizer;
use kubelb_api::v1alpha1::Route;
use kubelb_runtime::error_chain::chain;

use super::index::key_of;
use super::object::{Kind, Object};
use super::world::World;
use crate::hub::HubError;
use crate::plan::layer7::{
    Material, Name, Planned, Reach, References, View as _, accepted, our_parents, permitted_materials,
    permitted_services, reach, read, route, shadow_name,
};
use crate::writeback::DELETED;
use crate::writeback::layer7::{class_status, parted, status};

/// Pauses between attempts for one object: doubling from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Longest text of an Event, in characters.
const MAX_NOTE: usize = 1_024;

/// Why an object is to be looked at again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The tenant's API server did not do something.
    #[error("{what}")]
    Tenant {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    /// The management cluster did not.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// It has no JSON form.
    #[error("the object cannot be written down")]
    Json(#[from] kubelb_api::raw_object::WriteError),
}

pub(super) fn tenant(what: &'static str) -> impl FnOnce(kube::Error) -> CopyError {
    move |source| CopyError::Tenant {
        what,
        source: Box::new(source),
    }
}

/// What objects of a kind are looked at with.
pub(crate) struct Context {
    pub(crate) kind: Kind,
    pub(crate) world: Arc<World>,
}

/// Looks at one object.
pub(crate) async fn reconcile(object: Arc<Object>, context: Arc<Context>) -> Result<Action, CopyError> {
    context.world.settled().await;
    // What was known when this was asked for may be old by now.
    let key = key_of(context.kind, &object);
    let Some(object) = context.world.object(context.kind, &key.1, &key.2) else {
        return Ok(Action::await_change());
    };
    let look = Look {
        kind: context.kind,
        world: &context.world,
        object: &object,
    };
    look.look().await?;
    let mut failures = context.world.failures.write().unwrap_or_else(PoisonError::into_inner);
    failures.remove(&key);
    Ok(Action::await_change())
}

/// When to look at an object again after a failure.
pub(crate) fn retry(object: Arc<Object>, error: &CopyError, context: Arc<Context>) -> Action {
    let key = key_of(context.kind, &object);
    let mut failures = context.world.failures.write().unwrap_or_else(PoisonError::into_inner);
    let (count, _) = failures.entry(key.clone()).or_default();
    tracing::warn!(kind = key.0.as_str(), namespace = key.1, name = key.2, error = %chain(error), "tried again");
    let pause = FIRST_RETRY.saturating_mul(1 << (*count).min(10)).min(LAST_RETRY);
    *count = count.saturating_add(1);
    Action::requeue(pause)
}

struct Look<'a> {
    kind: Kind,
    world: &'a Arc<World>,
    object: &'a Object,
}

impl Look<'_> {
    async fn look(&self) -> Result<(), CopyError> {
        if self.kind == Kind::GatewayClass {
            return self.class().await;
        }
        if !self.world.is_ours(self.kind, self.object) {
            return self.release().await;
        }
        if self.world.tenancy.is_over() {
            return self.part().await;
        }
        let references = read(self.kind, self.object);
        let Some(missing) = self.missing_materials(&references) else {
            // A Gateway whose certificates are not there yet would lose its listeners; it is looked at when they are.
            return Ok(());
        };
        self.world.objects.hold(self.kind, self.object).await?;
        let reaches = self.reaches(&references).await?;
        let view = self.world.as_ref();
        let tenant = &self.world.settings.tenant;
        let planned = route(self.kind, self.object, &references, &reaches, &missing, tenant, view)?;
        let submitted = self.submit(&planned).await;
        self.tell(&planned, submitted.as_ref().err()).await;
        let present = self.present();
        let wanted = |object: &Object| status(self.kind, object, present.as_deref());
        let objects = &self.world.objects;
        objects.write_status(self.kind, self.object, wanted).await?;
        Ok(submitted?)
    }

    async fn class(&self) -> Result<(), CopyError> {
        let Some(answer) = accepted(self.object) else {
            return Ok(());
        };
        let now = Time(Timestamp::now());
        let wanted = |class: &Object| class_status(class, &answer, &now);
        let objects = &self.world.objects;
        objects.write_status(self.kind, self.object, wanted).await.map(drop)
    }

    /// What TLS needs and is not there; `None` while it is not known of all of it.
    fn missing_materials(&self, references: &References) -> Option<BTreeSet<Material>> {
        let mut missing = BTreeSet::new();
        for material in permitted_materials(self.object, references, self.world.as_ref()) {
            if !self.world.copies.is_there(material)? {
                missing.insert(material.clone());
            }
        }
        Some(missing)
    }

    /// How each Service is reached, after what has to be made for that.
    async fn reaches(&self, references: &References) -> Result<BTreeMap<Name, Reach>, CopyError> {
        let mut reaches = BTreeMap::new();
        let view = self.world.as_ref();
        let permitted: Vec<_> = permitted_services(self.kind, self.object, references, view).collect();
        for (name, ports) in permitted {
            let Some(service) = view.service(&name.0, &name.1) else {
                continue;
            };
            let shadow = view.service(&name.0, &shadow_name(&service));
            let mut found = reach(&service, shadow.as_deref(), ports);
            if found == Reach::NeedsShadow {
                found = match self.world.make_shadow(name, &service, ports).await? {
                    Ok(made) => reach(&service, Some(&made), ports),
                    Err(why) => Reach::Not(why),
                };
            }
            if let Reach::Carried(carried) = &found
                && carried.is_local
            {
                self.world.make_addresses(&service).await?;
            }
            reaches.insert(name.clone(), found);
        }
        Ok(reaches)
    }

    fn present(&self) -> Option<Arc<Route>> {
        let uid = self.object.metadata.uid.as_deref().unwrap_or_default();
        let reference = ObjectRef::new(uid).within(self.world.hub.namespace());
        self.world.routes.store.get(&reference)
    }

    async fn submit(&self, planned: &Planned) -> Result<(), HubError> {
        let is_there = self
            .present()
            .is_some_and(|present| is_as_wanted(&present, &planned.route));
        if !is_there {
            self.world.hub.apply_route(&planned.route).await?;
        }
        Ok(())
    }

    /// What a person has to know and no status says, as an Event when it is new.
    async fn tell(&self, planned: &Planned, failure: Option<&HubError>) {
        let key = key_of(self.kind, self.object);
        let notices: Vec<String> = planned.notices.iter().map(ToString::to_string).collect();
        let (reason, text) = match failure {
            Some(HubError::Refused(_)) => ("Refused", failure.map(ToString::to_string)),
            Some(HubError::Unauthorized(_)) => ("CredentialRefused", failure.map(ToString::to_string)),
            Some(HubError::Unreachable(_)) => ("ManagementClusterUnreachable", failure.map(ToString::to_string)),
            None => ("NotSupported", Some(notices.join("; "))),
        };
        let text = text.unwrap_or_default();
        let is_news = {
            let mut failures = self.world.failures.write().unwrap_or_else(PoisonError::into_inner);
            if text.is_empty() {
                false
            } else {
                let (_, last) = failures.entry(key).or_default();
                // The text of an outage changes; that there is one does not.
                let is_news = *last != reason;
                reason.clone_into(last);
                is_news
            }
        };
        if is_news {
            self.publish(reason, text).await;
        }
    }

    /// Events are for people; that one is lost is no reason to stop.
    async fn publish(&self, reason: &str, text: String) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(text.chars().take(MAX_NOTE).collect()),
            action: "Serve".to_owned(),
            secondary: None,
        };
        if let Err(error) = self
            .world
            .recorder
            .publish(&event, &self.object.object_ref(&self.kind))
            .await
        {
            tracing::debug!(error = %chain(&error), "an event could not be written");
        }
    }

    /// Nothing serves an object of ours any more, and nobody has to be waited for.
    async fn part(&self) -> Result<(), CopyError> {
        let (world, object) = (self.world, self.object);
        let parents = our_parents(object, world.gateways, world.as_ref());
        let now = Time(Timestamp::now());
        let wanted = |object: &Object| parted(self.kind, object, &parents, &now);
        if wanted(object).is_some() {
            self.publish(TENANT_DELETED, DELETED.to_owned()).await;
        }
        match world.objects.write_status(self.kind, object, wanted).await? {
            Some(written) => world.objects.let_go(self.kind, &written).await,
            None => Ok(()),
        }
    }

    /// Takes away what was made for an object that is not, or no longer, ours.
    async fn release(&self) -> Result<(), CopyError> {
        if !Finalizer::CLEANUP.is_on(&self.object.metadata) && self.present().is_none() {
            return Ok(());
        }
        let uid = self.object.metadata.uid.as_deref().unwrap_or_default();
        // With the tenant, everything of it goes, and it may delete nothing itself any more.
        if !self.world.tenancy.is_over()
            && let Err(error) = self.world.hub.delete_route(uid).await
        {
            let Some(since) = &self.object.metadata.deletion_timestamp else {
                return Err(error.into());
            };
            let waited = Timestamp::now().duration_since(since.0);
            if Duration::try_from(waited).unwrap_or_default() < self.world.cleanup_timeout {
                return Err(error.into());
            }
            let text = format!("{error}; the object goes now, and what is left there is removed when it answers again");
            tracing::warn!(name = self.object.name(), text);
            self.publish("CleanupPostponed", text).await;
        }
        let objects = &self.world.objects;
        // Who serves a Gateway from now on writes its whole status.
        let written = if self.object.metadata.deletion_timestamp.is_none() && self.kind != Kind::Gateway {
            let wanted = |object: &Object| status(self.kind, object, None);
            objects.write_status(self.kind, self.object, wanted).await?
        } else {
            None
        };
        objects.let_go(self.kind, written.as_ref().unwrap_or(self.object)).await
    }
}

/// Whether nothing has to be written.
fn is_as_wanted(present: &Route, wanted: &Route) -> bool {
    let labels = present.metadata.labels.clone().unwrap_or_default();
    let mut wanted_labels = wanted.metadata.labels.iter().flatten();
    present.spec == wanted.spec
        && wanted_labels.all(|(key, value)| labels.get(key) == Some(value))
        && present.metadata.deletion_timestamp.is_none()
}
