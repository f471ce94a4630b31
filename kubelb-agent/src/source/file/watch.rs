//! Delivers the file's meaning now and after each change.
//!
//! Owns the file watch and its fallback. Edits in place, atomic renames and the symlink swap of a mounted ConfigMap
//! (`..data`) all show as events in a directory; events are only a hint to read again, the content decides.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{ConfigErrors, MAX_FILE, parse, too_long};
use crate::source::Update;

/// Quiet time after an event before the file is read: writers often take several steps.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest wait for quiet, so that a directory that is never quiet cannot hide a change.
const MAX_DEBOUNCE: Duration = Duration::from_millis(500);
/// The file is read this often without any event: network file systems send none, and chains of links may pass through
/// directories that are not watched.
const POLL: Duration = Duration::from_secs(10);
/// The same, when the kernel gives no watch at all.
const POLL_ALONE: Duration = Duration::from_secs(1);

/// Starts a task that reads and parses `path` now and after each change of its content, until `shutdown` or until the
/// receiver is dropped. While the receiver is busy, changes collapse into the last one.
#[must_use]
pub fn watch(path: PathBuf, shutdown: CancellationToken) -> mpsc::Receiver<Update> {
    let (updates, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = updates.closed() => {}
            () = follow(path, &updates) => {}
        }
    });
    receiver
}

async fn follow(path: PathBuf, updates: &mpsc::Sender<Update>) {
    let hint = Arc::new(Notify::new());
    let mut directories = Directories::new(Arc::clone(&hint));
    let mut last = None;
    loop {
        // Watch first, read second: a change between the two is seen as an event.
        directories.cover(&path);
        let read_path = path.clone();
        let content = match tokio::task::spawn_blocking(move || read(&read_path)).await {
            Ok(content) => content,
            Err(error) => {
                tracing::error!(%error, "reading the configuration panicked");
                return;
            }
        };
        if last.as_ref() != Some(&content) {
            let update = content.clone().and_then(|text| parse(&path, &text));
            if updates.send(update.into()).await.is_err() {
                return;
            }
            last = Some(content);
        }
        let poll = if directories.watched.is_empty() {
            POLL_ALONE
        } else {
            POLL
        };
        tokio::select! {
            () = settle(&hint) => {}
            () = tokio::time::sleep(poll) => {}
        }
    }
}

/// Returns after an event and a time of quiet.
async fn settle(hint: &Notify) {
    hint.notified().await;
    let deadline = Instant::now() + MAX_DEBOUNCE;
    while let Ok(Ok(())) = timeout_at(deadline, timeout(DEBOUNCE, hint.notified())).await {}
}

/// The directories whose events may mean that the file changed.
struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Directories {
    fn new(hint: Arc<Notify>) -> Self {
        let on_event = move |event: notify::Result<notify::Event>| {
            let changed = match event {
                // Reading the file is an event too; to take it as a change would never end.
                Ok(event) => match event.kind {
                    EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
                    EventKind::Any
                    | EventKind::Create(_)
                    | EventKind::Modify(_)
                    | EventKind::Remove(_)
                    | EventKind::Other => true,
                },
                Err(_) => true,
            };
            if changed {
                hint.notify_one();
            }
        };
        let watcher = RecommendedWatcher::new(on_event, Config::default())
            .inspect_err(
                |error| tracing::warn!(%error, poll = ?POLL_ALONE, "no file watch, the configuration is polled"),
            )
            .ok();
        Self {
            watcher,
            watched: BTreeSet::new(),
        }
    }

    /// Watches the directory that `path` names and the one where its links end.
    fn cover(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeSet::from([parent(path)]);
        if let Ok(end) = path.canonicalize() {
            wanted.insert(parent(&end));
        }
        for gone in self.watched.difference(&wanted) {
            // The kernel has dropped the watch of a removed directory itself.
            drop(watcher.unwatch(gone));
        }
        self.watched.retain(|directory| wanted.contains(directory));
        for directory in wanted {
            // Asked again each time: a directory that was replaced under the same name needs a new watch.
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory);
                }
                Err(error) => {
                    tracing::debug!(%error, directory = %directory.display(), "directory is not watched");
                    self.watched.remove(&directory);
                }
            }
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn read(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |error: io::Error| {
        let kind = error.kind();
        let fix = if kind == io::ErrorKind::NotFound {
            "create it or correct --config"
        } else if kind == io::ErrorKind::InvalidData {
            "save it as UTF-8"
        } else if kind == io::ErrorKind::PermissionDenied {
            "make it readable for the agent"
        } else {
            "name a regular file with --config"
        };
        ConfigErrors::whole(path, format!("cannot be read: {error}; {fix}"))
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(too_long(path));
    }
    String::from_utf8(bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

#[cfg(test)]
mod tests;
