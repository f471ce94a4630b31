//! What runs at the moment, for those who ask for logs and commands. Written by the Pods' workers, read by the server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::command::Inside;
use super::output::Output;

/// A container that has run at least once.
#[derive(Clone)]
pub(super) struct ContainerEntry {
    /// Number of the latest run, which its log file is named by.
    pub(super) run: i32,
    /// Of the run that goes on.
    pub(super) output: Option<Arc<Output>>,
    pub(super) inside: Option<Arc<Inside>>,
    /// Its input ends with the first one who was attached to it.
    pub(super) stdin_once: bool,
}

/// A Pod of this node.
#[derive(Clone)]
pub(super) struct PodEntry {
    pub(super) uid: String,
    pub(super) logs: PathBuf,
    /// The process that holds its namespaces.
    pub(super) sandbox: Option<i32>,
    /// All of its containers; `None` for one that has not run yet.
    pub(super) containers: BTreeMap<String, Option<ContainerEntry>>,
}

impl PodEntry {
    /// File of a container's log.
    pub(super) fn log(&self, container: &str, run: i32) -> PathBuf {
        self.logs.join(container).join(format!("{run}.log"))
    }
}

/// Pods by namespace and name.
#[derive(Default)]
pub(super) struct Registry(Mutex<BTreeMap<(String, String), PodEntry>>);

impl Registry {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        self.with(|pods| pods.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    pub(super) fn put(&self, namespace: &str, name: &str, pod: PodEntry) {
        self.with(|pods| pods.insert((namespace.to_owned(), name.to_owned()), pod));
    }

    /// Forgets a Pod, not its namesake that has come since.
    pub(super) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.with(|pods| {
            if pods.get(&key).is_some_and(|pod| pod.uid == uid) {
                pods.remove(&key);
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<(String, String), PodEntry>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
