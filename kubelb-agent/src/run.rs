//! The commands. The only place that starts tasks and reads clocks.

mod desk;
mod rounds;
mod standing;
mod voice;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use kubelb_runtime::{admin, error_chain, shutdown, telemetry};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announce::speaker;
use crate::args::{self, Command, DetachArgs, OutputFormat, RunArgs, StatusArgs};
use crate::bpf::announced::Witness;
use crate::bpf::load::{Programs, Sizes};
use crate::bpf::maps::Maps;
use crate::bpf::pins::{self, PinDirectory, Removal};
use crate::bpf::store::Store;
use crate::bpf::{BpfError, attach};
use crate::engine::{Attachments, Engine};
use crate::feedback::{Feedback, State};
use crate::net::{self, NextHopView, stack};
use crate::report::{self, Reader};
use crate::source::Source;
use crate::source::xds::stream::read_shown;
use crate::status::xds::XdsReport;
use crate::status::{AgentInfo, render_table};
use desk::{Desk, Shared};
use rounds::Rounds;
use voice::Voice;

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
            runtime.block_on(agent(*args))
        }
        Command::Status(args) => status(&args, &mut std::io::stdout()),
        Command::Detach(args) => detach(&args, &mut std::io::stdout()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge: life begins here")]
async fn agent(args: RunArgs) -> anyhow::Result<()> {
    // What the user can mend comes before anything that is loaded.
    let source = source(&args)?;
    let shutdown = shutdown::on_signals()?;
    let shared = Arc::new(Shared::new(Instant::now()));
    let mut tasks = JoinSet::new();
    // The lock first: an agent that is about to end still has the admin address.
    let pins = PinDirectory::open(&args.bpffs)?;
    if let Some(address) = args.admin_address {
        let listener = admin::bind(address)
            .await
            .with_context(|| format!("--admin-address {address}"))?;
        let answers = Arc::new(Desk::new(args.bpffs.clone(), Arc::clone(&shared)));
        let token = shutdown.clone();
        tasks.spawn(async move {
            admin::serve(listener, answers, token).await;
            anyhow::Ok(())
        });
    }
    let (mut programs, maps, attachments) = load(&args, pins)?;
    tasks.spawn(follow_drops(&mut programs, shutdown.clone())?);
    let engine = Engine::new(Store::new(maps)?, programs, attachments)?;
    let capacity = engine.capacity();
    tracing::info!(
        flows = capacity.flows,
        buckets = capacity.buckets,
        hz = capacity.hz,
        "data path loaded"
    );
    let (wanted_out, wanted_in) = watch::channel(BTreeSet::new());
    let (hops_out, hops_in) = watch::channel(NextHopView::default());
    let token = shutdown.clone();
    tasks.spawn(async move {
        net::run(wanted_in, hops_out, token)
            .await
            .context("following routes and neighbours")
    });
    let witness = Witness::open(&pins::existing_maps(&args.bpffs)?)?;
    let (speech_out, speech_in) = watch::channel(speaker::Speech::default());
    let token = shutdown.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = speaker::run(speech_in, |place| witness.answers(place)) => {}
        }
        anyhow::Ok(())
    });
    let (stack_out, stack_in) = watch::channel(None);
    let token = shutdown.clone();
    tasks.spawn(async move {
        stack::run(stack_in, token)
            .await
            .context("giving the node its addresses")
    });
    let voice = Voice::new(speech_out, stack_out);
    let (state, feedback) = feedback(args.bpffs.clone());
    let (source, managers) = source.start(feedback, shutdown.clone());
    if let Some(managers) = managers {
        shared.follow_managers(managers);
    }
    let rounds = Rounds::new(
        engine,
        shared,
        source,
        (wanted_out, hops_in),
        voice,
        state,
        shutdown.clone(),
    );
    tasks.spawn(rounds.with_checks_per_second(args.max_checks_per_second).run());

    let result = shutdown::ended(tasks, &shutdown).await;
    tracing::info!("stopped; forwarding goes on with the configuration as it is (`kubelb-agent detach` ends it)");
    result
}

fn source(args: &RunArgs) -> anyhow::Result<Source> {
    if let Some(settings) = args.xds.settings()? {
        return Ok(Source::Xds(settings));
    }
    let path = args.config.clone().context("--config or --xds is needed")?;
    Ok(Source::File(path))
}

