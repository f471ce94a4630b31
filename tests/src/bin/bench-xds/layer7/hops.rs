//! Requests through one Envoy, and through two: each has one thread, all of them one CPU, who asks and who answers has the other.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::objects::{VERSION, VIP, host};
use super::world::World;
use super::{PART, Plan};
use crate::hub::WITHIN;
use crate::process;
use crate::report::{Report, float};

const PROXIES: usize = 0;
const OTHERS: usize = 1;
/// Connections that requests come on.
const CONNECTIONS: usize = 32;
/// Where the proxy in front listens.
const FRONT: u16 = 9_000;
const PATIENCE: Duration = Duration::from_secs(10);
/// Before anything counts.
const WARM: Duration = Duration::from_secs(1);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers every request in the same way, on any of its ports, on connections that are kept.
pub(super) struct Backend {
    stop: tokio_util::sync::CancellationToken,
}

impl Backend {
    pub(super) fn start(namespace: &Namespace, ports: Range<u16>) -> anyhow::Result<Self> {
        let listeners = namespace.run(|| {
            ports
                .map(|port| {
                    let listener = std::net::TcpListener::bind(("0.0.0.0", port))?;
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                })
                .collect::<std::io::Result<Vec<_>>>()
        })??;
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || -> anyhow::Result<()> {
            pin(Pid::from_raw(0), OTHERS)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for listener in listeners {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    tokio::spawn(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            tokio::spawn(answer(stream));
                        }
                    });
                }
                stopped.cancelled().await;
                Ok(())
            })
        });
        Ok(Self { stop })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn answer(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 8_192];
    let mut filled = 0;
    loop {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // Requests have no body.
        if buffer.get(..filled).is_some_and(|text| text.ends_with(b"\r\n\r\n")) {
            stream.write_all(ANSWER).await?;
            filled = 0;
        }
    }
}

/// Asks once, on a connection of its own; right is an answer from that version of the route.
pub(super) fn ask_once(to: SocketAddr, host: &str, version: u32) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    // The head only: Envoy leaves the closing to the client for a second.
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().context("no answer")??;
    ensure!(status.starts_with("HTTP/1.1 200 "), "{host} says {status}");
    let wanted = format!("{VERSION}: {version}");
    for line in lines {
        match line? {
            line if line == wanted => return Ok(()),
            line if line.is_empty() => break,
            _ => {}
        }
    }
    anyhow::bail!("{host} answers without `{wanted}`")
}

/// Requests a second, and what all proxies computed for each, in microseconds.
struct Rate {
    rate: f64,
    cost: f64,
}

/// Takes the figures.
pub(super) fn take(world: &World<'_>, version: u32, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let front = Envoy::start(world.namespace(), Setup::default(), &front())?;
    let front_pid = front.pid().context("Envoy runs")?;
    for pid in [world.envoy()?, front_pid] {
        pin_all(pid, PROXIES)?;
    }
    let one = SocketAddr::new(VIP.parse()?, 80);
    let two = SocketAddr::from(([127, 0, 0, 1], FRONT));
    wait::until(WITHIN, || ask_once(two, &host(0), version))?;
    let mut rates: [Vec<Rate>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..plan.turns {
        let [of_one, of_two] = &mut rates;
        of_one.push(ask(world.namespace(), one, &[world.envoy()?], plan.span)?);
        of_two.push(ask(world.namespace(), two, &[world.envoy()?, front_pid], plan.span)?);
    }
    let [one, two] = rates.map(median);
    let (one, two) = (one.context("measured")?, two.context("measured")?);
    report.add(PART, "requests/s through one proxy", one.rate, "/s");
    report.add(PART, "requests/s through two", two.rate, "/s");
    report.add(PART, "a request's CPU time in one proxy", one.cost, "µs");
    report.add(PART, "a request's CPU time in two", two.cost, "µs");
    report
        .add(
            PART,
            "requests/s through one proxy against two",
            one.rate / two.rate,
            "times",
        )
        .at_least(1.5, 1.8);
    Ok(())
}

fn median(mut rates: Vec<Rate>) -> Option<Rate> {
    rates.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = rates.len() / 2;
    rates.into_iter().nth(middle)
}

fn ask(namespace: &Namespace, to: SocketAddr, proxies: &[u32], span: Duration) -> anyhow::Result<Rate> {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        namespace.spawn(move || -> anyhow::Result<()> {
            pin(Pid::from_raw(0), OTHERS)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let clients = (0..CONNECTIONS).map(|_| client(to, &stop, &answered));
                for done in futures_util::future::join_all(clients).await {
                    done?;
                }
                Ok(())
            })
        })?
    };
    wait::pause(WARM);
    let computed = || {
        proxies
            .iter()
            .map(|pid| process::cpu(*pid))
            .sum::<anyhow::Result<Duration>>()
    };
    let (at, before, cpu) = (wait::now(), answered.load(Ordering::Relaxed), computed()?);
    wait::pause(span);
    let (took, after, cpu_after) = (
        wait::now().duration_since(at),
        answered.load(Ordering::Relaxed),
        computed()?,
    );
    stop.store(true, Ordering::Relaxed);
    asking
        .join()
        .map_err(|_panic| anyhow::anyhow!("the client panicked"))???;
    let requests = float(usize::try_from(after - before)?);
    Ok(Rate {
        rate: requests / took.as_secs_f64(),
        cost: (cpu_after - cpu).as_secs_f64() * 1e6 / requests,
    })
}

async fn client(to: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> anyhow::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", host(0));
    let mut buffer = vec![0; 8_192];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(request.as_bytes()).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
            ensure!(read > 0, "the connection was closed");
            filled += read;
            let text = buffer.get(..filled).unwrap_or_default();
            if text.ends_with(b"\r\n\r\nok") {
                ensure!(text.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(text));
                break;
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn pin(thread: Pid, cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(thread, &cpus).context("cannot pin a thread; two CPUs are needed")
}

fn pin_all(process: u32, cpu: usize) -> anyhow::Result<()> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let id: i32 = task?.file_name().to_string_lossy().parse()?;
        pin(Pid::from_raw(id), cpu)?;
    }
    Ok(())
}

/// A proxy in front of ours: everything goes there.
fn front() -> String {
    let address = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let typed = |name: &str, mut config: Value| {
        if let Some(fields) = config.as_object_mut() {
            fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/{name}")));
        }
        config
    };
    let manager = json!({
        "stat_prefix": "front", "use_remote_address": true,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({}))}],
    });
    let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(name, manager)});
    let listener =
        json!({"name": "front", "address": address("127.0.0.1", FRONT), "filter_chains": [{"filters": [filter]}]});
    let endpoint = json!({"endpoint": {"address": address(VIP, 80)}});
    let cluster = json!({"name": "next", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}).to_string()
}
