//! EndpointSlices.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{BROKEN, Cluster, deployment, pod_spec};

fn service(spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

fn of_web(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.get("kubernetes.io/service-name").map(String::as_str) == Some("web"))
}

fn endpoints(slices: &[EndpointSlice]) -> Vec<&Endpoint> {
    slices
        .iter()
        .filter(|slice| of_web(slice))
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .collect()
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().unwrap().ready == Some(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_pods_and_leave_with_the_service() {
    let cluster = Cluster::start(&["one"]).await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    cluster.create(service(&json!({}))).await;
    cluster
        .until(&slices, "an empty slice", |slices| {
            slices.iter().any(of_web) && endpoints(slices).is_empty()
        })
        .await;
    cluster.create(deployment("web", 2, "app")).await;
    let found = cluster
        .until(&slices, "two endpoints", |slices| {
            endpoints(slices).iter().filter(|endpoint| ready(endpoint)).count() == 2
        })
        .await;
    let slice = found.iter().find(|slice| of_web(slice)).unwrap();
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
    let endpoint = endpoints(&found)[0];
    assert_eq!(endpoint.node_name.as_deref(), Some("one"));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().kind.as_deref(), Some("Pod"));
    assert!(endpoint.addresses[0].starts_with("10.1.0."));

    cluster.says(&["scale", "deployment/web", "--replicas=0"]).await;
    cluster
        .until(&slices, "no endpoints", |slices| {
            endpoints(slices).is_empty() && slices.iter().any(of_web)
        })
        .await;
    cluster.says(&["delete", "service", "web"]).await;
    cluster
        .until(&slices, "no slices", |slices| !slices.iter().any(of_web))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_not_ready_are_named_but_not_ready() {
    let cluster = Cluster::start(&["one"]).await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    cluster.create(service(&json!({}))).await;
    cluster.create(deployment("web", 1, BROKEN)).await;
    cluster
        .until(&slices, "one that is not ready", |slices| {
            endpoints(slices).len() == 1 && !ready(endpoints(slices)[0])
        })
        .await;
    cluster
        .says(&[
            "patch",
            "service",
            "web",
            "-p",
            r#"{"spec":{"publishNotReadyAddresses":true}}"#,
        ])
        .await;
    cluster
        .until(&slices, "published all the same", |slices| {
            endpoints(slices).len() == 1 && ready(endpoints(slices)[0])
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_becomes_ready_serves_without_a_look_at_the_server() {
    let cluster = Cluster::start(&["one"]).await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    cluster.create(service(&json!({}))).await;
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": pod_spec(BROKEN),
        }))
        .await;
    cluster
        .until(&slices, "one slice, not ready", |slices| {
            // The slice from before the Pod leaves after the one with the Pod's ports has come.
            slices.iter().filter(|slice| of_web(slice)).count() == 1 && endpoints(slices).len() == 1
        })
        .await;
    let pods: Api<Pod> = cluster.pods();
    cluster.asked();
    for round in 0..10 {
        let is_ready = round % 2 == 0;
        let status = if is_ready { "True" } else { "False" };
        let patch = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}));
        pods.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
        cluster
            .until(&slices, "the change", |slices| ready(endpoints(slices)[0]) == is_ready)
            .await;
    }
    // Who looks for changes from time to time would have to ask. Whether what is heard waits for a time of its own is tested
    // beside the loop of the controllers, by a clock that stands still.
    let asked = cluster.asked();
    let of_serving = |line: &&String| {
        ["/pods", "/services", "/endpointslices"]
            .iter()
            .any(|kind| line.contains(kind))
    };
    let asked: Vec<&String> = asked.iter().filter(of_serving).collect();
    let is_write = |line: &&String| !line.starts_with("GET ") && line.contains("/default/endpointslices/web-");
    assert!(asked.iter().all(is_write), "{asked:#?}");
    assert_eq!(asked.len(), 10, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_slices_stay_as_they_are() {
    let cluster = Cluster::start(&["one"]).await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(cluster.client.clone());
    cluster.create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "mine", "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "me"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"]}],
        "ports": [],
    })).await;
    cluster.create(service(&json!({}))).await;
    let found = cluster
        .until(&slices, "ours beside it", |slices| {
            slices.iter().filter(|slice| of_web(slice)).count() == 2
        })
        .await;
    let mine = found
        .iter()
        .find(|slice| slice.metadata.name.as_deref() == Some("mine"))
        .unwrap();
    assert_eq!(mine.endpoints.as_ref().unwrap()[0].addresses, ["192.0.2.1"]);
    assert_eq!(mine.metadata.generation, Some(1));
}
