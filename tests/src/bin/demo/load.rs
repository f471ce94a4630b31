//! New flows all the time, to every service, counted by who answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kubelb_tests::netns::Namespace;
use kubelb_tests::traffic::Transport;
use kubelb_tests::traffic::client::{ask_here, http_get_here};

/// Between two flows to one service.
const PAUSE: Duration = Duration::from_millis(15);
/// What a user would call an outage.
const PATIENCE: Duration = Duration::from_millis(800);

/// What clients dial.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// For people.
    pub(crate) label: String,
    /// VIP and port.
    pub(crate) address: SocketAddr,
    /// How.
    pub(crate) speaks: Speaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Plain(Transport),
}

/// Answers by service and server; an empty server name counts failures.
pub(crate) type Counts = BTreeMap<(usize, String), u64>;

/// Under way until dropped.
pub(crate) struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    pub(crate) fn start(client: &Namespace, services: &[Service]) -> anyhow::Result<Self> {
        let mut load = Self {
            counts: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (index, service) in services.iter().cloned().enumerate() {
            let (counts, stop) = (load.counts.clone(), load.stop.clone());
            load.threads.push(client.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let server = dial(&service).unwrap_or_default();
                    *counts
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .entry((index, server))
                        .or_insert(0) += 1;
                    std::thread::sleep(PAUSE);
                }
            })?);
        }
        Ok(load)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if !matches!(thread.join(), Ok(Ok(()))) {
                eprintln!("warning: a client thread failed");
            }
        }
    }
}

fn dial(service: &Service) -> anyhow::Result<String> {
    match service.speaks {
        Speaks::Http => http_get_here(service.address, "/", PATIENCE).map(|(_, body)| body),
        Speaks::Plain(transport) => ask_here(transport, service.address, "hello", PATIENCE),
    }
}
