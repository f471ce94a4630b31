//! The commands. The only place that starts tasks and reads clocks.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kubelb_runtime::admin::{self, Answers};
use kubelb_runtime::{error_chain, shutdown, telemetry};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::args::{self, Command, DetachArgs, OutputFormat, RunArgs, StatusArgs};
use crate::bpf::attach;
use crate::bpf::load::Programs;
use crate::bpf::maps::Maps;
use crate::bpf::pins::{self, PinDirectory};
use crate::bpf::store::Store;
use crate::engine::Engine;
use crate::health::probe::ProbeBind;
use crate::health::{self, Assignment, Counters, Settings, SocketProber};
use crate::metrics;
use crate::model::{Desired, HealthView};
use crate::net::{self, NextHopView};
use crate::report::{self, Reader};
use crate::source::{Source, Update};
use crate::status::{ChecksReport, Report, render_table};

/// Time between two steps of the sweep; a whole walk is 16 of them.
const SWEEP: Duration = Duration::from_millis(250);
/// Time between two rounds while removed backends drain, and after a round that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Time between the two samples from which `status` has its rates.
const SAMPLE: Duration = Duration::from_millis(500);

/// Runs a command to its end.
///
/// # Errors
/// With what the user can mend, or what the kernel said.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => {
            telemetry::init(args.log_format, &args::log_filter())?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(agent(args))
        }
        Command::Status(args) => status(&args),
        Command::Detach(args) => detach(&args),
    }
}

async fn agent(args: RunArgs) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signals()?;
    let attachments = args.attachments()?;
    let pins = PinDirectory::open(&args.bpffs)?;
    let hairpin = attachments
        .iter()
        .any(|(interface, _)| attach::wants_hairpin_by_redirect(interface));
    let mut programs = Programs::load(&pins, args.max_flows, hairpin)?;
    let mut maps = Maps::open(&pins::existing_maps(&args.bpffs)?, true)?;
    let attached = attach::attach_all(&mut programs, &mut maps, &pins, &attachments)?;
    let engine = Engine::new(Store::new(maps)?, programs, &attached)?;
    let capacity = engine.capacity();
    tracing::info!(
        flows = capacity.flows,
        buckets = capacity.buckets,
        hz = capacity.hz,
        "data path loaded"
    );

    let shared = Arc::new(Shared::default());
    let mut tasks = JoinSet::new();
    if let Some(address) = args.admin_address {
        let listener = admin::bind(address)
            .await
            .with_context(|| format!("--admin-address {address}"))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "admin server listening");
        let answers = Desk {
            reader: Mutex::new(None),
            bpffs: args.bpffs.clone(),
            shared: Arc::clone(&shared),
        };
        let token = shutdown.clone();
        tasks.spawn(async move {
            admin::serve(listener, Arc::new(answers), token).await;
            anyhow::Ok(())
        });
    }
    let (wanted_out, wanted_in) = watch::channel(BTreeSet::new());
    let (hops_out, hops_in) = watch::channel(NextHopView::default());
    let token = shutdown.clone();
    tasks.spawn(async move {
        net::run(wanted_in, hops_out, token)
            .await
            .context("following routes and neighbours")
    });
    let source = Source::File(args.config.clone()).start(shutdown.clone());
    let loop_ = Loop {
        engine,
        shared,
        source,
        wanted: wanted_out,
        hops: hops_in,
        checks: None,
        desired: None,
        shutdown: shutdown.clone(),
    };
    tasks.spawn(loop_.run());

    let mut result = Ok(());
    while let Some(done) = tasks.join_next().await {
        let done = done.context("a task panicked").flatten();
        if done.is_err() && result.is_ok() {
            result = done;
        }
        // Whichever ends, the agent ends as a whole.
        shutdown.cancel();
    }
    tracing::info!("stopped; forwarding goes on with the configuration as it is (`kubelb-agent detach` ends it)");
    result
}

/// What the admin server shows and the loop knows.
#[derive(Default)]
struct Shared {
    config_error: Mutex<Option<String>>,
    not_ready: Mutex<Option<String>>,
    applied: Mutex<bool>,
    counters: Arc<Counters>,
}

