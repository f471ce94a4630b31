//! One Tenant: registered, or removed, and told about. Level-triggered: each look does what is missing.
//!
//! Decisions are those of `registration`, `kubeconfig`, `api_servers` and `removal`.

mod credential;
mod removing;
mod telling;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt as _};
use kubelb_api::conditions::ConditionStatus;
use kubelb_api::finalizers::Finalizer;
use kubelb_api::names::{CCM_ACCOUNT, LEGACY_CCM_TOKEN_SECRET, TenantName};
use kubelb_api::v1alpha1::{Config, Tenant, TenantPhase};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::failure::{ControllerError, Failures, Pauses, doing};
use super::registration::{self, Standing};
use super::{FIELD_MANAGER, LOOK_TIME, Settings};

/// Type of a Secret with a token that never ends.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// Longest time until a look that nothing asked for, so that a clock that was set does not let a token end.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

/// What kubeconfigs and TenantStates are made of, beside the Tenant.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) cluster_info: Store<ConfigMap>,
    pub(crate) root_ca: Store<ConfigMap>,
    pub(crate) configs: Store<Config>,
}

impl Knowledge {
    /// Waits until everything was listed.
    pub(crate) async fn listed(&self) {
        let (slices, info) = (self.slices.wait_until_ready(), self.cluster_info.wait_until_ready());
        let (root, configs) = (self.root_ca.wait_until_ready(), self.configs.wait_until_ready());
        // That nobody writes any more is seen by whoever reads.
        drop(tokio::join!(slices, info, root, configs));
    }

    fn config(&self) -> Option<Arc<Config>> {
        self.configs.state().into_iter().next()
    }
}

/// What Tenants are looked at with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) knowledge: Knowledge,
    pub(crate) recorder: Recorder,
    pub(crate) failures: Failures,
    /// Between two tokens.
    pub(crate) pauses: Pauses,
}

/// What there is to say about a Tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    phase: TenantPhase,
    ready: ConditionStatus,
    reason: &'static str,
    message: String,
}

impl Said {
    fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            phase: TenantPhase::Failed,
            ready: ConditionStatus::False,
            reason,
            message: message.into(),
        }
    }

    fn waits(phase: TenantPhase, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            phase,
            ready: ConditionStatus::False,
            reason,
            message: message.into(),
        }
    }
}

/// What one look came to.
struct Looked {
    /// `None`: the Tenant is gone.
    said: Option<Said>,
    again: Option<Duration>,
}

impl From<Said> for Looked {
    fn from(said: Said) -> Self {
        Self {
            said: Some(said),
            again: None,
        }
    }
}

/// Looks at one Tenant.
pub(crate) async fn reconcile(tenant: Arc<Tenant>, context: Arc<Context>) -> Result<Action, ControllerError> {
    let look = tokio::time::timeout(LOOK_TIME, context.look(&tenant));
    let again = look.await.unwrap_or(Err(ControllerError::Slow(LOOK_TIME)))?;
    context.failures.forget(&tenant.name_any());
    Ok(again.map_or_else(Action::await_change, |pause| Action::requeue(pause.min(LONGEST_WAIT))))
}

/// When to look at a Tenant again after a failure.
pub(crate) fn retry(tenant: Arc<Tenant>, error: &ControllerError, context: Arc<Context>) -> Action {
    Action::requeue(context.failures.pause(&tenant.name_any(), error))
}

impl Context {
    async fn look(&self, tenant: &Tenant) -> Result<Option<Duration>, ControllerError> {
        let is_going = tenant.metadata.deletion_timestamp.is_some();
        let name = TenantName::new(tenant.name_any());
        let result = match (&name, is_going) {
            (Ok(name), false) => self.register(tenant, name).await,
            (Ok(name), true) => self.remove(tenant, name).await,
            (Err(error), false) => Ok(Said::failed("InvalidName", format!("metadata.name: {error}")).into()),
            // Nothing was ever made for it.
            (Err(_), true) => self.release(tenant).await,
        };
        let said = match &result {
            Ok(looked) => looked.said.clone(),
            Err(error) => error.refusal().map(|why| Said {
                phase: if is_going {
                    TenantPhase::Terminating
                } else {
                    TenantPhase::Failed
                },
                ..Said::failed("Refused", why)
            }),
        };
        if let Some(said) = said {
            self.tell(tenant, &said).await?;
            if let Ok(name) = name.as_ref()
                && !is_going
                && !said.reason.starts_with("Namespace")
            {
                self.tell_tenant(tenant, name, &said).await?;
            }
        }
        result.map(|looked| looked.again)
    }

    /// Makes what is missing, and puts right what somebody changed.
    async fn register(&self, tenant: &Tenant, name: &TenantName) -> Result<Looked, ControllerError> {
        self.hold(tenant).await?;
        if let Some(said) = self.have_namespace(name).await? {
            return Ok(said.into());
        }
        let account = self.have_account(name).await?;
        self.have_role(name).await?;
        self.have_binding(name).await?;
        let until = match self.have_kubeconfig(name, &account).await? {
            Ok(until) => until,
            Err(unknown) => return Ok(Said::failed("ApiServerUnknown", unknown.to_string()).into()),
        };
        self.have_state(name).await?;
        let (reason, message) = match self.never_ending_token(name).await? {
            None => ("Registered", String::new()),
            Some(message) => ("LegacyToken", message),
        };
        let wait = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        Ok(Looked {
            said: Some(Said {
                phase: TenantPhase::Ready,
                ready: ConditionStatus::True,
                reason,
                message,
            }),
            again: Some(wait),
        })
    }

