//! Ctrl-C and SIGTERM end the demonstration in order, so that nothing stays behind.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kubelb_tests::{netns, wait};
use tokio::signal::unix::{SignalKind, signal};

/// A step that does not notice an interrupt for so long is not waited for, nor is a cluster that takes so long to end.
const GRACE: Duration = Duration::from_secs(20);

/// Says whether one of the signals has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Starts to listen.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let (mut interrupted, mut terminated) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).context("cannot listen for signals");
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
        };
        let shared = interrupt.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupted.recv() => {}
                    _ = terminated.recv() => {}
                }
            });
            let (flag, changed) = &*shared.0;
            *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
            // The end in order takes this process with it.
            wait::pause(GRACE);
            if let Err(error) = netns::remove_own() {
                eprintln!("error: {error:#}");
            }
            std::process::exit(130);
        });
        Ok(interrupt)
    }

    /// An error once it was interrupted.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.pause(Duration::ZERO)
    }

    /// Waits; an error when interrupted meanwhile.
    pub(crate) fn pause(&self, time: Duration) -> anyhow::Result<()> {
        let (flag, changed) = &*self.0;
        let flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (flag, _) = changed
            .wait_timeout_while(flag, time, |interrupted| !*interrupted)
            .unwrap_or_else(PoisonError::into_inner);
        if *flag {
            bail!("interrupted; everything is removed");
        }
        Ok(())
    }

    /// Waits for the signal.
    pub(crate) fn wait(&self) {
        let (flag, changed) = &*self.0;
        let flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(flag, |interrupted| !*interrupted));
    }
}
