//! The clients that people use, against the testbed's API server: kube-rs, and kubectl as it is installed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what its tests share"
)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use kubelb_tests::apiserver::{ApiServer, Config};
use kubelb_tests::tool::kubernetes::kubectl;
use serde_json::json;
use tempfile::TempDir;

struct Running {
    server: ApiServer,
    directory: TempDir,
}

async fn start() -> Running {
    let directory = TempDir::new().unwrap();
    let server = ApiServer::start(Config::new(directory.path())).await.unwrap();
    Running { server, directory }
}

impl Running {
    async fn kube(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.server.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    }

    /// Runs kubectl off the runtime's thread, with `input` as its standard input.
    async fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(kubectl().unwrap());
        command
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("HOME", self.directory.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            use std::io::Write as _;
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// What kubectl says when it succeeds.
    async fn says(&self, arguments: &[&str]) -> String {
        self.says_of(arguments, "").await
    }

    async fn says_of(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input).await;
        let (text, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "kubectl {}: {text}{errors}",
            arguments.join(" ")
        );
        assert!(!errors.contains("arning"), "kubectl {}: {errors}", arguments.join(" "));
        text.into_owned()
    }
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_reads_writes_and_watches() {
    let running = start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.kube().await);
    api.create(&PostParams::default(), &config_map("first")).await.unwrap();

    let events = watcher(api.clone(), watcher::Config::default());
    pin_mut!(events);
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next());
        event.await.expect("an event comes in time").unwrap().unwrap()
    };
    assert!(matches!(next().await, watcher::Event::Init));
    assert!(matches!(next().await, watcher::Event::InitApply(object) if object.name_any() == "first"));
    assert!(matches!(next().await, watcher::Event::InitDone));
    api.create(&PostParams::default(), &config_map("second")).await.unwrap();
    assert!(matches!(next().await, watcher::Event::Apply(object) if object.name_any() == "second"));
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "second"}, "data": {"a": "b"}});
    let as_test = PatchParams::apply("test").force();
    let merged = api.patch("second", &as_test, &Patch::Apply(applied)).await.unwrap();
    assert_eq!(merged.data.unwrap().len(), 2);
    assert!(matches!(next().await, watcher::Event::Apply(_)));
    api.delete("second", &DeleteParams::default()).await.unwrap();
    assert!(matches!(next().await, watcher::Event::Delete(object) if object.name_any() == "second"));

    let missing = api.get("second").await.unwrap_err();
    assert!(matches!(missing, kube::Error::Api(status) if status.is_not_found()));
    let page = api.list(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_finds_its_way_by_discovery() {
    let running = start().await;
    let client = running.kube().await;
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    let discovery = kube::Discovery::new(client.clone()).run().await.unwrap();
    assert!(discovery.has_group("networking.k8s.io"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<String> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(|one| one.name_any())
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let services: Api<Service> = Api::default_namespaced(client);
    let events: Vec<_> = services
        .watch(&kube::api::WatchParams::default().timeout(1), "0")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    // The server's own Service, and how far the server was when the watch ended.
    assert!(
        matches!(events.as_slice(), [WatchEvent::Added(_), WatchEvent::Bookmark(_)]),
        "{events:?}"
    );
}

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: ap}
spec: {type: LoadBalancer, ports: [{name: http, port: 80, targetPort: 8080}], selector: {app: x}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_from_both_sides() {
    let running = start().await;
    let apply = ["apply", "-f", "-"];
    assert_eq!(running.says_of(&apply, SERVICE).await, "service/ap created\n");
    assert_eq!(running.says_of(&apply, SERVICE).await, "service/ap unchanged\n");
    let moved = SERVICE.replace("port: 80,", "port: 81,");
    assert_eq!(running.says_of(&apply, &moved).await, "service/ap configured\n");
    let ports = ["get", "svc", "ap", "-o", "jsonpath={.spec.ports[*].port}"];
    assert_eq!(running.says(&ports).await, "81");
    let diff = running.kubectl(&["diff", "-f", "-"], &moved).await;
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    // The second time the fields have moved from one way of applying to the other.
    for _ in 0..2 {
        let said = running.says_of(&["apply", "--server-side", "-f", "-"], &moved).await;
        assert_eq!(said, "service/ap serverside-applied\n");
    }
    let wrong = SERVICE.replace("selector", "selectr");
    let refused = running.kubectl(&apply, &wrong).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown field \"spec.selectr\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_changes_and_deletes() {
    let running = start().await;
    running.says_of(&["apply", "-f", "-"], SERVICE).await;
    let wide = running.says(&["get", "svc", "-o", "wide"]).await;
    assert!(
        wide.contains("EXTERNAL-IP") && wide.contains("<pending>") && wide.contains("app=x"),
        "{wide}"
    );
    assert!(
        running
            .says(&["get", "svc", "ap", "-o", "yaml"])
            .await
            .contains("loadBalancer: {}")
    );
    let described = running.says(&["describe", "svc", "ap"]).await;
    assert!(described.contains("TargetPort:               8080/TCP"), "{described}");
    let patch = r#"{"spec":{"ports":[{"port":80,"name":"x"}]}}"#;
    assert_eq!(
        running.says(&["patch", "svc", "ap", "-p", patch]).await,
        "service/ap patched\n"
    );
    assert_eq!(
        running.says(&["label", "svc", "ap", "a=b"]).await,
        "service/ap labeled\n"
    );
    assert_eq!(
        running.says(&["annotate", "svc", "ap", "a=b"]).await,
        "service/ap annotated\n"
    );
    let wait = [
        "wait",
        "--for=jsonpath={.spec.type}=LoadBalancer",
        "svc/ap",
        "--timeout=20s",
    ];
    assert_eq!(running.says(&wait).await, "service/ap condition met\n");
    let explained = running.says(&["explain", "service.spec.type"]).await;
    assert!(explained.contains("FIELD: type <string>"), "{explained}");
    assert_eq!(running.says(&["auth", "can-i", "list", "svc"]).await, "yes\n");
    assert!(running.says(&["api-resources"]).await.contains("endpointslices"));
    // These send protobuf.
    assert_eq!(running.says(&["create", "ns", "kx"]).await, "namespace/kx created\n");
    assert_eq!(
        running.says(&["create", "cm", "c", "--from-literal=a=b"]).await,
        "configmap/c created\n"
    );
    assert_eq!(running.says(&["get", "cm", "c", "-o", "jsonpath={.data.a}"]).await, "b");
    assert_eq!(running.says(&["create", "sa", "s"]).await, "serviceaccount/s created\n");
    assert_eq!(running.says(&["create", "token", "s"]).await.split('.').count(), 3);
    assert_eq!(running.says(&["delete", "svc", "ap"]).await, "service \"ap\" deleted\n");
    assert_eq!(
        running.says(&["delete", "ns", "kx", "--wait=false"]).await,
        "namespace \"kx\" deleted\n"
    );
    assert!(running.says(&["get", "ns", "kx"]).await.contains("Terminating"));
}
