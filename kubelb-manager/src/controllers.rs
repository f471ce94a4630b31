//! The controllers: what a manager makes in the management cluster for each tenant, and takes away again.
//!
//! ```text
//! Tenant ──► namespace, account, Role, RoleBinding, kubeconfig, TenantState
//! SyncSecret ──► Secret of the same name
//! Config ──► its status.version
//! LoadBalancer, where there are no address pools ──► a Service with EndpointSlices
//! what is being deleted ──► without the finalizers that KubeLB left
//! ```
//!
//! `api_servers`, `kubeconfig`, `registration`, `removal` and `secret` are functions of the objects; `tenant`, `sync_secret` and `config_version`
//! carry out what they say, one object at a time, level-triggered. One replica runs them at a time. Must not know: how that is decided, and how
//! traffic is served.

mod api_servers;
pub mod args;
mod config_version;
mod delegated;
mod failure;
mod kubeconfig;
mod leftovers;
pub mod permissions;
mod registration;
mod removal;
mod secret;
mod sync_secret;
mod tenant;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{Config as ControllerConfig, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::{DEFAULT_CONFIG, TenantName};
use kubelb_api::v1alpha1::{Addresses, Config, LoadBalancer, Route, SyncSecret, Tenant, TenantState};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use failure::{Failures, Pauses};
use tenant::Knowledge;
use watch::{follow, ring, rings, touched};

/// Who owns the fields that are written here.
const FIELD_MANAGER: &str = "kubelb-manager-controllers";
/// Objects of a kind that are worked on in parallel.
const CONCURRENCY: u16 = 8;
/// Changes of one object within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How long to wait for everything that kubeconfigs are made of to be listed, before what is known has to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for all requests of one look at an object.
const LOOK_TIME: Duration = Duration::from_secs(60);

/// What the controllers work with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The manager's namespace, where the Config is.
    pub namespace: String,
    /// Name of this replica, in Events.
    pub instance: String,
    /// URLs of the API server in kubeconfigs; empty: those that the cluster tells.
    pub api_server_urls: Vec<String>,
    /// Authority of the API server in kubeconfigs, PEM; `None`: the one that the cluster tells.
    pub api_server_ca: Option<String>,
    /// For how long tokens are asked for.
    pub token_lifetime: Duration,
    /// A token is replaced at this age when that is before half of its life.
    pub renew_after: Option<Duration>,
}

/// Runs until `stop`, and ends at once then; what is under way is taken up again by the next run. May be called again.
pub async fn run(client: Client, settings: Settings, stop: CancellationToken) {
    tracing::info!("the controllers run");
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(client, settings) => {}
    }
    tracing::info!("the controllers have stopped");
}

async fn work(client: Client, settings: Settings) {
    // Dropped with this future, and all tasks with it.
    let mut tasks = JoinSet::new();
    let bell = tokio::sync::watch::Sender::new(());
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));

    let slices = Api::namespaced(client.clone(), api_servers::SERVICE.0);
    let of_service =
        watcher::Config::default().labels(&format!("kubernetes.io/service-name={}", api_servers::SERVICE.1));
    let (slices, news) = follow::<EndpointSlice>(slices, of_service, "EndpointSlices of default/kubernetes");
    tasks.spawn(ring(news, bell.clone()));
    let info = Api::namespaced(client.clone(), api_servers::CLUSTER_INFO.0);
    let (cluster_info, news) = follow::<ConfigMap>(
        info,
        named(api_servers::CLUSTER_INFO.1),
        "ConfigMap kube-public/cluster-info",
    );
    tasks.spawn(ring(news, bell.clone()));
    let root = Api::namespaced(client.clone(), &settings.namespace);
    let (root_ca, news) = follow::<ConfigMap>(root, named(api_servers::ROOT_CA), "ConfigMap kube-root-ca.crt");
    tasks.spawn(ring(news, bell.clone()));
    let configs = Api::namespaced(client.clone(), &settings.namespace);
    let (configs, news) = follow::<Config>(configs, named(DEFAULT_CONFIG), "Config");
    tasks.spawn(ring(news, bell.clone()));
    let knowledge = Knowledge {
        slices,
        cluster_info,
        root_ca,
        configs: configs.clone(),
    };
    if tokio::time::timeout(PATIENCE, knowledge.listed()).await.is_err() {
        tracing::warn!("not everything could be read that kubeconfigs are made of; goes on with what is known");
    }
    let (versions, again) = (
        config_version::keep(client.clone(), configs.clone(), bell.subscribe()),
        bell.subscribe(),
    );
    tokio::join!(
        tenants(&client, &settings, knowledge, again),
        delegated::keep(&client, &settings, &configs, &bell),
        sync_secrets(&client),
        leftovers::take_off::<LoadBalancer>(&client, "LoadBalancers that are going"),
        leftovers::take_off::<Route>(&client, "Routes that are going"),
        versions,
    );
}

