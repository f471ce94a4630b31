//! Deployments as kubectl follows them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;

use crate::cluster::{BROKEN, Cluster, deployment, is_ready};

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_back_and_goes_with_its_pods() {
    let cluster = Cluster::start(&["one", "two"]).await;
    let status = ["rollout", "status", "deployment/web", "--timeout=25s"];
    cluster
        .says(&["create", "deployment", "web", "--image=app:1", "--replicas=3"])
        .await;
    assert!(cluster.says(&status).await.contains("successfully rolled out"));
    cluster
        .says(&["wait", "--for=condition=Available", "deployment/web", "--timeout=20s"])
        .await;
    cluster
        .says(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=20s"])
        .await;
    let pods = cluster.pods().list(&Default::default()).await.unwrap().items;
    let on = |node: &str| {
        pods.iter()
            .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node))
            .count()
    };
    assert_eq!(
        (on("one") + on("two"), on("one").abs_diff(on("two"))),
        (3, 1),
        "spread over the nodes"
    );

    cluster.says(&["set", "image", "deployment/web", "app=app:2"]).await;
    assert!(cluster.says(&status).await.contains("successfully rolled out"));
    cluster
        .until(&cluster.pods(), "all of the new image", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| image(pod) == "app:2" && is_ready(pod))
        })
        .await;
    let history = cluster.says(&["rollout", "history", "deployment/web"]).await;
    assert_eq!(
        history.lines().filter(|line| line.starts_with(['1', '2'])).count(),
        2,
        "{history}"
    );

    cluster.says(&["rollout", "undo", "deployment/web"]).await;
    cluster.says(&status).await;
    cluster
        .until(&cluster.pods(), "all of the old image", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| image(pod) == "app:1")
        })
        .await;
    let history = cluster.says(&["rollout", "history", "deployment/web"]).await;
    assert!(
        history.lines().any(|line| line.starts_with('3')) && !history.lines().any(|line| line.starts_with('1')),
        "{history}"
    );

    cluster.says(&["rollout", "restart", "deployment/web"]).await;
    assert!(cluster.says(&status).await.contains("successfully rolled out"));
    cluster.says(&["scale", "deployment/web", "--replicas=5"]).await;
    cluster.says(&status).await;
    assert_eq!(
        cluster
            .pods()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .filter(|pod| is_ready(pod))
            .count(),
        5
    );

    cluster.says(&["delete", "deployment/web", "--wait"]).await;
    cluster.until(&cluster.pods(), "no Pods", |pods| pods.is_empty()).await;
    let sets: Api<ReplicaSet> = Api::default_namespaced(cluster.client.clone());
    cluster.until(&sets, "no ReplicaSets", |sets| sets.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_image_leaves_the_old_pods_serving() {
    let cluster = Cluster::start(&["one"]).await;
    cluster.create(deployment("web", 4, "good")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    // Short only while nothing can become of it: a busy machine needs its time for what can.
    let deadline = async |seconds: u32| {
        let patch = format!(r#"{{"spec": {{"progressDeadlineSeconds": {seconds}}}}}"#);
        cluster.says(&["patch", "deployment", "web", "-p", &patch]).await
    };
    cluster
        .says(&["set", "image", "deployment/web", &format!("main={BROKEN}")])
        .await;
    // A quarter may be missing, a quarter more may be there.
    let halted = |pods: &[Pod]| {
        let good = pods.iter().filter(|pod| image(pod) == "good" && is_ready(pod)).count();
        let broken = pods.iter().filter(|pod| image(pod) == BROKEN).count();
        (good, broken, pods.len()) == (3, 2, 5)
    };
    cluster.until(&cluster.pods(), "three of the old", halted).await;
    deadline(2).await;
    let late = cluster
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    assert!(!late.status.success());
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(said.contains("exceeded its progress deadline"), "{said}");
    let pods = cluster.pods().list(&Default::default()).await.unwrap().items;
    assert!(halted(&pods), "{pods:#?}");

    deadline(600).await;
    cluster.says(&["rollout", "undo", "deployment/web"]).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster
        .until(&cluster.pods(), "the old ones again", |pods| {
            pods.len() == 4 && pods.iter().all(|pod| image(pod) == "good")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_ends_the_old_before_the_new() {
    let cluster = Cluster::start(&["one"]).await;
    let mut wanted = deployment("web", 2, "first");
    wanted["spec"]["strategy"] = serde_json::json!({"type": "Recreate"});
    cluster.create(wanted).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster.says(&["set", "image", "deployment/web", "main=second"]).await;
    cluster
        .until(&cluster.pods(), "never both", |pods| {
            let images: Vec<&str> = pods.iter().map(image).collect();
            assert!(!(images.contains(&"first") && images.contains(&"second")), "{images:?}");
            images == ["second", "second"]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_waits() {
    let cluster = Cluster::start(&["one"]).await;
    cluster.create(deployment("web", 2, "first")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster.says(&["rollout", "pause", "deployment/web"]).await;
    cluster.says(&["set", "image", "deployment/web", "main=second"]).await;
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client.clone());
    cluster
        .until(&deployments, "seen", |all| {
            all[0].status.as_ref().unwrap().observed_generation == all[0].metadata.generation
        })
        .await;
    let pods = cluster.pods().list(&Default::default()).await.unwrap().items;
    assert!(pods.iter().all(|pod| image(pod) == "first"));
    cluster.says(&["rollout", "resume", "deployment/web"]).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster
        .until(&cluster.pods(), "rolled out", |pods| {
            pods.len() == 2 && pods.iter().all(|pod| image(pod) == "second")
        })
        .await;
}
