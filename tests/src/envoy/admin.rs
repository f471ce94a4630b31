//! One HTTP request over a Unix socket, as small as Envoy's admin interface needs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Longest pause in an answer; a dump of many thousand resources takes seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Status and body.
pub(super) fn ask(socket: &Path, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket).context("Envoy's admin interface does not listen")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: envoy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the answer breaks off")?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> anyhow::Result<(u16, String)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, rest) = answer.split_at(end.context("the answer has no head")?);
    let head = std::str::from_utf8(head)?;
    let body = rest.get(4..).unwrap_or_default();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if chunked { joined(body)? } else { body.to_vec() };
    Ok((status, String::from_utf8(body)?))
}

/// The content of chunks (RFC 9112, section 7.1).
fn joined(mut chunks: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = chunks.windows(2).position(|window| window == b"\r\n") else {
            bail!("the answer breaks off in a chunk's size");
        };
        let (size, rest) = chunks.split_at(end);
        let size = usize::from_str_radix(std::str::from_utf8(size)?, 16)?;
        if size == 0 {
            return Ok(body);
        }
        let content = rest.get(2..2 + size).context("the answer breaks off in a chunk")?;
        body.extend_from_slice(content);
        chunks = rest.get(2 + size + 2..).context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn chunks_are_joined_and_a_cut_answer_is_noticed() {
        let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(parse(whole).unwrap(), (200, "abc0123456789".to_owned()));
        assert!(parse(&whole[..whole.len() - 12]).is_err());
        let plain = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(parse(plain).unwrap(), (404, "no".to_owned()));
    }
}
