use super::*;

/// The client's side.
struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
}

/// A server that serves all streams but those that name a color.
fn connected() -> (Client, Connection) {
    let (io, other) = duplex(1 << 20);
    let connection = Connection::start(other, |headers| !headers.contains_key("color")).unwrap();
    let client = Client {
        io,
        encoder: Encoder::new().unwrap(),
        decoder: Decoder::new(),
    };
    (client, connection)
}

impl Client {
    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out).unwrap();
        self.io.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, stream: u32, name: &str) {
        let headers = Headers::from([(name.to_owned(), "x".to_owned())]);
        let fin = false;
        self.send(Frame::SynStream { stream, fin, headers }).await;
    }

    async fn write(&mut self, stream: u32, fin: bool, bytes: &'static [u8]) {
        let bytes = Bytes::from_static(bytes);
        self.send(Frame::Data { stream, fin, bytes }).await;
    }

    /// The next frame in short; `None` at the end of the connection.
    async fn next(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(match frame {
                    Frame::SynReply { stream, .. } => format!("{stream} accepted"),
                    Frame::Data { stream, fin, bytes } => {
                        let end = if fin { " end" } else { "" };
                        format!("{stream} {:?}{end}", String::from_utf8_lossy(&bytes))
                    }
                    Frame::SynStream { .. } | Frame::Reset { .. } | Frame::Ping { .. } | Frame::GoAway { .. } => {
                        format!("{frame:?}")
                    }
                });
            }
            match self.io.read(&mut buffer).await.unwrap() {
                0 => return None,
                count => self.decoder.feed(&buffer[..count]),
            }
        }
    }

    async fn expect(&mut self, frame: &str) {
        assert_eq!(self.next().await.as_deref(), Some(frame));
    }
}

#[tokio::test]
async fn both_directions_of_a_stream_end_by_themselves() {
    let (mut client, mut connection) = connected();
    client.open(1, "name").await;
    let mut stream = connection.next().await.unwrap();
    assert_eq!(stream.headers["name"], "x");
    client.expect("1 accepted").await;
    client.write(1, false, b"he").await;
    client.write(1, true, b"llo").await;
    let mut text = String::new();
    stream.bytes.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    stream.bytes.write_all(b"hi").await.unwrap();
    client.expect("1 \"hi\"").await;
    drop(stream);
    client.expect("1 \"\" end").await;
}

#[tokio::test]
async fn pings_are_answered_and_what_cannot_be_served_is_refused() {
    let (mut client, mut connection) = connected();
    client.send(Frame::Ping { id: 7 }).await;
    client.expect("Ping { id: 7 }").await;
    client.open(5, "color").await;
    client.expect("Reset { stream: 5, status: 3 }").await;
    // Ids go up, and a client's are odd.
    for stream in [5, 3, 8] {
        client.open(stream, "name").await;
        client.expect(&format!("Reset {{ stream: {stream}, status: 1 }}")).await;
    }
    connection.refuse_more();
    client.open(9, "name").await;
    client.expect("Reset { stream: 9, status: 3 }").await;
}

#[tokio::test]
async fn streams_are_bounded_and_those_that_ended_make_room() {
    let (mut client, mut connection) = connected();
    let last = 2 * u32::try_from(STREAMS).unwrap() + 1;
    let mut open = Vec::new();
    for stream in (1..last).step_by(2) {
        client.open(stream, "name").await;
        open.push(connection.next().await.unwrap());
        client.expect(&format!("{stream} accepted")).await;
    }
    client.open(last, "name").await;
    client.expect(&format!("Reset {{ stream: {last}, status: 3 }}")).await;
    client
        .send(Frame::Reset {
            stream: 1,
            status: CANCEL,
        })
        .await;
    client.open(last + 2, "name").await;
    client.expect(&format!("{} accepted", last + 2)).await;
    let mut rest = Vec::new();
    open[0].bytes.read_to_end(&mut rest).await.unwrap();
    assert!(open[0].bytes.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn all_is_said_before_goodbye() {
    let (mut client, mut connection) = connected();
    client.open(1, "name").await;
    let mut stream = connection.next().await.unwrap();
    client.expect("1 accepted").await;
    stream.bytes.write_all(b"last words").await.unwrap();
    drop(stream);
    let closing = tokio::spawn(connection.close());
    client.expect("1 \"last words\"").await;
    client.expect("1 \"\" end").await;
    client.expect("GoAway { last_good: 1, status: 0 }").await;
    let (last_good, status) = (0, 0);
    client.send(Frame::GoAway { last_good, status }).await;
    closing.await.unwrap();
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn streams_end_with_a_client_that_goes_or_talks_nonsense() {
    for nonsense in [&b""[..], b"GET / HTTP/1.1\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff"] {
        let (mut client, mut connection) = connected();
        client.open(1, "name").await;
        let mut stream = connection.next().await.unwrap();
        client.io.write_all(nonsense).await.unwrap();
        client.io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.bytes.read_to_end(&mut rest).await.unwrap();
        assert!(connection.next().await.is_none());
    }
}
