//! A WebSocket whose messages are pieces of one stream of bytes (KEP-4006: port forwarding's SPDY inside a WebSocket).

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::Message;

use super::session::ROOM;
use super::websocket::{Socket, goodbye};

/// Its name in the WebSocket's handshake.
pub(super) const VERSION: &str = "SPDY/3.1+portforward.k8s.io";

/// The stream; dropped, the WebSocket is closed.
pub(super) fn open(socket: Socket) -> DuplexStream {
    let (own, other) = duplex(ROOM);
    let (mut from, mut to) = tokio::io::split(other);
    let (mut sink, mut stream) = socket.split();
    let outgoing = async move {
        let mut buffer = vec![0; ROOM];
        while let Ok(count) = from.read(&mut buffer).await
            && let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty())
        {
            if sink.send(Message::Binary(Bytes::copy_from_slice(bytes))).await.is_err() {
                return;
            }
        }
        // A client that has gone needs no goodbye.
        drop(sink.send(goodbye()).await);
    };
    let incoming = async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if to.write_all(&bytes).await.is_ok() => {}
                Message::Binary(_) | Message::Close(_) => break,
                // A ping is answered by the library.
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        // Who reads may have gone.
        drop(to.shutdown().await);
    };
    tokio::spawn(async move { tokio::join!(outgoing, incoming) });
    own
}
