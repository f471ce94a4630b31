//! Statuses on their way to the API server.
//!
//! One letter for each object, the newest: what was to be told before and has not been is not told any more. A server that does not answer is
//! asked again, at a pace; an object that is gone, or is another one by now, is told nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use json_patch::{AddOperation, PatchOperation, TestOperation};
use kube::Client;
use kube::api::{Patch, PatchParams};
use kubelb_runtime::error_chain::chain;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::object::ObjectKey;
use crate::source::cluster::{Version, api_of};

/// Letters under way.
const AT_ONCE: usize = 16;
/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Pause after a failure, before the same object is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A status to be told.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    /// Of the object that is meant.
    pub(super) uid: Option<String>,
    /// All of it.
    pub(super) status: Value,
}

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The object has the status as of this version.
    Written(Version),
    /// There is no such object any more, or the server will not have it.
    Dropped,
}

/// See the module. Dropping it ends everything that is under way.
#[derive(Debug)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Rung when there is a letter.
    letters: Notify,
    /// Rung when something became of one.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    order: VecDeque<ObjectKey>,
    letters: BTreeMap<ObjectKey, Letter>,
    under_way: BTreeSet<ObjectKey>,
    told: Vec<(ObjectKey, Told)>,
    figures: Figures,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) written: u64,
    pub(super) failed: u64,
    pub(super) waiting: usize,
}

impl Outbox {
    /// Nothing to tell yet.
    pub(super) fn start(client: &Client) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE {
            tasks.spawn(carry(client.clone(), Arc::clone(&shared)));
        }
        Self { shared, _tasks: tasks }
    }

    /// Takes a letter; an older one for the same object is thrown away.
    pub(super) fn put(&self, key: ObjectKey, letter: Letter) {
        self.shared.lock().put(key, letter);
        self.shared.letters.notify_one();
    }

    /// Waits until something became of letters; what did.
    pub(super) async fn told(&self) -> Vec<(ObjectKey, Told)> {
        loop {
            let told = std::mem::take(&mut self.shared.lock().told);
            if !told.is_empty() {
                return told;
            }
            self.shared.news.notified().await;
        }
    }

    pub(super) fn figures(&self) -> Figures {
        let state = self.shared.lock();
        Figures {
            waiting: state.letters.len() + state.under_way.len(),
            ..state.figures
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, key: ObjectKey, letter: Letter) {
        if self.letters.insert(key.clone(), letter).is_none() {
            self.order.push_back(key);
        }
    }

    /// The next letter whose object none is under way for.
    fn take(&mut self) -> Option<(ObjectKey, Letter)> {
        let place = self.order.iter().position(|key| !self.under_way.contains(key))?;
        let key = self.order.remove(place)?;
        let letter = self.letters.remove(&key)?;
        self.under_way.insert(key.clone());
        Some((key, letter))
    }
}

async fn carry(client: Client, shared: Arc<Shared>) {
    loop {
        let next = shared.lock().take();
        let Some((key, letter)) = next else {
            shared.letters.notified().await;
            continue;
        };
        // There may be more, and this one is busy now.
        shared.letters.notify_one();
        let result = write(&client, &key, &letter).await;
        let is_failure = result.is_err();
        {
            let mut state = shared.lock();
            match result {
                Ok(told) => {
                    state.figures.written += u64::from(told != Told::Dropped);
                    state.told.push((key.clone(), told));
                    shared.news.notify_one();
                }
                Err(why) => {
                    tracing::warn!(object = %key, why, "its status could not be written; tried again");
                    state.figures.failed += 1;
                    if !state.letters.contains_key(&key) {
                        state.put(key.clone(), letter);
                    }
                }
            }
        }
        if is_failure {
            tokio::time::sleep(PAUSE).await;
        }
        shared.lock().under_way.remove(&key);
        // A newer letter may have waited for this one.
        shared.letters.notify_one();
    }
}

/// Replaces the status as a whole, of this very object (RFC 6902).
async fn write(client: &Client, key: &ObjectKey, letter: &Letter) -> Result<Told, String> {
    let mut operations = Vec::new();
    if let Some(uid) = &letter.uid {
        operations.push(PatchOperation::Test(TestOperation {
            path: "/metadata/uid".parse().map_err(|error| format!("{error}"))?,
            value: Value::from(uid.as_str()),
        }));
    }
    operations.push(PatchOperation::Add(AddOperation {
        path: "/status".parse().map_err(|error| format!("{error}"))?,
        value: letter.status.clone(),
    }));
    let patch = Patch::Json::<()>(json_patch::Patch(operations));
    let api = api_of(client, key);
    let parameters = PatchParams::default();
    let request = api.patch_status(&key.name.name, &parameters, &patch);
    match tokio::time::timeout(REQUEST_TIME, request).await {
        Ok(Ok(object)) => Ok(Told::Written(Version::new(object.metadata.resource_version.as_deref()))),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Told::Dropped),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 422) => {
            // The test of the uid fails with 422 too: there is another object of this name, whose news are on their way.
            tracing::debug!(object = %key, why = status.message, "its status was refused");
            Ok(Told::Dropped)
        }
        Ok(Err(error)) => Err(chain(&error).to_string()),
        Err(_) => Err(format!("no answer within {REQUEST_TIME:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn letter(text: &str) -> Letter {
        Letter {
            uid: None,
            status: Value::from(text),
        }
    }

    #[test]
    fn the_newest_letter_is_carried_and_one_at_a_time() {
        let key = |name: &str| ObjectKey::new(Kind::LoadBalancer, "a", name);
        let mut state = State::default();
        state.put(key("a"), letter("1"));
        state.put(key("b"), letter("1"));
        state.put(key("a"), letter("2"));
        let (first, carried) = state.take().unwrap();
        assert_eq!((first, carried.status), (key("a"), Value::from("2")));
        state.put(key("a"), letter("3"));
        assert_eq!(state.take().unwrap().0, key("b"));
        assert!(state.take().is_none(), "the one before is still under way");
        state.under_way.remove(&key("a"));
        assert_eq!(state.take().unwrap().1.status, Value::from("3"));
    }
}
