//! The requests of a [`Ledger`], made: many at once, each in bounded time.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource};
use kubelb_runtime::error_chain::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ledger::{Ledger, Outcome, Request};

/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Requests under way.
const AT_ONCE: usize = 32;

/// What was not granted as it was wanted.
#[derive(Debug)]
pub(super) struct Denied<K> {
    /// What there is instead, by name.
    pub(super) instead: Vec<(String, Option<K>)>,
    /// How many somebody else was faster with.
    pub(super) conflicts: u64,
    /// Whether the server did not answer, or refused.
    pub(super) failed: bool,
}

/// Asks for objects to be removed and written. `can_become` says whether one may be changed into another; else it is deleted first.
pub(super) async fn ask_for<K>(
    api: &Api<K>,
    ledger: &mut Ledger<K>,
    over: impl Iterator<Item = String>,
    wanted: Vec<K>,
    can_become: impl Fn(&K, &K) -> bool,
) -> Denied<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let removals: Vec<_> = over
        .filter_map(|name| Some((name.clone(), vec![ledger.removal(&name)?])))
        .collect();
    let writes: Vec<_> = wanted
        .into_iter()
        .map(|object| {
            let name = object.meta().name.clone().unwrap_or_default();
            (name, ledger.requests(object, &can_become))
        })
        .collect();
    let mut denied = Denied {
        instead: Vec::new(),
        conflicts: 0,
        failed: false,
    };
    for jobs in [removals, writes] {
        for (name, outcome) in carry_out(api, ledger, jobs).await {
            let kind = K::kind(&());
            match outcome {
                Outcome::Done(_) => continue,
                Outcome::Lost(_) => {
                    denied.conflicts += 1;
                    tracing::info!(%kind, name, "another manager has written it; it is planned again");
                }
                Outcome::Failed(why) => {
                    denied.failed = true;
                    tracing::warn!(%kind, name, why, "could not be written; it does not count until it is");
                }
            }
            let instead = ledger.get(&name).cloned();
            denied.instead.push((name, instead));
        }
    }
    denied
}

/// Carries jobs out, each a name with its requests in their order, and notes the answers; what became of each.
async fn carry_out<K>(
    api: &Api<K>,
    ledger: &mut Ledger<K>,
    jobs: Vec<(String, Vec<Request<K>>)>,
) -> Vec<(String, Outcome<K>)>
where
    K: Resource<DynamicType = ()> + Clone + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let jobs = jobs.into_iter().map(|(name, requests)| async move {
        let mut outcomes = Vec::new();
        for request in requests {
            let outcome = make(api, &name, request).await;
            let is_over = !matches!(outcome, Outcome::Done(_));
            outcomes.push(outcome);
            if is_over {
                break;
            }
        }
        (name, outcomes)
    });
    let answers: Vec<_> = futures_util::stream::iter(jobs)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let noted = answers.into_iter().filter_map(|(name, outcomes)| {
        for outcome in &outcomes {
            ledger.answered(&name, outcome);
        }
        Some((name, outcomes.into_iter().next_back()?))
    });
    noted.collect()
}

async fn make<K>(api: &Api<K>, name: &str, request: Request<K>) -> Outcome<K>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let parameters = PostParams::default();
    let answered = match request {
        Request::Create(object) => in_time(api.create(&parameters, &object)).await.map(Some),
        Request::Replace(object) => in_time(api.replace(name, &parameters, &object)).await.map(Some),
        Request::Delete { uid, version } => {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid,
                    resource_version: version,
                }),
                ..DeleteParams::default()
            };
            in_time(api.delete(name, &parameters)).await.map(|_| None)
        }
    };
    match answered {
        Ok(object) => Outcome::Done(object),
        Err(Answer::Otherwise) => match in_time(api.get_opt(name)).await {
            Ok(object) => Outcome::Lost(object),
            Err(Answer::Otherwise) => Outcome::Lost(None),
            Err(Answer::None(why)) => Outcome::Failed(why),
        },
        Err(Answer::None(why)) => Outcome::Failed(why),
    }
}

enum Answer {
    /// What the request was about is not as it was thought to be.
    Otherwise,
    /// There is none, or a refusal.
    None(String),
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Answer> {
    match tokio::time::timeout(REQUEST_TIME, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(Answer::Otherwise),
        Ok(Err(error)) => Err(Answer::None(chain(&error).to_string())),
        Err(_) => Err(Answer::None(format!("no answer within {REQUEST_TIME:?}"))),
    }
}
