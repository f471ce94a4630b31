//! Clients that open one flow for each question.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::Pid;

use super::{Transport, name_in};
use crate::netns::Namespace;

/// Longest wait for an answer. Long enough for a retransmission on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Opens one flow to `to`, says something and returns the name of the server that answered.
///
/// # Errors
/// When nobody answers in time, or the answer is not one to what was said.
pub fn ask(from: &Namespace, transport: Transport, to: SocketAddr) -> anyhow::Result<String> {
    from.run(|| ask_here(transport, to, "hello", PATIENCE))?
}

/// Opens `flows` flows one after the other on each CPU that this process may use, all CPUs at once, and counts the
/// answers by server.
///
/// # Errors
/// With the first flow that isn't answered.
pub fn ask_many(
    from: &Namespace,
    transport: Transport,
    to: SocketAddr,
    flows: usize,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot read this thread's CPU affinity")?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .map(|cpu| scope.spawn(move || from.run(|| flows_on(*cpu, transport, to, flows))?))
            .collect();
        let mut total = BTreeMap::new();
        for thread in threads {
            let counts = match thread.join() {
                Ok(counts) => counts?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            for (name, count) in counts {
                *total.entry(name).or_insert(0) += count;
            }
        }
        Ok(total)
    })
}

/// `GET path` from `to`, on a connection of its own; status and body.
///
/// # Errors
/// When the answer does not come in time or is not HTTP.
pub fn http_get(from: &Namespace, to: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    from.run(|| http_get_here(to, path, PATIENCE))?
}

/// Sends an echo request with `size` bytes of data to `to` and waits for its reply, which must bring them back.
///
/// # Errors
/// When it doesn't come, or is another one.
pub fn ping(from: &Namespace, to: IpAddr, size: usize) -> anyhow::Result<()> {
    // Lets a datagram socket speak ICMP (icmp(7)): the kernel fills in identifier and checksum, and checks the reply's.
    from.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
    let received = from
        .run(|| echo(to, &sent))?
        .with_context(|| format!("{to} does not answer to {size} bytes"))?;
    ensure!(received == sent, "{to} answered with other data to {size} bytes");
    Ok(())
}

/// Expects that `to` refuses a new flow: a reset for TCP, port unreachable for UDP.
///
/// # Errors
/// When it is served, or nothing comes back.
pub fn expect_refused(from: &Namespace, transport: Transport, to: SocketAddr) -> anyhow::Result<()> {
    match ask(from, transport, to) {
        Ok(name) => bail!("{to} was served by {name}"),
        Err(error) => {
            let refused = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
                .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused);
            ensure!(refused, "{to} was not refused, but: {error:#}");
            Ok(())
        }
    }
}

/// Like [`ask`], in the network namespace of the calling thread and with a patience of the caller's own.
///
/// # Errors
/// See there.
pub fn ask_here(transport: Transport, to: SocketAddr, said: &str, patience: Duration) -> anyhow::Result<String> {
    let answer = match transport {
        Transport::Tcp => tcp(to, said, patience),
        Transport::Udp => udp(to, said, patience),
    }
    .with_context(|| format!("no answer from {to} over {transport:?}"))?;
    let name = name_in(&answer, said).with_context(|| format!("{to} answered {answer:?} to {said:?}"))?;
    Ok(name.to_owned())
}

/// Like [`http_get`], in the network namespace of the calling thread and with a patience of the caller's own.
///
/// # Errors
/// See there.
pub fn http_get_here(to: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, patience).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .with_context(|| format!("no answer from {to}"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("the answer has no status")?, body.to_owned()))
}

fn flows_on(cpu: usize, transport: Transport, to: SocketAddr, flows: usize) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut only = CpuSet::new();
    only.set(cpu).context("no such CPU")?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("cannot move to CPU {cpu}"))?;
    let mut counts = BTreeMap::new();
    for number in 0..flows {
        let name = ask_here(transport, to, &format!("{cpu}-{number}"), PATIENCE)
            .with_context(|| format!("flow {number} of {flows} on CPU {cpu}"))?;
        *counts.entry(name).or_insert(0) += 1;
    }
    Ok(counts)
}

fn tcp(to: SocketAddr, said: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{said}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

fn udp(to: SocketAddr, said: &str, patience: Duration) -> std::io::Result<String> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = fresh_udp_port(any)?;
    // Connected, so that ICMP errors are reported and answers of strangers are not taken.
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(said.as_bytes())?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

fn echo(to: IpAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    const HEADER: usize = 8;
    let (family, protocol, request) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    // It sends and receives like any datagram socket; ports mean nothing to it.
    let socket = UdpSocket::from(socket);
    socket.connect((to, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut message = vec![0; HEADER];
    if let Some(kind) = message.first_mut() {
        *kind = request;
    }
    message.extend(data);
    socket.send(&message)?;
    let mut reply = vec![0; 65_536];
    let length = socket.recv(&mut reply)?;
    Ok(reply.get(HEADER..length).unwrap_or_default().to_vec())
}

/// Binds to a port that this process has not used before: the kernel picks at random, and what came from a port a moment
/// ago is the same flow to a load balancer.
fn fresh_udp_port(any: IpAddr) -> std::io::Result<UdpSocket> {
    static NEXT: AtomicU16 = AtomicU16::new(1_024);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed).max(1_024);
        match UdpSocket::bind((any, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}
