//! Somebody who dials an address again and again, and says who answered.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;

/// Between two connections.
const EVERY: Duration = Duration::from_millis(3);
/// For one connection.
const PATIENCE: Duration = Duration::from_millis(900);
/// Connections at a time.
const AT_ONCE: usize = 400;

/// An answer to a connection.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) address: SocketAddr,
    pub(super) name: String,
    /// When the connection was begun.
    pub(super) sent: Instant,
    pub(super) at: Instant,
}

/// See the module. It ends with the process.
pub(super) struct Client {
    wanted: watch::Sender<Option<SocketAddr>>,
    answers: mpsc::Receiver<Answer>,
}

impl Client {
    pub(super) fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        let (wanted, receiver) = watch::channel(None);
        let (sender, answers) = mpsc::channel();
        let work = move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(dial_all(receiver, &sender));
            Ok(())
        };
        drop(namespace.spawn(work).context("cannot start the client")?);
        Ok(Self { wanted, answers })
    }

    /// Dials this from now on.
    pub(super) fn dial(&self, address: Option<SocketAddr>) {
        self.wanted.send_replace(address);
    }

    /// The next answer.
    pub(super) fn answer(&self, deadline: Instant) -> anyhow::Result<Answer> {
        let left = deadline.saturating_duration_since(wait::now());
        self.answers
            .recv_timeout(left)
            .with_context(|| format!("nobody answers at {:?} as wanted", *self.wanted.borrow()))
    }

    /// Answers so far are of no interest.
    pub(super) fn forget(&self) {
        while self.answers.try_recv().is_ok() {}
    }
}

async fn dial_all(mut wanted: watch::Receiver<Option<SocketAddr>>, answers: &mpsc::Sender<Answer>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut turns = tokio::time::interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let address = *wanted.borrow_and_update();
        let Some(address) = address else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let answers = answers.clone();
            tokio::spawn(async move {
                let asked = tokio::time::timeout(PATIENCE, ask(address));
                if let Ok(Ok(answer)) = asked.await {
                    // Nobody may be interested any more.
                    drop(answers.send(answer));
                }
                drop(place);
            });
        }
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<Answer> {
    let sent = wait::now();
    let mut stream = TcpStream::connect(address).await?;
    // Ports are not to run out: the end is a reset, which leaves nothing behind.
    stream.set_zero_linger()?;
    stream.set_nodelay(true)?;
    stream.write_all(b"who\n").await?;
    let mut name = [0; 64];
    let length = stream.read(&mut name).await?;
    let at = wait::now();
    let name = String::from_utf8_lossy(name.get(..length).unwrap_or_default());
    Ok(Answer {
        address,
        name: name.trim_end().to_owned(),
        sent,
        at,
    })
}
