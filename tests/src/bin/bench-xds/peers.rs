//! Many peers of one manager over TLS, a real agent and a real Envoy among them: how soon all of them have a change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use kubelb_manager::identity::{Authority, SpiffeId};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::wait;
use tokio::sync::{Semaphore, mpsc};

use crate::cold;
use crate::manager::{Directories, Manager, bootstrap};
use crate::maps::View;
use crate::network::Network;
use crate::peer::{self, Credential, Seen};
use crate::process;
use crate::report::{Report, Spread, float, megabytes};
use crate::scenario::{FOR_ENVOY, Scenario};

const PART: &str = "peers";
/// Until all have connected and have everything.
const CONNECT_WITHIN: Duration = Duration::from_secs(300);
/// Until all have a change.
const WITHIN: Duration = Duration::from_secs(30);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(500);

/// Peers that connect at a time: the manager gives a handshake ten seconds, and all handshakes of this process are on one CPU.
const AT_ONCE: usize = 16;

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) peers: usize,
    pub(crate) changes: usize,
}

/// Takes the figures.
pub(crate) fn take(scenario: &Scenario, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let network = Network::new(scenario)?;
    let directories = Directories::write(scenario)?;
    let manager = Manager::start(&network.node, &directories)?;
    let mut agent = cold::agent(&network, &directories)?;
    agent.restart()?;
    let view = View::open(agent.bpffs())?;
    let envoy = Envoy::start(
        &network.node,
        Setup::default(),
        &bootstrap(&directories.state(), ["--fleet", "*"])?,
    )?;
    let cluster = Scenario::endpoints_name(0, FOR_ENVOY);
    envoy.until_cluster(CONNECT_WITHIN, &cluster)?;

    // Two of the peers are real.
    let sessions = plan.peers.saturating_sub(2);
    let authority = Authority::open(&directories.state(), crate::manager::wall_clock())?;
    let started = wait::now();
    let mut crowd = Crowd::start(&network, &authority, sessions)?;
    let names = [Scenario::endpoints_name(0, 0), cluster.clone()];
    crowd.until_all_have(&names, CONNECT_WITHIN)?;
    // A peer is counted when its TLS is up; that all have everything is when nothing is sent any more.
    until_quiet(&manager)?;
    let taken = wait::now().duration_since(started);
    report.add(
        PART,
        format!("{} peers connect and have everything", plan.peers),
        taken.as_secs_f64(),
        "s",
    );
    let connected = manager.metric("kubelb_xds_streams", "")?;
    ensure!(
        connected >= float(plan.peers),
        "only {connected} peers of {} are connected",
        plan.peers
    );
    let (sent, cpu) = (resources(&manager)?, process::cpu(manager.pid())?);
    let mut times = Times::default();
    for turn in 0..plan.changes.max(1) {
        let node = scenario.endpoints + u32::from(turn % 2 == 0);
        let at = directories.put(0, &scenario.manifest(0, Some(node)))?;
        let address = Scenario::node(0, node);
        let in_agent = || view.serves(address);
        let in_envoy = || -> anyhow::Result<bool> {
            let clusters = envoy.clusters()?;
            let found = clusters.iter().find(|known| known.name == cluster);
            let wanted = address.to_string();
            Ok(found.is_some_and(|found| format!("{found:?}").contains(&wanted)))
        };
        let (agent_has, envoy_has) = until_both(in_agent, in_envoy)?;
        times.agent.push(agent_has.duration_since(at));
        times.envoy.push(envoy_has.duration_since(at));
        let seen = crowd.until_all_have(&names, WITHIN)?;
        times
            .all
            .extend(seen.into_iter().map(|seen| seen.saturating_duration_since(at)));
        wait::pause(PAUSE);
    }
    let changes = float(plan.changes.max(1));
    let spent = (process::cpu(manager.pid())? - cpu).as_secs_f64() * 1e3 / changes;
    let sent = (resources(&manager)? - sent) / changes;
    tell(plan, &times, report);
    report
        .add(PART, "resources sent for a change", sent, "")
        .must(float(plan.peers));
    report.add(PART, "manager: computed for a change", spent, "ms");
    let memory = process::memory(manager.pid())?;
    report
        .add(PART, "manager: memory", megabytes(memory.resident), "MB")
        .must(600.0);
    report.add(PART, "manager: memory at its highest", megabytes(memory.peak), "MB");
    Ok(())
}

#[derive(Debug, Default)]
struct Times {
    all: Vec<Duration>,
    agent: Vec<Duration>,
    envoy: Vec<Duration>,
}

