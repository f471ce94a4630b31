//! Controllers and servers that go away and come back.

use kubelb_tests::controllers::Options;

use crate::cluster::{Cluster, deployment, is_ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_go_on_where_others_stopped() {
    let mut cluster = Cluster::without_controllers(&["one"]).await;
    let first = cluster.start_controllers(Options::default()).await;
    cluster.create(deployment("web", 20, "app")).await;
    // In the middle of it.
    cluster.until(&cluster.pods(), "some", |pods| pods.len() > 3).await;
    first.abort();
    cluster.start_controllers(Options::default()).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    let pods = cluster.pods().list(&Default::default()).await.unwrap().items;
    assert_eq!((pods.len(), pods.iter().filter(|pod| is_ready(pod)).count()), (20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_followed() {
    let mut cluster = Cluster::start(&["one"]).await;
    cluster.create(deployment("web", 2, "app")).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster.restart_server();
    cluster.says(&["scale", "deployment/web", "--replicas=4"]).await;
    cluster
        .says(&["rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    let pods = cluster.pods().list(&Default::default()).await.unwrap().items;
    assert_eq!(pods.len(), 4);
}
