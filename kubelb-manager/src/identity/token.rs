//! Tokens of service accounts: reviewed by whoever issued them, remembered for a short, bounded time.
//!
//! Knows no API client: [`TokenReviewer`] is the seam. Which service account may see what is a table that the flags give.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kubelb_xds::{Scope, Tenants};
use serde::Deserialize;

use super::spiffe::tenants_from;
use super::{Identity, Refusal};

/// What tokens must have been issued for.
pub const AUDIENCE: &str = "kubelb-xds";
/// User names of service accounts (Kubernetes' `serviceaccount.ServiceAccountUsernamePrefix`).
const USERNAME_PREFIX: &str = "system:serviceaccount:";

/// How long a good answer is believed.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long a bad one is: a peer that tries again and again is not passed on to the API server each time.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(5);
/// Most answers remembered.
const MAX_REMEMBERED: usize = 4096;
/// Life of what a token without an end gives.
const UNLIMITED: Duration = Duration::from_secs(60 * 60);
/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// What the API server says of a token (`authentication.k8s.io/v1` `TokenReviewStatus`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// Whether it is good.
    pub authenticated: bool,
    /// Whose it is.
    pub username: String,
    /// Those of the audiences asked about that it is for.
    pub audiences: Vec<String>,
    /// Why it is not good.
    pub error: String,
}

/// The API server could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReviewError(pub String);

/// An answer that is yet to come.
pub type Reviewed<'a> = Pin<Box<dyn Future<Output = Result<Review, ReviewError>> + Send + 'a>>;

/// Asks whether a token is good for an audience.
pub trait TokenReviewer: fmt::Debug + Send + Sync + 'static {
    /// Asks. The time it takes is bounded by the implementation.
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Reviewed<'a>;
}

/// Which service account may see what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccounts {
    scopes: BTreeMap<String, Scope>,
}

/// A flag's value that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceAccountError {
    /// Not `namespace/name`.
    #[error("{0:?} is no service account; use NAMESPACE/NAME")]
    Account(String),
    /// No `=`.
    #[error("{0:?} names no tenants; use NAMESPACE/NAME=TENANT[,TENANT…] or NAMESPACE/NAME=*")]
    Tenants(String),
    /// No tenant can be called so.
    #[error("{0}")]
    Name(String),
    /// Twice.
    #[error("{0} is given two scopes")]
    Twice(String),
}

impl ServiceAccounts {
    /// Of the values of `--agent-service-account` (`namespace/name`) and `--fleet-service-account` (`namespace/name=tenant,…`
    /// or `namespace/name=*`).
    ///
    /// # Errors
    /// When one of them says something else, or an account is named twice.
    pub fn parse(agents: &[String], fleets: &[String]) -> Result<Self, ServiceAccountError> {
        let agents = agents.iter().map(|account| Ok((account.as_str(), Scope::Agent)));
        let fleets = fleets.iter().map(|flag| {
            let (account, tenants) = flag
                .split_once('=')
                .ok_or_else(|| ServiceAccountError::Tenants(flag.clone()))?;
            let tenants: Tenants =
                tenants_from(tenants, ',').map_err(|error| ServiceAccountError::Name(error.to_string()))?;
            Ok((account, Scope::Fleet(tenants)))
        });
        let mut scopes = BTreeMap::new();
        for each in agents.chain(fleets) {
            let (account, scope) = each?;
            if scopes.insert(username(account)?, scope).is_some() {
                return Err(ServiceAccountError::Twice(account.to_owned()));
            }
        }
        Ok(Self { scopes })
    }
}

fn username(account: &str) -> Result<String, ServiceAccountError> {
    match account.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(format!("{USERNAME_PREFIX}{namespace}:{name}"))
        }
        _ => Err(ServiceAccountError::Account(account.to_owned())),
    }
}

/// Tokens, checked and remembered.
#[derive(Debug)]
pub struct Tokens {
    reviewer: Arc<dyn TokenReviewer>,
    accounts: ServiceAccounts,
    remembered: Mutex<Remembered>,
}

