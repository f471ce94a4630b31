//! Nodes that go silent or leave.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use kubelb_tests::controllers::Options;
use serde_json::json;

use crate::cluster::{Cluster, deployment, is_ready, pod_spec};

fn on(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().node_name.as_deref().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_pods() {
    let mut cluster = Cluster::without_controllers(&["one"]).await;
    cluster
        .start_controllers(Options {
            node_grace: Duration::from_secs(2),
            ..Options::default()
        })
        .await;
    let mut stays = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stays"}, "spec": pod_spec("app")});
    stays["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let mut goes = stays.clone();
    goes["metadata"]["name"] = "goes".into();
    goes["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]);
    cluster.create(stays).await;
    cluster.create(goes).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    cluster
        .until(&nodes, "unknown and tainted", |nodes| {
            let ready = nodes[0].status.as_ref().unwrap().conditions.as_ref().unwrap();
            let taints = nodes[0]
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default();
            ready[0].status == "Unknown" && taints.len() == 2
        })
        .await;
    cluster
        .until(&cluster.pods(), "one is left, not ready", |pods| {
            pods.len() == 1 && pods[0].name_any() == "stays" && !is_ready(&pods[0])
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_run_elsewhere() {
    let cluster = Cluster::start(&["one", "two"]).await;
    cluster.create(deployment("web", 4, "app")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete("two", &DeleteParams::default()).await.unwrap();
    cluster
        .until(&cluster.pods(), "all on the other", |pods| {
            pods.len() == 4 && pods.iter().all(|pod| on(pod) == "one" && is_ready(pod))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_respects_the_budget() {
    let cluster = Cluster::start(&["one", "two"]).await;
    cluster.create(deployment("web", 2, "app")).await;
    cluster
        .says(&["create", "pdb", "web", "--selector=app=web", "--min-available=1"])
        .await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    let path = "--for=jsonpath={.status.disruptionsAllowed}=1";
    cluster.says(&["wait", "pdb/web", path, "--timeout=20s"]).await;
    cluster.says(&["drain", "one", "--timeout=25s"]).await;
    cluster
        .until(&cluster.pods(), "all on the other", |pods| {
            pods.len() == 2 && pods.iter().all(|pod| on(pod) == "two" && is_ready(pod))
        })
        .await;
}
