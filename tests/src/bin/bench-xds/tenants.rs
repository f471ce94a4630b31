//! A tenant changes a Service, a node or where its endpoints are: how long until packets take the new way.
//!
//! A management cluster with the objects of a hundred tenants, manager and agent; two of the tenants have an API server and a CCM of their own.
//! A client dials all the time; what counts is the first answer that only the new state can give, or the last one that only the old one could.

mod client;
mod machines;
mod objects;
mod tenant;
mod world;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kubelb_tests::wait;

use crate::report::{Report, Spread, float};
use client::{Answer, Client};
use machines::Machines;
use tenant::Tenant;
use world::World;

const PART: &str = "tenants";
/// Until a change must be seen.
const WITHIN: Duration = Duration::from_secs(20);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(150);
/// So many answers in a row mean that what is gone is gone.
const GONE: usize = 30;

/// How many of what.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) load_balancers: u32,
    pub(crate) samples: usize,
    /// What the processes log.
    pub(crate) log: String,
}

/// Takes the figures.
pub(crate) fn take(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let machines = Machines::new()?;
    // Sockets of the bench's own clients are the management node's, so that they reach the API servers there.
    machines.node().run(|| {
        let world = World::start(&machines, plan, report)?;
        Bench {
            client: Client::start(machines.client())?,
            world,
            machines: &machines,
        }
        .take(plan, report)
    })?
}

struct Bench<'a> {
    world: World<'a>,
    machines: &'a Machines,
    client: Client,
}

impl Bench<'_> {
    fn take(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let mut times: [(&str, Vec<Duration>); 4] = [
            ("a Service's port changes", Vec::new()),
            ("a node takes traffic", Vec::new()),
            ("a node takes no more traffic", Vec::new()),
            ("an endpoint moves (Local)", Vec::new()),
        ];
        for turn in 0..plan.samples.max(2) {
            let tenant = self.world.tenant(turn)?;
            let [service, more, less, endpoint] = &mut times;
            service.1.push(self.port(tenant, turn).context("a Service's port")?);
            if turn % 2 == 0 {
                less.1
                    .push(self.exclude(tenant).context("a node that takes no more traffic")?);
                more.1.push(self.include(tenant).context("a node that takes traffic")?);
            }
            endpoint.1.push(self.endpoint(tenant, turn).context("an endpoint")?);
        }
        let all: Vec<Duration> = times.iter().flat_map(|(_, times)| times).copied().collect();
        for (name, times) in times {
            let spread = Spread::of(times);
            for (which, value) in [("p50", spread.p50), ("p99", spread.p99), ("slowest", spread.max)] {
                report.add(PART, format!("{name}, {which}"), value, "ms");
            }
        }
        report.add(PART, "changes", float(all.len()), "");
        let spread = Spread::of(all);
        report
            .add(PART, "any change until packets take the new way, p50", spread.p50, "ms")
            .aim(50.0);
        let p99 = report.add(PART, "any change until packets take the new way, p99", spread.p99, "ms");
        p99.must(1_000.0).aim(250.0);
        report.add(
            PART,
            "any change until packets take the new way, slowest",
            spread.max,
            "ms",
        );
        Ok(())
    }

    /// The Service gets another port.
    fn port(&self, tenant: &Tenant, turn: usize) -> anyhow::Result<Duration> {
        // Never one that it had lately: connections to it may be remembered.
        let port = 1_000 + u16::try_from(turn % 20_000)?;
        let address = SocketAddr::new(tenant.vip(), port);
        self.client.dial(Some(address));
        let at = tenant.set_port(port)?;
        let seen = self.until(|answer| answer.address == address)?;
        self.rest(SocketAddr::new(tenant.vip(), port));
        Ok(seen.at.saturating_duration_since(at))
    }

    /// A node of all Services is excluded. The time is until the last connection to it began.
    fn exclude(&self, tenant: &Tenant) -> anyhow::Result<Duration> {
        let address = tenant.plain();
        self.client.dial(Some(address));
        let names = self.machines.names(tenant.number());
        let [_, excluded] = names;
        self.until(|answer| answer.name == excluded)?;
        let at = tenant.exclude(1, true)?;
        let last = self.until_gone(excluded, at)?;
        self.rest(address);
        Ok(last)
    }

    /// It is a node of all Services again.
    fn include(&self, tenant: &Tenant) -> anyhow::Result<Duration> {
        let address = tenant.plain();
        self.client.dial(Some(address));
        let at = tenant.exclude(1, false)?;
        let [_, name] = self.machines.names(tenant.number());
        let seen = self.until(|answer| answer.name == name && answer.sent > at)?;
        self.rest(address);
        Ok(seen.at.saturating_duration_since(at))
    }

    /// The one endpoint of a Service of `externalTrafficPolicy: Local` moves to the other node. Until the first answer from there and the last
    /// connection to where it was.
    fn endpoint(&self, tenant: &Tenant, turn: usize) -> anyhow::Result<Duration> {
        let address = tenant.local();
        let to = (turn / self.world.tenants() + 1) % 2;
        let [first, second] = self.machines.names(tenant.number());
        let (from, into) = if to == 0 { (second, first) } else { (first, second) };
        self.client.dial(Some(address));
        self.until(|answer| answer.name == from)?;
        let at = tenant.move_endpoint(to)?;
        let seen = self.until(|answer| answer.name == into)?;
        let last = self.until_gone(from, at)?;
        self.rest(address);
        Ok(seen.at.saturating_duration_since(at).max(last))
    }

    /// Waits for an answer at the address that is dialled.
    fn until(&self, wanted: impl Fn(&Answer) -> bool) -> anyhow::Result<Answer> {
        let deadline = wait::now() + WITHIN;
        loop {
            let answer = self.client.answer(deadline)?;
            if wanted(&answer) {
                return Ok(answer);
            }
        }
    }

    /// Waits until a machine answers no new connection any more; when the last one began, after `since`.
    fn until_gone(&self, name: &str, since: Instant) -> anyhow::Result<Duration> {
        let (deadline, mut last, mut others) = (wait::now() + WITHIN, since, 0);
        while others < GONE {
            let answer = self.client.answer(deadline)?;
            if answer.name == name {
                last = last.max(answer.sent);
                others = 0;
            } else {
                ensure!(!answer.name.is_empty(), "an answer without a name");
                others += 1;
            }
        }
        Ok(last.saturating_duration_since(since))
    }

    fn rest(&self, _dialled: SocketAddr) {
        self.client.dial(None);
        wait::pause(PAUSE);
        self.client.forget();
    }
}
