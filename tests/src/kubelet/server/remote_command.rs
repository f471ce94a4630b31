//! `exec` and `attach` over SPDY: each stream says by a header what it is for.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, BufReader, DuplexStream};
use tokio::sync::mpsc;

use super::super::spdy::Headers;
use super::multiplex::{Connection, Opened};
use super::session::{Purpose, Session, Size, Wanted};

/// The newest over SPDY, in which the error stream ends with a Status.
pub(super) const VERSIONS: [&str; 1] = ["v4.channel.k8s.io"];

/// For a client to open all streams that its request names.
const WITHIN: Duration = Duration::from_secs(30);
/// Sizes of the terminal that wait to be set.
const WAITING: usize = 16;
/// The longest text of one size.
const SIZE_LIMIT: usize = 256;

pub(super) fn is_stream(headers: &Headers) -> bool {
    headers.contains_key("streamtype")
}

/// Serves one exec or attach.
pub(super) async fn serve(mut connection: Connection, wanted: Wanted, purpose: Purpose) {
    let Ok(Some(session)) = tokio::time::timeout(WITHIN, collect(&mut connection, wanted)).await else {
        return;
    };
    connection.refuse_more();
    purpose.run(session).await;
    connection.close().await;
}

/// `None` when the client goes before it has opened all.
async fn collect(connection: &mut Connection, wanted: Wanted) -> Option<Session> {
    let mut session = Session::default();
    while session.error.is_none()
        || session.stdin.is_some() != wanted.stdin
        || session.stdout.is_some() != wanted.stdout
        || session.stderr.is_some() != wanted.stderr
        || session.resize.is_some() != wanted.tty
    {
        let Opened { headers, bytes } = connection.next().await?;
        match headers.get("streamtype").map(String::as_str) {
            Some("error") => session.error = Some(bytes),
            Some("stdin") if wanted.stdin => session.stdin = Some(bytes),
            Some("stdout") if wanted.stdout => session.stdout = Some(bytes),
            Some("stderr") if wanted.stderr => session.stderr = Some(bytes),
            Some("resize") if wanted.tty => {
                let (sizes, resize) = mpsc::channel(WAITING);
                tokio::spawn(read_sizes(bytes, sizes));
                session.resize = Some(resize);
            }
            // Not asked for: it ends here.
            _ => {}
        }
    }
    Some(session)
}

/// JSON objects, one after the other.
async fn read_sizes(from: DuplexStream, to: mpsc::Sender<(u16, u16)>) {
    let mut from = BufReader::new(from);
    let mut text = Vec::new();
    while let Ok(byte) = from.read_u8().await {
        text.push(byte);
        if byte == b'}' {
            if let Ok(Size { width, height }) = serde_json::from_slice(&text)
                && to.send((width, height)).await.is_err()
            {
                return;
            }
            text.clear();
        }
        if text.len() > SIZE_LIMIT {
            return;
        }
    }
}
