//! A management cluster's API server, and managers on it.

use clap::Parser as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use kubelb_api::v1alpha1::{AddressClaim, Addresses, Config, LoadBalancer, Tenant};
use kubelb_manager::args::{Cli, Command};
use kubelb_manager::run::start;
use kubelb_tests::bare::{Cluster, PATIENCE};
use kubelb_xds::{ResourceType, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const NAMESPACE: &str = "kubelb";
pub(crate) const TENANT: &str = "tenant-primary";

/// A manager that runs.
pub(crate) struct Manager {
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    /// Of its own, so that all of it can end at once.
    runtime: Runtime,
}

impl Manager {
    /// Waits until what is served satisfies `wanted`; the names of the listeners are shown.
    pub(crate) async fn serves(&mut self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Arc<Snapshot> {
        let is_wanted =
            |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|snapshot| wanted(&listeners(snapshot)));
        let waiting = async {
            let found = self.snapshots.wait_for(is_wanted).await.expect("the manager runs");
            Arc::clone(found.as_ref().unwrap())
        };
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return found;
        }
        let last = self.snapshots.borrow().clone();
        panic!("{what}: {:?}", last.map(|snapshot| listeners(&snapshot)));
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("ends")
            .unwrap()
            .unwrap();
        self.runtime.shutdown_background();
    }

    /// As SIGKILL does: nothing is given back.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// Names of the listeners.
pub(crate) fn listeners(snapshot: &Snapshot) -> Vec<String> {
    let table = snapshot.table(ResourceType::Listener).iter();
    table.map(|(name, _)| name.to_string()).collect()
}

/// The API server with our kinds, a Config with one pool, and one tenant.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
}

impl World {
    pub(crate) async fn start(pool: &str) -> Self {
        Self::with(pool, kubelb_api::crds::all()).await
    }

    /// With other definitions of the kinds.
    pub(crate) async fn with(pool: &str, definitions: Vec<CustomResourceDefinition>) -> Self {
        let cluster = Cluster::start().await;
        cluster.install(definitions).await;
        cluster.create_namespace(NAMESPACE).await;
        let world = Self { cluster };
        world
            .create::<Config>(json!({
                "metadata": {"name": "default", "namespace": NAMESPACE},
                "spec": {"addressPools": [{"name": "lan", "ranges": [pool]}]},
            }))
            .await;
        world.create_tenant("primary").await;
        world
    }

    /// A tenant with its namespace and one node.
    pub(crate) async fn create_tenant(&self, name: &str) {
        let namespace = format!("tenant-{name}");
        self.cluster.create_namespace(&namespace).await;
        self.create::<Tenant>(json!({"metadata": {"name": name}, "spec": {}}))
            .await;
        self.create::<Addresses>(json!({
            "metadata": {"name": "default", "namespace": namespace},
            "spec": {"addresses": [{"ip": "10.0.0.1"}]},
        }))
        .await;
    }

    /// A manager of its own name, with more flags.
    pub(crate) async fn manage(&self, name: &str, flags: &[&str]) -> Manager {
        let kubeconfig = self.cluster.server.kubeconfig().display().to_string();
        let arguments = [
            "kubelb-manager",
            "run",
            "--source=kubernetes",
            &format!("--kubeconfig={kubeconfig}"),
            &format!("--namespace={NAMESPACE}"),
            &format!("--leader-election-identity={name}"),
        ];
        let Command::Run(args) = Cli::parse_from(arguments.iter().chain(flags)).command else {
            panic!("another command");
        };
        let shutdown = CancellationToken::new();
        let runtime = Runtime::new().unwrap();
        let started = runtime.spawn(start(args, shutdown.clone()));
        let (snapshots, ended) = started.await.unwrap().unwrap();
        Manager {
            snapshots,
            shutdown,
            task: runtime.spawn(ended),
            runtime,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    pub(crate) fn load_balancers(&self) -> Api<LoadBalancer> {
        Api::namespaced(self.client(), TENANT)
    }

    pub(crate) fn claims(&self) -> Api<AddressClaim> {
        Api::all(self.client())
    }

    /// A LoadBalancer of the tenant `primary` with one port, as a CCM makes it.
    pub(crate) async fn create_load_balancer(&self, name: &str, change: impl FnOnce(&mut Value)) -> LoadBalancer {
        let mut value = json!({
            "metadata": {"name": name, "namespace": TENANT},
            "spec": {
                "type": "LoadBalancer", "ports": [{"name": "http", "port": 80}],
                "endpoints": [{"addressesReference": {"name": "default"}, "ports": [{"name": "http", "port": 30080}]}],
            },
        });
        change(&mut value);
        self.create(value).await
    }

    pub(crate) async fn create<K>(&self, mut value: Value) -> K
    where
        K: kube::core::CustomResourceExt
            + kube::Resource<DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        value["apiVersion"] = json!("kubelb.k8c.io/v1alpha1");
        value["kind"] = json!(K::kind(&()));
        let object: K = serde_json::from_value(value).unwrap();
        let resource = K::api_resource();
        let dynamic: kube::core::DynamicObject =
            serde_json::from_value(serde_json::to_value(&object).unwrap()).unwrap();
        let api = match object.meta().namespace.as_deref() {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
            None => Api::all_with(self.client(), &resource),
        };
        let made = api.create(&PostParams::default(), &dynamic).await;
        let made = made.unwrap_or_else(|error| panic!("{}: {error}", object.name_any()));
        serde_json::from_value(serde_json::to_value(made).unwrap()).unwrap()
    }

    pub(crate) async fn patch_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let api = self.load_balancers();
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }
}

/// Addresses of a status.
pub(crate) fn ingress(object: Option<&LoadBalancer>) -> Vec<String> {
    let status = object.and_then(|object| object.status.as_ref()?.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.clone()).collect()
}

/// Status, reason and message of a condition.
pub(crate) fn condition(object: Option<&LoadBalancer>, type_: &str) -> Option<(String, String, String)> {
    let conditions = &object?.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}