/// What those are told who configure: the state that is sent here, and the counters of the maps that are pinned there.
fn feedback(bpffs: PathBuf) -> (watch::Sender<Option<State>>, Feedback) {
    let (sender, state) = watch::channel(None);
    let reader: Mutex<Option<Reader>> = Mutex::new(None);
    let traffic = move || {
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.is_none() {
            let opened = Reader::open(&bpffs);
            *reader = opened
                .inspect_err(|error| tracing::warn!("counters are not reported: {}", error_chain::chain(error)))
                .ok();
        }
        reader.as_ref().map(Reader::traffic).unwrap_or_default()
    };
    let traffic = Arc::new(traffic);
    (sender, Feedback { state, traffic })
}

/// Loads the programs, or takes over what is pinned, and attaches them. Takes about half a second.
fn load(args: &RunArgs, pins: PinDirectory) -> anyhow::Result<(Programs, Maps, Attachments)> {
    let wanted = args.attachments()?;
    let hairpin = wanted
        .iter()
        .any(|(interface, _)| attach::wants_hairpin_by_redirect(interface));
    let sizes = Sizes {
        flows: args.max_flows,
        backends: args.max_backends,
    };
    let mut programs = Programs::load(&pins, sizes, hairpin)?;
    let mut maps = Maps::open(&pins::existing_maps(&args.bpffs)?, true)?;
    let attached = attach::attach_all(&mut programs, &mut maps, &pins, &wanted)?;
    let attachments = Attachments { pins, wanted, attached };
    Ok((programs, maps, attachments))
}

/// Logs sampled drops until the shutdown. That they cannot be read ends nothing else.
fn follow_drops(
    programs: &mut Programs,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = anyhow::Result<()>> + Send + use<>, BpfError> {
    let drops = programs.follow_drops()?;
    Ok(async move {
        let drops = tokio::spawn(drops);
        let stop = drops.abort_handle();
        tokio::select! {
            () = shutdown.cancelled() => stop.abort(),
            ended = drops => {
                tracing::warn!(?ended, "drops are no longer logged; they are counted still");
                shutdown.cancelled().await;
            }
        }
        Ok(())
    })
}

fn status(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let reader = Reader::open(&args.bpffs)?;
    let before = reader.read();
    std::thread::sleep(SAMPLE);
    let mut after = reader.read();
    after.tell_of(managers(args, &after.agent));
    report::add_rates(&before, &mut after, SAMPLE);
    let text = match args.output {
        OutputFormat::Table => render_table(&after),
        OutputFormat::Json => serde_json::to_string_pretty(&after)? + "\n",
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// What the agent has written of its managers, if it has its configuration from any.
#[expect(clippy::disallowed_methods, reason = "the edge: how long ago something was")]
fn managers(args: &StatusArgs, agent: &AgentInfo) -> Option<XdsReport> {
    let (pid, report) = read_shown(&args.state_dir)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if !agent.running {
        return Some(report.without_agent(now));
    }
    (agent.pid == Some(pid)).then(|| report.at(now))
}

fn detach(args: &DetachArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let path = args.bpffs.display();
    let Some(removal) = Removal::begin(&args.bpffs)? else {
        writeln!(out, "{path}: no such directory; nothing was pinned")?;
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(stack::remove_all())?;
    if addresses > 0 {
        writeln!(
            out,
            "removed {addresses} addresses and multicast groups from interfaces"
        )?;
    }
    let filters = attach::detach_filters(&args.bpffs)?;
    let pins = removal.remove_all()?;
    if pins.is_empty() {
        writeln!(out, "{path}: nothing was pinned")?;
        return Ok(());
    }
    for interface in &filters.removed {
        writeln!(out, "{interface}: removed the clsact filter")?;
    }
    for interface in &filters.elsewhere {
        writeln!(
            out,
            "{interface}: not in this network namespace; if it is in another one, its clsact filter still forwards: \
             tc filter del dev {interface} ingress"
        )?;
    }
    let end = if filters.elsewhere.is_empty() {
        "; nothing is forwarded any more"
    } else {
        ""
    };
    writeln!(out, "{path}: removed {} pins{end}", pins.len())?;
    Ok(())
}

#[cfg(test)]
mod tests;
