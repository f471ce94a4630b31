//! The authority of a management cluster: a Secret, of which each manager has a copy in a file, and a ConfigMap with what peers are to trust.
//!
//! Who loses the race to make it takes the winner's. Must not know: what the authority issues.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use kubelb_runtime::error_chain::chain;
use kubelb_runtime::pace::Pace;
use tokio_util::sync::CancellationToken;

use super::authority::{self, Authority, AuthorityError, FILE};
use super::state_dir;

/// Name of the Secret and of the ConfigMap.
pub const NAME: &str = "kubelb-xds-ca";
/// Key of the ConfigMap.
pub const BUNDLE: &str = "ca.crt";
const FIELD_MANAGER: &str = "kubelb-manager";
const RETRY: Duration = Duration::from_secs(2);

/// Why the authority cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server.
    #[error("cannot read or write Secret {NAME}")]
    Api(#[from] kube::Error),
    /// Its content, or the file.
    #[error("Secret {NAME}, key {FILE}")]
    Authority(#[from] AuthorityError),
    /// The Secret has something else.
    #[error(
        "Secret {NAME} has no text under the key {FILE}; put it back, or delete the Secret and all peers' certificates with it"
    )]
    Empty,
}

/// The Secret and its copy.
#[derive(Clone, Debug)]
pub struct Shared {
    secrets: Api<Secret>,
    bundles: Api<ConfigMap>,
    directory: PathBuf,
}

impl Shared {
    /// In the manager's namespace; the copy is in `directory`. Makes nothing yet.
    #[must_use]
    pub fn new(client: &Client, namespace: &str, directory: &Path) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            bundles: Api::namespaced(client.clone(), namespace),
            directory: directory.to_owned(),
        }
    }

    /// Copies the authority, which is made where there is none.
    ///
    /// # Errors
    /// When the API server does not answer or refuses, or the Secret has something else.
    pub async fn fetch(&self, now: SystemTime) -> Result<(), SecretError> {
        let present = match self.secrets.get_opt(NAME).await? {
            Some(present) => present,
            None => self.make(now).await?,
        };
        let text = text_of(&present).ok_or(SecretError::Empty)?;
        self.copy(&text)?;
        Ok(())
    }

    /// Copies the authority as soon as that is possible, or gives up at `shutdown`. What is in the way is told in the log.
    pub async fn await_copy(&self, shutdown: &CancellationToken) {
        loop {
            #[expect(clippy::disallowed_methods, reason = "an authority starts to be valid now")]
            let now = SystemTime::now();
            let Err(error) = self.fetch(now).await else { return };
            let error = chain(&error).to_string();
            tracing::warn!(error, "there is no authority yet; tried again");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn make(&self, now: SystemTime) -> Result<Secret, SecretError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some([(FILE.to_owned(), ByteString(authority::made(now)?.into_bytes()))].into()),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(self.secrets.get(NAME).await?),
            made => Ok(made?),
        }
    }

    /// Puts the copy in its place, if it is an authority.
    fn copy(&self, text: &str) -> Result<Authority, AuthorityError> {
        let authority = Authority::read(text.to_owned(), self.directory.join(FILE))?;
        state_dir::create(&self.directory)?;
        state_dir::replace(&self.directory.join(FILE), text)?;
        Ok(authority)
    }

    /// Keeps the copy up with the Secret, and the ConfigMap with both, until `shutdown`.
    pub async fn follow(self, shutdown: CancellationToken) {
        let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = watcher(self.secrets.clone(), only).backoff(Pace::default()).boxed();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => self.take(&secret, &shutdown).await,
                Some(Ok(Event::Delete(_))) => {
                    tracing::error!(
                        "Secret {NAME} was deleted; peers are served with the copy. Create it again from a backup, or restart every \
                         manager to make a new authority"
                    );
                }
                Some(Ok(Event::Init | Event::InitDone)) => {}
                Some(Err(error)) => {
                    let error = chain(&error).to_string();
                    tracing::warn!(error, "Secret {NAME} is not followed; tried again");
                }
                None => return,
            }
        }
    }

    async fn take(&self, secret: &Secret, shutdown: &CancellationToken) {
        let copied = match text_of(secret) {
            Some(text) => self.copy(&text).map_err(SecretError::from),
            None => Err(SecretError::Empty),
        };
        let authority = match copied {
            Ok(authority) => authority,
            Err(error) => {
                let error = chain(&error).to_string();
                tracing::error!(error, "the last good authority is used");
                return;
            }
        };
        while let Err(error) = self.publish(authority.pem()).await {
            let error = chain(&error).to_string();
            tracing::warn!(error, "ConfigMap {NAME} could not be written; tried again");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Every manager writes the same.
    async fn publish(&self, pem: &str) -> kube::Result<()> {
        let bundle = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some([(BUNDLE.to_owned(), pem.to_owned())].into()),
            ..ConfigMap::default()
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.bundles.patch(NAME, &parameters, &Patch::Apply(&bundle)).await?;
        Ok(())
    }
}

fn text_of(secret: &Secret) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(FILE)?;
    String::from_utf8(bytes.0.clone()).ok()
}
