//! What the admin server answers: health, metrics, and the configuration for people.
//!
//! Must not know: how the answers come about; it shows what it was last given.

mod peers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kubelb_runtime::admin::Answers;
use kubelb_xds::{ResourceType, Snapshot};
use serde::Serialize;

use crate::ir::Ir;
use crate::object::Kind;
use crate::problem::Problem;
use crate::xds::server::{Server, clock};

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) ir: Ir,
    pub(crate) snapshot: Snapshot,
    pub(crate) problems: Vec<Problem>,
    pub(crate) objects: BTreeMap<Kind, usize>,
    pub(crate) settled: u64,
}

/// What is known of writing to an API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Whether this manager is the one that writes.
    pub(crate) leads: bool,
    /// Claims that another manager wrote first.
    pub(crate) claim_conflicts: u64,
    pub(crate) statuses_written: u64,
    pub(crate) statuses_failed: u64,
    pub(crate) statuses_waiting: usize,
}

/// Answers from the last view; not ready before there is one.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    view: Mutex<Option<View>>,
    /// What is awaited before there is a view.
    awaited: Mutex<String>,
    /// Where the objects are those of an API server.
    cluster: Mutex<Option<Cluster>>,
    server: OnceLock<Arc<Server>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    problems: &'a [Problem],
    ir: &'a Ir,
    /// By type and name: the version.
    resources: BTreeMap<&'static str, BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Cluster>,
    objects: BTreeMap<&'static str, usize>,
    resources: BTreeMap<&'static str, usize>,
    problems: &'a [Problem],
    peers: Vec<peers::PeerSummary>,
    agents: Vec<peers::AgentSummary>,
}

impl Desk {
    /// Its figures are shown from now on. The first call counts.
    pub(crate) fn serves(&self, server: Arc<Server>) {
        drop(self.server.set(server));
    }

    /// Says why nothing is shown yet.
    pub(crate) fn waits_for(&self, what: String) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub(crate) fn writes(&self, cluster: Cluster) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

    fn cluster(&self) -> Option<Cluster> {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    fn view(&self) -> Option<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Answers for Desk {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.view() {
            Some(_) => Ok(()),
            None => Err(
                match self.awaited.lock().unwrap_or_else(PoisonError::into_inner).as_str() {
                    "" => "the source has not been read yet".to_owned(),
                    awaited => awaited.to_owned(),
                },
            ),
        }
    }

    fn metrics(&self) -> Result<String, String> {
        let view = self.view().unwrap_or_default();
        let mut text = metrics(&view).map_err(|error| error.to_string())?;
        if let Some(cluster) = self.cluster() {
            writing(&mut text, &cluster).map_err(|error| error.to_string())?;
        }
        if let Some(server) = self.server.get() {
            text.push_str(&server.render_metrics());
        }
        Ok(text)
    }

    fn status(&self) -> Result<String, String> {
        let view = self.view();
        let shown = view.as_ref();
        let summary = Summary {
            ready: shown.is_some(),
            cluster: self.cluster(),
            objects: shown
                .map(|view| {
                    view.objects
                        .iter()
                        .map(|(kind, count)| (kind.as_str(), *count))
                        .collect()
                })
                .unwrap_or_default(),
            resources: shown.map(|view| counts(&view.snapshot).collect()).unwrap_or_default(),
            problems: shown.map_or(&[], |view| view.problems.as_slice()),
            peers: self.server.get().map(|server| peers::peers(server)).unwrap_or_default(),
            agents: self
                .server
                .get()
                .map(|server| peers::agents(server, clock()))
                .unwrap_or_default(),
        };
        serde_json::to_string_pretty(&summary).map_err(|error| error.to_string())
    }

    fn document(&self, path: &str) -> Option<Result<String, String>> {
        (path == "/snapshot").then(|| {
            let view = self.view().unwrap_or_default();
            let resources = ResourceType::ALL.into_iter().map(|kind| {
                let table = view.snapshot.table(kind).iter();
                let versions = table.map(|(name, resource)| (name.to_string(), resource.version().to_string()));
                (kind.label(), versions.collect())
            });
            let shown = Shown {
                problems: &view.problems,
                ir: &view.ir,
                resources: resources.collect(),
            };
            serde_json::to_string_pretty(&shown).map_err(|error| error.to_string())
        })
    }
}

fn counts(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, usize)> {
    ResourceType::ALL
        .into_iter()
        .map(|kind| (kind.label(), snapshot.table(kind).len()))
}

fn metrics(view: &View) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "# HELP kubelb_manager_objects Objects that are followed.")?;
    writeln!(text, "# TYPE kubelb_manager_objects gauge")?;
    for (kind, count) in &view.objects {
        writeln!(text, "kubelb_manager_objects{{kind=\"{}\"}} {count}", kind.as_str())?;
    }
    writeln!(
        text,
        "# HELP kubelb_manager_tenants Tenants that something is served for."
    )?;
    writeln!(text, "# TYPE kubelb_manager_tenants gauge")?;
    writeln!(text, "kubelb_manager_tenants {}", view.ir.tenants.len())?;
    writeln!(text, "# HELP kubelb_manager_resources Resources of the configuration.")?;
    writeln!(text, "# TYPE kubelb_manager_resources gauge")?;
    for (label, count) in counts(&view.snapshot) {
        writeln!(text, "kubelb_manager_resources{{type=\"{label}\"}} {count}")?;
    }
    let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in &view.problems {
        *by_reason.entry(problem.reason.as_str()).or_default() += 1;
    }
    writeln!(text, "# HELP kubelb_manager_problems Problems of objects.")?;
    writeln!(text, "# TYPE kubelb_manager_problems gauge")?;
    for (reason, count) in by_reason {
        writeln!(text, "kubelb_manager_problems{{reason=\"{reason}\"}} {count}")?;
    }
    writeln!(
        text,
        "# HELP kubelb_manager_changes_total Times that objects were brought into the configuration."
    )?;
    writeln!(text, "# TYPE kubelb_manager_changes_total counter")?;
    writeln!(text, "kubelb_manager_changes_total {}", view.settled)?;
    Ok(text)
}

fn writing(text: &mut String, cluster: &Cluster) -> std::fmt::Result {
    let waiting = u64::try_from(cluster.statuses_waiting).unwrap_or(u64::MAX);
    for (name, kind, help, value) in [
        (
            "leads",
            "gauge",
            "Whether this manager is the one that writes.",
            u64::from(cluster.leads),
        ),
        ("statuses_waiting", "gauge", "Statuses that are to be written.", waiting),
        (
            "statuses_written_total",
            "counter",
            "Statuses that were written.",
            cluster.statuses_written,
        ),
        (
            "statuses_failed_total",
            "counter",
            "Attempts to write a status that failed.",
            cluster.statuses_failed,
        ),
        (
            "claim_conflicts_total",
            "counter",
            "Claims that another manager wrote first.",
            cluster.claim_conflicts,
        ),
    ] {
        writeln!(text, "# HELP kubelb_manager_{name} {help}")?;
        writeln!(text, "# TYPE kubelb_manager_{name} {kind}")?;
        writeln!(text, "kubelb_manager_{name} {value}")?;
    }
    Ok(())
}
