//! Answers the admin server's questions: from the pinned maps, and from what the loop notes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kubelb_runtime::admin::Answers;
use kubelb_runtime::error_chain;
use tokio::sync::watch;

use super::standing::Standing;
use crate::health::Counters;
use crate::metrics;
use crate::report::{self, Reader};
use crate::status::xds::XdsReport;
use crate::status::{ChecksReport, Report};

/// What the loop and the desk share.
pub(super) struct Shared {
    standing: Mutex<Standing>,
    pub(super) counters: Arc<Counters>,
    managers: OnceLock<watch::Receiver<XdsReport>>,
}

impl Shared {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            standing: Mutex::new(Standing::new(now)),
            counters: Arc::default(),
            managers: OnceLock::new(),
        }
    }

    /// From here on reports have what this says. Once.
    pub(super) fn follow_managers(&self, managers: watch::Receiver<XdsReport>) {
        drop(self.managers.set(managers));
    }

    #[expect(clippy::disallowed_methods, reason = "the edge: how long ago something was")]
    fn managers(&self) -> Option<XdsReport> {
        let report = self.managers.get()?.borrow().clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Some(report.at(now.map_or(0, |since| since.as_secs())))
    }

    /// Locked for the few lines of the caller; never across an await.
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub(super) struct Desk {
    last: Mutex<Option<(Reader, Report, Instant)>>,
    bpffs: PathBuf,
    shared: Arc<Shared>,
}

impl Desk {
    pub(super) fn new(bpffs: PathBuf, shared: Arc<Shared>) -> Self {
        Self {
            last: Mutex::new(None),
            bpffs,
            shared,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the edge: rates need the time of each sample")]
    fn report(&self) -> Result<Report, String> {
        let mut cell = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (reader, earlier) = match cell.take() {
            Some((reader, report, at)) => (reader, Some((report, at))),
            None => (
                Reader::open(&self.bpffs).map_err(|error| error_chain::chain(&error).to_string())?,
                None,
            ),
        };
        let mut report = reader.read();
        report.agent.pid = Some(std::process::id());
        report.tell_of(self.shared.managers());
        report
            .agent
            .config_error
            .clone_from(&self.shared.standing().config_error);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        report.checks = Some(ChecksReport {
            passed: load(&counters.passed),
            failed: load(&counters.failed),
            local_errors: load(&counters.local_errors),
            delayed: load(&counters.delayed),
            targets: load(&counters.targets),
            stretch_thousandths: load(&counters.stretch).max(1_000),
        });
        if let Some((earlier, at)) = &earlier {
            report::add_rates(earlier, &mut report, now.duration_since(*at));
        }
        *cell = Some((reader, report.clone(), now));
        Ok(report)
    }
}

impl Answers for Desk {
    #[expect(clippy::disallowed_methods, reason = "the edge: how long ago the loop was alive")]
    fn healthy(&self) -> Result<(), String> {
        self.shared.standing().healthy(Instant::now())
    }

    fn ready(&self) -> Result<(), String> {
        self.shared.standing().ready()
    }

    fn metrics(&self) -> Result<String, String> {
        self.report().map(|report| metrics::render(&report))
    }

    fn status(&self) -> Result<String, String> {
        let report = self.report()?;
        serde_json::to_string_pretty(&report).map_err(|error| error.to_string())
    }
}