impl Tokens {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(reviewer: Arc<dyn TokenReviewer>, accounts: ServiceAccounts) -> Self {
        Self {
            reviewer,
            accounts,
            remembered: Mutex::default(),
        }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When it is not good, not for us, or of somebody who is given nothing.
    pub async fn authenticate(&self, token: &str, now: SystemTime) -> Result<Identity, Refusal> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(Refusal::Malformed);
        }
        // The token itself is kept nowhere.
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: Key = digest.as_ref().to_vec();
        let remembered = self.remembered().get(&key, now);
        let answer = match remembered {
            Some(answer) => answer,
            None => {
                let answer = self.review(token, now).await;
                if !answer.as_ref().is_err_and(Refusal::is_temporary) {
                    self.remembered().insert(key, answer.clone(), now);
                }
                answer
            }
        };
        answer.and_then(|identity| {
            if identity.expires <= now {
                Err(Refusal::Expired)
            } else {
                Ok(identity)
            }
        })
    }

    async fn review(&self, token: &str, now: SystemTime) -> Result<Identity, Refusal> {
        let reviewed = self.reviewer.review(token, AUDIENCE).await;
        let review = reviewed.map_err(|error| Refusal::ReviewFailed(error.to_string()))?;
        if !review.authenticated {
            return Err(Refusal::Token(review.error));
        }
        // A server that does not know audiences answers without them.
        if !review.audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(Refusal::Token(format!("it is not for the audience {AUDIENCE}")));
        }
        let Some(scope) = self.accounts.scopes.get(&review.username) else {
            return Err(Refusal::Stranger(review.username));
        };
        let Claims { end, node } = claims(token);
        Ok(Identity {
            scope: scope.clone(),
            node: node.filter(|_| *scope == Scope::Agent),
            expires: end.unwrap_or(now + UNLIMITED),
            subject: review.username,
        })
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 of a token.
type Key = Vec<u8>;

#[derive(Debug, Default)]
struct Remembered {
    answers: BTreeMap<Key, (Result<Identity, Refusal>, SystemTime)>,
    /// The same by the time until which they are believed.
    ends: BTreeSet<(SystemTime, Key)>,
}

impl Remembered {
    fn get(&self, key: &Key, now: SystemTime) -> Option<Result<Identity, Refusal>> {
        let (answer, until) = self.answers.get(key)?;
        (*until > now).then(|| answer.clone())
    }

    fn insert(&mut self, key: Key, answer: Result<Identity, Refusal>, now: SystemTime) {
        let time = if answer.is_ok() { REMEMBERED } else { REFUSAL_REMEMBERED };
        self.forget(&key);
        // What ends first makes room, whether or not it has ended.
        while let Some((until, first)) = self.ends.first().cloned() {
            if until > now && self.answers.len() < MAX_REMEMBERED {
                break;
            }
            self.forget(&first);
        }
        self.ends.insert((now + time, key.clone()));
        self.answers.insert(key, (answer, now + time));
    }

    fn forget(&mut self, key: &Key) {
        if let Some((_, until)) = self.answers.remove(key) {
            self.ends.remove(&(until, key.clone()));
        }
    }
}

/// What a token says of itself. It is believed only of a token that was found good.
#[derive(Default)]
struct Claims {
    /// RFC 7519, section 4.1.4.
    end: Option<SystemTime>,
    /// The node of the Pod that the token is bound to, where the API server names it (KEP-4193, Kubernetes 1.32).
    node: Option<String>,
}

fn claims(token: &str) -> Claims {
    #[derive(Deserialize)]
    struct Payload {
        exp: f64,
        #[serde(default, rename = "kubernetes.io")]
        kubernetes: Bound,
    }
    #[derive(Default, Deserialize)]
    struct Bound {
        #[serde(default)]
        node: Option<Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        name: String,
    }
    let payload = token.split('.').nth(1);
    let decoded = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let Some(payload) = decoded.and_then(|bytes| serde_json::from_slice::<Payload>(&bytes).ok()) else {
        return Claims::default();
    };
    Claims {
        end: Duration::try_from_secs_f64(payload.exp)
            .ok()
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
        node: payload.kubernetes.node.map(|node| node.name),
    }
}

#[cfg(test)]
mod tests;
