//! From nothing to everything: a manager that reads a directory of manifests, and an agent that gets all of it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_common::backend::flag;
use kubelb_tests::agent::{Agent, Setup};
use kubelb_tests::wait;
use kubelb_tests::world::Mode;

use crate::manager::{Directories, Manager, bootstrap};
use crate::maps::View;
use crate::network::{INTERFACE, Network};
use crate::process;
use crate::report::{Report, float, megabytes};
use crate::scenario::Scenario;

const PART: &str = "cold";
const WITHIN: Duration = Duration::from_secs(300);
/// Over which load is measured.
const SPAN: Duration = Duration::from_secs(10);

/// Takes the figures.
pub(crate) fn take(scenario: &Scenario, report: &mut Report) -> anyhow::Result<()> {
    let network = Network::new(scenario)?;
    let directories = Directories::write(scenario)?;
    let manager = Manager::start(&network.node, &directories)?;
    report
        .add(
            PART,
            "manager: manifests to snapshot, first start",
            manager.ready_after.as_secs_f64(),
            "s",
        )
        .must(20.0)
        .aim(5.0);
    report.add(
        PART,
        "manager: computed for it",
        process::cpu(manager.pid())?.as_secs_f64(),
        "s",
    );
    memory_of_manager(&manager, "nobody connected", report)?;
    drop(manager);
    let manager = Manager::start(&network.node, &directories)?;
    report
        .add(
            PART,
            "manager: the same, started again",
            manager.ready_after.as_secs_f64(),
            "s",
        )
        .must(20.0)
        .aim(5.0);

    let mut agent = agent(&network, &directories)?;
    let started = wait::now();
    agent.spawn()?;
    agent.until_ready()?;
    let pid = agent.pid().context("the agent runs")?;
    let view = View::open(agent.bpffs())?;
    let programmed = || {
        let count = view.backends(0);
        ensure!(
            count == scenario.backends(),
            "{count} of {} backends",
            scenario.backends()
        );
        Ok(())
    };
    wait::until(WITHIN, programmed)?;
    let programmed = wait::now().duration_since(started);
    report
        .add(PART, "agent: start to programmed maps", programmed.as_secs_f64(), "s")
        .must(20.0)
        .aim(5.0);
    report.add(PART, "agent: computed for it", process::cpu(pid)?.as_secs_f64(), "s");
    memory_of_manager(&manager, "one agent connected", report)?;

    let ((), _) = wait::until(WITHIN, || {
        let checked = view.backends(flag::CHECKED);
        ensure!(
            checked == scenario.backends(),
            "{checked} of {} are checked",
            scenario.backends()
        );
        Ok(())
    })?;
    let checked = wait::now().duration_since(started);
    report.add(
        PART,
        "agent: start to every backend checked once",
        checked.as_secs_f64(),
        "s",
    );
    let (began, before, cpu_before) = (wait::now(), network.accepted(), process::cpu(pid)?);
    wait::pause(SPAN);
    let (span, after) = (wait::now().duration_since(began).as_secs_f64(), network.accepted());
    let cpu_after = process::cpu(pid)?;
    let per_second = float(usize::try_from(after - before)?) / span;
    report.add(PART, "agent: health checks in a second", per_second, "/s");
    let busy = (cpu_after - cpu_before).as_secs_f64() / span;
    report.add(PART, "agent: CPUs that are busy with them", busy, "CPU");

    let memory = process::memory(pid)?;
    report
        .add(PART, "agent: anonymous memory", megabytes(memory.anonymous), "MB")
        .must(400.0)
        .aim(200.0);
    report.add(
        PART,
        "agent: resident memory at its highest, maps included",
        megabytes(memory.peak),
        "MB",
    );
    let (maps, per_cpu) = view.memory()?;
    report.add(PART, "maps, in the kernel", megabytes(maps), "MB");
    report.add(
        PART,
        "maps: of these, for each of the CPUs together",
        megabytes(per_cpu),
        "MB",
    );
    one_change(scenario, &directories, &view, report)
}

/// A node of a tenant becomes another one: until the agent's maps say so.
fn one_change(scenario: &Scenario, directories: &Directories, view: &View, report: &mut Report) -> anyhow::Result<()> {
    let new = scenario.endpoints;
    let text = scenario.manifest(0, Some(new));
    let at = directories.put(0, &text)?;
    wait::until(WITHIN, || {
        ensure!(view.serves(Scenario::node(0, new)), "the change is not in the maps");
        Ok(())
    })?;
    let taken = wait::now().duration_since(at);
    report.add(
        PART,
        "a file changes: until it is in the agent's maps",
        taken.as_secs_f64() * 1e3,
        "ms",
    );
    Ok(())
}

/// An agent that has not been started.
pub(crate) fn agent<'a>(network: &'a Network, directories: &Directories) -> anyhow::Result<Agent<'a>> {
    let mut setup = Setup::new(&[INTERFACE], Mode::Tcx.flag());
    let flags = bootstrap(&directories.state(), ["--agent", "node"])?;
    setup.managers = flags.split_whitespace().map(str::to_owned).collect();
    Agent::prepare(&network.node, setup, "")
}

fn memory_of_manager(manager: &Manager<'_>, when: &str, report: &mut Report) -> anyhow::Result<()> {
    let memory = process::memory(manager.pid())?;
    report
        .add(
            PART,
            format!("manager: memory, {when}"),
            megabytes(memory.resident),
            "MB",
        )
        .must(600.0)
        .aim(200.0);
    report.add(
        PART,
        format!("manager: its highest, {when}"),
        megabytes(memory.peak),
        "MB",
    );
    Ok(())
}
