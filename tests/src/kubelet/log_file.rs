//! Logs of containers on the disk: one line for each line that a container wrote, with time and stream.
//!
//! `2026-01-01T00:00:00.000000000Z stdout F text`; `P` in place of `F` for a part of a line. A file that has grown too long
//! becomes the `.old` one, and the one that was that goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Bytes after which a file is put aside.
const LONGEST_FILE: u64 = 10 << 20;
/// Bytes of a line that are written without waiting for its end.
const LONGEST_LINE: usize = 16 << 10;

/// What a container writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one run of a container.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    rest: [Vec<u8>; 2],
}

impl LogFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            rest: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what came on `stream`.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let rest = match stream {
            Stream::Stdout => &mut self.rest[0],
            Stream::Stderr => &mut self.rest[1],
        };
        rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=end).collect();
            line.pop();
            entry(&mut lines, stream, 'F', &line, now);
        }
        if rest.len() > LONGEST_LINE {
            entry(&mut lines, stream, 'P', &std::mem::take(rest), now);
        }
        self.write(&lines)
    }

    /// Writes what has no end of line.
    pub(super) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let mut lines = Vec::new();
        for (stream, rest) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.rest) {
            if !rest.is_empty() {
                entry(&mut lines, stream, 'P', &std::mem::take(rest), now);
            }
        }
        self.write(&lines)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.length > LONGEST_FILE {
            fs::rename(&self.path, old(&self.path))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.length = 0;
        }
        self.length = self
            .length
            .saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        self.file.write_all(lines)
    }
}

/// Where what was put aside is.
pub(super) fn old(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

fn entry(into: &mut Vec<u8>, stream: Stream, tag: char, text: &[u8], now: Timestamp) {
    into.extend_from_slice(format!("{now:.9} {} {tag} ", stream.name()).as_bytes());
    into.extend_from_slice(text);
    into.push(b'\n');
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) time: &'a str,
    /// A line's end follows.
    pub(super) full: bool,
    pub(super) text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Takes a line apart; `None` for one that was cut off.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let _stream = parts.next()?;
        let full = parts.next()? == b"F";
        let text = parts.next()?;
        Some(Self { time, full, text })
    }

    /// What a user sees.
    pub(super) fn show(&self, timestamps: bool, into: &mut Vec<u8>) {
        if timestamps {
            into.extend_from_slice(self.time.as_bytes());
            into.push(b' ');
        }
        into.extend_from_slice(self.text);
        if self.full {
            into.push(b'\n');
        }
    }
}

/// The last `count` entries among `bytes`, complete lines only.
pub(super) fn tail(bytes: &[u8], count: usize) -> &[u8] {
    let ends = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    // The end of the line before the first that is wanted.
    match ends.map(|(at, _)| at).nth(count) {
        Some(before) => bytes.get(before + 1..).unwrap_or_default(),
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_with_time_and_stream() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("c/0.log");
        let mut log = LogFile::create(&path).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        log.append(Stream::Stdout, b"one\ntw", now).unwrap();
        log.append(Stream::Stderr, b"bad\n", now).unwrap();
        log.append(Stream::Stdout, b"o\nrest", now).unwrap();
        log.finish(now).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let time = "2026-01-01T00:00:00.000000000Z";
        assert_eq!(
            text,
            format!("{time} stdout F one\n{time} stderr F bad\n{time} stdout F two\n{time} stdout P rest\n")
        );
        let mut shown = Vec::new();
        for line in text.lines() {
            Entry::parse(line.as_bytes()).unwrap().show(false, &mut shown);
        }
        assert_eq!(shown, b"one\nbad\ntwo\nrest");
    }

    #[test]
    fn the_tail_of_a_log() {
        let text = b"a\nb\nc\n";
        assert_eq!(tail(text, 2), b"b\nc\n");
        assert_eq!(tail(text, 3), text);
        assert_eq!(tail(text, 9), text);
        assert_eq!(tail(text, 0), b"");
    }
}
