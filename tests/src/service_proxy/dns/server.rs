//! The sockets of the cluster's DNS: UDP and TCP on port 53 of each of its addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{Zone, answer};

const PORT: u16 = 53;
/// Connections at once; more wait.
const CONNECTIONS: usize = 64;
/// A connection on which nothing is asked for this long is ended.
const IDLE: Duration = Duration::from_secs(10);

/// Answers on `address` as long as the tasks run.
///
/// # Errors
/// When the address is not there or its port is taken.
pub(crate) async fn serve(
    address: IpAddr,
    zone: watch::Receiver<Arc<Zone>>,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    let at = SocketAddr::new(address, PORT);
    let datagrams = UdpSocket::bind(at).await?;
    let connections = TcpListener::bind(at).await?;
    tasks.spawn(serve_datagrams(datagrams, zone.clone()));
    tasks.spawn(serve_connections(connections, zone));
    Ok(())
}

async fn serve_datagrams(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        // An error here is of an earlier answer: its client is gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let question = buffer.get(..length).unwrap_or_default();
        let answered = answer(&zone.borrow(), question, true);
        if let Some(bytes) = answered {
            drop(socket.send_to(&bytes, client).await);
        }
    }
}

async fn serve_connections(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let zone = zone.clone();
        tokio::spawn(async move {
            // A client that breaks off is nobody's error.
            drop(serve_connection(stream, zone).await);
            drop(place);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        let answered = answer(&zone.borrow(), &question, false);
        let Some(bytes) = answered else {
            return Ok(());
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[length.to_be_bytes().as_slice(), &bytes].concat())
            .await?;
    }
}
