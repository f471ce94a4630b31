//! What is told of managers, as a file beside the kept configuration, so that `kubelb-agent status` can show it without a port. Owns the file's form.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::unix_now;
use crate::status::address::OwnerReport;
use crate::status::xds::XdsReport;

const FILE: &str = "xds-status.json";
/// Shortest time between two writes.
const EVERY: Duration = Duration::from_secs(1);
/// Longest time between two writes: what is left when the agent is killed is not older.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// The report, and whose it is: an agent that has its configuration from a file leaves an older one's alone.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    pid: u32,
    /// A report for people has these merged with what the maps say; here they are by themselves.
    #[serde(default)]
    announced: Vec<OwnerReport>,
    #[serde(flatten)]
    report: XdsReport,
}

/// Writes what `reports` has, now and after each change, until its sender is gone.
pub(super) async fn keep(mut reports: watch::Receiver<XdsReport>, directory: PathBuf) {
    let mut complained = false;
    loop {
        let report = reports.borrow_and_update().clone().at(unix_now());
        let shown = Shown {
            pid: std::process::id(),
            announced: report.owners.clone(),
            report,
        };
        let into = directory.clone();
        let written = tokio::task::spawn_blocking(move || write(&into, &shown)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten()
            && !std::mem::replace(&mut complained, true)
        {
            tracing::warn!(
                "{}: {error}; `kubelb-agent status` will not show managers",
                directory.join(FILE).display()
            );
        }
        tokio::time::sleep(EVERY).await;
        tokio::select! {
            changed = reports.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(AT_LEAST_EVERY) => {}
        }
    }
}

/// What an agent left there: its process id, and its report. `None` where there is none that can be read.
#[must_use]
pub fn read(directory: &Path) -> Option<(u32, XdsReport)> {
    let text = std::fs::read(directory.join(FILE)).ok()?;
    let Shown {
        pid,
        announced,
        mut report,
    } = serde_json::from_slice(&text).ok()?;
    report.owners = announced;
    Some((pid, report))
}

fn write(directory: &Path, shown: &Shown) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let next = directory.join(format!("{FILE}.next"));
    std::fs::write(&next, serde_json::to_vec_pretty(shown)?)?;
    std::fs::rename(&next, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_written_last_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_none());
        let (sender, receiver) = watch::channel(XdsReport::default());
        let keeping = tokio::spawn(keep(receiver, directory.path().join("new")));
        let last = XdsReport {
            node: "n".to_owned(),
            current_at: Some(7),
            owners: vec![OwnerReport::default()],
            ..XdsReport::default()
        };
        sender.send_replace(last.clone());
        drop(sender);
        keeping.await.unwrap();
        let (pid, read) = read(&directory.path().join("new")).unwrap();
        assert_eq!((pid, read.at(0)), (std::process::id(), last));
    }
}
