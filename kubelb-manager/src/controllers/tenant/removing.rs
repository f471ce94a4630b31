//! Carries out how a tenant goes.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use kubelb_api::conditions::TENANT_DELETED;
use kubelb_api::finalizers::Finalizer;
use kubelb_api::names::{CCM_ACCOUNT, CCM_KUBECONFIG_SECRET, DEFAULT_TENANT_STATE, TenantName};
use kubelb_api::v1alpha1::{Addresses, LoadBalancer, Route, SyncSecret, Tenant, TenantPhase, TenantState};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::super::failure::{ControllerError, doing};
use super::super::registration;
use super::super::removal::{Place, Remaining, Remains, Step, step};
use super::{Context, Looked, Said};

/// Steps of one look; more are taken at the next.
const MAX_STEPS: usize = 32;
/// Pause until that.
const NEXT_STEPS: Duration = Duration::from_secs(1);

impl Context {
    /// Takes everything of a tenant away.
    pub(super) async fn remove(&self, tenant: &Tenant, name: &TenantName) -> Result<Looked, ControllerError> {
        if !Finalizer::CLEANUP.is_on(&tenant.metadata) {
            // It waits for others only.
            return Ok(Looked {
                said: None,
                again: None,
            });
        }
        for _ in 0..MAX_STEPS {
            match step(&self.remains(name).await?) {
                Step::Unbind => {
                    // Said while its CCM can still hear it.
                    let said = Said::waits(TenantPhase::Terminating, TENANT_DELETED, "the tenant is being deleted");
                    self.tell_tenant(tenant, name, &said).await?;
                    self.gone(self.inside::<RoleBinding>(name), CCM_ACCOUNT).await?;
                }
                Step::Delete => self.delete_made(name).await?,
                Step::TakeOff(objects) => self.take_off(name, &objects).await?,
                Step::DeleteBelongings => self.delete_belongings(name).await?,
                Step::DeleteNamespace => {
                    let namespaces: Api<Namespace> = Api::all(self.client.clone());
                    self.gone(namespaces, &name.namespace()).await?;
                }
                Step::Wait(reason, message) => {
                    return Ok(Said::waits(TenantPhase::Terminating, reason, message).into());
                }
                Step::Finish => return self.release(tenant).await,
            }
        }
        let said = Said::waits(TenantPhase::Terminating, "Removing", "its objects are being removed");
        Ok(Looked {
            said: Some(said),
            again: Some(NEXT_STEPS),
        })
    }

    async fn remains(&self, name: &TenantName) -> Result<Remains, ControllerError> {
        let reading = "reading what is left of the tenant";
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let Some(namespace) = namespaces.get_opt(&name.namespace()).await.map_err(doing(reading))? else {
            return Ok(Remains {
                place: None,
                is_bound: false,
                objects: Vec::new(),
                has_belongings: false,
            });
        };
        let mut objects = self.list::<LoadBalancer>(name, "LoadBalancer").await?;
        objects.extend(self.list::<Route>(name, "Route").await?);
        objects.extend(self.list::<SyncSecret>(name, "SyncSecret").await?);
        objects.extend(self.list::<Addresses>(name, "Addresses").await?);
        let is_bound = self.is_there::<RoleBinding>(name, CCM_ACCOUNT).await?;
        let has_belongings = self.is_there::<ServiceAccount>(name, CCM_ACCOUNT).await?
            || self.is_there::<Role>(name, CCM_ACCOUNT).await?
            || self.is_there::<Secret>(name, CCM_KUBECONFIG_SECRET).await?
            || self.is_there::<TenantState>(name, DEFAULT_TENANT_STATE).await?;
        let conditions = namespace
            .status
            .iter()
            .filter_map(|status| status.conditions.as_ref())
            .flatten();
        let kept_by = conditions
            .filter(|condition| condition.status == "True")
            .filter_map(|condition| condition.message.clone());
        Ok(Remains {
            place: Some(Place {
                standing: registration::standing(&namespace.metadata, name),
                is_going: namespace.metadata.deletion_timestamp.is_some(),
                kept_by: kept_by.collect(),
            }),
            is_bound,
            objects,
            has_belongings,
        })
    }

    fn inside<K>(&self, name: &TenantName) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &name.namespace())
    }

    async fn list<K>(&self, name: &TenantName, kind: &'static str) -> Result<Vec<Remaining>, ControllerError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let list = self.inside::<K>(name).list_metadata(&ListParams::default()).await;
        match list {
            Ok(list) => Ok(list
                .items
                .into_iter()
                .map(|object| Remaining::new(kind, object.metadata))
                .collect()),
            // A kind that is not installed has no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(doing("reading what the tenant made")(error)),
        }
    }

    async fn is_there<K>(&self, namespace: &TenantName, name: &str) -> Result<bool, ControllerError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let found = self.inside::<K>(namespace).get_metadata_opt(name).await;
        found
            .map(|found| found.is_some())
            .map_err(doing("reading what was made for the tenant"))
    }

    async fn gone<K>(&self, api: Api<K>, name: &str) -> Result<(), ControllerError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("deleting what was made for the tenant")(error)),
        }
    }

    async fn delete_made(&self, name: &TenantName) -> Result<(), ControllerError> {
        self.delete_all::<LoadBalancer>(name).await?;
        self.delete_all::<Route>(name).await?;
        self.delete_all::<SyncSecret>(name).await?;
        self.delete_all::<Addresses>(name).await
    }

    async fn delete_all<K>(&self, name: &TenantName) -> Result<(), ControllerError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = self.inside::<K>(name);
        match api
            .delete_collection(&DeleteParams::background(), &ListParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("deleting what the tenant made")(error)),
        }
    }

    async fn delete_belongings(&self, name: &TenantName) -> Result<(), ControllerError> {
        self.gone(self.inside::<Secret>(name), CCM_KUBECONFIG_SECRET).await?;
        self.gone(self.inside::<TenantState>(name), DEFAULT_TENANT_STATE)
            .await?;
        self.gone(self.inside::<Role>(name), CCM_ACCOUNT).await?;
        self.gone(self.inside::<ServiceAccount>(name), CCM_ACCOUNT).await
    }

    async fn take_off(&self, name: &TenantName, objects: &[Remaining]) -> Result<(), ControllerError> {
        for object in objects {
            match object.kind {
                "LoadBalancer" => self.strip::<LoadBalancer>(name, object).await?,
                "Route" => self.strip::<Route>(name, object).await?,
                "SyncSecret" => self.strip::<SyncSecret>(name, object).await?,
                _ => self.strip::<Addresses>(name, object).await?,
            }
        }
        Ok(())
    }

    async fn strip<K>(&self, name: &TenantName, object: &Remaining) -> Result<(), ControllerError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let patch = json!({"metadata": {"resourceVersion": object.resource_version, "finalizers": object.foreign()}});
        let api = self.inside::<K>(name);
        match api
            .patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(doing("taking finalizers off what the tenant made")(error)),
        }
    }
}
