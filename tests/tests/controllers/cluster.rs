//! A cluster whose API server is a process, the testbed's own or a real one; its controllers, and nodes that run nothing but
//! say they do, are tasks of the test.

use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use hyper::Request;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use kubelb_tests::apiserver::Config;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::controllers::{self, Options};
use kubelb_tests::tool::kubernetes::kubectl;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::util::MapRequestLayer;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Containers of this image never become ready.
pub(crate) const BROKEN: &str = "broken";
/// Containers of this image end at once, with success.
pub(crate) const DONE: &str = "done";
/// Containers of this image end at once, without.
pub(crate) const FAILING: &str = "failing";

/// Everything ends when it is dropped.
pub(crate) struct Cluster {
    tasks: JoinSet<()>,
    pub(crate) client: Client,
    asked: Arc<Mutex<Vec<String>>>,
    config: kube::Config,
    // Before the directory, which must outlive it.
    pub(crate) server: ControlPlane,
    directory: TempDir,
}

impl Cluster {
    /// A cluster with these nodes.
    pub(crate) async fn start(nodes: &[&str]) -> Self {
        let mut cluster = Self::without_controllers(nodes).await;
        cluster.start_controllers(Options::default()).await;
        cluster
    }

    pub(crate) async fn without_controllers(nodes: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let config = Config::new(&directory.path().join("server"));
        // On the thread of the test: the server dies with the thread that started it, and a worker of the runtime may end at any time.
        let server = ControlPlane::launch(config, Host::Here).unwrap();
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let config = config.unwrap();
        let mut cluster = Self {
            tasks: JoinSet::new(),
            client: Client::try_from(config.clone()).unwrap(),
            asked: Arc::default(),
            config,
            server,
            directory,
        };
        for node in nodes {
            cluster.add_node(node).await;
        }
        cluster.tasks.spawn(pretend(cluster.client.clone()));
        cluster
    }

    /// Pods are welcome when this returns: without an account they would be refused.
    pub(crate) async fn start_controllers(&mut self, options: Options) -> tokio::task::AbortHandle {
        let api_ca = self.server.ca().unwrap().to_owned();
        let options = Options { api_ca, ..options };
        let run = controllers::run(self.noting_client(), options, std::future::pending());
        let handle = self.tasks.spawn(run);
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.client.clone());
        self.until(&accounts, "an account for Pods", |accounts| !accounts.is_empty())
            .await;
        handle
    }

    /// A client whose requests are noted, except watches, which are answered as long as they live.
    fn noting_client(&self) -> Client {
        let asked = Arc::clone(&self.asked);
        let note = MapRequestLayer::new(move |request: Request<Body>| {
            let uri = request.uri();
            if !uri.query().unwrap_or_default().contains("watch=true") {
                let line = format!("{} {}", request.method(), uri.path());
                asked.lock().unwrap().push(line);
            }
            request
        });
        ClientBuilder::try_from(self.config.clone())
            .unwrap()
            .with_layer(&note)
            .build()
    }

    /// What the controllers have asked of the server since the last call: method and path of each request that was no watch.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// The API server is stopped and started again, at the same address, on what it has kept.
    pub(crate) fn restart_server(&mut self) {
        self.server.stop().unwrap();
        self.server.start(Host::Here).unwrap();
    }

    pub(crate) async fn add_node(&self, name: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = Patch::Merge(json!({"status": node.status}));
        nodes
            .patch_status(name, &PatchParams::default(), &status)
            .await
            .unwrap();
    }

    /// Creates an object of any kind, in the namespace `default` unless it says another.
    pub(crate) async fn create(&self, object: Value) -> DynamicObject {
        let api = self.api_of(&object);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        match kind {
            "Node" | "Namespace" | "CustomResourceDefinition" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    /// Waits until the objects that a list of this kind gives are as wanted.
    pub(crate) async fn until<K>(&self, api: &Api<K>, what: &str, wanted: impl Fn(&[K]) -> bool) -> Vec<K>
    where
        K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let mut last = Vec::new();
        let looking = async {
            let events = watcher(api.clone(), watcher::Config::default()).default_backoff();
            pin_mut!(events);
            loop {
                // A broken watch is taken up again by itself.
                let event = events.next().await;
                if !matches!(event, Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_)))) {
                    if let Ok(list) = api.list(&ListParams::default()).await {
                        last = list.items;
                    }
                    if wanted(&last) {
                        return;
                    }
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, looking).await.is_ok();
        assert!(in_time, "{what}: {last:#?}");
        last
    }

    /// The Pods of a namespace.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Runs kubectl off the runtime's threads.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(kubectl().unwrap());
        command
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("HOME", self.directory.path())
            .args(arguments)
            .stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// What kubectl says when it succeeds.
    pub(crate) async fn says(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {}: {text}{errors}",
            arguments.join(" ")
        );
        text
    }
}

/// What a node's agent would tell of its Pods.
async fn pretend(client: Client) {
    let all: Api<Pod> = Api::all(client.clone());
    let events = watcher(all, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let mut addresses = 0_u32;
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else {
            continue;
        };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        let spec = pod.spec.clone().unwrap();
        let Some(_node) = spec.node_name else { continue };
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams::default().grace_period(0);
            drop(api.delete(&pod.name_any(), &now).await);
            continue;
        }
        let told = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if told {
            continue;
        }
        addresses += 1;
        let image = spec.containers[0].image.clone().unwrap_or_default();
        let (phase, ready) = match image.as_str() {
            BROKEN => ("Pending", "False"),
            DONE => ("Succeeded", "False"),
            FAILING => ("Failed", "False"),
            _ => ("Running", "True"),
        };
        let (four, six) = (format!("10.1.0.{addresses}"), format!("fd00::{addresses}"));
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
        let status = json!({"status": {
            "phase": phase,
            "startTime": now,
            "podIP": four,
            "podIPs": [{"ip": four}, {"ip": six}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
        }});
        let patch = Patch::Merge(status);
        drop(api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await);
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A Deployment of one container.
pub(crate) fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(image)},
        },
    })
}

pub(crate) fn pod_spec(image: &str) -> Value {
    json!({"containers": [{
        "name": "main",
        "image": image,
        "ports": [{"name": "web", "containerPort": 8080}],
    }]})
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
