//! Flows that stay open and talk all the time, to notice what a change does to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::client::PATIENCE;
use super::{Transport, name_in};
use crate::netns::Namespace;
use crate::wait;

/// A question over UDP without an answer is asked again after this time.
const RESEND: Duration = Duration::from_millis(500);
/// Pause of a flow between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(20);

/// A set of open flows in a client's namespace, all to one address. Ends them on drop.
#[derive(Debug)]
pub struct Conversations {
    ledger: Arc<Mutex<Ledger>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Flows by the server that answers them.
    pub servers: BTreeMap<String, usize>,
    /// Questions answered, over all flows.
    pub exchanges: u64,
    /// Questions over UDP that were asked again, as every protocol on top of it does.
    pub resent: u64,
    /// The longest that any question had to wait.
    pub slowest: Duration,
    /// One line for each flow that failed: reset, timed out, or answered by another server than before.
    pub failures: Vec<String>,
}

impl Conversations {
    /// Opens `flows` flows to `to` and returns when each has had its first answer.
    ///
    /// # Errors
    /// When one of them can't be opened.
    pub fn open(from: &Namespace, transport: Transport, to: SocketAddr, flows: usize) -> anyhow::Result<Self> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = CancellationToken::new();
        let (ready, opened) = mpsc::sync_channel(1);
        let talk = {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("cannot start a runtime")?;
                runtime.block_on(talk_all(transport, to, flows, ledger, stop, ready))
            }
        };
        let inner = from.spawn(talk)?;
        let thread = std::thread::spawn(move || inner.join().map_err(|_panic| anyhow!("the client panicked"))??);
        let conversations = Self {
            ledger,
            stop,
            thread: Some(thread),
        };
        match opened.recv() {
            Ok(()) => Ok(conversations),
            Err(mpsc::RecvError) => {
                let ended = conversations.finish();
                Err(ended
                    .err()
                    .unwrap_or_else(|| anyhow!("the flows ended before they were open")))
                .with_context(|| format!("cannot open {flows} flows to {to} over {transport:?}"))
            }
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until each flow has, on average, been answered `rounds` times more: proof of life after a change.
    ///
    /// # Errors
    /// When a flow fails, or it takes longer than a failing flow takes to be noticed.
    pub fn keep_talking(&self, rounds: u64) -> anyhow::Result<()> {
        let start = self.ledger();
        let flows: usize = start.servers.values().sum();
        let goal = start.exchanges + rounds * u64::try_from(flows).unwrap_or(u64::MAX);
        let patience = PATIENCE * 2 + PAUSE * u32::try_from(rounds).unwrap_or(u32::MAX);
        let (now, _) = wait::until(patience, || {
            let now = self.ledger();
            if now.exchanges >= goal || !now.failures.is_empty() {
                return Ok(now);
            }
            Err(anyhow!(
                "the flows fell silent after {} of {goal} exchanges",
                now.exchanges
            ))
        })?;
        ensure!(
            now.failures.is_empty(),
            "{} flows failed: {:#?}",
            now.failures.len(),
            now.failures
        );
        Ok(())
    }

    /// Closes the flows in good order and returns what happened.
    ///
    /// # Errors
    /// When they could not be opened.
    pub fn finish(mut self) -> anyhow::Result<Ledger> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(_panic)) => return Err(anyhow!("the client panicked")),
            None => {}
        }
        Ok(self.ledger())
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("warning: a set of flows had failed: {error:#}");
        }
    }
}

async fn talk_all(
    transport: Transport,
    to: SocketAddr,
    flows: usize,
    ledger: Arc<Mutex<Ledger>>,
    stop: CancellationToken,
    ready: mpsc::SyncSender<()>,
) -> anyhow::Result<()> {
    let mut open = Vec::new();
    for number in 0..flows {
        let mut flow = Flow::open(transport, to, number).await?;
        let server = flow.exchange().await.with_context(|| format!("flow {number}"))?;
        flow.server.clone_from(&server);
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        *ledger.servers.entry(server).or_insert(0) += 1;
        ledger.exchanges += 1;
        drop(ledger);
        open.push(flow);
    }
    ready.send(()).context("nobody waits for the flows")?;
    let mut tasks = tokio::task::JoinSet::new();
    for flow in open {
        tasks.spawn(talk(flow, ledger.clone(), stop.clone()));
    }
    while let Some(task) = tasks.join_next().await {
        task.context("a flow panicked")?;
    }
    Ok(())
}

async fn talk(mut flow: Flow, ledger: Arc<Mutex<Ledger>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let asked = wait::now();
        let result = flow.exchange().await;
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.slowest = ledger.slowest.max(wait::now() - asked);
        ledger.resent += std::mem::take(&mut flow.resent);
        match result {
            Ok(server) if server == flow.server => ledger.exchanges += 1,
            Ok(server) => {
                ledger
                    .failures
                    .push(format!("flow {}: moved from {} to {server}", flow.number, flow.server));
                return;
            }
            Err(error) => {
                ledger
                    .failures
                    .push(format!("flow {} to {}: {error:#}", flow.number, flow.server));
                return;
            }
        }
    }
}

struct Flow {
    number: usize,
    server: String,
    said: u64,
    resent: u64,
    socket: Socket,
}

enum Socket {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Flow {
    async fn open(transport: Transport, to: SocketAddr, number: usize) -> anyhow::Result<Self> {
        let connect = async {
            match transport {
                Transport::Tcp => {
                    let stream = TcpStream::connect(to).await?;
                    stream.set_nodelay(true)?;
                    std::io::Result::Ok(Socket::Tcp(BufReader::new(stream)))
                }
                Transport::Udp => {
                    let socket = match to {
                        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
                        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?,
                    };
                    socket.connect(to).await?;
                    Ok(Socket::Udp(socket))
                }
            }
        };
        let socket = tokio::time::timeout(PATIENCE, connect)
            .await
            .with_context(|| format!("flow {number} was not connected within {PATIENCE:?}"))?
            .with_context(|| format!("cannot connect flow {number}"))?;
        Ok(Self {
            number,
            server: String::new(),
            said: 0,
            resent: 0,
            socket,
        })
    }

    /// Says something new and returns the name of the server that repeated it.
    async fn exchange(&mut self) -> anyhow::Result<String> {
        self.said += 1;
        let said = format!("{}-{}", self.number, self.said);
        let answer = tokio::time::timeout(PATIENCE, self.socket.ask(&said, &mut self.resent))
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))??;
        let name = name_in(&answer, &said).with_context(|| format!("answered {answer:?} to {said:?}"))?;
        Ok(name.to_owned())
    }
}

impl Socket {
    async fn ask(&mut self, said: &str, resent: &mut u64) -> std::io::Result<String> {
        match self {
            Self::Tcp(stream) => {
                stream.get_mut().write_all(format!("{said}\n").as_bytes()).await?;
                let mut answer = String::new();
                if stream.read_line(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                Ok(answer)
            }
            Self::Udp(socket) => loop {
                socket.send(said.as_bytes()).await?;
                let mut buffer = vec![0; 2_048];
                match tokio::time::timeout(RESEND, socket.recv(&mut buffer)).await {
                    Ok(length) => {
                        buffer.truncate(length?);
                        let answer = String::from_utf8_lossy(&buffer).into_owned();
                        // What is not to this question is a late answer to one that was asked twice.
                        if name_in(&answer, said).is_some() {
                            return Ok(answer);
                        }
                    }
                    Err(_elapsed) => *resent += 1,
                }
            },
        }
    }
}
