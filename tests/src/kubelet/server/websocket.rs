//! `exec`, `attach` and `portForward` over a WebSocket (KEP-4006): the first byte of a message names its channel.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::session::{Purpose, ROOM, Session, Size, Wanted};

/// Exec and attach: version 5 is version 4 with a way to close one stream.
pub(super) const CHANNELS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Ports that the request names, two channels for each.
pub(super) const PORT_CHANNELS: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Messages that wait for a slow client.
const WAITING: usize = 16;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Clients take a close without a code for a failure.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }))
}

/// Serves one exec or attach.
pub(super) async fn serve(socket: Socket, wanted: Wanted, purpose: Purpose) {
    let (sink, stream) = socket.split();
    let (send, messages) = mpsc::channel(WAITING);
    let writer = tokio::spawn(write(sink, messages));
    let mut outputs = JoinSet::new();
    let mut output = |channel: u8, is_wanted: bool| {
        is_wanted.then(|| {
            let (own, other) = duplex(ROOM);
            outputs.spawn(pump(channel, other, send.clone()));
            own
        })
    };
    let (stdout, stderr, error) = (
        output(STDOUT, wanted.stdout),
        output(STDERR, wanted.stderr),
        output(ERROR, true),
    );
    let (stdin, to_stdin) = wanted.stdin.then(|| duplex(ROOM)).unzip();
    let (sizes, resize) = mpsc::channel(WAITING);
    let reader = tokio::spawn(read(stream, to_stdin, sizes, send.clone()));
    let session = Session {
        stdin,
        stdout,
        stderr,
        error,
        resize: wanted.tty.then_some(resize),
    };
    purpose.run(session).await;
    while outputs.join_next().await.is_some() {}
    // A client that has gone needs no goodbye.
    drop(send.send(goodbye()).await);
    drop(send);
    reader.abort();
    drop(writer.await);
}

async fn write<S>(mut sink: SplitSink<WebSocketStream<S>, Message>, mut messages: mpsc::Receiver<Message>)
where
    S: AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(message) = messages.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

async fn pump(channel: u8, mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Message>) {
    let mut buffer = vec![channel; ROOM];
    while let Some(room) = buffer.get_mut(1..)
        && let Ok(count) = from.read(room).await
        && count > 0
        && let Some(message) = buffer.get(..=count)
    {
        if to.send(Message::Binary(Bytes::copy_from_slice(message))).await.is_err() {
            return;
        }
    }
}

async fn read(
    mut stream: SplitStream<Socket>,
    mut stdin: Option<DuplexStream>,
    sizes: mpsc::Sender<(u16, u16)>,
    send: mpsc::Sender<Message>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(bytes) => {
                drop(send.send(Message::Pong(bytes)).await);
                continue;
            }
            Message::Close(_) => return,
            Message::Pong(_) | Message::Frame(_) => continue,
        };
        match bytes.split_first() {
            Some((&STDIN, data)) => {
                if let Some(open) = &mut stdin
                    && open.write_all(data).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((&CLOSE, [STDIN])) => stdin = None,
            Some((&RESIZE, data)) => {
                if let Ok(size) = serde_json::from_slice::<Size>(data) {
                    sizes.try_send((size.width, size.height)).ok();
                }
            }
            _ => {}
        }
    }
}

/// Serves ports: two channels for each, data and error, which start with the port's number.
pub(super) async fn forward<C>(socket: Socket, ports: Vec<u16>, connect: impl Fn(u16) -> C)
where
    C: Future<Output = std::io::Result<tokio::net::TcpStream>>,
{
    let (sink, mut stream) = socket.split();
    let (send, messages) = mpsc::channel(WAITING);
    let writer = tokio::spawn(write(sink, messages));
    let mut pumps = JoinSet::new();
    let mut inputs = Vec::new();
    for (number, port) in (0_u8..).step_by(2).zip(ports) {
        let [low, high] = port.to_le_bytes();
        for channel in [number, number.saturating_add(1)] {
            drop(
                send.send(Message::Binary(Bytes::copy_from_slice(&[channel, low, high])))
                    .await,
            );
        }
        match connect(port).await {
            Ok(connection) => {
                let (from, to) = connection.into_split();
                pumps.spawn(pump(number, from, send.clone()));
                inputs.push(Some(to));
            }
            Err(error) => {
                let mut message = vec![number.saturating_add(1)];
                message.extend_from_slice(format!("cannot connect to port {port}: {error}").as_bytes());
                drop(send.send(Message::Binary(Bytes::from(message))).await);
                inputs.push(None);
            }
        }
    }
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && let Some((channel, data)) = bytes.split_first()
                && let Some(Some(input)) = inputs.get_mut(usize::from(channel / 2))
                && channel.is_multiple_of(2)
                && input.write_all(data).await.is_err()
            {
                return;
            }
        }
    };
    let all = async { while pumps.join_next().await.is_some() {} };
    tokio::select! {
        () = read => {}
        () = all => {}
    }
    pumps.shutdown().await;
    drop(send.send(goodbye()).await);
    drop(send);
    drop(writer.await);
}
