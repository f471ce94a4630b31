//! What a Tenant's status and Events say, and what its TenantState tells the tenant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource as _, ResourceExt as _};
use kubelb_api::API_VERSION;
use kubelb_api::conditions::{self, ConditionStatus, ConditionType, Observation};
use kubelb_api::names::{DEFAULT_TENANT_STATE, TenantName};
use kubelb_api::v1alpha1::{Tenant, TenantState, TenantStateSpec, TenantStateStatus, TenantStatus};
use kubelb_runtime::error_chain::chain;
use serde_json::json;

use super::super::failure::{ControllerError, doing};
use super::super::{FIELD_MANAGER, registration};
use super::{Context, Said};

impl Context {
    /// Writes the Tenant's status, where it changes, and says it in an Event.
    pub(super) async fn tell(&self, tenant: &Tenant, said: &Said) -> Result<(), ControllerError> {
        let present = tenant.status.clone().unwrap_or_default();
        let wanted = status(&present, said, tenant.metadata.generation, &Time(Timestamp::now()));
        if wanted == present {
            return Ok(());
        }
        if is_news(&present.conditions, &wanted.conditions) {
            self.publish(tenant, said).await;
        }
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": "Tenant",
            "metadata": {"name": tenant.name_any(), "uid": tenant.metadata.uid},
            "status": {
                "observedGeneration": wanted.observed_generation,
                "phase": wanted.phase,
                "conditions": conditions::get(&wanted.conditions, ConditionType::Ready).map_or(json!([]), |ready| json!([ready])),
            },
        });
        let api: Api<Tenant> = Api::all(self.client.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api
            .patch_status(&tenant.name_any(), &parameters, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("writing the Tenant's status")(error)),
        }
    }

    /// Has a TenantState.
    pub(super) async fn have_state(&self, name: &TenantName) -> Result<(), ControllerError> {
        let api: Api<TenantState> = Api::namespaced(self.client.clone(), &name.namespace());
        if api
            .get_metadata_opt(DEFAULT_TENANT_STATE)
            .await
            .map_err(doing("reading the TenantState"))?
            .is_some()
        {
            return Ok(());
        }
        let mut state = TenantState::new(DEFAULT_TENANT_STATE, TenantStateSpec::default());
        state.metadata = registration::inside(name, DEFAULT_TENANT_STATE);
        let created = api.create(&PostParams::default(), &state).await;
        created.map(drop).map_err(doing("creating the TenantState"))
    }

    /// Writes the TenantState's status, where it changes.
    pub(super) async fn tell_tenant(
        &self,
        tenant: &Tenant,
        name: &TenantName,
        said: &Said,
    ) -> Result<(), ControllerError> {
        let api: Api<TenantState> = Api::namespaced(self.client.clone(), &name.namespace());
        let Some(present) = api
            .get_opt(DEFAULT_TENANT_STATE)
            .await
            .map_err(doing("reading the TenantState"))?
        else {
            return Ok(());
        };
        let config = self.knowledge.config();
        let now = Time(Timestamp::now());
        let mut wanted = present.status.clone().unwrap_or_default();
        wanted.version = Some(registration::version());
        wanted.load_balancer = Some(registration::load_balancer_state(
            &tenant.spec,
            config.as_deref().map(|config| &config.spec),
        ));
        // What is an administrator's business is not told to tenants.
        let message = if said.ready == ConditionStatus::True {
            ""
        } else {
            &said.message
        };
        let observation = Observation {
            condition: ConditionType::Ready,
            status: said.ready,
            reason: if said.ready == ConditionStatus::True {
                "Registered"
            } else {
                said.reason
            },
            message,
            generation: present.metadata.generation,
        };
        conditions::set(&mut wanted.conditions, &observation, &now);
        if present.status.as_ref() == Some(&wanted) {
            return Ok(());
        }
        wanted.last_updated = Some(now);
        self.write_state(&api, &present, &wanted).await
    }

    async fn write_state(
        &self,
        api: &Api<TenantState>,
        present: &TenantState,
        wanted: &TenantStateStatus,
    ) -> Result<(), ControllerError> {
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": "TenantState",
            "metadata": {"name": DEFAULT_TENANT_STATE, "namespace": present.metadata.namespace, "uid": present.metadata.uid},
            "status": wanted,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let written = api
            .patch_status(DEFAULT_TENANT_STATE, &parameters, &Patch::Apply(&patch))
            .await;
        written.map(drop).map_err(doing("writing the TenantState's status"))
    }

    /// Events are for people; that one is lost is no reason to stop.
    async fn publish(&self, tenant: &Tenant, said: &Said) {
        let is_fine = said.ready == ConditionStatus::True && said.message.is_empty();
        let event = Event {
            type_: if is_fine { EventType::Normal } else { EventType::Warning },
            reason: said.reason.to_owned(),
            note: Some(if is_fine {
                "the tenant's CCM can work".to_owned()
            } else {
                said.message.clone()
            }),
            action: "Register".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &tenant.object_ref(&())).await {
            tracing::debug!(error = %chain(&error), "an event could not be written");
        }
    }
}

fn status(present: &TenantStatus, said: &Said, generation: Option<i64>, now: &Time) -> TenantStatus {
    let mut wanted = TenantStatus {
        observed_generation: generation,
        phase: Some(said.phase),
        ..present.clone()
    };
    let observation = Observation {
        condition: ConditionType::Ready,
        status: said.ready,
        reason: said.reason,
        message: &said.message,
        generation,
    };
    conditions::set(&mut wanted.conditions, &observation, now);
    wanted
}

/// Whether people should hear of it.
fn is_news(before: &[Condition], after: &[Condition]) -> bool {
    let key = |all: &[Condition]| {
        let ready = conditions::get(all, ConditionType::Ready)?;
        Some((ready.status.clone(), ready.reason.clone()))
    };
    key(before) != key(after)
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::TenantPhase;

    use super::*;

    #[test]
    fn the_same_again_is_no_change_and_no_news() {
        let at = |seconds: i64| Time(Timestamp::from_second(seconds).unwrap());
        let said = Said::failed("NamespaceTaken", "label it");
        let first = status(&TenantStatus::default(), &said, Some(1), &at(1));
        assert_eq!(first.phase, Some(TenantPhase::Failed));
        assert!(is_news(&[], &first.conditions));
        assert_eq!(status(&first, &said, Some(1), &at(2)), first);
        let later = status(&first, &said, Some(2), &at(3));
        assert_eq!(later.observed_generation, Some(2));
        assert!(!is_news(&first.conditions, &later.conditions));
    }
}
