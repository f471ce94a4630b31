//! What a worker writes to the API server: the Pod's status, and its end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};

use super::super::{clock, status};
use super::{AGAIN, Worker};

/// Writes that lose against others before the worker waits.
const ATTEMPTS: u32 = 5;
/// Attempts to let an object go.
const RELEASES: u32 = 60;

impl Worker {
    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.pod.namespace().unwrap_or_default())
    }

    /// Writes the status when it has changed.
    pub(super) async fn publish(&mut self) {
        let api = self.api();
        for _ in 0..ATTEMPTS {
            let wanted = status::compute(&self.pod, &self.state, &self.facts, clock::now());
            if self.sent.as_ref() == Some(&wanted) || self.pod.status.as_ref() == Some(&wanted) {
                return;
            }
            let mut pod = self.pod.clone();
            pod.status = Some(wanted.clone());
            match api
                .replace_status(&self.pod.name_any(), &PostParams::default(), &pod)
                .await
            {
                Ok(pod) => {
                    self.take(pod);
                    self.sent = Some(status::compute(&self.pod, &self.state, &self.facts, clock::now()));
                    return;
                }
                Err(kube::Error::Api(refused)) if refused.is_conflict() => {
                    match api.get_opt(&self.pod.name_any()).await {
                        Ok(Some(pod)) if pod.uid() == self.pod.uid() => self.take(pod),
                        Ok(_) => return,
                        Err(_) => break,
                    }
                }
                Err(kube::Error::Api(refused)) if refused.is_not_found() => return,
                Err(error) => {
                    eprintln!("status of Pod {}: {error}", self.state.title);
                    break;
                }
            }
        }
        self.wake_at(clock::now().saturating_add(AGAIN).unwrap_or(Timestamp::MAX));
    }

    fn take(&mut self, pod: Pod) {
        self.pod = pod;
    }

    /// Removes what the Pod had, and the object when it waits only for that.
    pub(super) async fn release(mut self) {
        self.watches.abort_all();
        let uid = self.pod.uid().unwrap_or_default();
        self.kubelet
            .registry
            .remove(&self.pod.namespace().unwrap_or_default(), &self.pod.name_any(), &uid);
        for directory in [&self.directory, &self.logs] {
            if directory.exists()
                && let Err(error) = std::fs::remove_dir_all(directory)
            {
                eprintln!("{} stays: {error}", directory.display());
            }
        }
        if self.changes.borrow().is_none() {
            return;
        }
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api = self.api();
        for _ in 0..RELEASES {
            match api.delete(&self.pod.name_any(), &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(refused)) if refused.is_not_found() || refused.is_conflict() => return,
                Err(error) => eprintln!("deleting Pod {}: {error}", self.state.title),
            }
            clock::pause(Duration::from_secs(1)).await;
        }
    }
}
