//! Layer 7: what thousands of routes cost manager and Envoy, how often is told of them, and what a request costs that goes through one proxy and not two.
//!
//! An API server with the objects that a CCM writes, a manager and the real Envoy as processes of their own. Their clients are this process.

mod hops;
mod objects;
mod watch;
mod world;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;

use crate::process;
use crate::report::{Report, Spread, float};
use world::World;

const PART: &str = "layer7";
/// Until something is there at all.
const WITHIN: Duration = Duration::from_secs(300);
/// Nothing more comes when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(3);
const MIB: f64 = 1_048_576.0;

/// How many of what.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Routes that come at once, at one Gateway.
    pub(crate) attached: u32,
    /// Routes that are there when a change is timed.
    pub(crate) loaded: u32,
    /// Routes that manager and Envoy start with.
    pub(crate) routes: u32,
    /// Changes that are timed.
    pub(crate) samples: usize,
    /// How long requests are counted.
    pub(crate) span: Duration,
    /// What the manager logs.
    pub(crate) log: String,
}

/// Takes the figures.
pub(crate) fn take(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let namespace = Namespace::new("l7")?;
    // Sockets of this thread are the namespace's, so that it reaches the API server there.
    namespace.run(|| {
        let mut world = World::start(&namespace, &plan.log)?;
        attached(&mut world, plan, report).context("routes that come at once")?;
        changed(&world, plan, report).context("routes that change")?;
        world.fill(plan.attached..plan.loaded)?;
        answered(&world, plan, report).context("a new route")?;
        world.fill(plan.loaded..plan.routes)?;
        cold(&mut world, plan, report).context("cold start")?;
        hops::take(&world, plan.span, report).context("one proxy and two")
    })?
}

/// Many routes at one Gateway.
fn attached(world: &mut World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let many = plan.attached;
    let before = world.seen();
    world.fill(0..many)?;
    let last = wait::now();
    wait::until(WITHIN, || {
        let count = world.seen().attached;
        ensure!(count == u64::from(many), "{count} of {many} are attached");
        Ok(())
    })?;
    let seen = world.until_quiet(QUIET)?;
    let after = seen.attached_since.saturating_duration_since(last);
    report.add(PART, "routes at one Gateway", f64::from(many), "");
    let told = report.add(
        PART,
        "attachedRoutes is right, after the last",
        after.as_secs_f64(),
        "s",
    );
    told.must(5.0).aim(1.0);
    let writes = seen.of_gateway - before.of_gateway;
    report
        .add(PART, "writes of the Gateway's status", float(writes), "")
        .must(100.0)
        .aim(20.0);
    let most = seen.of_routes.values().max().copied().unwrap_or_default();
    report
        .add(PART, "writes of a new route's status, most of any", float(most), "")
        .must(1.0);
    let anonymous = process::memory(world.manager())?.anonymous;
    let mib = f64::from(u32::try_from(anonymous / 1_024)?) * 1_024.0 / MIB;
    report
        .add(PART, "manager: anonymous memory", mib, "MiB")
        .must(150.0)
        .aim(40.0);
    Ok(())
}

/// All of them change at once.
fn changed(world: &World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let before = world.seen();
    world.change(0..plan.attached)?;
    let seen = world.until_quiet(QUIET)?;
    let most = seen
        .of_routes
        .iter()
        .map(|(name, writes)| writes - before.of_routes.get(name).copied().unwrap_or_default())
        .max();
    report
        .add(
            PART,
            "writes of a changed route's status, most of any",
            float(most.unwrap_or_default()),
            "",
        )
        .must(1.0);
    let writes = seen.of_gateway - before.of_gateway;
    report.add(PART, "writes of the Gateway's status meanwhile", float(writes), "");
    Ok(())
}

/// New ones, one after the other.
fn answered(world: &World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for sample in 0..plan.samples {
        let number = 1_000_000 + u32::try_from(sample)?;
        let at = wait::now();
        world.fill(number..number + 1)?;
        wait::until(WITHIN, || world.ask(number))?;
        times.push(wait::now().duration_since(at));
    }
    let spread = Spread::of(times);
    let name = format!("a new route until its first right answer, with {}", plan.loaded);
    report.add(PART, format!("{name}, p50"), spread.p50, "ms");
    let p99 = report.add(PART, format!("{name}, p99"), spread.p99, "ms");
    p99.must(500.0).aim(50.0);
    report.add(PART, format!("{name}, slowest"), spread.max, "ms");
    Ok(())
}

/// Manager and Envoy from nothing.
fn cold(world: &mut World<'_>, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    world.stop();
    let at = wait::now();
    world.run()?;
    let ready = wait::now().duration_since(at);
    for number in [0, plan.routes - 1] {
        wait::until(WITHIN, || world.ask(number))?;
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
    let memory = process::memory(world.manager())?;
    let mib = |bytes: u64| anyhow::Ok(f64::from(u32::try_from(bytes / 1_024)?) / 1_024.0);
    report.add(
        PART,
        "manager: anonymous memory with them",
        mib(memory.anonymous)?,
        "MiB",
    );
    let envoy = process::memory(world.envoy()?)?;
    report.add(PART, "Envoy: anonymous memory with them", mib(envoy.anonymous)?, "MiB");
    Ok(())
}
