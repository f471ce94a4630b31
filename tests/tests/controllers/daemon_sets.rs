//! DaemonSets as kubectl follows them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::cluster::{Cluster, is_ready, pod_spec};

fn nodes(pods: &[Pod]) -> BTreeSet<&str> {
    let names = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
    names.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_that_fits_has_one_and_an_update_reaches_all() {
    let cluster = Cluster::start(&["one", "two", "three"]).await;
    cluster.says(&["taint", "node", "three", "gpu=yes:NoSchedule"]).await;
    cluster.says(&["cordon", "two"]).await;
    cluster
        .create(json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {
                "selector": {"matchLabels": {"app": "agent"}},
                "template": {"metadata": {"labels": {"app": "agent"}}, "spec": pod_spec("first")},
            },
        }))
        .await;
    let status = ["rollout", "status", "daemonset/agent", "--timeout=25s"];
    cluster.says(&status).await;
    // A cordoned node keeps its daemons.
    let found = cluster
        .until(&cluster.pods(), "on two nodes", |pods| {
            pods.len() == 2 && pods.iter().all(is_ready)
        })
        .await;
    assert_eq!(nodes(&found), BTreeSet::from(["one", "two"]));
    cluster.add_node("four").await;
    cluster
        .until(&cluster.pods(), "on the new node", |pods| {
            nodes(pods) == BTreeSet::from(["four", "one", "two"]) && pods.iter().all(is_ready)
        })
        .await;
    cluster.says(&["set", "image", "daemonset/agent", "main=second"]).await;
    cluster
        .until(&cluster.pods(), "one at a time", |pods| {
            assert!(pods.iter().filter(|pod| is_ready(pod)).count() >= 2, "{pods:#?}");
            pods.len() == 3
                && pods.iter().all(|pod| {
                    let image = pod.spec.as_ref().unwrap().containers[0].image.as_deref();
                    is_ready(pod) && image == Some("second")
                })
        })
        .await;
    cluster.says(&status).await;
}
