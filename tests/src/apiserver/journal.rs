//! The file that makes the store survive a kill: one line per change, flushed to the disk in batches.
//!
//! A change is answered for only when it is on the disk; [`Journal::durable`] says how far that is. A half line at the
//! end (the process died while writing) was never answered for and is cut off at the next start.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::store::{Event, Key, Store, Stored};

/// Changes on their way to the disk. A writer that finds this full waits for the disk.
const QUEUE: usize = 4096;
const FILE: &str = "journal.jsonl";

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its directory.
    #[error("cannot use the journal {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line in the middle that is none of ours.
    #[error("line {line} of the journal {path} cannot be read")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    revision: u64,
    /// Absent in the first line of a snapshot, which only sets the revision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<Value>,
    /// Part of a snapshot, not an event.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
}

/// Same as [`Line`] but for the object, which is JSON already.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LineOut<'a> {
    revision: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
}

/// A running writer. Dropping it writes out what is queued and ends the thread.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Option<SyncSender<Event>>,
    durable: watch::Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

/// Reads the journal of `directory` back into a store with a log of `capacity` events.
pub(crate) fn load(directory: &Path, capacity: usize) -> Result<Store, JournalError> {
    let path = directory.join(FILE);
    let failed = |source| JournalError::File {
        path: path.clone(),
        source,
    };
    let mut store = Store::new(0, capacity);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
        Err(error) => return Err(failed(error)),
    };
    let mut reader = BufReader::new(file);
    let mut good: u64 = 0;
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let read = reader.read_until(b'\n', &mut text).map_err(failed)?;
        if text.last() != Some(&b'\n') {
            break;
        }
        let line: Line = serde_json::from_slice(&text).map_err(|source| JournalError::Line {
            path: path.clone(),
            line: number,
            source,
        })?;
        take(&mut store, line, capacity);
        good = good.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    reader.into_inner().set_len(good).map_err(failed)?;
    Ok(store)
}

fn take(store: &mut Store, line: Line, capacity: usize) {
    let key: Key = (line.namespace, line.name);
    if line.resource.is_empty() {
        *store = Store::new(line.revision, capacity);
    } else if let (true, Some(object)) = (line.snapshot, &line.object) {
        store.restore(&line.resource, key, object.clone());
    } else {
        store.replay(line.revision, &line.resource, &key, line.object);
    }
}

impl Journal {
    /// Appends to the journal of `directory` what is sent from now on; `store` is what snapshots are taken of.
    ///
    /// A file that has grown to `compact_at` bytes, and to twice its last snapshot, is replaced by a snapshot.
    pub(crate) fn start(directory: &Path, store: Arc<Mutex<Store>>, compact_at: u64) -> Result<Self, JournalError> {
        let path = directory.join(FILE);
        let failed = |source| JournalError::File {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
        let revision = store.lock().unwrap_or_else(PoisonError::into_inner).revision();
        let (durable, seen) = watch::channel(revision);
        let (queue, events) = sync_channel(QUEUE);
        let mut writer = Writer {
            path: path.clone(),
            file: BufWriter::new(file),
            store,
            durable,
            written: 0,
            compact_at,
            snapshot: 0,
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&events))
            .map_err(failed)?;
        Ok(Self {
            queue: Some(queue),
            durable: seen,
            thread: Some(thread),
        })
    }

    /// Queues a change; events come in order of revision because the caller holds the store's lock. Blocks while the
    /// disk is behind, which is what bounds the queue.
    pub(crate) fn append(&self, event: Event) {
        if let Some(queue) = &self.queue
            && let Err(TrySendError::Full(event)) = queue.try_send(event)
        {
            // A writer that is gone leaves `durable` closed, which every request sees.
            drop(queue.send(event));
        }
    }

    /// The revision up to which everything is on the disk. Closed when writing failed.
    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    store: Arc<Mutex<Store>>,
    durable: watch::Sender<u64>,
    /// Of the last change in the file.
    written: u64,
    /// The least size at which the file is replaced (bytes).
    compact_at: u64,
    /// Size of the last snapshot (bytes).
    snapshot: u64,
}

impl Writer {
    fn run(&mut self, events: &Receiver<Event>) {
        while let Ok(first) = events.recv() {
            let batch = std::iter::once(first).chain(events.try_iter().take(QUEUE));
            if let Err(error) = self.write(batch) {
                eprintln!(
                    "journal {}: {error}; no change can be kept any more",
                    self.path.display()
                );
                return;
            }
        }
    }

    fn write(&mut self, events: impl Iterator<Item = Event>) -> io::Result<()> {
        for event in events {
            if event.revision <= self.written {
                continue;
            }
            let line = LineOut {
                revision: event.revision,
                resource: &event.resource,
                namespace: &event.namespace,
                name: &event.name,
                snapshot: false,
            };
            append(&mut self.file, &line, event.after.as_deref())?;
            self.written = event.revision;
        }
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        let size = self.file.get_mut().seek(SeekFrom::End(0))?;
        if size > self.compact_at.max(self.snapshot.saturating_mul(2)) {
            self.compact()?;
        }
        self.durable.send_replace(self.written);
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let (revision, objects) = {
            // Whoever holds the lock may be waiting for room in the queue: never wait for it here.
            let store = match self.store.try_lock() {
                Ok(store) => store,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            let objects: Vec<(Arc<str>, Key, Arc<Stored>)> = store
                .all()
                .map(|(resource, key, object)| (Arc::clone(resource), key.clone(), Arc::clone(object)))
                .collect();
            (store.revision(), objects)
        };
        let next = self.path.with_extension("next");
        let mut file = BufWriter::new(File::create(&next)?);
        let start = LineOut {
            revision,
            resource: "",
            namespace: "",
            name: "",
            snapshot: true,
        };
        append(&mut file, &start, None)?;
        for (resource, (namespace, name), object) in &objects {
            let line = LineOut {
                revision,
                resource,
                namespace,
                name,
                snapshot: true,
            };
            append(&mut file, &line, Some(object))?;
        }
        file.flush()?;
        file.get_ref().sync_all()?;
        self.snapshot = file.get_ref().metadata()?.len();
        std::fs::rename(&next, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = BufWriter::new(OpenOptions::new().append(true).open(&self.path)?);
        // Changes up to here are in the snapshot; those still queued are skipped when they come.
        self.written = revision;
        Ok(())
    }
}

fn append(file: &mut BufWriter<File>, line: &LineOut<'_>, object: Option<&Stored>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    // The object is the last field.
    text.pop();
    file.write_all(&text)?;
    if let Some(object) = object {
        file.write_all(b",\"object\":")?;
        file.write_all(object.json())?;
    }
    file.write_all(b"}\n")
}
