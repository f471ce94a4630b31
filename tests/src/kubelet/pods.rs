//! Which Pods are this node's: one worker for each, told of every change.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;

use super::Kubelet;
use super::worker::Worker;

/// Follows the node's Pods for ever.
pub(super) async fn run(kubelet: Arc<Kubelet>) {
    let api: Api<Pod> = Api::all(kubelet.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.options.node));
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut workers: BTreeMap<String, watch::Sender<Option<Pod>>> = BTreeMap::new();
    // Of the list that is being read.
    let mut listed: Vec<String> = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => drop(take(&kubelet, &mut workers, pod)),
            Ok(watcher::Event::InitApply(pod)) => listed.extend(take(&kubelet, &mut workers, pod)),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitDone) => workers.retain(|uid, worker| {
                let stays = listed.contains(uid);
                if !stays {
                    worker.send_replace(None);
                }
                stays
            }),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(worker) = pod.metadata.uid.and_then(|uid| workers.remove(&uid)) {
                    worker.send_replace(None);
                }
            }
            Err(error) => eprintln!("watching Pods: {error}"),
        }
    }
}

fn take(
    kubelet: &Arc<Kubelet>,
    workers: &mut BTreeMap<String, watch::Sender<Option<Pod>>>,
    pod: Pod,
) -> Option<String> {
    let uid = pod.metadata.uid.clone()?;
    match workers.get(&uid) {
        // A worker that has finished its Pod no longer listens.
        Some(worker) => drop(worker.send_replace(Some(pod))),
        None => {
            let (sender, receiver) = watch::channel(Some(pod.clone()));
            tokio::spawn(Worker::new(Arc::clone(kubelet), pod, receiver).run());
            workers.insert(uid.clone(), sender);
        }
    }
    Some(uid)
}
