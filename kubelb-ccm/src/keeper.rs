//! Keeps the credential for the management cluster good: follows its file, renews its token in time, and keeps that where the next start finds it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use kubelb_api::names::KUBECONFIG_KEY;
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::token::Claims;
use serde_json::json;

use crate::args::SecretName;
use crate::credential::Credential;
use crate::route::Route;

/// How often the file is read again: a mounted Secret changes without a sign that every file system gives.
const LOOK: Duration = Duration::from_secs(5);
/// Pause after a token was not given.
const RETRY: Duration = Duration::from_secs(30);
/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(15);
/// Life of a token that is asked for in place of one that never ends.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is known of the credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// When the token ends; `None`: never, or that is not known.
    pub(crate) expires: Option<Timestamp>,
    /// When it was last renewed here.
    pub(crate) renewed: Option<Timestamp>,
    /// What is wrong with it.
    pub(crate) error: Option<String>,
}

/// The credential and who keeps it.
pub(crate) struct Keeper {
    file: PathBuf,
    /// Where the next start finds the token.
    secret: Option<SecretName>,
    renew_after: Option<Duration>,
    tenant: Client,
    management: Client,
    route: Route,
    standing: Arc<RwLock<Standing>>,
    /// The file as it was last read.
    text: String,
    credential: Credential,
    /// No token is asked for before.
    not_before: Timestamp,
}

/// What a keeper starts with.
pub(crate) struct Start {
    pub(crate) file: PathBuf,
    pub(crate) secret: Option<SecretName>,
    pub(crate) renew_after: Option<Duration>,
    pub(crate) tenant: Client,
}

impl Keeper {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not there, or no kubeconfig.
    pub(crate) async fn open(start: Start) -> anyhow::Result<Self> {
        let name = start.file.display().to_string();
        let text = tokio::fs::read_to_string(&start.file)
            .await
            .with_context(|| name.clone())?;
        let credential = Credential::read(&text).with_context(|| name.clone())?;
        let route = Route::open(&credential).await.context(name)?;
        let keeper = Self {
            file: start.file,
            secret: start.secret,
            renew_after: start.renew_after,
            tenant: start.tenant,
            management: route.client("default"),
            route,
            standing: Arc::default(),
            text,
            credential,
            not_before: Timestamp::UNIX_EPOCH,
        };
        keeper.note(|_| {});
        Ok(keeper)
    }

    /// A client with this credential, whatever becomes of it.
    pub(crate) fn client(&self) -> Client {
        self.management.clone()
    }

    pub(crate) fn route(&self) -> Route {
        self.route.clone()
    }

    pub(crate) fn standing(&self) -> Arc<RwLock<Standing>> {
        Arc::clone(&self.standing)
    }

    /// Keeps it for ever.
    pub(crate) async fn keep(mut self) {
        loop {
            let now = Timestamp::now();
            self.follow().await;
            if let Some(claims) = self.credential.claims()
                && claims.renew_at(self.renew_after) <= now
                && self.not_before <= now
            {
                self.renew(&claims, now).await;
            }
            tokio::time::sleep(LOOK.min(self.renew_after.unwrap_or(LOOK))).await;
        }
    }

    /// Takes up what the file says now.
    async fn follow(&mut self) {
        let text = match tokio::fs::read_to_string(&self.file).await {
            Ok(text) if text != self.text => text,
            // A file that is being replaced is there again soon.
            Ok(_) | Err(_) => return,
        };
        let taken = match Credential::read(&text) {
            Ok(new) => {
                let new = self.credential.follow(new);
                self.route.change(&new).await.map(|()| new)
            }
            Err(error) => Err(error.into()),
        };
        self.text = text;
        match taken {
            Ok(new) => {
                tracing::info!(file = %self.file.display(), "the credential for the management cluster was read again");
                self.credential = new;
                self.not_before = Timestamp::UNIX_EPOCH;
                self.note(|standing| standing.error = None);
            }
            Err(error) => {
                let error = format!("{}: {}; the one before is used", self.file.display(), chain(&error));
                tracing::warn!(error, "the credential for the management cluster cannot be read");
                self.note(|standing| standing.error = Some(error));
            }
        }
    }

    async fn renew(&mut self, claims: &Claims, now: Timestamp) {
        self.not_before = now.checked_add(RETRY).unwrap_or(now);
        let token = match self.token(claims).await {
            Ok(token) => token,
            Err(why) => {
                let ends = match claims.expires {
                    Some(expires) if claims.has_expired(now) => format!("it ended at {expires}"),
                    Some(expires) => format!("it ends at {expires}"),
                    None => "it never ends".to_owned(),
                };
                let error = format!("the token cannot be renewed ({ends}): {why}");
                tracing::warn!(error, "the credential for the management cluster");
                self.note(|standing| standing.error = Some(error));
                return;
            }
        };
        let new = self.credential.with_token(&token);
        if let Err(error) = self.route.change(&new).await {
            tracing::warn!(error = %chain(&error), "a new token cannot be used");
            return;
        }
        self.credential = new;
        self.not_before = Timestamp::UNIX_EPOCH;
        let error = self.store().await.err().map(|error| {
            let error = format!("the new token is used, but was not kept for the next start: {error:#}");
            tracing::warn!(error, "the credential for the management cluster");
            error
        });
        tracing::info!("has a new token for the management cluster");
        self.note(|standing| {
            standing.error = error;
            standing.renewed = Some(now);
        });
    }

    async fn token(&self, claims: &Claims) -> Result<String, String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.management.clone(), &claims.namespace);
        let life = claims.life().unwrap_or(LIFETIME);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: i64::try_from(life.as_secs()).ok(),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let asked = accounts.create_token_request(&claims.account, &parameters, &request);
        match tokio::time::timeout(REQUEST_TIME, asked).await {
            Ok(Ok(answer)) => answer
                .status
                .and_then(|status| status.token)
                .filter(|token| !token.is_empty())
                .ok_or_else(|| "the answer has no token".to_owned()),
            Ok(Err(error)) => Err(chain(&error).to_string()),
            Err(_) => Err(format!("no answer within {} s", REQUEST_TIME.as_secs())),
        }
    }

    /// Keeps it for the next start.
    async fn store(&self) -> anyhow::Result<()> {
        let Some(SecretName { namespace, name }) = &self.secret else {
            return Ok(());
        };
        let secrets: Api<Secret> = Api::namespaced(self.tenant.clone(), namespace);
        let patch = json!({"stringData": {KUBECONFIG_KEY: self.credential.to_yaml()?}});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        let writing = secrets.patch(name, &parameters, &patch);
        let written = tokio::time::timeout(REQUEST_TIME, writing)
            .await
            .context("no answer in time")?;
        written.with_context(|| format!("Secret {namespace}/{name}"))?;
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        standing.expires = self.credential.claims().and_then(|claims| claims.expires);
        change(&mut standing);
    }
}
