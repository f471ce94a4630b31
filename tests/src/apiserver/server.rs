//! The server's state, and the one way to change it: a transaction under the store's lock, answered for when it is on
//! the disk.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::identity::Tokens;
use super::journal::{self, Journal, JournalError};
use super::kinds::crd;
use super::object;
use super::ranges::Ranges;
use super::resource::{Registry, Resource};
use super::schema::Definitions;
use super::status::ApiError;
use super::store::{Event, Store, Stored};

/// Connections to kubelets and others at a time that are kept open for a client.
const TUNNELS: usize = 1024;

/// All that the server knows.
#[derive(Debug)]
pub(crate) struct Server {
    store: Arc<Mutex<Store>>,
    journal: Journal,
    registry: RwLock<Arc<Registry>>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) tokens: Tokens,
    /// `127.0.0.1:6443`.
    pub(crate) address: String,
    pub(crate) ranges: Ranges,
    tunnels: Arc<Semaphore>,
}

/// What the server is opened with.
pub(crate) struct Parts {
    pub(crate) tokens: Tokens,
    pub(crate) address: String,
    pub(crate) ranges: Ranges,
    /// Events that watchers can look back.
    pub(crate) watch_log: usize,
    /// Size of the journal at which it is replaced by a snapshot (bytes).
    pub(crate) compact_at: u64,
}

impl Server {
    /// Reads the journal of `directory` back.
    pub(crate) fn open(directory: &Path, parts: Parts) -> Result<Self, JournalError> {
        let store = journal::load(directory, parts.watch_log)?;
        let definitions = Arc::new(Definitions::builtin());
        let mut registry = Registry::builtin(Arc::clone(&definitions));
        for (_, definition) in store.list(crd::TABLE, None) {
            for resource in crd::resources(definition) {
                registry.insert(resource);
            }
        }
        let store = Arc::new(Mutex::new(store));
        Ok(Self {
            journal: Journal::start(directory, Arc::clone(&store), parts.compact_at)?,
            store,
            registry: RwLock::new(Arc::new(registry)),
            definitions,
            tokens: parts.tokens,
            address: parts.address,
            ranges: parts.ranges,
            tunnels: Arc::new(Semaphore::new(TUNNELS)),
        })
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The store, for reading.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a change. With `dry_run` nothing is kept.
    pub(crate) fn begin(&self, dry_run: bool) -> Txn<'_> {
        Txn {
            store: self.store(),
            server: self,
            now: now(),
            dry_run,
        }
    }

    /// Waits until all changes up to `revision` are on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn durable(&self, revision: u64) -> Result<(), ApiError> {
        let mut durable = self.journal.durable();
        match durable.wait_for(|on_disk| *on_disk >= revision).await {
            Ok(_) => Ok(()),
            Err(_closed) => Err(ApiError::internal("the journal cannot be written")),
        }
    }

    /// Leave to open one more tunnel.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn tunnel_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.tunnels).try_acquire_owned();
        permit.map_err(|_none_left| ApiError::new(429, "TooManyRequests", "too many open streams"))
    }

    /// How far the disk is; watchers follow it.
    pub(crate) fn on_disk(&self) -> tokio::sync::watch::Receiver<u64> {
        self.journal.durable()
    }
}

/// The time of day, which only this server's edge reads.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// As the API writes times: whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A change in the making. Others wait until it is dropped.
pub(crate) struct Txn<'a> {
    pub(crate) store: MutexGuard<'a, Store>,
    server: &'a Server,
    pub(crate) now: Timestamp,
    pub(crate) dry_run: bool,
}

impl Txn<'_> {
    pub(crate) fn definitions(&self) -> &Definitions {
        &self.server.definitions
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.server.tokens
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.server.registry()
    }

    pub(crate) fn ranges(&self) -> &Ranges {
        &self.server.ranges
    }

    /// RFC 3339.
    pub(crate) fn timestamp(&self) -> String {
        rfc3339(self.now)
    }

    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.store.get(&resource.table(), namespace, name).cloned()
    }

    /// Stores an object and answers it as it is stored.
    pub(crate) fn put(&mut self, resource: &Resource, object: Value) -> Arc<Stored> {
        if self.dry_run {
            return Arc::new(Stored::new(object));
        }
        let namespace = object::meta(&object, "namespace").to_owned();
        let name = object::name(&object).to_owned();
        let event = self.store.put(&resource.table(), &namespace, &name, object);
        let stored = event.after.clone().unwrap_or_default();
        self.recorded(event);
        stored
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, resource: &Resource, object: &Value) {
        if self.dry_run {
            return;
        }
        let (namespace, name) = (object::meta(object, "namespace"), object::name(object));
        if let Some(event) = self.store.remove(&resource.table(), namespace, name) {
            self.recorded(event);
        }
    }

    fn recorded(&mut self, event: Event) {
        if &*event.resource == crd::TABLE {
            let mut registry = Registry::clone(&self.server.registry());
            let since = match &event.before {
                Some(definition) => {
                    let (group, plural) = crd::group_and_plural(definition);
                    registry.any_version(group, plural).map_or(0, |resource| resource.since)
                }
                None => event.revision,
            };
            for definition in event.before.iter().chain(&event.after) {
                let (group, plural) = crd::group_and_plural(definition);
                registry.remove(group, plural);
            }
            for resource in event.after.iter().flat_map(|definition| crd::resources(definition)) {
                registry.insert(Resource { since, ..resource });
            }
            let mut current = self.server.registry.write().unwrap_or_else(PoisonError::into_inner);
            *current = Arc::new(registry);
        }
        self.server.journal.append(event);
    }

    /// Ends the change; the revision is to be waited for.
    pub(crate) fn end(self) -> u64 {
        self.store.revision()
    }
}
