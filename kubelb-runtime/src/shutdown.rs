//! Turns SIGTERM and SIGINT into one token that every task can wait for, and waits for all tasks.
//!
//! Owns the signal handlers; what shutting down means is up to whoever holds the token.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// A task has not come to an end of its own.
#[derive(Debug, thiserror::Error)]
#[error("a task panicked")]
pub struct Panicked(#[source] JoinError);

/// Installs the handlers and returns the token that the first SIGTERM or SIGINT cancels. Later ones are ignored, so that
/// an impatient supervisor cannot cut an orderly end short; SIGKILL still can.
///
/// # Errors
/// When a handler cannot be installed.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn on_signals() -> io::Result<CancellationToken> {
    let terminate = signal(SignalKind::terminate())?;
    let interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    tokio::spawn(wait(terminate, interrupt, token.clone()));
    Ok(token)
}

async fn wait(mut terminate: Signal, mut interrupt: Signal, token: CancellationToken) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = token.cancelled() => return,
    };
    tracing::info!(signal = name, "shutting down");
    token.cancel();
}

/// Waits until all tasks have ended. Whichever is the first, the program ends as a whole: `shutdown` is cancelled.
///
/// # Errors
/// The first of theirs.
pub async fn ended<E>(mut tasks: JoinSet<Result<(), E>>, shutdown: &CancellationToken) -> Result<(), E>
where
    E: From<Panicked> + 'static,
{
    let mut result = Ok(());
    while let Some(done) = tasks.join_next().await {
        result = result.and(done.map_err(|error| Panicked(error).into()).flatten());
        shutdown.cancel();
    }
    result
}
