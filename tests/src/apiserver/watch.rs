//! Watches: the log read from a revision on, filtered, as lines. A watcher has no buffer of its own: it is a position
//! in the log, and when the log has moved past it the watcher is told to list again (410).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, interval_at, sleep_until};

use super::body;
use super::call::{Form, Request, Target};
use super::object::meta;
use super::read::{Filter, revision_of};
use super::resource::{Registry, Resource};
use super::server::{self, Server};
use super::status::ApiError;
use super::store::{Compacted, Event, Stored, set_revision};
use super::table;

/// Events read from the log at once, under its lock.
const BATCH: usize = 256;
/// Pieces on their way to a client.
const QUEUE: usize = 8;
/// Lines go out together up to about this size (bytes).
const CHUNK: usize = 64 << 10;
/// How often a watcher that asks for it learns how far the server is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);
/// A watch ends at the latest after this, so that clients come back.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// A watch that is about to run.
#[derive(Debug)]
pub(crate) struct Watch {
    server: Arc<Server>,
    resource: Arc<Resource>,
    /// Where its objects are kept.
    table: String,
    filter: Filter,
    form: Form,
    include_object: bool,
    bookmarks: bool,
    longest: Duration,
    /// Sent first.
    first: VecDeque<Line>,
    /// Everything up to here was sent or does not matter.
    position: u64,
    columns_sent: bool,
    /// As it was when the watch was last known to be about something that is served.
    registry: Arc<Registry>,
}

#[derive(Debug)]
enum Line {
    Change(&'static str, Arc<Stored>),
    Bookmark { ends_initial_events: bool },
    Error(ApiError),
}

/// Checks what is asked for, and takes what exists when the watch begins with that.
///
/// # Errors
/// When it can't be watched like that.
pub(crate) fn start(server: &Arc<Server>, request: &Request, target: &Target) -> Result<Watch, ApiError> {
    let filter = Filter::of(request, target)?;
    let asked = revision_of(request)?;
    let send_initial = request.query.is_true("sendInitialEvents");
    let timeout = request
        .query
        .get("timeoutSeconds")
        .parse()
        .ok()
        .map(Duration::from_secs);
    let store = server.store();
    let current = store.revision();
    let mut first = VecDeque::new();
    let position = match asked {
        Some(asked) if asked > current => return Err(ApiError::too_large(asked, current)),
        Some(asked) if asked > 0 && !send_initial => {
            let since = target.resource.since;
            let compacted = match store.changes(asked, asked, 1) {
                Err(compacted) => Some(compacted),
                Ok(_) => (asked < since).then_some(Compacted { asked, oldest: since }),
            };
            if let Some(compacted) = compacted {
                first.push_back(Line::Error(ApiError::expired(compacted.to_string())));
            }
            asked
        }
        _ => {
            let kept_in = target.resource.table();
            let existing = store
                .list(&kept_in, filter.namespace())
                .filter(|(_, object)| filter.matches(object))
                .map(|(_, object)| Line::Change("ADDED", Arc::clone(object)));
            if request.query.get("sendInitialEvents") != "false" {
                first.extend(existing);
            }
            if send_initial {
                first.push_back(Line::Bookmark {
                    ends_initial_events: true,
                });
            }
            current
        }
    };
    drop(store);
    Ok(Watch {
        server: Arc::clone(server),
        resource: Arc::clone(&target.resource),
        table: target.resource.table(),
        filter,
        form: request.form(),
        include_object: request.query.get("includeObject") != "None",
        bookmarks: request.query.is_true("allowWatchBookmarks"),
        longest: timeout.unwrap_or(LONGEST).min(LONGEST),
        first,
        position,
        columns_sent: false,
        registry: server.registry(),
    })
}

impl Watch {
    /// Runs the watch until the client goes, its time is over, or `stop` closes. Answers the lines to send.
    pub(crate) fn run(self, stop: channel::Receiver<bool>) -> mpsc::Receiver<Bytes> {
        let (lines, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut watch = self;
            // A client that is gone is no failure.
            let _gone: Option<()> = watch.send_all(&lines, stop).await;
        });
        receiver
    }

