//! Owners and dependents.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::Api;
use serde_json::json;

use crate::cluster::{Cluster, deployment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_are_adopted() {
    let cluster = Cluster::start(&["one"]).await;
    let sets: Api<ReplicaSet> = Api::default_namespaced(cluster.client.clone());
    cluster.create(deployment("web", 2, "app")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster.says(&["delete", "deployment/web", "--cascade=orphan"]).await;
    let left = cluster
        .until(&sets, "nobody's", |sets| {
            sets.len() == 1 && sets[0].owner_references().is_empty()
        })
        .await;
    assert_eq!(cluster.pods().list(&Default::default()).await.unwrap().items.len(), 2);
    cluster.create(deployment("web", 2, "app")).await;
    let again = cluster
        .until(&sets, "adopted", |sets| {
            sets.iter().all(|set| !set.owner_references().is_empty())
        })
        .await;
    assert_eq!(left[0].uid(), again[0].uid());
    assert_eq!(again.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground_the_owner_goes_last() {
    let cluster = Cluster::start(&["one"]).await;
    cluster.create(deployment("web", 2, "app")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster
        .says(&["delete", "deployment/web", "--cascade=foreground", "--timeout=25s"])
        .await;
    // The deletion has waited for the Deployment, and that for its Pods.
    assert!(cluster.pods().list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_objects_own_and_are_owned() {
    let cluster = Cluster::start(&[]).await;
    cluster
        .create(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
            },
        }))
        .await;
    cluster
        .says(&[
            "wait",
            "--for=condition=Established",
            "crd/widgets.example.com",
            "--timeout=20s",
        ])
        .await;
    let owner = cluster
        .create(json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "owner"}}))
        .await;
    let reference = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "owner", "uid": owner.uid()});
    for (api_version, kind) in [("v1", "ConfigMap"), ("example.com/v1", "Widget")] {
        cluster
            .create(json!({"apiVersion": api_version, "kind": kind,
            "metadata": {"name": "owned", "ownerReferences": [reference]}}))
            .await;
    }
    cluster.says(&["delete", "widget", "owner"]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    cluster
        .until(&maps, "collected", |maps| {
            !maps.iter().any(|map| map.name_any() == "owned")
        })
        .await;
    cluster
        .says(&["wait", "--for=delete", "widget/owned", "--timeout=20s"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_to_what_never_was_is_garbage() {
    let cluster = Cluster::start(&[]).await;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "5a0cb0c0-0000-4000-8000-000000000000"});
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "owned", "ownerReferences": [reference]}}))
        .await;
    cluster
        .says(&["wait", "--for=delete", "secret/owned", "--timeout=20s"])
        .await;
}
