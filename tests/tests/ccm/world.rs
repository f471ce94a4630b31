//! A tenant's API server, a management cluster's with the definitions, and a CCM between them.

use clap::Parser as _;
use k8s_openapi::api::core::v1::{Event, Node, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kubelb_api::v1alpha1::{Addresses, LoadBalancer};
use kubelb_ccm::args::Cli;
pub(crate) use kubelb_tests::bare::until;
use kubelb_tests::bare::{Cluster, PATIENCE};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The tenant's namespace in the management cluster.
pub(crate) const NAMESPACE: &str = "tenant-primary";

/// Both clusters, and the CCM. All end when it is dropped.
pub(crate) struct World {
    pub(crate) tenant: Cluster,
    pub(crate) hub: Cluster,
    ccm: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl World {
    /// Nothing of ours runs yet. The management cluster has the kinds and the tenant's namespace, the tenant two nodes.
    pub(crate) async fn new() -> Self {
        let world = Self {
            tenant: Cluster::start().await,
            hub: Cluster::start().await,
            ccm: None,
        };
        world.hub.install(kubelb_api::crds::all()).await;
        world.hub.create_namespace(NAMESPACE).await;
        for (name, address) in [("node-a", "10.0.0.1"), ("node-b", "10.0.0.2")] {
            world.add_node(name, address).await;
        }
        world
    }

    /// With a CCM that runs.
    pub(crate) async fn start() -> Self {
        let mut world = Self::new().await;
        world.start_ccm(&[]);
        world
    }

    pub(crate) fn start_ccm(&mut self, flags: &[&str]) {
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(kubelb_ccm::run::start(self.command_line(flags), shutdown.clone()));
        self.ccm = Some((shutdown, running));
    }

    /// What is done before a CCM is removed for good.
    pub(crate) async fn clean_up(&self, flags: &[&str]) -> anyhow::Result<()> {
        kubelb_ccm::run::clean_up(&self.command_line(flags), CancellationToken::new()).await
    }

    fn command_line(&self, flags: &[&str]) -> Cli {
        let (tenant, hub) = (self.tenant.server.kubeconfig(), self.hub.server.kubeconfig());
        let mut arguments = vec![
            "kubelb-ccm".to_owned(),
            "--cluster-name=primary".to_owned(),
            "--node-address-type=InternalIP".to_owned(),
            "--metrics-addr=0".to_owned(),
            "--health-probe-bind-address=0".to_owned(),
            format!("--kubeconfig={}", tenant.display()),
            format!("--kubelb-kubeconfig={}", hub.display()),
        ];
        for flag in flags {
            // A flag that is given here holds.
            let key = flag.split('=').next().unwrap_or_default();
            arguments.retain(|known| known.split('=').next() != Some(key));
            arguments.push((*flag).to_owned());
        }
        Cli::parse_from(arguments)
    }

    /// Ends the CCM in good order.
    pub(crate) async fn stop_ccm(&mut self) {
        let (shutdown, running) = self.ccm.take().unwrap();
        shutdown.cancel();
        tokio::time::timeout(PATIENCE, running)
            .await
            .expect("ends")
            .unwrap()
            .unwrap();
    }

    pub(crate) async fn add_node(&self, name: &str, address: &str) {
        let nodes: Api<Node> = Api::all(self.tenant.client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        self.node_is(name, address, "True").await;
    }

    pub(crate) async fn node_is(&self, name: &str, address: &str, ready: &str) {
        let nodes: Api<Node> = Api::all(self.tenant.client.clone());
        let status = json!({"status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": address}],
        }});
        let patch = Patch::Merge(status);
        nodes.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.tenant.client.clone())
    }

    pub(crate) fn load_balancers(&self) -> Api<LoadBalancer> {
        Api::namespaced(self.hub.client.clone(), NAMESPACE)
    }

    pub(crate) fn addresses(&self) -> Api<Addresses> {
        Api::namespaced(self.hub.client.clone(), NAMESPACE)
    }

    /// Creates a Service of type LoadBalancer with one port.
    pub(crate) async fn create_service(&self, name: &str, change: impl FnOnce(&mut Value)) -> Service {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
        });
        change(&mut value);
        let service = serde_json::from_value(value).unwrap();
        self.services().create(&PostParams::default(), &service).await.unwrap()
    }

    pub(crate) async fn patch_service(&self, name: &str, patch: Value) {
        let patch = Patch::Merge(patch);
        self.services()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn delete_service(&self, name: &str) {
        self.services().delete(name, &DeleteParams::background()).await.unwrap();
    }

    /// What a manager would say of the copy of a Service.
    pub(crate) async fn answer(&self, uid: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let api = self.load_balancers();
        api.patch_status(uid, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The texts of the Events about a Service, with their reasons.
    pub(crate) async fn events(&self) -> Vec<String> {
        let events: Api<Event> = Api::default_namespaced(self.tenant.client.clone());
        let list = events.list(&ListParams::default()).await.unwrap();
        let shown = list.items.into_iter().map(|event| {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
            format!("{reason}: {message}")
        });
        shown.collect()
    }
}
