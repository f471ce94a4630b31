//! An agent as managers see it: its own stream and reports, without a data path.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use kubelb_agent::feedback::Feedback;
use kubelb_agent::model::Snat;
use kubelb_agent::source::xds::stream::{Credential, Manager, Settings, watch};
use kubelb_tests::manager;
use tokio_util::sync::CancellationToken;

/// An agent of a node. It ends in good order when it is dropped.
pub(crate) struct Node {
    stop: CancellationToken,
    orders: tokio::sync::mpsc::UnboundedSender<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts one for managers at these addresses, with a certificate of the authority whose copy is in `state`.
    pub(crate) fn start(name: &str, managers: &[SocketAddr], state: &Path) -> Self {
        let words = manager::agent_flags(name, managers, state).unwrap();
        let file = |flag: &str| PathBuf::from(&words[words.iter().position(|word| word == flag).unwrap() + 1]);
        let managers = managers.iter().map(|address| Manager {
            url: format!("https://{address}"),
            ca: Some(file("--xds-ca")),
            credential: Credential::Certificate {
                chain: file("--xds-cert"),
                key: file("--xds-key"),
            },
        });
        let settings = Settings {
            managers: managers.collect(),
            node: name.to_owned(),
            state_dir: None,
            snat: Snat::default(),
        };
        let (orders, mut received) = tokio::sync::mpsc::unbounded_channel::<mpsc::Receiver<()>>();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (_state, state) = tokio::sync::watch::channel(None);
                let feedback = Feedback {
                    state,
                    traffic: Arc::new(BTreeMap::new),
                };
                let (mut updates, _standing) = watch(settings, feedback, token.clone());
                loop {
                    tokio::select! {
                        () = token.cancelled() => return,
                        update = updates.recv() => if update.is_none() { return },
                        // Nothing else runs on this thread meanwhile.
                        order = received.recv() => if let Some(until) = order {
                            // Ends by an error, for nothing is ever sent.
                            assert!(until.recv().is_err());
                        },
                    }
                }
            });
        });
        Self {
            stop,
            orders,
            thread: Some(thread),
        }
    }

    /// As SIGSTOP does, until the answer is dropped: its connections stay open, and nothing is said on them.
    pub(crate) fn freeze(&self) -> mpsc::Sender<()> {
        let (sender, receiver) = mpsc::channel();
        self.orders.send(receiver).unwrap();
        sender
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