    /// The namespace; what to say when it is not to be had.
    async fn have_namespace(&self, name: &TenantName) -> Result<Option<Said>, ControllerError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let wanted = registration::namespace(name);
        let Some(present) = api
            .get_opt(&name.namespace())
            .await
            .map_err(doing("reading the namespace"))?
        else {
            let created = api.create(&PostParams::default(), &wanted).await;
            created.map_err(doing("creating the namespace"))?;
            return Ok(None);
        };
        if present.metadata.deletion_timestamp.is_some() {
            let message = format!(
                "waits for namespace {}, which is being deleted, to be gone",
                name.namespace()
            );
            return Ok(Some(Said::waits(TenantPhase::Pending, "NamespaceTerminating", message)));
        }
        match registration::standing(&present.metadata, name) {
            Standing::Foreign => Ok(Some(Said::failed(
                "NamespaceTaken",
                registration::namespace_taken(name),
            ))),
            Standing::Made if !registration::is_labelled(&present.metadata, &wanted.metadata) => {
                self.apply(&api, &wanted, "labelling the namespace").await?;
                Ok(None)
            }
            Standing::Made | Standing::Given => Ok(None),
        }
    }

    async fn have_account(&self, name: &TenantName) -> Result<ServiceAccount, ControllerError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &name.namespace());
        let wanted = registration::account(name);
        match api
            .get_opt(CCM_ACCOUNT)
            .await
            .map_err(doing("reading the ServiceAccount"))?
        {
            Some(present) if registration::account_is_right(&present, &wanted) => Ok(present),
            Some(_) | None => self.apply(&api, &wanted, "writing the ServiceAccount").await,
        }
    }

    async fn have_role(&self, name: &TenantName) -> Result<(), ControllerError> {
        let api: Api<Role> = Api::namespaced(self.client.clone(), &name.namespace());
        let wanted = registration::role(name);
        match api.get_opt(CCM_ACCOUNT).await.map_err(doing("reading the Role"))? {
            Some(present) if registration::role_is_right(&present, &wanted) => Ok(()),
            Some(_) | None => self.apply(&api, &wanted, "writing the Role").await.map(drop),
        }
    }

    async fn have_binding(&self, name: &TenantName) -> Result<(), ControllerError> {
        let api: Api<RoleBinding> = Api::namespaced(self.client.clone(), &name.namespace());
        let wanted = registration::binding(name);
        let present = api
            .get_opt(CCM_ACCOUNT)
            .await
            .map_err(doing("reading the RoleBinding"))?;
        match present {
            Some(present) if registration::binding_is_right(&present, &wanted) => return Ok(()),
            Some(present) if !registration::names_the_role(&present, &wanted) => {
                let deleted = api.delete(CCM_ACCOUNT, &exactly(&present.metadata)).await;
                deleted.map_err(doing("deleting the RoleBinding"))?;
            }
            Some(_) | None => {}
        }
        self.apply(&api, &wanted, "writing the RoleBinding").await.map(drop)
    }

    /// What to say about the token that KubeLB made, if it is there.
    async fn never_ending_token(&self, name: &TenantName) -> Result<Option<String>, ControllerError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &name.namespace());
        let secret = api
            .get_opt(LEGACY_CCM_TOKEN_SECRET)
            .await
            .map_err(doing("reading KubeLB's token"))?;
        let Some(mut secret) = secret.filter(|secret| secret.type_.as_deref() == Some(TOKEN_TYPE)) else {
            return Ok(None);
        };
        let ours = registration::inside(name, LEGACY_CCM_TOKEN_SECRET);
        if !registration::is_labelled(&secret.metadata, &ours) {
            // So that its end is seen.
            secret.labels_mut().extend(ours.labels.unwrap_or_default());
            let written = api
                .replace(LEGACY_CCM_TOKEN_SECRET, &PostParams::default(), &secret)
                .await;
            written.map_err(doing("labelling KubeLB's token"))?;
        }
        Ok(Some(registration::token_never_ends(name, &secret.metadata)))
    }

    /// From now on the Tenant goes only when everything of it is gone.
    async fn hold(&self, tenant: &Tenant) -> Result<(), ControllerError> {
        let mut metadata = tenant.metadata.clone();
        if !Finalizer::CLEANUP.put_on(&mut metadata) {
            return Ok(());
        }
        self.write_finalizers(metadata).await
    }

    /// Nothing of it is left.
    async fn release(&self, tenant: &Tenant) -> Result<Looked, ControllerError> {
        let mut metadata = tenant.metadata.clone();
        if Finalizer::CLEANUP.take_off(&mut metadata) {
            self.write_finalizers(metadata).await?;
        }
        Ok(Looked {
            said: None,
            again: None,
        })
    }

    async fn write_finalizers(&self, metadata: ObjectMeta) -> Result<(), ControllerError> {
        let api: Api<Tenant> = Api::all(self.client.clone());
        let name = metadata.name.clone().unwrap_or_default();
        let patch = finalizers_of(metadata);
        match api
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("writing the Tenant's finalizers")(error)),
        }
    }

    async fn apply<K>(&self, api: &Api<K>, wanted: &K, what: &'static str) -> Result<K, ControllerError>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let name = wanted.meta().name.clone().unwrap_or_default();
        api.patch(&name, &parameters, &Patch::Apply(wanted))
            .await
            .map_err(doing(what))
    }
}

/// A patch that sets the finalizers, unless somebody else changed the object in between.
fn finalizers_of(metadata: ObjectMeta) -> serde_json::Value {
    json!({"metadata": {
        "resourceVersion": metadata.resource_version,
        "uid": metadata.uid,
        "finalizers": metadata.finalizers.unwrap_or_default(),
    }})
}

/// This object, and no other of its name.
fn exactly(metadata: &ObjectMeta) -> DeleteParams {
    DeleteParams::default().preconditions(kube::api::Preconditions {
        uid: metadata.uid.clone(),
        resource_version: None,
    })
}
