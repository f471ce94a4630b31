//! `containerLogs`: what is in the files, and what comes as long as the container runs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Either;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::super::clock;
use super::super::log_file::{self, Entry};
use super::super::output::Output;
use super::super::registry::{ContainerEntry, PodEntry};
use super::{Pieces, Query, Refused, Reply};

/// Pieces that may wait for a slow reader.
const WAITING: usize = 16;

struct Wanted {
    tail: Option<usize>,
    since: Option<Timestamp>,
    timestamps: bool,
    limit: u64,
}

pub(super) fn serve(pod: &PodEntry, (name, entry): (&str, ContainerEntry), query: &Query) -> Result<Reply, Refused> {
    let since_time = query.get("sinceTime").map(str::parse::<Timestamp>).transpose();
    let since_time = since_time.map_err(|error| Refused::bad_request(format!("sinceTime: {error}")))?;
    let since_seconds = query
        .number("sinceSeconds")?
        .and_then(|ago| clock::now().checked_sub(Duration::from_secs(ago)).ok());
    let wanted = Wanted {
        tail: query.number("tailLines")?.and_then(|lines| usize::try_from(lines).ok()),
        since: since_time.or(since_seconds),
        timestamps: query.flag("timestamps"),
        limit: query.number("limitBytes")?.unwrap_or(u64::MAX),
    };
    let previous = query.flag("previous");
    let path = pod.log(name, if previous { entry.run - 1 } else { entry.run });
    if previous && !path.exists() {
        return Err(Refused::bad_request(format!(
            "previous terminated container \"{name}\" not found"
        )));
    }
    let follow = (query.flag("follow") && !previous).then_some(entry.output).flatten();
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(send(path, wanted, follow, sender));
    let mut reply = Response::new(Either::Right(Pieces(receiver)));
    *reply.status_mut() = StatusCode::OK;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain"));
    Ok(reply)
}

async fn send(path: PathBuf, wanted: Wanted, follow: Option<Arc<Output>>, to: mpsc::Sender<Bytes>) {
    let mut left = wanted.limit;
    // Before the first look, so that nothing that comes meanwhile is missed.
    let mut written = follow.as_ref().map(|output| output.written.subscribe());
    let mut text = std::fs::read(log_file::old(&path)).unwrap_or_default();
    let mut file = File::open(&path).ok();
    let mut rest = Vec::new();
    read_more(&path, &mut file, &mut text);
    let chosen = match wanted.tail {
        Some(lines) => log_file::tail(&text, lines).to_vec(),
        None => text,
    };
    let mut piece = shown(chosen, &mut rest, &wanted);
    loop {
        let allowed = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        piece.truncate(allowed);
        left = left.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX));
        if (!piece.is_empty() && to.send(Bytes::from(piece)).await.is_err()) || left == 0 {
            return;
        }
        let (Some(output), Some(written)) = (&follow, &mut written) else {
            return;
        };
        let over = *output.ended.borrow();
        if !over {
            tokio::select! {
                _ = written.changed() => {}
                () = to.closed() => return,
            }
        }
        let mut text = Vec::new();
        read_more(&path, &mut file, &mut text);
        if over && text.is_empty() {
            return;
        }
        piece = shown(text, &mut rest, &wanted);
    }
}

/// Reads to the end; goes on with the new file when this one has been put aside.
fn read_more(path: &Path, file: &mut Option<File>, into: &mut Vec<u8>) {
    use std::os::unix::fs::MetadataExt as _;
    let Some(open) = file else {
        *file = File::open(path).ok();
        return;
    };
    // A log that can't be read has no more lines.
    drop(open.read_to_end(into));
    let inode = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|found| found.ino());
    if inode(open.metadata()) != inode(std::fs::metadata(path))
        && let Ok(mut next) = File::open(path)
    {
        drop(next.read_to_end(into));
        *file = Some(next);
    }
}

/// What a user sees of `bytes`; a line that is not complete stays in `rest`.
fn shown(bytes: Vec<u8>, rest: &mut Vec<u8>, wanted: &Wanted) -> Vec<u8> {
    rest.extend(bytes);
    let complete = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines: Vec<u8> = rest.drain(..complete).collect();
    let mut text = Vec::new();
    for entry in lines.split(|byte| *byte == b'\n').filter_map(Entry::parse) {
        let old = wanted
            .since
            .is_some_and(|since| entry.time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if !old {
            entry.show(wanted.timestamps, &mut text);
        }
    }
    text
}
