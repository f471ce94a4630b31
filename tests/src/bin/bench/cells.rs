//! Which figures are taken of the XDP program, and that what they time is what they say: every frame forwarded, or every
//! frame passed.

use std::path::Path;

use anyhow::{Context as _, ensure};
use kubelb_common::bench::MAX_VARIANTS;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::data_path::{DataPath, EGRESS, INGRESS, Kind};
use crate::driver::{Driver, Effort, Figure, Frames};

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// New flows of a sample: half of what the flow table is made for.
const NEW_FLOWS: u32 = 1 << 17;
/// Packets that go before the first sample of a program, so that it runs from warm memory.
const WARM_UP: u32 = 1 << 17;

/// A figure with what it is of.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    /// What was sent.
    pub(crate) name: String,
    /// Flows or keys that took turns.
    pub(crate) flows: u32,
    /// What became of every packet.
    pub(crate) verdict: &'static str,
    /// Nanoseconds of a packet, net of the empty program.
    pub(crate) nanoseconds: f64,
    /// The same with the driver.
    pub(crate) with_driver: f64,
}

/// How thorough to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thoroughness {
    /// Of packets that change nothing.
    pub(crate) steady: Effort,
    /// Samples of new flows, [`NEW_FLOWS`] each.
    pub(crate) opening_samples: usize,
}

/// All figures. The first is the unit.
pub(crate) struct Cells {
    /// One hit in a stock hash map with 16-byte keys.
    pub(crate) unit: Cell,
    /// The others.
    pub(crate) cells: Vec<Cell>,
}

/// A packet of an established flow that is to be measured.
#[derive(Clone, Copy)]
struct Steady {
    kind: Kind,
    flows: u32,
    egress: u32,
    reply: bool,
}

