//! A gRPC response body made of bytes that are shared: nothing is encoded or copied per peer but frames of a bounded size.
//!
//! Knows gRPC's framing (length-prefixed messages, a status in the trailers) and nothing of xDS.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that wait for a slow reader. A session has one response in flight for each type, so that more are never needed.
pub(super) const QUEUE: usize = 16;
/// Small pieces are joined up to about this size, in bytes; larger ones are passed on as they are.
const FRAME: usize = 16 * 1024;
/// Not compressed, and 4 bytes of length.
const PREFIX: usize = 5;

/// The sending end.
#[derive(Debug)]
pub(super) struct Responses {
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Message(Vec<Bytes>),
    End(Box<Status>),
}

/// The peer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Responses {
    /// Room for one message; waits while the peer is slow.
    pub(super) async fn ready(&self) -> Result<Slot<'_>, Gone> {
        self.queue.reserve().await.map(Slot).map_err(|_closed| Gone)
    }

    /// Whether the queue is full now.
    pub(super) fn is_full(&self) -> bool {
        self.queue.capacity() == 0
    }

    /// When the peer does not want any more.
    pub(super) async fn gone(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream with `status`, unless the peer is so slow that it would not see it.
    pub(super) fn end(self, status: Status) {
        // A full queue: the body ends without a status when this end of it is dropped, which is an error to the peer too.
        drop(self.queue.try_send(Item::End(Box::new(status))));
    }
}

/// Room for one message.
#[derive(Debug)]
pub(super) struct Slot<'a>(mpsc::Permit<'a, Item>);

impl Slot<'_> {
    /// Queues a message that consists of `pieces`.
    pub(super) fn send(self, pieces: Vec<Bytes>) {
        self.0.send(Item::Message(pieces));
    }
}

/// The receiving end, which hyper reads.
#[derive(Debug)]
pub(super) struct ResponseBody {
    queue: mpsc::Receiver<Item>,
    /// What is left of the current message.
    pieces: VecDeque<Bytes>,
    /// Whether trailers were sent.
    ended: bool,
}

/// An empty stream.
pub(super) fn channel() -> (Responses, ResponseBody) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let body = ResponseBody {
        queue: receiver,
        pieces: VecDeque::new(),
        ended: false,
    };
    (Responses { queue: sender }, body)
}

/// A body without anything, trailers included.
pub(super) fn empty() -> ResponseBody {
    let (_, mut body) = channel();
    body.ended = true;
    body
}

impl ResponseBody {
    /// The next data of the current message.
    fn data(&mut self) -> Option<Bytes> {
        let first = self.pieces.pop_front()?;
        if first.len() >= FRAME || self.pieces.is_empty() {
            return Some(first);
        }
        let mut joined = Vec::with_capacity(FRAME);
        joined.extend_from_slice(&first);
        while let Some(next) = self.pieces.front() {
            if joined.len() + next.len() > FRAME {
                break;
            }
            joined.extend_from_slice(next);
            self.pieces.pop_front();
        }
        Some(Bytes::from(joined))
    }

    fn trailers(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // Only metadata that is no valid header can fail, and there is none.
        drop(status.add_header(&mut trailers));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(data) = self.data() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match ready!(self.queue.poll_recv(cx)) {
                Some(Item::Message(pieces)) => {
                    self.pieces.push_back(prefix(&pieces));
                    self.pieces.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
                }
                Some(Item::End(status)) => return self.trailers(&status),
                None => return self.trailers(&Status::unavailable("the stream was cut off")),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// What gRPC puts before a message.
fn prefix(pieces: &[Bytes]) -> Bytes {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut prefix = Vec::with_capacity(PREFIX);
    prefix.push(0);
    // A session splits what would come anywhere near 4 GiB.
    prefix.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    Bytes::from(prefix)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn messages_have_a_prefix_and_the_stream_a_status() {
        let (responses, body) = channel();
        let large = Bytes::from(vec![7; 3 * FRAME]);
        let pieces = vec![
            Bytes::from_static(b"ab"),
            large.clone(),
            Bytes::new(),
            Bytes::from_static(b"c"),
        ];
        responses.ready().await.unwrap().send(pieces);
        responses.ready().await.unwrap().send(vec![]);
        responses.end(Status::unavailable("moving"));
        let mut frames = Vec::new();
        let mut body = std::pin::pin!(body);
        let trailers = loop {
            match body.frame().await.unwrap().unwrap().into_data() {
                Ok(data) => frames.push(data),
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert!(body.frame().await.is_none());
        assert_eq!(trailers["grpc-status"], "14");
        assert!(
            frames.iter().any(|frame| frame.as_ptr() == large.as_ptr()),
            "shared, not copied"
        );
        let length = u32::try_from(large.len() + 3).unwrap().to_be_bytes();
        let mut expected = [&[0][..], &length, b"ab", &large, b"c"].concat();
        expected.extend([0; 5]);
        assert_eq!(frames.concat(), expected);
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_writer_and_a_lost_writer_is_an_error() {
        let (responses, body) = channel();
        for _ in 0..QUEUE {
            responses.ready().await.unwrap().send(vec![]);
        }
        assert!(responses.is_full());
        responses.end(Status::ok(""));
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "14");
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed() {
        let (responses, body) = channel();
        drop(body);
        responses.gone().await;
        assert_eq!(responses.ready().await.err(), Some(Gone));
    }
}
