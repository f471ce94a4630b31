//! One SyncSecret: the Secret it asks for, and what became of it. Decisions are those of `secret`.
//!
//! The Secret is owned by the SyncSecret, so that the cluster removes it with that; no finalizer is needed. KubeLB set one, and named the Secret
//! by the UID: both are taken over.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, Client, ResourceExt as _};
use kubelb_api::API_VERSION;
use kubelb_api::conditions::{self, ConditionType, Observation};
use kubelb_api::finalizers::Finalizer;
use kubelb_api::v1alpha1::{SyncSecret, SyncSecretPhase, SyncSecretStatus};
use serde_json::json;

use super::failure::{ControllerError, Failures, doing};
use super::secret::{Plan, is_owned, plan};
use super::{FIELD_MANAGER, LOOK_TIME};

/// What SyncSecrets are looked at with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) failures: Failures,
}

fn key_of(sync: &SyncSecret) -> String {
    format!("{}/{}", sync.namespace().unwrap_or_default(), sync.name_any())
}

/// Looks at one SyncSecret.
pub(crate) async fn reconcile(sync: Arc<SyncSecret>, context: Arc<Context>) -> Result<Action, ControllerError> {
    let look = tokio::time::timeout(LOOK_TIME, context.look(&sync));
    look.await.unwrap_or(Err(ControllerError::Slow(LOOK_TIME)))?;
    context.failures.forget(&key_of(&sync));
    Ok(Action::await_change())
}

/// When to look at a SyncSecret again after a failure.
pub(crate) fn retry(sync: Arc<SyncSecret>, error: &ControllerError, context: Arc<Context>) -> Action {
    Action::requeue(context.failures.pause(&key_of(&sync), error))
}

impl Context {
    async fn look(&self, sync: &SyncSecret) -> Result<(), ControllerError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &sync.namespace().unwrap_or_default());
        self.take_over(sync, &secrets).await?;
        if sync.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let result = self.synchronize(sync, &secrets).await;
        let told = match &result {
            Ok(None) => Some((SyncSecretPhase::Synced, "Synced", String::new())),
            Ok(Some((reason, message))) => Some((SyncSecretPhase::Failed, *reason, message.clone())),
            Err(error) => error.refusal().map(|why| (SyncSecretPhase::Failed, "Refused", why)),
        };
        if let Some((phase, reason, message)) = told {
            self.tell(sync, phase, reason, &message).await?;
        }
        result.map(drop)
    }

    /// Takes away what KubeLB made for it, and what it waits for because of that.
    async fn take_over(&self, sync: &SyncSecret, secrets: &Api<Secret>) -> Result<(), ControllerError> {
        let mut metadata = sync.metadata.clone();
        if !Finalizer::CLEANUP.take_off(&mut metadata) {
            return Ok(());
        }
        let uid = sync.metadata.uid.clone().unwrap_or_default();
        let copy = secrets
            .get_metadata_opt(&uid)
            .await
            .map_err(doing("reading KubeLB's Secret"))?;
        if let Some(copy) = copy.filter(|copy| is_owned(&copy.metadata, sync)) {
            remove(secrets, &uid, copy.metadata.uid).await?;
        }
        let patch = json!({"metadata": {
            "resourceVersion": metadata.resource_version,
            "uid": metadata.uid,
            "finalizers": metadata.finalizers.unwrap_or_default(),
        }});
        let api: Api<SyncSecret> = Api::namespaced(self.client.clone(), &sync.namespace().unwrap_or_default());
        match api
            .patch_metadata(&sync.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("taking KubeLB's finalizer off")(error)),
        }
    }

    /// What to say when it gets no Secret.
    async fn synchronize(
        &self,
        sync: &SyncSecret,
        secrets: &Api<Secret>,
    ) -> Result<Option<(&'static str, String)>, ControllerError> {
        let name = sync.name_any();
        let present = secrets.get_opt(&name).await.map_err(doing("reading the Secret"))?;
        let parameters = PostParams::default();
        match plan(sync, present.as_ref()) {
            Plan::Keep => {}
            Plan::Refuse(reason, message) => return Ok(Some((reason, message))),
            Plan::Create(secret) => {
                let created = secrets.create(&parameters, &secret).await;
                created.map_err(doing("creating the Secret"))?;
            }
            Plan::Update(secret) => {
                let written = secrets.replace(&name, &parameters, &secret).await;
                written.map_err(doing("writing the Secret"))?;
            }
            Plan::Replace(secret) => {
                remove(secrets, &name, present.and_then(|present| present.metadata.uid)).await?;
                let created = secrets.create(&parameters, &secret).await;
                created.map_err(doing("creating the Secret"))?;
            }
        }
        Ok(None)
    }

    async fn tell(
        &self,
        sync: &SyncSecret,
        phase: SyncSecretPhase,
        reason: &str,
        message: &str,
    ) -> Result<(), ControllerError> {
        let present = sync.status.clone().unwrap_or_default();
        let generation = sync.metadata.generation;
        let mut wanted = SyncSecretStatus {
            observed_generation: generation,
            phase: Some(phase),
            ..present.clone()
        };
        let observation = Observation {
            condition: ConditionType::Synced,
            status: (phase == SyncSecretPhase::Synced).into(),
            reason,
            message,
            generation,
        };
        conditions::set(&mut wanted.conditions, &observation, &Time(Timestamp::now()));
        if wanted == present {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": "SyncSecret",
            "metadata": {"name": sync.name_any(), "namespace": sync.namespace(), "uid": sync.metadata.uid},
            "status": {
                "observedGeneration": generation,
                "phase": phase,
                "conditions": conditions::get(&wanted.conditions, ConditionType::Synced).map_or(json!([]), |synced| json!([synced])),
            },
        });
        let api: Api<SyncSecret> = Api::namespaced(self.client.clone(), &sync.namespace().unwrap_or_default());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api
            .patch_status(&sync.name_any(), &parameters, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("writing the SyncSecret's status")(error)),
        }
    }
}

async fn remove(secrets: &Api<Secret>, name: &str, uid: Option<String>) -> Result<(), ControllerError> {
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid,
        resource_version: None,
    });
    match secrets.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(doing("deleting a Secret")(error)),
    }
}
