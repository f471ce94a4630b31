//! The way to the management cluster: the next of its addresses when one does not answer, and another credential without a new start.
//!
//! It is the transport below a client, so that whoever uses that knows nothing of it. Watches that run go on when the credential changes.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::Service;

use crate::credential::{Credential, CredentialError};

/// How long one address may take to be connected to, and to begin its answer where there is another one.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The kubeconfig.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// What it refers to.
    #[error("context {context}")]
    Context {
        context: String,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// A client of it.
    #[error("making a client")]
    Client(#[source] Box<kube::Error>),
}

/// The addresses, with one credential.
#[derive(Default)]
struct Way {
    clients: Vec<(String, Client)>,
}

impl Way {
    async fn open(credential: &Credential) -> Result<Self, RouteError> {
        let mut clients = Vec::new();
        for context in credential.contexts() {
            let options = KubeConfigOptions {
                context: Some(context.clone()),
                ..KubeConfigOptions::default()
            };
            let read = Config::from_custom_kubeconfig(credential.kubeconfig()?, &options).await;
            let mut config = read.map_err(|source| RouteError::Context {
                context: context.clone(),
                source: Box::new(source),
            })?;
            config.connect_timeout = Some(PATIENCE);
            let url = config.cluster_url.to_string();
            let client = Client::try_from(config).map_err(|error| RouteError::Client(Box::new(error)))?;
            clients.push((url, client));
        }
        Ok(Self { clients })
    }
}

/// The way, for any number of clients.
#[derive(Clone, Default)]
pub(crate) struct Route {
    way: Arc<RwLock<Arc<Way>>>,
    /// The address that answered last.
    preferred: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Route {
    /// Opens it.
    ///
    /// # Errors
    /// When the credential leads nowhere. That nobody answers is none.
    pub(crate) async fn open(credential: &Credential) -> Result<Self, RouteError> {
        let route = Self::default();
        route.change(credential).await?;
        Ok(route)
    }

    /// Uses another credential from the next request on.
    ///
    /// # Errors
    /// When it leads nowhere; the one before goes on being used.
    pub(crate) async fn change(&self, credential: &Credential) -> Result<(), RouteError> {
        let way = Arc::new(Way::open(credential).await?);
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = way;
        Ok(())
    }

    /// A client that goes this way.
    pub(crate) fn client(&self, namespace: &str) -> Client {
        Client::new(self.clone(), namespace)
    }

    fn way(&self) -> Arc<Way> {
        Arc::clone(&self.way.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address that is asked first.
    pub(crate) fn address(&self) -> String {
        let way = self.way();
        let index = self.preferred.load(Ordering::Relaxed) % way.clients.len().max(1);
        way.clients.get(index).map(|(url, _)| url.clone()).unwrap_or_default()
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let way = self.way();
        let count = way.clients.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let (parts, mut body) = request.into_parts();
        for step in 0..count {
            let index = first.wrapping_add(step) % count;
            let Some((url, client)) = way.clients.get(index) else {
                break;
            };
            // The last one is waited for, and gets the body itself.
            let again = if step.saturating_add(1) < count {
                body.try_clone()
            } else {
                None
            };
            let request = Request::from_parts(parts.clone(), std::mem::replace(&mut body, Body::empty()));
            let Some(again) = again else {
                let answer = client.send(request).await;
                if answer.is_ok() {
                    self.preferred.store(index, Ordering::Relaxed);
                }
                return answer;
            };
            match tokio::time::timeout(PATIENCE, client.send(request)).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => {
                    let error = kubelb_runtime::error_chain::chain(&error).to_string();
                    tracing::debug!(url, error, "does not answer; the next address is asked");
                }
                Err(_) => tracing::debug!(url, "takes too long; the next address is asked"),
            }
            body = again;
        }
        Err(kube::Error::Service("the kubeconfig names no address".into()))
    }
}

impl Service<Request<Body>> for Route {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, kube::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}
