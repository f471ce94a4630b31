//! Connections to ports inside a Pod.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as Blocking};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(10);

/// Connects to a port on the loopback of the Pod whose namespaces process `sandbox` holds.
pub(super) async fn connect(sandbox: i32, port: u16) -> io::Result<TcpStream> {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own: it enters the namespace, and never comes back.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            let connected = File::open(format!("/proc/{sandbox}/ns/net")).and_then(|namespace| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                let stream =
                    Blocking::connect_timeout(&v4, WITHIN).or_else(|_error| Blocking::connect_timeout(&v6, WITHIN))?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            // Who asked may have gone.
            drop(tell.send(connected));
        })?;
    let stream = told.await.map_err(io::Error::other)??;
    TcpStream::from_std(stream)
}
