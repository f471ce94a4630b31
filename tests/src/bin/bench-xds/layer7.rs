//! Layer 7: what thousands of routes cost manager and Envoy, how often is told of them, how soon a tenant's write is what clients get, and what a
//! request costs that goes through one proxy and not two.
//!
//! Two API servers, the tenant's CCM, the manager and the real Envoy as processes of their own. Users and clients are this process.

mod hops;
mod objects;
mod watch;
mod world;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;

use crate::hub::WITHIN;
use crate::process;
use crate::report::{Report, Spread, float};
use world::World;

const PART: &str = "layer7";

/// How many of what.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Routes that come at once, at one Gateway.
    pub(crate) attached: u32,
    /// Routes that are there when a change is timed.
    pub(crate) loaded: u32,
    /// Routes that manager and Envoy start with.
    pub(crate) routes: u32,
    /// Changes of each kind that are timed.
    pub(crate) samples: usize,
    /// Nothing more comes when nothing has come for so long.
    pub(crate) quiet: Duration,
    /// How long requests are counted, in each turn.
    pub(crate) span: Duration,
    /// Turns of one proxy and of two; the median counts.
    pub(crate) turns: usize,
    /// What the processes log.
    pub(crate) log: String,
}

/// Takes the figures.
pub(crate) fn take(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let namespace = Namespace::new("l7")?;
    // Sockets of this thread are the namespace's, so that it reaches the API servers there.
    namespace.run(|| {
        let mut world = World::start(&namespace, plan)?;
        attached(&world, plan, report).context("routes that come at once")?;
        changed(&world, plan, report).context("routes that change at once")?;
        world.fill(plan.attached..plan.loaded)?;
        wait::until(WITHIN, || world.ask(plan.loaded - 1, 0))?;
        world.until_quiet(wait::now())?;
        answered(&world, plan, report).context("routes that change one by one")?;
        world.fill(plan.loaded..plan.routes)?;
        wait::until(WITHIN, || world.ask(plan.routes - 1, 0))?;
        world.until_quiet(wait::now())?;
        cold(&mut world, plan, report).context("cold start")?;
        hops::take(&world, CHANGED, plan, report).context("one proxy and two")
    })?
}

/// Pause between two requests for what is measured in milliseconds.
const STEP: Duration = Duration::from_millis(2);
/// The version of the routes that have changed.
const CHANGED: u32 = 1;

/// Many routes at one Gateway.
fn attached(world: &World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let many = plan.attached;
    let before = (world.gateways.seen(), world.told());
    let begin = wait::now();
    world.fill(0..many)?;
    let last = wait::now();
    wait::until(WITHIN, || {
        let count = world.gateways.seen().attached;
        ensure!(count == u64::from(many), "{count} of {many} are attached");
        Ok(())
    })?;
    world.until_quiet(last)?;
    let gateway = world.gateways.seen();
    let after = gateway.attached_since.saturating_duration_since(last);
    report.add(PART, "routes at one Gateway", f64::from(many), "");
    let taken = last.duration_since(begin).as_secs_f64();
    report.add(PART, "all are written after", taken, "s");
    report
        .add(
            PART,
            "attachedRoutes is right, after the last",
            after.as_secs_f64(),
            "s",
        )
        .must(5.0)
        .aim(1.0);
    report
        .add(
            PART,
            "writes of the Gateway's status",
            float(gateway.most_since(&before.0)),
            "",
        )
        .must(100.0)
        .aim(20.0);
    writes(world, &before.1, "a new route", report);
    memory(world.manager(), "manager", report)?.must(150.0).aim(40.0);
    memory(world.ccm(), "CCM", report)?;
    Ok(())
}

/// How often is told of each route.
fn writes(world: &World<'_>, before: &[watch::Seen; 2], what: &str, report: &mut Report) {
    let told = world.told();
    for ((of, now), before) in ["", " in the management cluster"].iter().zip(&told).zip(before) {
        let name = format!("writes of the status of {what}{of}, most of any");
        report.add(PART, name, float(now.most_since(before)), "").must(1.0);
    }
}

fn memory<'a>(process: u32, name: &str, report: &'a mut Report) -> anyhow::Result<&'a mut crate::report::Figure> {
    let kibibytes = u32::try_from(process::memory(process)?.anonymous / 1_024)?;
    let name = format!("{name}: anonymous memory");
    Ok(report.add(PART, name, f64::from(kibibytes) / 1_024.0, "MiB"))
}

/// All of them change at once.
fn changed(world: &World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let before = (world.gateways.seen(), world.told());
    world.change(0..plan.attached, CHANGED)?;
    wait::until(WITHIN, || world.ask(plan.attached - 1, CHANGED))?;
    world.until_quiet(wait::now())?;
    writes(world, &before.1, "a changed route", report);
    let of_gateway = float(world.gateways.seen().most_since(&before.0));
    report.add(PART, "writes of the Gateway's status meanwhile", of_gateway, "");
    Ok(())
}

/// Routes that come and change, one after the other.
fn answered(world: &World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (mut new, mut edited) = (Vec::new(), Vec::new());
    for sample in 0..u32::try_from(plan.samples)? {
        let number = 1_000_000 + sample;
        let at = wait::now();
        world.fill(number..number + 1)?;
        wait::until_by(STEP, WITHIN, || world.ask(number, 0))?;
        new.push(wait::now().duration_since(at));
        let at = wait::now();
        world.change(number..number + 1, CHANGED)?;
        wait::until_by(STEP, WITHIN, || world.ask(number, CHANGED))?;
        edited.push(wait::now().duration_since(at));
    }
    for (what, times) in [("new", new), ("changed", edited)] {
        let spread = Spread::of(times);
        let name = format!("a {what} route until its first right answer, with {}", plan.loaded);
        report.add(PART, format!("{name}, p50"), spread.p50, "ms");
        let p99 = report.add(PART, format!("{name}, p99"), spread.p99, "ms");
        p99.must(500.0).aim(50.0);
        report.add(PART, format!("{name}, slowest"), spread.max, "ms");
    }
    Ok(())
}

/// Manager and Envoy from nothing.
fn cold(world: &mut World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    world.stop();
    let at = wait::now();
    world.run()?;
    let ready = wait::now().duration_since(at);
    for number in [plan.attached, plan.routes - 1] {
        wait::until(WITHIN, || world.ask(number, 0))?;
    }
    let all = wait::now().duration_since(at);
    report.add(PART, "routes", f64::from(plan.routes), "");
    report.add(PART, "cold start: manager is ready", ready.as_secs_f64(), "s");
    report
        .add(
            PART,
            "cold start: Envoy has acknowledged all and answers",
            all.as_secs_f64(),
            "s",
        )
        .must(30.0)
        .aim(10.0);
    for (process, name) in [
        (world.manager(), "manager with all of them"),
        (world.ccm(), "CCM with all of them"),
        (world.envoy()?, "Envoy with all of them"),
    ] {
        memory(process, name, report)?;
    }
    Ok(())
}