/// Takes all figures, on a thread of its own that keeps to one CPU.
pub(crate) fn take(object: &Path, how: Thoroughness, mut say: impl FnMut(&Cell) + Send) -> anyhow::Result<Cells> {
    std::thread::scope(|scope| {
        let work = || {
            keep_to_one_cpu()?;
            take_here(object, how, &mut say)
        };
        match scope.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn keep_to_one_cpu() -> anyhow::Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("cannot tell which CPUs are allowed")?;
    // The last: the first has most of the machine's interrupts.
    let cpu = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(cpu.context("no CPU is allowed")?)?;
    sched_setaffinity(me, &one).context("cannot keep to one CPU")
}

fn take_here(object: &Path, how: Thoroughness, say: &mut impl FnMut(&Cell)) -> anyhow::Result<Cells> {
    let mut driver = Driver::load(object)?;
    let mut unit = None;
    let mut cells = Vec::new();
    for keys in [1, MAX_VARIANTS] {
        let frames = Frames::of_clients(&Kind::TcpV4.following(), keys)?;
        let figure = driver.time_lookup(&frames, how.steady)?;
        let cell = cell("stock hash map, 16-byte key, hit".to_owned(), keys, figure, XDP_TX)?;
        say(&cell);
        match unit {
            None => unit = Some(cell),
            Some(_) => cells.push(cell),
        }
    }
    let mut note = |cell: Cell| {
        say(&cell);
        cells.push(cell);
    };
    note(not_ours(&mut driver, how.steady)?);
    let steady = |kind, flows, egress, reply| Steady {
        kind,
        flows,
        egress,
        reply,
    };
    for what in [
        steady(Kind::TcpV4, 1, EGRESS, false),
        steady(Kind::TcpV4, 1, INGRESS, false),
        steady(Kind::TcpV4, 1 << 12, EGRESS, false),
        steady(Kind::TcpV4, 1 << 16, EGRESS, false),
        steady(Kind::TcpV6, 1, EGRESS, false),
        steady(Kind::UdpV4, 1, EGRESS, false),
        steady(Kind::TcpV4, 1, EGRESS, true),
        steady(Kind::TcpV4, 1 << 16, EGRESS, true),
    ] {
        note(established(&mut driver, what, how.steady)?);
    }
    for kind in [Kind::TcpV4, Kind::UdpV4] {
        let effort = Effort {
            runs: NEW_FLOWS,
            samples: how.opening_samples,
        };
        note(new_flows(&mut driver, kind, effort)?);
    }
    let unit = unit.context("the unit was taken first")?;
    Ok(Cells { unit, cells })
}

fn not_ours(driver: &mut Driver, effort: Effort) -> anyhow::Result<Cell> {
    let mut path = DataPath::load(EGRESS)?;
    let frames = Frames::of_clients(&Kind::TcpV4.stranger(), 1)?;
    let figure = driver.time(&path.program()?, &frames, effort, || Ok(()))?;
    cell("not ours TCPv4".to_owned(), 1, figure, XDP_PASS)
}

fn established(driver: &mut Driver, what: Steady, effort: Effort) -> anyhow::Result<Cell> {
    let Steady {
        kind,
        flows,
        egress,
        reply,
    } = what;
    let name = format!("{} {}", if reply { "reply" } else { "established" }, kind.name());
    let mut path = DataPath::load(egress)?;
    let program = path.program()?;
    driver.run(&program, &Frames::of_clients(&kind.opening(), flows)?, flows)?;
    let made = path.flows();
    ensure!(
        made == usize::try_from(flows)?,
        "{name}: {made} of {flows} flows were made; dropped: {:?}",
        path.drops(kind)?
    );
    path.establish()?;
    let frames = if reply {
        driver.list(&path.reply_variants()?)?;
        Frames::listed(&kind.reply()?, flows)?
    } else {
        Frames::of_clients(&kind.following(), flows)?
    };
    driver.run(&program, &frames, WARM_UP)?;
    let count = || {
        path.traffic(kind)
            .map(|sum| if reply { sum.packets_out } else { sum.packets_in })
    };
    let before = count()?;
    let figure = driver.time(&program, &frames, effort, || Ok(()))?;
    let forwarded = count()? - before;
    let sent = u64::from(effort.runs) * u64::try_from(effort.samples)?;
    ensure!(
        forwarded == sent,
        "{name}: {forwarded} of {sent} packets were forwarded; dropped: {:?}",
        path.drops(kind)?
    );
    let verdict = if egress == INGRESS { XDP_TX } else { XDP_REDIRECT };
    cell(name, flows, figure, verdict)
}

fn new_flows(driver: &mut Driver, kind: Kind, effort: Effort) -> anyhow::Result<Cell> {
    let name = format!("new flow {}", kind.name());
    let mut path = DataPath::load(EGRESS)?;
    let program = path.program()?;
    let frames = Frames::of_clients(&kind.opening(), effort.runs)?;
    // Touches the memory that the flows will take.
    driver.run(&program, &frames, effort.runs)?;
    let all_made = || {
        let (made, wanted) = (path.flows(), usize::try_from(effort.runs)?);
        ensure!(
            made == wanted,
            "{name}: {made} of {wanted} flows were made; dropped: {:?}",
            path.drops(kind)?
        );
        Ok(())
    };
    let figure = driver.time(&program, &frames, effort, || {
        all_made()?;
        path.forget_flows()
    })?;
    all_made()?;
    cell(name, effort.runs, figure, XDP_REDIRECT)
}

fn cell(name: String, flows: u32, figure: Figure, wanted: u32) -> anyhow::Result<Cell> {
    ensure!(
        figure.verdict == wanted,
        "{name}: packets end as {}, not {}: this would not measure what it says",
        verdict(figure.verdict),
        verdict(wanted)
    );
    Ok(Cell {
        name,
        flows,
        verdict: verdict(wanted),
        nanoseconds: figure.net,
        with_driver: figure.gross,
    })
}

/// Name of an XDP verdict (linux/bpf.h).
fn verdict(code: u32) -> &'static str {
    match code {
        0 => "XDP_ABORTED",
        1 => "XDP_DROP",
        XDP_PASS => "XDP_PASS",
        XDP_TX => "XDP_TX",
        XDP_REDIRECT => "XDP_REDIRECT",
        _ => "no verdict",
    }
}
