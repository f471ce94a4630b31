//! Waiting for what there may be none of, as a branch of a `select!`.

use std::future::Future;

/// What the future comes to; without one, nothing ever.
pub async fn or_never<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
