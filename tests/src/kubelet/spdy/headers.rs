//! Header blocks of SPDY/3: names and values, packed with a dictionary by one compressor for the whole of a connection's direction.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Names in lower case. Values of one name are joined by a zero byte.
pub(in super::super) type Headers = BTreeMap<String, String>;

/// The longest block, unpacked.
const BLOCK_LIMIT: usize = 64 << 10;
const STEP: usize = 4 << 10;

/// Words that the dictionary begins with, each after its length in four bytes (section 2.6.10.1 of the draft).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location \
    content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer \
    retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status \
    200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// How it ends.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// What is wrong with a block.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum HeaderError {
    #[error("it is longer than {BLOCK_LIMIT} bytes")]
    TooLong,
    #[error("it is not packed as it should be")]
    Packed,
    #[error("it ends before its fields do")]
    Short,
    #[error("a name or value is not text")]
    Text,
}

/// The bytes that both sides start from.
pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        put(&mut bytes, &word.replace('_', " "));
    }
    bytes.extend_from_slice(REST.as_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(text.as_bytes());
}

/// Of the direction that is read.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.unpack(block)?)
    }

    fn unpack(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(STEP);
        loop {
            let before = self.0.total_in();
            let result = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            block = block.get(taken..).ok_or(HeaderError::Packed)?;
            match result {
                Ok(Status::StreamEnd) => return Err(HeaderError::Packed),
                // There was room for more: all that is there has come out.
                Ok(Status::Ok | Status::BufError) if out.len() < out.capacity() => {
                    return if block.is_empty() {
                        Ok(out)
                    } else {
                        Err(HeaderError::Packed)
                    };
                }
                Ok(Status::Ok | Status::BufError) if out.len() >= BLOCK_LIMIT => return Err(HeaderError::TooLong),
                Ok(Status::Ok | Status::BufError) => out.reserve(STEP),
                Err(error) => {
                    error.needs_dictionary().ok_or(HeaderError::Packed)?;
                    let set = self.0.set_dictionary(&dictionary());
                    set.map_err(|_error| HeaderError::Packed)?;
                }
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let count = block.try_get_u32().map_err(|_error| HeaderError::Short)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut block)?.to_lowercase();
        headers.insert(name, text(&mut block)?);
    }
    Ok(headers)
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = block.try_get_u32().map_err(|_error| HeaderError::Short)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (text, rest) = block.split_at_checked(length).ok_or(HeaderError::Short)?;
    *block = rest;
    let text = std::str::from_utf8(text).map_err(|_error| HeaderError::Text)?;
    Ok(text.to_owned())
}

/// Of the direction that is written.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, HeaderError> {
        let mut compress = Compress::new(Compression::fast(), true);
        let set = compress.set_dictionary(&dictionary());
        set.map_err(|_error| HeaderError::Packed)?;
        Ok(Self(compress))
    }

    pub(super) fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        let mut block = Vec::new();
        block.put_u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
        for (name, value) in headers {
            put(&mut block, name);
            put(&mut block, value);
        }
        if block.len() > BLOCK_LIMIT {
            return Err(HeaderError::TooLong);
        }
        self.pack(&block)
    }

    fn pack(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(block.len() + STEP);
        loop {
            let before = self.0.total_in();
            let result = self.0.compress_vec(block, &mut out, FlushCompress::Sync);
            result.map_err(|_error| HeaderError::Packed)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            block = block.get(taken..).ok_or(HeaderError::Packed)?;
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(STEP);
        }
    }
}
