//! What goes wrong while a controller works, and when it tries again.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use kubelb_runtime::error_chain::chain;
use tokio::time::Instant;

use super::kubeconfig::WriteError;

/// Pauses between attempts for one object: doubling from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Why an object is to be looked at again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    /// The API server did not do something.
    #[error("{what}")]
    Api {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    /// All requests for one object together took too long.
    #[error("the API server took longer than {} s", .0.as_secs())]
    Slow(Duration),
    /// A kubeconfig cannot be made.
    #[error(transparent)]
    Kubeconfig(#[from] WriteError),
}

/// Names what was being done.
pub(crate) fn doing(what: &'static str) -> impl FnOnce(kube::Error) -> ControllerError {
    move |source| ControllerError::Api {
        what,
        source: Box::new(source),
    }
}

impl ControllerError {
    /// The API server's words when it said no, and would say the same again: an administrator has to do something.
    pub(crate) fn refusal(&self) -> Option<String> {
        let Self::Api { what, source } = self else {
            return None;
        };
        let kube::Error::Api(status) = &**source else {
            return None;
        };
        // 404 and 409 are what one sees of others' changes.
        let is_final = (400..500).contains(&status.code) && !matches!(status.code, 404 | 408 | 409 | 429);
        is_final.then(|| format!("{what}: {}", status.message))
    }
}

/// Failures in a row, of objects that failed.
#[derive(Debug, Default)]
pub(crate) struct Failures(RwLock<BTreeMap<String, u32>>);

impl Failures {
    /// It went well.
    pub(crate) fn forget(&self, object: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(object);
    }

    /// It failed: how long to wait.
    pub(crate) fn pause(&self, object: &str, error: &ControllerError) -> Duration {
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(object.to_owned()).or_default();
        tracing::warn!(object, error = %chain(error), "tried again");
        let pause = FIRST_RETRY.saturating_mul(1 << (*count).min(10)).min(LAST_RETRY);
        *count = count.saturating_add(1);
        pause
    }
}

/// When something was last done for an object.
#[derive(Debug, Default)]
pub(crate) struct Pauses(RwLock<BTreeMap<String, Instant>>);

impl Pauses {
    /// Waits until it is so long ago.
    pub(crate) async fn wait(&self, object: &str, pause: Duration) {
        let now = Instant::now();
        let until = {
            let mut times = self.0.write().unwrap_or_else(PoisonError::into_inner);
            // What is longer ago is of no use.
            times.retain(|_, last| now.saturating_duration_since(*last) < pause);
            let until = times.get(object).map_or(now, |last| *last + pause);
            times.insert(object.to_owned(), until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16) -> ControllerError {
        let status = Status::failure("no", "Test").with_code(code);
        doing("writing it")(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn only_what_stays_refused_is_a_refusal() {
        assert_eq!(answered(403).refusal().as_deref(), Some("writing it: no"));
        for code in [404, 409, 429, 500, 503] {
            assert_eq!(answered(code).refusal(), None, "{code}");
        }
        assert_eq!(ControllerError::Slow(LAST_RETRY).refusal(), None);
    }

    #[test]
    fn pauses_grow_and_start_anew() {
        let failures = Failures::default();
        let error = ControllerError::Slow(LAST_RETRY);
        assert_eq!(failures.pause("a", &error), FIRST_RETRY);
        assert_eq!(failures.pause("a", &error), FIRST_RETRY * 2);
        for _ in 0..100 {
            assert!(failures.pause("a", &error) <= LAST_RETRY);
        }
        failures.forget("a");
        assert_eq!(failures.pause("a", &error), FIRST_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_again_waits() {
        let pauses = Pauses::default();
        let start = Instant::now();
        pauses.wait("a", FIRST_RETRY).await;
        pauses.wait("b", FIRST_RETRY).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        pauses.wait("a", FIRST_RETRY).await;
        assert!(start.elapsed() >= FIRST_RETRY);
    }
}
