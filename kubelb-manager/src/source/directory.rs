//! A directory of manifests, read now and after each change.
//!
//! Owns the watch and its fallback; events are only a hint to read again. Must not know: what the texts mean.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::catalog::Files;

/// Endings of the files that are read.
const ENDINGS: &[&str] = &["yaml", "yml", "json"];
/// Longest file, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Most files.
const MAX_FILES: usize = 65_536;
/// Quiet time after an event before files are read: writers often take several steps.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Longest wait for quiet.
const MAX_DEBOUNCE: Duration = Duration::from_millis(500);
/// Files are read this often without any event: network file systems send none.
const POLL: Duration = Duration::from_secs(10);
/// The same, when the kernel gives no watch.
const POLL_ALONE: Duration = Duration::from_secs(1);

/// Starts to deliver all files, now and when one changes, until `shutdown`. An error is the directory's own. While the receiver is busy,
/// changes collapse into the last one.
#[must_use]
pub fn watch(path: PathBuf, shutdown: CancellationToken) -> mpsc::Receiver<Result<Files, String>> {
    let (out, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = out.closed() => {}
            () = follow(path, &out) => {}
        }
    });
    receiver
}

async fn follow(path: PathBuf, out: &mpsc::Sender<Result<Files, String>>) {
    let hint = Arc::new(Notify::new());
    let mut watcher = watcher(Arc::clone(&hint));
    let mut last = None;
    loop {
        // Asked again each time: a directory that was replaced under the same name needs a new watch. First watched, then read.
        let is_watched = watcher
            .as_mut()
            .is_some_and(|watcher| watcher.watch(&path, RecursiveMode::NonRecursive).is_ok());
        let directory = path.clone();
        let read = match tokio::task::spawn_blocking(move || fetch(&directory)).await {
            Ok(read) => read.map_err(|error| format!("{}: {error}", path.display())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        if last.as_ref() != Some(&read) {
            if out.send(read.clone()).await.is_err() {
                return;
            }
            last = Some(read);
        }
        tokio::select! {
            () = settle(&hint) => {}
            () = tokio::time::sleep(if is_watched { POLL } else { POLL_ALONE }) => {}
        }
    }
}

/// Returns after an event and a time of quiet.
async fn settle(hint: &Notify) {
    hint.notified().await;
    let deadline = Instant::now() + MAX_DEBOUNCE;
    while let Ok(Ok(())) = timeout_at(deadline, timeout(DEBOUNCE, hint.notified())).await {}
}

fn watcher(hint: Arc<Notify>) -> Option<RecommendedWatcher> {
    let on_event = move |event: notify::Result<notify::Event>| {
        // Reading is an event too; to take it for a change would never end.
        let is_reading = event.is_ok_and(|event| match event.kind {
            EventKind::Access(kind) => kind != AccessKind::Close(AccessMode::Write),
            EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
                false
            }
        });
        if !is_reading {
            hint.notify_one();
        }
    };
    notify::recommended_watcher(on_event)
        .inspect_err(|error| tracing::warn!(%error, poll = ?POLL_ALONE, "no file watch, manifests are polled"))
        .ok()
}

fn fetch(directory: &Path) -> io::Result<Files> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_manifest = path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending));
        // By way of links, as a mounted ConfigMap has them.
        if !is_hidden && is_manifest && !path.is_dir() {
            if files.len() >= MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files")));
            }
            let text = fetch_one(&path).map_err(|error| format!("cannot be read: {error}"));
            files.insert(path, text);
        }
    }
    Ok(files)
}

fn fetch_one(path: &Path) -> io::Result<Arc<str>> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let length = file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::other(format!("it is longer than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text.into())
}
