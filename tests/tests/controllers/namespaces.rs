//! What namespaces start with, and how they end.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::ResourceExt as _;
use kube::api::Api;
use serde_json::json;

use crate::cluster::{Cluster, deployment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_an_account_and_the_root_certificate() {
    let cluster = Cluster::start(&[]).await;
    cluster.says(&["create", "namespace", "team"]).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    cluster
        .until(&accounts, "the account", |all| {
            all.iter().any(|one| one.name_any() == "default")
        })
        .await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let maps = cluster.until(&maps, "the certificate", |all| all.len() == 1).await;
    assert_eq!(maps[0].data.as_ref().unwrap()["ca.crt"], cluster.server.ca().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_gets_the_token_of_its_account_and_goes_with_it() {
    let cluster = Cluster::start(&[]).await;
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
            "type": "kubernetes.io/service-account-token",
        }))
        .await;
    // The account may come later.
    cluster.says(&["create", "serviceaccount", "robot"]).await;
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client.clone());
    let secrets_now = cluster
        .until(&secrets, "the token", |all| {
            all[0].data.as_ref().is_some_and(|data| data.len() == 3)
        })
        .await;
    let token = String::from_utf8(secrets_now[0].data.as_ref().unwrap()["token"].0.clone()).unwrap();
    let who = cluster
        .says(&[
            "auth",
            "whoami",
            &format!("--token={token}"),
            "-o",
            "jsonpath={.status.userInfo.username}",
        ])
        .await;
    assert_eq!(who, "system:serviceaccount:default:robot");
    cluster.says(&["delete", "serviceaccount", "robot"]).await;
    cluster.until(&secrets, "gone", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_when_all_in_it_is_gone() {
    let cluster = Cluster::start(&["one"]).await;
    cluster.says(&["create", "namespace", "team"]).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    cluster.until(&accounts, "the account", |all| !all.is_empty()).await;
    let mut web = deployment("web", 2, "app");
    web["metadata"]["namespace"] = "team".into();
    cluster.create(web).await;
    cluster
        .says(&["-n", "team", "rollout", "status", "deployment/web", "--timeout=25s"])
        .await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/hold"]}}))
        .await;
    cluster.says(&["delete", "namespace", "team", "--wait=false"]).await;
    let path = "jsonpath={.status.conditions[?(@.type=='NamespaceFinalizersRemaining')].status}=True";
    cluster
        .says(&["wait", "namespace/team", &format!("--for={path}"), "--timeout=25s"])
        .await;
    cluster
        .says(&[
            "-n",
            "team",
            "patch",
            "configmap",
            "held",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ])
        .await;
    cluster
        .says(&["wait", "--for=delete", "namespace/team", "--timeout=25s"])
        .await;
}