async fn tenants(client: &Client, settings: &Settings, knowledge: Knowledge, again: tokio::sync::watch::Receiver<()>) {
    let any = watcher::Config::default;
    let ours = || any().labels(Label::TENANT.key());
    let managed = || any().labels(&Label::MANAGED_BY.selector(MANAGED_BY_KUBELB));
    let (store, news) = follow::<Tenant>(Api::all(client.clone()), any(), "Tenants");
    let going = GoingTenants(store.clone());
    let reporter = Reporter {
        controller: "kubelb-manager".to_owned(),
        instance: Some(settings.instance.clone()),
    };
    let context = Arc::new(tenant::Context {
        client: client.clone(),
        settings: settings.clone(),
        knowledge,
        recorder: Recorder::new(client.clone(), reporter),
        failures: Failures::default(),
        pauses: Pauses::default(),
    });
    let config = ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let controller = Controller::for_stream(news, store)
        .with_config(config)
        .watches_stream(
            touched::<Namespace>(Api::all(client.clone()), any(), "Namespaces"),
            |object| tenant_of(object.metadata.name.as_deref()),
        )
        .watches_stream(
            touched::<ServiceAccount>(Api::all(client.clone()), ours(), "ServiceAccounts"),
            inside,
        )
        .watches_stream(touched::<Role>(Api::all(client.clone()), ours(), "Roles"), inside)
        .watches_stream(
            touched::<RoleBinding>(Api::all(client.clone()), ours(), "RoleBindings"),
            inside,
        )
        .watches_stream(
            touched::<Secret>(Api::all(client.clone()), managed(), "Secrets"),
            kubeconfigs,
        )
        .watches_stream(
            touched::<TenantState>(Api::all(client.clone()), any(), "TenantStates"),
            inside,
        )
        .watches_stream(
            touched::<LoadBalancer>(Api::all(client.clone()), any(), "LoadBalancers"),
            going.mapper(),
        )
        .watches_stream(
            touched::<Route>(Api::all(client.clone()), any(), "Routes"),
            going.mapper(),
        )
        .watches_stream(
            touched::<SyncSecret>(Api::all(client.clone()), any(), "SyncSecrets"),
            going.mapper(),
        )
        .watches_stream(
            touched::<Addresses>(Api::all(client.clone()), any(), "Addresses"),
            going.mapper(),
        )
        .reconcile_all_on(rings(again))
        .run(tenant::reconcile, tenant::retry, context);
    controller.for_each(|_| std::future::ready(())).await;
}

async fn sync_secrets(client: &Client) {
    let managed = watcher::Config::default().labels(&Label::MANAGED_BY.selector(MANAGED_BY_KUBELB));
    let (store, news) = follow::<SyncSecret>(Api::all(client.clone()), watcher::Config::default(), "SyncSecrets");
    let context = Arc::new(sync_secret::Context {
        client: client.clone(),
        failures: Failures::default(),
    });
    let config = ControllerConfig::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let controller = Controller::for_stream(news, store)
        .with_config(config)
        .watches_stream(
            touched::<Secret>(Api::all(client.clone()), managed, "Secrets"),
            |object| {
                Some(ObjectRef::<SyncSecret>::new(&object.name_any()).within(object.metadata.namespace.as_deref()?))
            },
        )
        .run(sync_secret::reconcile, sync_secret::retry, context);
    controller.for_each(|_| std::future::ready(())).await;
}

fn tenant_of(namespace: Option<&str>) -> Option<ObjectRef<Tenant>> {
    let tenant = TenantName::from_namespace(namespace?)?;
    Some(ObjectRef::new(tenant.as_str()))
}

fn inside<K>(object: PartialObjectMeta<K>) -> Option<ObjectRef<Tenant>>
where
    K: Resource<DynamicType = ()>,
{
    tenant_of(object.metadata.namespace.as_deref())
}

fn kubeconfigs(object: PartialObjectMeta<Secret>) -> Option<ObjectRef<Tenant>> {
    // Of the many Secrets of SyncSecrets nothing depends here.
    let is_ours = object.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    is_ours.then(|| inside(object)).flatten()
}

/// Tenants that are being removed: only they wait for what they made to be gone.
struct GoingTenants(Store<Tenant>);

impl GoingTenants {
    fn mapper<K>(&self) -> impl Fn(PartialObjectMeta<K>) -> Option<ObjectRef<Tenant>> + Send + Sync + 'static
    where
        K: Resource<DynamicType = ()>,
    {
        let tenants = self.0.clone();
        move |object| {
            let tenant = inside(object)?;
            let is_going = tenants.get(&tenant)?.metadata.deletion_timestamp.is_some();
            is_going.then_some(tenant)
        }
    }
}
