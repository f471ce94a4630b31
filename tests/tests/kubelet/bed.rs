//! One node: a network namespace with an API server, a kubelet, and the test itself inside.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace as KubernetesNamespace, Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Resource};
use kubelb_tests::apiserver::Config;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub(crate) const NODE: &str = "node-1";
pub(crate) const NODE_IP: &str = "192.168.77.10";
const WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Bed {
    pub(crate) client: Client,
    kubeconfig: PathBuf,
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) scratch: Scratch,
    kubelet: Option<Child>,
}

/// Runs `test` inside a node of its own.
pub(crate) fn with_node(test: impl AsyncFnOnce(&mut Bed) + Send) {
    let namespace = Arc::new(Namespace::new("kubelet").unwrap());
    namespace
        .ip(&["address", "add", &format!("{NODE_IP}/32"), "dev", "lo"])
        .unwrap();
    namespace.ip(&["address", "add", "fd77::10/128", "dev", "lo"]).unwrap();
    let inside = Arc::clone(&namespace);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let scratch = Scratch::new().unwrap();
            let mut config = Config::new(&scratch.path().join("api"));
            // Pods do not reach it on loopback.
            config.advertise = Some(NODE_IP.parse().unwrap());
            let server = ControlPlane::launch(config, Host::Inside(&inside)).unwrap();
            let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .unwrap();
            let mut bed = Bed {
                client: Client::try_from(config).unwrap(),
                kubeconfig: server.kubeconfig(),
                namespace: Arc::clone(&inside),
                scratch,
                kubelet: None,
            };
            bed.start_kubelet();
            let nodes: Api<Node> = Api::all(bed.client.clone());
            eventually(async || {
                nodes
                    .get_opt(NODE)
                    .await
                    .unwrap()
                    .filter(|node| node.status.as_ref().is_some_and(|status| status.conditions.is_some()))
            })
            .await;
            let namespaces: Api<KubernetesNamespace> = Api::all(bed.client.clone());
            eventually(async || namespaces.get_opt("default").await.unwrap()).await;
            // What controllers do in a cluster.
            let accounts: Api<ServiceAccount> = Api::default_namespaced(bed.client.clone());
            if accounts.get_opt("default").await.unwrap().is_none() {
                let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
                accounts.create(&PostParams::default(), &account).await.unwrap();
            }
            let data = json!({"ca.crt": server.ca().unwrap()});
            let _: ConfigMap = bed
                .create(json!({"metadata": {"name": "kube-root-ca.crt"}, "data": data}))
                .await;
            test(&mut bed).await;
        });
    };
    namespace.run(work).unwrap();
}

impl Bed {
    pub(crate) fn start_kubelet(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path().join("kubelet.log"))
            .unwrap();
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_kubelet"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--node", NODE, "--address", &format!("{NODE_IP},fd77::10")])
            .args([
                "--pod-cidr",
                "10.101.0.0/24,fd00:101::/64",
                "--cluster-dns",
                "10.96.0.10",
            ])
            .args([
                "--back-off-seconds",
                "0.5",
                "--back-off-max-seconds",
                "2",
                "--lease-seconds",
                "1",
            ])
            .arg("--images")
            .arg(self.images())
            .arg("--data")
            .arg(self.scratch.path().join("node"))
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(log);
        self.kubelet = Some(command.spawn().unwrap());
    }

    fn images(&self) -> PathBuf {
        let path = self.scratch.path().join("images.yaml");
        if !path.exists() {
            std::fs::write(&path, "images: {nonroot: {command: [sh], user: 65532}}\n").unwrap();
        }
        path
    }

    pub(crate) fn kill_kubelet(&mut self) {
        let mut child = self.kubelet.take().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    pub(crate) fn kubelet_pid(&self) -> u32 {
        self.kubelet.as_ref().unwrap().id()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Creates a Pod on the node with this specification.
    pub(crate) async fn pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = NODE.into();
        self.create(json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// A Pod with one container that runs a script, and its other fields.
    pub(crate) async fn script(&self, name: &str, script: &str, mut container: Value, mut spec: Value) -> Pod {
        for (key, value) in [
            ("name", json!("c")),
            ("image", json!("busybox")),
            ("command", json!(["sh", "-c", script])),
        ] {
            if container.get(key).is_none() {
                container[key] = value;
            }
        }
        spec["containers"] = json!([container]);
        self.pod(name, spec).await
    }

    /// Waits until the Pod is as wanted, and shows what it is when that does not come.
    pub(crate) async fn wait(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let api: Api<Pod> = self.api();
        let mut last = None;
        let look = async || {
            last = api.get_opt(name).await.unwrap();
            last.clone().filter(|pod| wanted(pod))
        };
        if let Ok(pod) = tokio::time::timeout(WITHIN, poll(look)).await {
            return pod;
        }
        let status = last.map(|pod| serde_json::to_string_pretty(&pod.status).unwrap());
        let log = std::fs::read_to_string(self.scratch.path().join("kubelet.log")).unwrap_or_default();
        panic!("{name}: {status:?}\n{:#?}\n{log}", self.events(name).await);
    }

    pub(crate) async fn phase(&self, name: &str, phase: &str) -> Pod {
        self.wait(name, |pod| {
            pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)
        })
        .await
    }

    pub(crate) async fn ready(&self, name: &str) -> Pod {
        self.wait(name, |pod| condition(pod, "Ready") == Some("True")).await
    }

    pub(crate) async fn gone(&self, name: &str) {
        let api: Api<Pod> = self.api();
        eventually(async || api.get_opt(name).await.unwrap().is_none().then_some(())).await;
    }

    pub(crate) async fn delete(&self, name: &str, grace: u32) {
        let api: Api<Pod> = self.api();
        api.delete(name, &DeleteParams::default().grace_period(grace))
            .await
            .unwrap();
    }

    /// `REASON: message` of all events of a Pod.
    pub(crate) async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = self.api();
        let list = events.list(&ListParams::default()).await.unwrap();
        let own = list
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name));
        own.map(|event| {
            format!(
                "{}: {}",
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            )
        })
        .collect()
    }

    /// What the kubelet's own API answers: status and text.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let url = format!("https://{NODE_IP}:10250{path}");
        let output = self.run("curl", &["-gsk", "--max-time", "20", "-w", "\n%{http_code}", &url]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (text, code) = text.rsplit_once('\n').unwrap();
        (code.to_owned(), text.to_owned())
    }

    /// Runs a program in the node's network.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.namespace
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// All that a container has written so far.
    pub(crate) fn log(&self, pod: &str) -> String {
        self.get(&format!("/containerLogs/default/{pod}/c")).1
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.kubelet.is_some() {
            self.kill_kubelet();
        }
    }
}

async fn poll<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        // What else the test has started on this thread goes on meanwhile.
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
}

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(look: impl AsyncFnMut() -> Option<T>) -> T {
    tokio::time::timeout(WITHIN, poll(look))
        .await
        .expect("it comes in time")
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// The first container's status as JSON, for short questions.
pub(crate) fn container(pod: &Pod) -> Value {
    serde_json::to_value(
        pod.status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref()?.first()),
    )
    .unwrap()
}
