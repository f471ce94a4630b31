//! Requests over HTTP/1.1, with or without TLS, one after the other on connections that are kept, until told to stop: every answer is counted.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};

use super::Trust;
use crate::netns::Namespace;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running load.
#[derive(Debug)]
pub struct HttpLoad {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<Tally>>>,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers by status and body.
    pub answers: BTreeMap<(u16, String), u64>,
    /// Requests without an answer, by error.
    pub broken: BTreeMap<String, u64>,
}

impl Tally {
    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.broken.values().sum::<u64>()
    }

    /// Those that were answered with 200.
    #[must_use]
    pub fn good(&self) -> u64 {
        let good = self.answers.iter().filter(|((status, _), _)| *status == 200);
        good.map(|(_, many)| *many).sum()
    }

    /// Fails unless every request was answered with 200.
    ///
    /// # Errors
    /// With what came instead.
    pub fn all_good(&self) -> anyhow::Result<()> {
        ensure!(self.good() == self.total(), "of {} requests: {self:?}", self.total());
        Ok(())
    }
}

impl HttpLoad {
    /// Starts `connections` clients in `namespace` that ask `to` for `host`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(namespace: &Namespace, to: SocketAddr, host: &str, connections: usize) -> anyhow::Result<Self> {
        Self::with(namespace, to, host, None, connections)
    }

    /// The same over TLS, from who can show the trusted certificate for `host`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_tls(
        namespace: &Namespace,
        to: SocketAddr,
        host: &str,
        trust: &Trust,
        connections: usize,
    ) -> anyhow::Result<Self> {
        Self::with(namespace, to, host, Some(trust), connections)
    }

    fn with(
        namespace: &Namespace,
        to: SocketAddr,
        host: &str,
        trust: Option<&Trust>,
        connections: usize,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (stop, sent, host) = (Arc::clone(&stop), Arc::clone(&sent), host.to_owned());
            let trust = trust.cloned();
            namespace.spawn(move || ask_until(&stop, &sent, to, &host, trust.as_ref()))
        };
        let threads = (0..connections).map(client).collect::<anyhow::Result<_>>()?;
        Ok(Self { stop, sent, threads })
    }

    /// Waits until so many more requests have been answered.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn until_more(&self, requests: u64) -> anyhow::Result<()> {
        let wanted = self.sent.load(Ordering::Relaxed) + requests;
        wait::until(PATIENCE * 3, || {
            ensure!(
                self.sent.load(Ordering::Relaxed) >= wanted,
                "no more requests are answered"
            );
            Ok(())
        })
        .map(drop)
    }

    /// Stops it; what all clients got together.
    ///
    /// # Errors
    /// When a client panicked.
    pub fn finish(mut self) -> anyhow::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for thread in std::mem::take(&mut self.threads) {
            let tally = thread.join().map_err(|_panic| anyhow!("a client panicked"))??;
            for (answer, many) in tally.answers {
                *total.answers.entry(answer).or_default() += many;
            }
            for (error, many) in tally.broken {
                *total.broken.entry(error).or_default() += many;
            }
        }
        Ok(total)
    }
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A kept connection.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

type Connection = BufReader<Box<dyn Stream>>;

fn ask_until(stop: &AtomicBool, sent: &AtomicU64, to: SocketAddr, host: &str, trust: Option<&Trust>) -> Tally {
    let mut tally = Tally::default();
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        match ask(&mut connection, to, host, trust) {
            Ok(answer) => *tally.answers.entry(answer).or_default() += 1,
            Err(error) => {
                connection = None;
                *tally.broken.entry(format!("{error:#}")).or_default() += 1;
            }
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

fn connect(to: SocketAddr, host: &str, trust: Option<&Trust>) -> anyhow::Result<Box<dyn Stream>> {
    if let Some(trust) = trust {
        return Ok(Box::new(trust.connect(to, host)?));
    }
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("cannot connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

fn ask(
    connection: &mut Option<Connection>,
    to: SocketAddr,
    host: &str,
    trust: Option<&Trust>,
) -> anyhow::Result<(u16, String)> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(BufReader::new(connect(to, host, trust)?)),
    };
    stream
        .get_mut()
        .write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("the connection was closed")?.parse()?;
    let (mut length, mut close) = (0, false);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
        close |= name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if close {
        *connection = None;
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
