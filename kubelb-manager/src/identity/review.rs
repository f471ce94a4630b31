//! Asks a Kubernetes API server about tokens (`authentication.k8s.io/v1` TokenReview).
//!
//! Knows the API; what an answer means is decided in [`super::token`].

use std::fmt;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tokio::sync::Semaphore;

use super::token::{Review, ReviewError, Reviewed, TokenReviewer};

/// An API server that takes longer counts as one that is away.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Questions at once: strangers are not to keep the API server busy.
const AT_ONCE: usize = 32;

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The file.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// No file, and no cluster around.
    #[error("there is no API server: name one with --kubeconfig, or run in its cluster")]
    InCluster(#[from] InClusterError),
    /// The client.
    #[error("cannot set up the client of the API server")]
    Client(#[from] kube::Error),
}

/// The API server.
pub struct ApiServer {
    reviews: Api<TokenReview>,
    places: Semaphore,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

/// A client of the kubeconfig's current context, or of the cluster that this runs in. Asks nothing yet.
///
/// # Errors
/// When there is none.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ApiServerError> {
    let config = match kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster()?,
    };
    Ok(Client::try_from(config)?)
}

impl ApiServer {
    /// That of [`client`].
    ///
    /// # Errors
    /// When there is none.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, ApiServerError> {
        Ok(Self {
            reviews: Api::all(client(kubeconfig).await?),
            places: Semaphore::new(AT_ONCE),
        })
    }

    async fn ask(&self, token: &str, audience: &str) -> Result<Review, ReviewError> {
        let asked = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let ask = async {
            let _place = self.places.acquire().await;
            self.reviews.create(&PostParams::default(), &asked).await
        };
        let answered = tokio::time::timeout(TIMEOUT, ask).await;
        let answered = answered.map_err(|_elapsed| ReviewError(format!("no answer within {TIMEOUT:?}")))?;
        let answered = answered.map_err(|error| ReviewError(kubelb_runtime::error_chain::chain(&error).to_string()))?;
        let status = answered.status.unwrap_or_default();
        Ok(Review {
            authenticated: status.authenticated == Some(true),
            username: status.user.and_then(|user| user.username).unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            error: status.error.unwrap_or_default(),
        })
    }
}

impl TokenReviewer for ApiServer {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Reviewed<'a> {
        Box::pin(self.ask(token, audience))
    }
}
