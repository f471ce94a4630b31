//! What a container that has ended left to say.

use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::super::container;
use super::super::log_file::{self, Entry};

/// Bytes of a container's last message.
const LAST_MESSAGE: usize = 4096;
/// Lines of the log that stand for it when it left none.
const LAST_LINES: usize = 80;

/// What a container left in its file, or the end of its log where it asked for that.
pub(super) fn last_message(directory: &Path, logs: &Path, container: &Container, run: i32, code: i32) -> String {
    let left = std::fs::read(container::termination_log(directory, &container.name)).unwrap_or_default();
    if !left.is_empty() || code == 0 || container.termination_message_policy.as_deref() != Some("FallbackToLogsOnError")
    {
        return String::from_utf8_lossy(left.get(..left.len().min(LAST_MESSAGE)).unwrap_or_default()).into_owned();
    }
    let log = std::fs::read(logs.join(&container.name).join(format!("{run}.log"))).unwrap_or_default();
    let mut text = Vec::new();
    for line in log_file::tail(&log, LAST_LINES).split(|byte| *byte == b'\n') {
        if let Some(entry) = Entry::parse(line) {
            entry.show(false, &mut text);
        }
    }
    let from = text.len().saturating_sub(LAST_MESSAGE / 2);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
}
