//! The agent's log, read as it is written.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use crate::wait;

/// Lines kept at most; an agent that logs more in one test has a fault of its own.
const MAX_LINES: usize = 100_000;

/// A log, followed by a thread until the process ends.
#[derive(Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    pub(super) fn follow(from: impl Read + Send + 'static) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let work = {
            let shared = shared.clone();
            move || {
                for line in BufReader::new(from).lines().map_while(Result::ok) {
                    let mut lines = shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
                    if lines.lines.len() < MAX_LINES {
                        lines.lines.push(line);
                    }
                    shared.more.notify_all();
                }
                shared.lines.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
                shared.more.notify_all();
            }
        };
        let reader = std::thread::Builder::new()
            .name("agent-log".to_owned())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self { shared, reader })
    }

    /// The first line whose message is `message`, waiting for it.
    pub(super) fn until(&self, within: Duration, message: &str) -> anyhow::Result<Value> {
        let deadline = wait::now() + within;
        let mut seen = 0;
        let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            for line in lines.lines.iter().skip(seen) {
                let parsed: Value = serde_json::from_str(line).unwrap_or_default();
                if parsed.get("message").and_then(Value::as_str) == Some(message) {
                    return Ok(parsed);
                }
            }
            seen = lines.lines.len();
            if lines.ended {
                bail!("it ended");
            }
            let left = deadline.saturating_duration_since(wait::now());
            if left.is_zero() {
                bail!("not within {within:?}");
            }
            let waited = self.shared.more.wait_timeout(lines, left);
            (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What was logged so far.
    pub(super) fn text(&self) -> String {
        self.shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lines
            .join("\n")
    }

    /// Everything, of a process that has ended.
    pub(super) fn all(self) -> anyhow::Result<String> {
        self.reader
            .join()
            .map_err(|_panic| anyhow!("the log's reader panicked"))?;
        let lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(lines.lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Log;

    #[test]
    fn a_line_is_found_by_its_message_and_an_end_is_noticed() {
        let text = "plain\n{\"message\":\"one\"}\n{\"message\":\"two\",\"address\":\"127.0.0.1:1\"}\n";
        let log = Log::follow(text.as_bytes()).expect("a thread");
        let line = log.until(Duration::from_secs(5), "two").expect("it is there");
        assert_eq!(line["address"], "127.0.0.1:1");
        let error = log.until(Duration::from_secs(5), "three").expect_err("it is not");
        assert_eq!(error.to_string(), "it ended");
        assert!(log.all().expect("ended").starts_with("plain\n"));
    }
}