    async fn send_all(&mut self, lines: &mpsc::Sender<Bytes>, mut stop: channel::Receiver<bool>) -> Option<()> {
        let began = Instant::now();
        let end = began.checked_add(self.longest)?;
        let mut bookmark = interval_at(began.checked_add(BOOKMARK_EVERY)?, BOOKMARK_EVERY);
        let mut on_disk = self.server.on_disk();
        let mut chunk = Vec::new();
        while let Some(line) = self.first.pop_front() {
            let last = matches!(line, Line::Error(_));
            self.render(&line, &mut chunk);
            if last || self.first.is_empty() || chunk.len() >= CHUNK {
                lines.send(Bytes::from(std::mem::take(&mut chunk))).await.ok()?;
            }
            if last {
                return None;
            }
        }
        loop {
            let until = *on_disk.borrow_and_update();
            loop {
                let changes = self.server.store().changes(self.position, until, BATCH);
                let changes = match changes {
                    Ok(changes) if changes.is_empty() => break,
                    Ok(changes) => changes,
                    Err(compacted) => {
                        let mut chunk = Vec::new();
                        self.render(&Line::Error(ApiError::expired(compacted.to_string())), &mut chunk);
                        return lines.send(Bytes::from(chunk)).await.ok();
                    }
                };
                // What came to the disk together goes out together.
                let mut rest = changes.iter().peekable();
                while let Some(event) = rest.next() {
                    self.position = event.revision;
                    if let Some(line) = self.line(event) {
                        self.render(&line, &mut chunk);
                    }
                    if !chunk.is_empty() && (rest.peek().is_none() || chunk.len() >= CHUNK) {
                        tokio::select! {
                            sent = lines.send(Bytes::from(std::mem::take(&mut chunk))) => sent.ok()?,
                            () = sleep_until(end) => return None,
                        }
                    }
                }
            }
            if !self.is_served() {
                return None;
            }
            tokio::select! {
                changed = on_disk.changed() => changed.ok()?,
                _ = bookmark.tick(), if self.bookmarks => self.bookmark(lines).await?,
                () = sleep_until(end) => {
                    if self.bookmarks {
                        self.bookmark(lines).await?;
                    }
                    return None;
                }
                () = lines.closed() => return None,
                _ = stop.changed() => return None,
            }
        }
    }

    /// Whether the resource is still served as it was. When its definition goes or changes, the watch ends, and clients
    /// come back to what is served then.
    fn is_served(&mut self) -> bool {
        let registry = self.server.registry();
        if Arc::ptr_eq(&registry, &self.registry) {
            return true;
        }
        self.registry = registry;
        let resource = &self.resource;
        let served = self.registry.get(&resource.group, &resource.version, &resource.plural);
        served.is_some_and(|served| served.since == resource.since && served.same_schema(resource))
    }

    async fn bookmark(&mut self, lines: &mpsc::Sender<Bytes>) -> Option<()> {
        let mut chunk = Vec::new();
        let line = Line::Bookmark {
            ends_initial_events: false,
        };
        self.render(&line, &mut chunk);
        lines.send(Bytes::from(chunk)).await.ok()
    }

    /// What a change means to this watcher: an object that stops matching is gone for it.
    fn line(&self, event: &Event) -> Option<Line> {
        if *event.resource != *self.table {
            return None;
        }
        let matched = event.before.as_ref().is_some_and(|object| self.filter.matches(object));
        let matches = event.after.as_ref().is_some_and(|object| self.filter.matches(object));
        match (matched, matches) {
            (false, false) => None,
            (false, true) => Some(Line::Change("ADDED", event.after.clone()?)),
            (true, true) => Some(Line::Change("MODIFIED", event.after.clone()?)),
            (true, false) => {
                // As it was last seen, with the revision of its end.
                let mut last = Value::clone(event.before.as_deref()?);
                set_revision(&mut last, event.revision);
                Some(Line::Change("DELETED", Arc::new(Stored::new(last))))
            }
        }
    }

    /// Appends a line to what is sent next.
    fn render(&mut self, line: &Line, chunk: &mut Vec<u8>) {
        let (kind, object) = match line {
            Line::Change(kind, object) if self.form == Form::Full => {
                chunk.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
                chunk.extend_from_slice(&body::json(&self.resource, object));
                chunk.extend_from_slice(b"}\n");
                return;
            }
            Line::Change(kind, object) => (*kind, self.shown(object)),
            Line::Bookmark { ends_initial_events } => ("BOOKMARK", self.bookmark_object(*ends_initial_events)),
            Line::Error(error) => ("ERROR", error.to_json()),
        };
        chunk.extend_from_slice(json!({"type": kind, "object": object}).to_string().as_bytes());
        chunk.push(b'\n');
    }

    fn shown(&mut self, object: &Value) -> Value {
        let object = body::present(&self.resource, object);
        match self.form {
            Form::Full => object,
            Form::Metadata => table::partial(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": meta(&object, "resourceVersion")});
                let now = server::now();
                let mut rows = table::table(&self.resource, [&object], metadata, now, self.include_object);
                if std::mem::replace(&mut self.columns_sent, true) {
                    super::object::as_map(&mut rows).insert("columnDefinitions".to_owned(), Value::Null);
                }
                rows
            }
        }
    }

    fn bookmark_object(&self, ends_initial_events: bool) -> Value {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.position.to_string()},
        });
        if ends_initial_events {
            let marks = json!({"k8s.io/initial-events-end": "true"});
            super::object::set_meta(&mut object, "annotations", marks);
        }
        match self.form {
            Form::Full => object,
            Form::Metadata => table::partial(&object),
            Form::Table => table::table(&self.resource, [&object], json!({}), server::now(), true),
        }
    }
}
