//! Where Pods go.

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::{Value, json};

use crate::cluster::{Cluster, pod_spec};

fn pod(name: &str, more: Value) -> Value {
    let mut spec = pod_spec("app");
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn node(pods: &[Pod], name: &str) -> Option<String> {
    let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
    pod.spec.as_ref()?.node_name.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_it_fits() {
    let cluster = Cluster::start(&["one", "two"]).await;
    cluster.says(&["taint", "node", "two", "gpu=yes:NoSchedule"]).await;
    cluster.says(&["cordon", "one"]).await;
    cluster.create(pod("p", json!({}))).await;
    let pods: Api<Pod> = cluster.pods();
    let waits = |pods: &[Pod]| pods[0].status.as_ref()?.conditions.as_ref()?.first()?.message.clone();
    let found = cluster.until(&pods, "a reason", |pods| waits(pods).is_some()).await;
    let message = waits(&found).unwrap();
    assert_eq!(
        message,
        "0/2 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable."
    );
    let told = cluster.says(&["events", "--for=pod/p"]).await;
    assert!(told.contains("FailedScheduling") || told.is_empty(), "{told}");
    cluster.says(&["uncordon", "one"]).await;
    cluster
        .until(&pods, "placed", |pods| node(pods, "p").as_deref() == Some("one"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_affinity_tolerations_and_host_ports_count() {
    let cluster = Cluster::start(&["one", "two"]).await;
    cluster.says(&["label", "node", "two", "disk=ssd"]).await;
    cluster.says(&["taint", "node", "two", "gpu=yes:NoSchedule"]).await;
    let tolerates = json!([{"key": "gpu", "operator": "Exists"}]);
    let host_port = json!([{"name": "main", "image": "app", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
    cluster.create(pod("plain", json!({}))).await;
    cluster
        .create(pod(
            "selects",
            json!({"nodeSelector": {"disk": "ssd"}, "tolerations": tolerates}),
        ))
        .await;
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["two"]}]},
    ]}}});
    cluster
        .create(pod("by-name", json!({"affinity": affinity, "tolerations": tolerates})))
        .await;
    cluster
        .create(pod(
            "port-a",
            json!({"containers": host_port, "tolerations": tolerates}),
        ))
        .await;
    cluster
        .create(pod(
            "port-b",
            json!({"containers": host_port, "tolerations": tolerates}),
        ))
        .await;
    let found = cluster
        .until(&cluster.pods(), "all placed", |pods| {
            pods.len() == 5 && pods.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.is_some())
        })
        .await;
    assert_eq!(node(&found, "plain").as_deref(), Some("one"));
    assert_eq!(node(&found, "selects").as_deref(), Some("two"));
    assert_eq!(node(&found, "by-name").as_deref(), Some("two"));
    assert_ne!(node(&found, "port-a"), node(&found, "port-b"));
}