fn set<T>(cell: &Mutex<T>, value: T) {
    *cell.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

fn get<T: Clone>(cell: &Mutex<T>) -> T {
    cell.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Health checks, once there is something to check.
struct Checks {
    assignment: watch::Sender<Assignment>,
    results: watch::Receiver<HealthView>,
}

struct Loop {
    engine: Engine,
    shared: Arc<Shared>,
    source: mpsc::Receiver<Update>,
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    hops: watch::Receiver<NextHopView>,
    checks: Option<Checks>,
    desired: Option<Desired>,
    shutdown: CancellationToken,
}

impl Loop {
    async fn run(mut self) -> anyhow::Result<()> {
        set(&self.shared.not_ready, Some("no valid configuration yet".into()));
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again: Option<tokio::time::Instant> = None;
        let mut dirty = false;
        loop {
            // With half of the ways unknown a round would take backends off their way, and a death right after it
            // would leave them so.
            let hops_known = self.hops.borrow().covers(&self.wanted.borrow());
            if dirty && hops_known {
                dirty = false;
                again = self.round().then(|| tokio::time::Instant::now() + LOOK_AGAIN);
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                update = self.source.recv() => match update {
                    Some(update) => dirty |= self.take(update),
                    None => return if self.shutdown.is_cancelled() { Ok(()) } else { Err(anyhow::anyhow!("the configuration source ended")) },
                },
                changed = self.hops.changed() => match changed {
                    Ok(()) => dirty = self.desired.is_some(),
                    Err(_) => return Ok(()),
                },
                () = results_changed(self.checks.as_mut()) => dirty = true,
                () = due(again) => {
                    again = None;
                    dirty = self.desired.is_some();
                }
                _ = sweep.tick() => self.engine.sweep()?,
            }
        }
    }

    /// Takes an update over; true when there is something to apply.
    fn take(&mut self, update: Update) -> bool {
        let desired = match update {
            Ok(desired) => desired,
            Err(errors) => {
                let text = errors.to_string();
                tracing::error!("configuration refused, the one before stays in force:\n{text}");
                set(&self.shared.config_error, Some(text));
                return false;
            }
        };
        set(&self.shared.config_error, None);
        let backends = desired.frontends.values().flat_map(|frontend| &frontend.backends);
        let wanted: BTreeSet<IpAddr> = backends.map(|backend| backend.address.ip()).collect();
        self.wanted.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
        self.assign(&desired);
        tracing::info!(frontends = desired.frontends.len(), "configuration accepted");
        self.desired = Some(desired);
        true
    }

    fn assign(&mut self, desired: &Desired) {
        let targets = desired
            .frontends
            .values()
            .flat_map(|frontend| {
                frontend
                    .backends
                    .iter()
                    .filter_map(|backend| frontend.check_target(backend))
            })
            .collect();
        let assignment = Assignment {
            targets,
            bind: ProbeBind {
                exclude: desired.snat.ports,
            },
        };
        if let Some(checks) = &self.checks {
            checks.assignment.send_replace(assignment);
            return;
        }
        let initial = self.engine.known_health(desired);
        let (assignment_out, assignment_in) = watch::channel(assignment);
        let (results_out, results_in) = watch::channel(initial.clone());
        let settings = Settings {
            seed: fastrand::u64(..),
            concurrency: health::DEFAULT_CONCURRENCY,
        };
        let counters = Arc::clone(&self.shared.counters);
        let token = self.shutdown.clone();
        tokio::spawn(health::run(
            settings,
            SocketProber,
            assignment_in,
            initial,
            results_out,
            counters,
            token,
        ));
        self.checks = Some(Checks {
            assignment: assignment_out,
            results: results_in,
        });
    }

    /// One round; true when another is due after a while.
    #[expect(clippy::disallowed_methods, reason = "the edge: reads the clock for the pure parts")]
    fn round(&mut self) -> bool {
        let Some(desired) = &self.desired else { return false };
        let health = self
            .checks
            .as_mut()
            .map(|checks| checks.results.borrow_and_update().clone())
            .unwrap_or_default();
        let hops = self.hops.borrow_and_update().clone();
        match self.engine.reconcile(desired, &health, &hops, Instant::now()) {
            Ok(problems) => {
                let capacity = self.engine.capacity();
                if !get(&self.shared.applied) {
                    set(&self.shared.applied, true);
                    tracing::info!(snat = ?capacity.snat, "configuration applied");
                }
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                set(&self.shared.not_ready, problems.first().cloned());
                !problems.is_empty() || self.engine.is_draining()
            }
            Err(error) => {
                let text = error_chain::chain(&error).to_string();
                tracing::error!("applying the configuration failed, to be tried again: {text}");
                set(&self.shared.not_ready, Some(text));
                true
            }
        }
    }
}

async fn results_changed(checks: Option<&mut Checks>) {
    match checks {
        // An ended driver has nothing more to say; the loop ends with the shutdown that ended it.
        Some(checks) => {
            if checks.results.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Answers the admin server's questions.
struct Desk {
    reader: Mutex<Option<(Reader, Report, Instant)>>,
    bpffs: PathBuf,
    shared: Arc<Shared>,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "the edge: rates need the time of each sample")]
    fn report(&self) -> Result<Report, String> {
        let mut cell = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
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
        report.agent.config_error = get(&self.shared.config_error);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let counters = &self.shared.counters;
        report.checks = Some(ChecksReport {
            passed: load(&counters.passed),
            failed: load(&counters.failed),
            local_errors: load(&counters.local_errors),
            delayed: load(&counters.delayed),
        });
        if let Some((earlier, at)) = &earlier {
            report::add_rates(earlier, &mut report, now.duration_since(*at));
        }
        *cell = Some((reader, report.clone(), now));
        Ok(report)
    }
}

impl Answers for Desk {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match get(&self.shared.not_ready) {
            Some(why) => Err(why),
            None if get(&self.shared.applied) => Ok(()),
            None => Err("starting".into()),
        }
    }

    fn metrics(&self) -> Result<String, String> {
        self.report().map(|report| metrics::render(&report))
    }

    fn status(&self) -> Result<String, String> {
        let report = self.report()?;
        serde_json::to_string_pretty(&report).map_err(|error| error.to_string())
    }
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let reader = Reader::open(&args.bpffs)?;
    let before = reader.read();
    std::thread::sleep(SAMPLE);
    let mut after = reader.read();
    report::add_rates(&before, &mut after, SAMPLE);
    let text = match args.output {
        OutputFormat::Table => render_table(&after),
        OutputFormat::Json => serde_json::to_string_pretty(&after)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    let removed = pins::remove_all(&args.bpffs)?;
    let mut out = std::io::stdout();
    if removed.is_empty() {
        writeln!(out, "{}: nothing was pinned", args.bpffs.display())?;
    } else {
        writeln!(
            out,
            "{}: removed {} pins; nothing is forwarded any more",
            args.bpffs.display(),
            removed.len()
        )?;
    }
    Ok(())
}