fn tell(plan: Plan, times: &Times, report: &mut Report) {
    let all = times.all.iter().chain(&times.agent).chain(&times.envoy).copied();
    let all = Spread::of(all.collect());
    report.add(
        PART,
        format!("a file changes: {} peers have it, p50", plan.peers),
        all.p50,
        "ms",
    );
    report
        .add(PART, "a file changes: they have it, p99", all.p99, "ms")
        .must(1_000.0)
        .aim(100.0);
    report.add(PART, "a file changes: they have it, slowest", all.max, "ms");
    report.add(
        PART,
        "among them, the agent (in its maps), slowest",
        Spread::of(times.agent.clone()).max,
        "ms",
    );
    report.add(
        PART,
        "among them, Envoy (in its admin interface), slowest",
        Spread::of(times.envoy.clone()).max,
        "ms",
    );
}

fn until_both(
    agent: impl Fn() -> bool,
    envoy: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<(Instant, Instant)> {
    let (mut agent_has, mut envoy_has) = (None, None);
    let (both, _) = wait::until(WITHIN, || {
        if agent_has.is_none() && agent() {
            agent_has = Some(wait::now());
        }
        if envoy_has.is_none() && envoy()? {
            envoy_has = Some(wait::now());
        }
        agent_has
            .zip(envoy_has)
            .with_context(|| format!("agent has it: {agent_has:?}, Envoy: {envoy_has:?}"))
    })?;
    Ok(both)
}

fn resources(manager: &Manager<'_>) -> anyhow::Result<f64> {
    manager.metric("kubelb_xds_resources_sent_total", "")
}

fn until_quiet(manager: &Manager<'_>) -> anyhow::Result<()> {
    let mut last = f64::NAN;
    wait::until(CONNECT_WITHIN, || {
        let now = resources(manager)?;
        let is_quiet = now.to_bits() == last.to_bits();
        last = now;
        wait::pause(PAUSE);
        ensure!(is_quiet, "resources are still sent");
        Ok(())
    })?;
    Ok(())
}

/// Sessions on a thread in the manager's namespace, half of them agents, half of them fleets.
struct Crowd {
    seen: mpsc::UnboundedReceiver<Seen>,
    agents: usize,
    all: usize,
    /// `None` once it was found to have ended.
    thread: Option<JoinHandle<anyhow::Result<anyhow::Result<()>>>>,
}

impl Crowd {
    fn start(network: &Network, authority: &Authority, all: usize) -> anyhow::Result<Self> {
        let (sender, seen) = mpsc::unbounded_channel();
        let agents = all.div_ceil(2);
        let mut credentials = Vec::new();
        for number in 0..all {
            let id = if number < agents {
                SpiffeId::agent(&format!("node-{number}"))?
            } else {
                SpiffeId::fleet("*")?
            };
            credentials.push(Credential::issue(authority, &id)?);
        }
        let live = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                let doors = Arc::new(Semaphore::new(AT_ONCE));
                for (number, credential) in credentials.into_iter().enumerate() {
                    tasks.spawn(peer::live(number, credential, Arc::clone(&doors), sender.clone()));
                }
                drop(sender);
                while let Some(ended) = tasks.join_next().await {
                    ended??;
                }
                anyhow::Ok(())
            })
        };
        Ok(Self {
            seen,
            agents,
            all,
            thread: Some(network.node.spawn(live)?),
        })
    }

    /// Waits until every peer has something new of those `names` that are for it: the first for agents, the second for fleets. When each
    /// had it.
    fn until_all_have(&mut self, names: &[String; 2], within: Duration) -> anyhow::Result<Vec<Instant>> {
        let deadline = wait::now() + within;
        let mut missing: BTreeSet<usize> = (0..self.all).collect();
        let mut times = BTreeMap::new();
        while !missing.is_empty() {
            match self.seen.try_recv() {
                Ok(Seen { peer, name, at }) => {
                    let [for_agents, for_fleets] = names;
                    let wanted = if peer < self.agents { for_agents } else { for_fleets };
                    if name == *wanted && missing.remove(&peer) {
                        times.insert(peer, at);
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    if let Some(ended) = self.thread.take_if(|thread| thread.is_finished()) {
                        let ended = ended.join().map_err(|_panic| anyhow!("the peers' thread panicked"))?;
                        ended.flatten().context("a peer has ended")?;
                        bail!("the peers have ended");
                    }
                    ensure!(
                        wait::now() < deadline,
                        "{} of {} peers do not have it",
                        missing.len(),
                        self.all
                    );
                    wait::pause(Duration::from_millis(2));
                }
                Err(mpsc::error::TryRecvError::Disconnected) => bail!("the peers have ended"),
            }
        }
        Ok(times.into_values().collect())
    }
}
