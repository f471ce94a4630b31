//! Stops a container: its hook, SIGTERM, and SIGKILL when its time is over.

use k8s_openapi::api::core::v1::LifecycleHandler;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::probing::Place;

/// What is needed to stop one container; the worker goes on meanwhile.
pub(super) struct Stop {
    pub(super) place: Place,
    pub(super) pre_stop: Option<LifecycleHandler>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) ended: watch::Receiver<bool>,
    /// May come closer.
    pub(super) deadline: watch::Receiver<Instant>,
}

impl Stop {
    /// Returns what the hook said when it failed, once the container has ended or has been killed.
    pub(super) async fn run(mut self) -> Option<String> {
        let mut failure = None;
        if let Some(hook) = self.pre_stop.take() {
            let (place, mut deadline) = (self.place.clone(), self.deadline.clone());
            tokio::select! {
                result = place.hook(&hook) => failure = result.err(),
                () = over(&mut deadline) => {}
                _ = self.ended.wait_for(|ended| *ended) => return None,
            }
        }
        self.send(Signal::SIGTERM).await;
        let late = tokio::select! {
            () = over(&mut self.deadline) => true,
            _ = self.ended.wait_for(|ended| *ended) => false,
        };
        if late {
            self.send(Signal::SIGKILL).await;
        }
        failure
    }

    async fn send(&self, signal: Signal) {
        // A container that has ended takes none.
        self.signals.send(signal).await.ok();
    }
}

/// Waits for a deadline that may move.
async fn over(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    return sleep_until(at).await;
                }
            }
        }
    }
}
