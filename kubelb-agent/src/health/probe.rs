//! Asks one backend once: a TCP connect, or an HTTP request.
//!
//! Owns the sockets of checks, their local ports and what counts as an answer. Keeps no state between checks.
//!
//! Sockets are closed with a reset (`SO_LINGER` zero): thousands of checks would otherwise leave tens of thousands of
//! sockets in TIME_WAIT on this node, and entries that linger as long in the connection tracking of the tenant's nodes.
//! Nothing is lost by it, since no payload is on its way when a check ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use tokio::net::{TcpSocket, TcpStream};

use super::local_port::{self, Choice, MAX_BINDS};
use crate::model::{CheckTarget, PortRange, Probe};

/// Largest head of an HTTP response, in bytes; the body is not read.
pub const MAX_RESPONSE_HEAD: usize = 8 * 1024;

/// `IP_LOCAL_PORT_RANGE` of `linux/in.h`; not in the libc crate.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

mod option {
    //! The socket option, in a module of its own for what the macro needs in scope.

    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Lowest port in the low half, highest in the high half. Also at this level for IPv6 sockets.
        LocalPortRange,
        SetOnly,
        libc::IPPROTO_IP,
        super::IP_LOCAL_PORT_RANGE,
        u32
    );
}

/// Where checks may be sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeBind {
    /// Local ports that no check may have: those of translated flows.
    pub exclude: PortRange,
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer within the check's timeout.
    #[error("no answer in time")]
    Timeout,
    /// The backend, or the way to it, refused the connection.
    #[error("connecting")]
    Connect(#[source] io::Error),
    /// This node had no socket, port or memory for the check.
    #[error("preparing a socket on this node")]
    Local(#[source] io::Error),
    /// The path or host cannot be written as a request.
    #[error("building the request")]
    Request(#[source] hyper::http::Error),
    /// The connection broke, or what came is no HTTP response.
    #[error("reading the response")]
    Response(#[source] hyper::Error),
    /// The status is outside of 200 to 399.
    #[error("the response has status {0}")]
    Status(u16),
}

impl ProbeError {
    /// Whether the failure tells nothing about the backend.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Local(_) | Self::Request(_) => true,
            Self::Timeout | Self::Connect(_) | Self::Response(_) | Self::Status(_) => false,
        }
    }

    fn from_connect(error: io::Error) -> Self {
        let local = error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
            [
                Errno::EADDRNOTAVAIL,
                Errno::EADDRINUSE,
                Errno::EMFILE,
                Errno::ENFILE,
                Errno::ENOBUFS,
                Errno::ENOMEM,
            ]
            .contains(&errno)
        });
        if local {
            Self::Local(error)
        } else {
            Self::Connect(error)
        }
    }
}

/// Runs the check of `target` once, within its timeout.
///
/// # Errors
/// When it did not pass.
pub async fn probe(target: &CheckTarget, bind: ProbeBind) -> Result<(), ProbeError> {
    let asked = async {
        let stream = connect(target.address, bind).await?;
        match &target.check.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, host } => http_get(stream, target.address, path, host.as_deref()).await,
        }
    };
    tokio::time::timeout(target.check.timeout, asked)
        .await
        .unwrap_or(Err(ProbeError::Timeout))
}

/// Logs what the present ephemeral range of the host means for checks that may not use `bind.exclude`.
pub(super) fn report_overlap(bind: ProbeBind) {
    let ephemeral = local_port::ephemeral();
    let choice = local_port::choose(ephemeral, bind.exclude);
    if choice != Choice::Kernel {
        tracing::warn!(
            snat_ports = %format_args!("{}-{}", bind.exclude.first(), bind.exclude.last()),
            ephemeral_ports = %format_args!("{}-{}", ephemeral.first(), ephemeral.last()),
            checks = ?choice,
            "net.ipv4.ip_local_port_range overlaps the SNAT ports; checks keep clear of them, other programs of this node \
             may not: move one of the two, or add the ports to net.ipv4.ip_local_reserved_ports"
        );
    }
}

async fn connect(address: SocketAddr, bind: ProbeBind) -> Result<TcpStream, ProbeError> {
    // Read for each check, so that a change of the sysctl needs no restart; procfs does not block.
    let ephemeral = local_port::ephemeral();
    let stream = match local_port::choose(ephemeral, bind.exclude) {
        Choice::Kernel => kernel_bound(address, None).await?,
        Choice::KernelWithin(part) => match kernel_bound(address, Some(part)).await {
            // Before Linux 6.3.
            Err(ProbeError::Local(error)) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                explicitly_bound(address, ephemeral, bind.exclude).await?
            }
            connected => connected?,
        },
        Choice::Explicit => explicitly_bound(address, ephemeral, bind.exclude).await?,
    };
    let local = stream.local_addr().map_err(ProbeError::Local)?;
    if (bind.exclude.first()..=bind.exclude.last()).contains(&local.port()) {
        // The sysctl changed between the two; the next check reads it again.
        return Err(ProbeError::Local(io::Error::other("the kernel gave a SNAT port")));
    }
    if local == address {
        // Nobody listens on an address of this node, and TCP's simultaneous open made the socket its own peer.
        return Err(ProbeError::Connect(io::Error::from(io::ErrorKind::ConnectionRefused)));
    }
    Ok(stream)
}

async fn kernel_bound(address: SocketAddr, within: Option<PortRange>) -> Result<TcpStream, ProbeError> {
    let socket = socket(address).map_err(ProbeError::Local)?;
    if let Some(part) = within {
        let range = u32::from(part.last()) << 16 | u32::from(part.first());
        setsockopt(&socket, option::LocalPortRange, &range).map_err(|errno| ProbeError::Local(errno.into()))?;
    }
    socket.connect(address).await.map_err(ProbeError::from_connect)
}

async fn explicitly_bound(
    address: SocketAddr,
    ephemeral: PortRange,
    exclude: PortRange,
) -> Result<TcpStream, ProbeError> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut last = io::Error::other("every local port is a SNAT port; narrow snat.portRange");
    for _ in 0..MAX_BINDS {
        let Some(port) = local_port::explicit(ephemeral, exclude, |below| fastrand::u32(..below)) else {
            break;
        };
        let socket = socket(address).map_err(ProbeError::Local)?;
        // Another check to another backend may hold the port: connections differ in their peer.
        socket.set_reuseaddr(true).map_err(ProbeError::Local)?;
        if let Err(error) = socket.bind(SocketAddr::new(any, port)) {
            last = error;
            continue;
        }
        match socket.connect(address).await.map_err(ProbeError::from_connect) {
            Err(ProbeError::Local(error)) => last = error,
            connected => return connected,
        }
    }
    Err(ProbeError::Local(last))
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_zero_linger()?;
    Ok(socket)
}

async fn http_get(stream: TcpStream, address: SocketAddr, path: &str, host: Option<&str>) -> Result<(), ProbeError> {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("kubelb-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(ProbeError::Request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ProbeError::Response)?;
    let mut connection = std::pin::pin!(connection);
    let mut response = std::pin::pin!(sender.send_request(request));
    // The connection's future moves the bytes; when it ends first, it has left the outcome with the other one.
    let answered = tokio::select! {
        biased;
        answered = response.as_mut() => answered,
        _ = connection.as_mut() => response.await,
    };
    let status = answered.map_err(ProbeError::Response)?.status().as_u16();
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(ProbeError::Status(status))
    }
}

#[cfg(test)]
mod tests;
