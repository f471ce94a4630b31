//! kube-rs as this project uses it: reads, writes, watches, discovery.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent};
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::running::Running;

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_reads_writes_and_watches() {
    let running = Running::start();
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
    let running = Running::start();
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
