//! The tenant's namespace in the management cluster: what is written there, in bounded time.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, ObjectMeta, PartialObjectMeta, Status};
use kube::{Api, Client};
use kubelb_api::names::{CCM_KUBECONFIG_SECRET, DEFAULT_ADDRESSES, TenantName};
use kubelb_api::v1alpha1::{Addresses, AddressesSpec, LoadBalancer, Route, SyncSecret};
use kubelb_runtime::error_chain::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::watch::Link;

/// Who owns the fields that are written here.
pub(crate) const FIELD_MANAGER: &str = "kubelb-ccm";
/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Why the management cluster did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubError {
    /// It said no. The same again would be answered the same.
    #[error("the management cluster refuses it: {0}")]
    Refused(String),
    /// It does not take the credential.
    #[error("the management cluster refuses the credential: {0}")]
    Unauthorized(String),
    /// It did not answer, or said to come again.
    #[error("the management cluster does not answer: {0}")]
    Unreachable(String),
}

/// The tenant's namespace in the management cluster.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    load_balancers: Api<LoadBalancer>,
    addresses: Api<Addresses>,
    routes: Api<Route>,
    sync_secrets: Api<SyncSecret>,
    /// What SyncSecrets there are, without what is secret.
    pub(crate) copied_secrets: Api<DeserializeGuard<PartialObjectMeta<SyncSecret>>>,
    namespace: String,
    link: Arc<Link>,
}

impl Hub {
    pub(crate) fn new(client: &Client, tenant: &TenantName, link: Arc<Link>) -> Self {
        let namespace = tenant.namespace();
        Self {
            load_balancers: Api::namespaced(client.clone(), &namespace),
            addresses: Api::namespaced(client.clone(), &namespace),
            routes: Api::namespaced(client.clone(), &namespace),
            sync_secrets: Api::namespaced(client.clone(), &namespace),
            copied_secrets: Api::namespaced(client.clone(), &namespace),
            namespace,
            link,
        }
    }

    /// The tenant's namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Creates or changes it.
    pub(crate) async fn apply(&self, object: &LoadBalancer) -> Result<LoadBalancer, HubError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.put(&self.load_balancers, name, object).await
    }

    /// Creates or changes `Addresses/default`.
    pub(crate) async fn apply_nodes(&self, spec: AddressesSpec) -> Result<Addresses, HubError> {
        self.apply_addresses(&Addresses::new(DEFAULT_ADDRESSES, spec)).await
    }

    /// Creates or changes it.
    pub(crate) async fn apply_addresses(&self, object: &Addresses) -> Result<Addresses, HubError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.put(&self.addresses, name, object).await
    }

    /// Creates or changes it.
    pub(crate) async fn apply_route(&self, object: &Route) -> Result<Route, HubError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.put(&self.routes, name, object).await
    }

    /// Creates or changes it.
    pub(crate) async fn apply_secret(&self, object: &SyncSecret) -> Result<SyncSecret, HubError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.put(&self.sync_secrets, name, object).await
    }

    /// Deletes it; that it is gone already is as good.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), HubError> {
        self.remove(&self.load_balancers, name).await
    }

    /// Deletes it; that it is gone already is as good.
    pub(crate) async fn delete_addresses(&self, name: &str) -> Result<(), HubError> {
        self.remove(&self.addresses, name).await
    }

    /// Deletes it; that it is gone already is as good.
    pub(crate) async fn delete_route(&self, name: &str) -> Result<(), HubError> {
        self.remove(&self.routes, name).await
    }

    /// Deletes it; that it is gone already is as good.
    pub(crate) async fn delete_secret(&self, name: &str) -> Result<(), HubError> {
        self.remove(&self.sync_secrets, name).await
    }

    async fn remove<K>(&self, api: &Api<K>, name: &str) -> Result<(), HubError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let parameters = DeleteParams::default();
        match self.ask(api.delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(Failure::Gone) => Ok(()),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// What is told of all Routes that are there.
    pub(crate) async fn list_routes(&self) -> Result<Vec<ObjectMeta>, HubError> {
        self.list_metadata(&self.routes).await
    }

    /// What is told of all SyncSecrets that are there.
    pub(crate) async fn list_secrets(&self) -> Result<Vec<ObjectMeta>, HubError> {
        self.list_metadata(&self.sync_secrets).await
    }

    /// What is told of all Addresses that are there.
    pub(crate) async fn list_addresses(&self) -> Result<Vec<ObjectMeta>, HubError> {
        self.list_metadata(&self.addresses).await
    }

    async fn list_metadata<K>(&self, api: &Api<K>) -> Result<Vec<ObjectMeta>, HubError>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        match self.ask(api.list_metadata(&ListParams::default())).await {
            Ok(list) => Ok(list.items.into_iter().map(|item| item.metadata).collect()),
            Err(Failure::Gone) => Ok(Vec::new()),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// All LoadBalancers that are there.
    pub(crate) async fn list(&self) -> Result<Vec<LoadBalancer>, HubError> {
        match self.ask(self.load_balancers.list(&ListParams::default())).await {
            Ok(list) => Ok(list.items),
            Err(Failure::Gone) => Ok(Vec::new()),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn put<K>(&self, api: &Api<K>, name: &str, object: &K) -> Result<K, HubError>
    where
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        // Forced: what another CCM has written before, this one takes over.
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        match self.ask(api.patch(name, &parameters, &patch)).await {
            Ok(written) => Ok(written),
            Err(Failure::Gone) => Err(HubError::Refused(
                "the tenant's namespace, or the kind, does not exist there".to_owned(),
            )),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let unreachable = |why: String| {
            self.link.fails(&why);
            Failure::Other(HubError::Unreachable(why))
        };
        match tokio::time::timeout(REQUEST_TIME, request).await {
            Ok(Ok(value)) => {
                self.link.works();
                Ok(value)
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                self.link.works();
                Err(Failure::Gone)
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
                let why = unauthorized(&self.namespace);
                self.link.fails(&why);
                Err(Failure::Other(HubError::Unauthorized(why)))
            }
            Ok(Err(kube::Error::Api(status))) if is_final(&status) => {
                self.link.works();
                Err(Failure::Other(HubError::Refused(status.message.clone())))
            }
            Ok(Err(error)) => Err(unreachable(chain(&error).to_string())),
            Err(_) => Err(unreachable(format!("no answer within {} s", REQUEST_TIME.as_secs()))),
        }
    }
}

/// What to do about a credential that is not taken.
fn unauthorized(namespace: &str) -> String {
    format!(
        "the token has ended or was revoked, or the tenant was deleted; whoever runs the management cluster finds a new kubeconfig in Secret {namespace}/{CCM_KUBECONFIG_SECRET}"
    )
}

enum Failure {
    Gone,
    Other(HubError),
}

/// Whether the same request would be answered the same: 4xx, but not those that ask to come again.
fn is_final(status: &Status) -> bool {
    (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429)
}
