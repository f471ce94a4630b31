//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, with version 3 on the wire), in which API servers and kubectl speak to a
//! kubelet: bytes in, frames out, and back. It knows nothing of connections, nor of what streams are for.
//!
//! There is no flow control, as with every other implementation that Kubernetes uses: window updates are neither sent nor heeded.

mod headers;
#[cfg(test)]
mod tests;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use headers::{Deflater, Inflater};
pub(super) use headers::{HeaderError, Headers};

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const FIN: u8 = 1;
/// The longest control frame that is read, in bytes after its first eight.
const CONTROL_LIMIT: usize = 64 << 10;
/// The longest data frame that is written, in bytes after its first eight.
pub(super) const DATA_LIMIT: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Of RST_STREAM: the stream's id is not one that its sender may use.
pub(super) const PROTOCOL_ERROR: u32 = 1;
/// Of RST_STREAM: the stream is not wanted.
pub(super) const REFUSED_STREAM: u32 = 3;
/// Of RST_STREAM: nobody listens any more.
pub(super) const CANCEL: u32 = 5;

/// What one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The sender opens a stream; with `fin` it writes nothing to it.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// The stream is accepted.
    SynReply { stream: u32, fin: bool, headers: Headers },
    /// The stream is over in both directions.
    Reset { stream: u32, status: u32 },
    /// Bytes of a stream; with `fin` its sender's last ones. A frame may arrive in several pieces.
    Data { stream: u32, fin: bool, bytes: Bytes },
    /// To be sent back by a server whose client chose the (odd) id.
    Ping { id: u32 },
    /// No stream with a higher id is or will be served.
    GoAway { last_good: u32, status: u32 },
}

/// Why a connection can't go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("a control frame ends before its fields do")]
    Short,
    #[error("a header block that cannot be read")]
    Headers(#[from] HeaderError),
}

/// A data frame of which more is to come.
struct Partial {
    stream: u32,
    fin: bool,
    left: usize,
}

/// Frames of one direction of a connection; the compression of headers has a memory.
pub(super) struct Decoder {
    buffer: BytesMut,
    partial: Option<Partial>,
    inflater: Inflater,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            partial: None,
            inflater: Inflater::new(),
        }
    }

    /// Takes what has arrived. Holds no more than this and one control frame when [`Decoder::next`] is asked until it has
    /// nothing more.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, when it is there. Frames that need no answer here (settings, window updates, later headers, types that
    /// nobody knows) are passed over.
    ///
    /// # Errors
    /// Nothing that follows can be understood.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(partial) = self.partial.take() {
                return Ok(self.data(partial));
            }
            let Some((&[a, b, c, d, flags, high, middle, low], rest)) = self.buffer.split_first_chunk() else {
                return Ok(None);
            };
            let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
            if a & CONTROL == 0 {
                self.buffer.advance(8);
                let stream = u32::from_be_bytes([a, b, c, d]);
                let fin = flags & FIN != 0;
                if length == 0 {
                    let bytes = Bytes::new();
                    return Ok(Some(Frame::Data { stream, fin, bytes }));
                }
                self.partial = Some(Partial {
                    stream,
                    fin,
                    left: length,
                });
                continue;
            }
            let version = u16::from_be_bytes([a & !CONTROL, b]);
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            if length > CONTROL_LIMIT {
                return Err(FrameError::TooLong(length));
            }
            if rest.len() < length {
                return Ok(None);
            }
            self.buffer.advance(8);
            let body = self.buffer.split_to(length).freeze();
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), flags & FIN != 0, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn data(&mut self, mut partial: Partial) -> Option<Frame> {
        let count = partial.left.min(self.buffer.len());
        if count == 0 {
            self.partial = Some(partial);
            return None;
        }
        let (stream, bytes) = (partial.stream, self.buffer.split_to(count).freeze());
        partial.left -= count;
        let fin = partial.fin && partial.left == 0;
        self.partial = (partial.left > 0).then_some(partial);
        Some(Frame::Data { stream, fin, bytes })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Option<Frame>, FrameError> {
        Ok(Some(match kind {
            SYN_STREAM => {
                let stream = id(&mut body)?;
                // The stream that it belongs to, its priority, a slot for certificates.
                id(&mut body)?;
                body.try_get_u16().map_err(|_error| FrameError::Short)?;
                let headers = self.inflater.headers(&body)?;
                Frame::SynStream { stream, fin, headers }
            }
            SYN_REPLY => {
                let stream = id(&mut body)?;
                let headers = self.inflater.headers(&body)?;
                Frame::SynReply { stream, fin, headers }
            }
            HEADERS => {
                id(&mut body)?;
                // Unpacked in any case, for the sake of the blocks that follow.
                self.inflater.headers(&body)?;
                return Ok(None);
            }
            RST_STREAM => Frame::Reset {
                stream: id(&mut body)?,
                status: number(&mut body)?,
            },
            PING => Frame::Ping { id: number(&mut body)? },
            GOAWAY => Frame::GoAway {
                last_good: id(&mut body)?,
                status: number(&mut body)?,
            },
            _ => return Ok(None),
        }))
    }
}

fn number(body: &mut Bytes) -> Result<u32, FrameError> {
    body.try_get_u32().map_err(|_error| FrameError::Short)
}

/// A stream's id, which has 31 bits.
fn id(body: &mut Bytes) -> Result<u32, FrameError> {
    Ok(number(body)? & (u32::MAX >> 1))
}

/// Writes frames of the other direction.
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// # Errors
    /// When the compressor does not take the dictionary.
    pub(super) fn new() -> Result<Self, HeaderError> {
        Ok(Self {
            deflater: Deflater::new()?,
        })
    }

    /// Appends `frame` to `out`.
    ///
    /// # Errors
    /// When there are too many headers; nothing that follows can be understood by the other side then.
    pub(super) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), HeaderError> {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let block = self.deflater.headers(headers)?;
                control(out, SYN_STREAM, *fin, block.len() + 10);
                out.put_u32(*stream);
                // Belongs to no other stream, highest priority, no certificate.
                out.put_bytes(0, 6);
                out.extend_from_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.deflater.headers(headers)?;
                control(out, SYN_REPLY, *fin, block.len() + 4);
                out.put_u32(*stream);
                out.extend_from_slice(&block);
            }
            Frame::Reset { stream, status } => {
                control(out, RST_STREAM, false, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last_good, status } => {
                control(out, GOAWAY, false, 8);
                out.put_u32(*last_good);
                out.put_u32(*status);
            }
            Frame::Data { stream, fin, bytes } => {
                let mut pieces = bytes.chunks(DATA_LIMIT).peekable();
                if pieces.peek().is_none() {
                    out.put_u32(*stream);
                    put_length(out, *fin, 0);
                }
                while let Some(piece) = pieces.next() {
                    out.put_u32(*stream);
                    put_length(out, *fin && pieces.peek().is_none(), piece.len());
                    out.extend_from_slice(piece);
                }
            }
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(u16::from(CONTROL) << 8 | VERSION);
    out.put_u16(kind);
    put_length(out, fin, length);
}

/// Flags and a length that fits its 24 bits, since header blocks and pieces of data are bounded.
fn put_length(out: &mut BytesMut, fin: bool, length: usize) {
    out.put_u8(if fin { FIN } else { 0 });
    out.put_uint(u64::try_from(length).unwrap_or(u64::MAX), 3);
}
