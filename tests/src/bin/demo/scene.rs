//! The machines, the services on them, and what is shown of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_tests::agent::config::Frontend;
use kubelb_tests::agent::{Agent, Config, Setup};
use kubelb_tests::topology::{Plan, Tenant, Topology, VIP4, VIP6};
use kubelb_tests::traffic::{Conversations, Iperf, Kind, Server, Transport};
use kubelb_tests::wait;

use crate::board::Board;
use crate::load::{Counts, Load, Service, Speaks};
use crate::{Stage, say};

const HTTP: (u16, u16) = (80, 30_080);
const TCP: (u16, u16) = (7_000, 30_700);
const UDP: (u16, u16) = (5_300, 30_053);
/// iperf3's control connection and data must reach one server: one backend, TCP and UDP on the same port.
const BULK: (u16, u16) = (5_201, 30_201);
const CHECK: &str =
    "{type: TCP, port: 30080, interval: 500ms, timeout: 500ms, healthyThreshold: 2, unhealthyThreshold: 2}";
/// Two failed checks, and some time for the machine.
const FAILOVER: Duration = Duration::from_millis(2_500);
/// Between two drawings of a table.
const FRAME: Duration = Duration::from_millis(250);

/// How the agent attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Xdp,
    Auto,
}

impl Mode {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Xdp => "Native XDP (checksum offload of the peers off, as veth needs it)",
            Self::Auto => "Automatic mode (on veth: tcx, with all offloads on)",
        }
    }

    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Auto => "auto",
        }
    }
}

pub(crate) struct Scene {
    net: Topology,
    mode: Mode,
    services: Vec<Service>,
    /// By tenant.
    servers: std::cell::RefCell<Vec<Vec<Server>>>,
}

impl Scene {
    pub(crate) fn new(mode: Mode) -> anyhow::Result<Self> {
        let net = Topology::new(Plan {
            peer_offload: mode == Mode::Auto,
            ..Plan::default()
        })?;
        let servers: Vec<_> = net.tenants.iter().map(start_servers).collect::<anyhow::Result<_>>()?;
        let mut services = Vec::new();
        for (protocol, port, speaks) in [
            ("HTTP", HTTP.0, Speaks::Http),
            ("TCP", TCP.0, Speaks::Plain(Transport::Tcp)),
            ("UDP", UDP.0, Speaks::Plain(Transport::Udp)),
        ] {
            for vip in [VIP4, VIP6] {
                let address = SocketAddr::new(vip, port);
                let label = format!("{protocol:<4} {address}");
                services.push(Service { label, address, speaks });
            }
        }
        Ok(Self {
            net,
            mode,
            services,
            servers: servers.into(),
        })
    }

    pub(crate) fn start_agent(&self) -> anyhow::Result<Agent<'_>> {
        let setup = Setup::new(&self.net.node_interfaces(), self.mode.flag());
        Agent::start(&self.net.node, setup, &self.config().yaml())
    }

    /// Sends traffic for a while; every backend must have got its share.
    pub(crate) fn show_round_robin(&self, stage: &Stage) -> anyhow::Result<()> {
        let load = Load::start(&self.net.client, &self.services)?;
        let mut board = self.board(stage);
        for _ in 0..12 {
            stage.interrupt.pause(FRAME)?;
            board.draw(&load.counts(), &[])?;
        }
        let counts = load.counts();
        board.last(&counts, &[])?;
        for (index, service) in self.services.iter().enumerate() {
            let shares: Vec<u64> = self.names().map(|name| count(&counts, index, &name)).collect();
            let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
            let (least, most) = least.zip(most).context("there are no tenants")?;
            ensure!(count(&counts, index, "") == 0, "{}: some flows failed", service.label);
            ensure!(
                least > 0 && most - least <= 1,
                "{}: the shares {shares:?} are not equal",
                service.label
            );
        }
        Ok(())
    }

    /// Kills a tenant's servers, and brings them back.
    pub(crate) fn show_failover(&self, stage: &Stage, agent: &Agent<'_>) -> anyhow::Result<()> {
        const VICTIM: usize = 1;
        let name = name(VICTIM);
        let load = Load::start(&self.net.client, &self.services)?;
        let mut board = self.board(stage);
        let all =
            |counts: &Counts, name: &str| -> u64 { (0..self.services.len()).map(|i| count(counts, i, name)).sum() };
        let mut watch = |time: Duration, note: &str| -> anyhow::Result<Counts> {
            let end = wait::now() + time;
            while wait::now() < end {
                stage.interrupt.pause(FRAME)?;
                board.draw(&load.counts(), &[format!("-- {note}"), self.health(agent)?])?;
            }
            let counts = load.counts();
            board.last(&counts, &[format!("-- {note}"), self.health(agent)?])?;
            Ok(counts)
        };
        watch(Duration::from_secs(1), "all are well")?;
        let stopped = self.servers.borrow_mut().get_mut(VICTIM).map(std::mem::take);
        for server in stopped.context("there is no such tenant")? {
            server.stop()?;
        }
        let before = watch(
            FAILOVER,
            &format!("{name} is dead; connections to it fail until two checks have"),
        )?;
        let after = watch(
            Duration::from_secs(2),
            &format!("{name} gets nothing any more, nothing fails any more"),
        )?;
        ensure!(
            all(&before, &name) == all(&after, &name),
            "{name} is dead and still gets traffic"
        );
        ensure!(
            all(&before, "") == all(&after, ""),
            "flows fail although {name} should be out"
        );
        let tenant = self.net.tenants.get(VICTIM).context("there is no such tenant")?;
        if let Some(servers) = self.servers.borrow_mut().get_mut(VICTIM) {
            *servers = start_servers(tenant)?;
        }
        watch(FAILOVER, &format!("{name} is back; two checks must pass"))?;
        let last = watch(Duration::from_secs(1), &format!("{name} takes its turn again"))?;
        ensure!(
            all(&last, &name) > all(&after, &name),
            "{name} is back and gets no traffic"
        );
        Ok(())
    }

    /// Open flows must not notice that the agent is gone.
    pub(crate) fn show_restart(&self, stage: &Stage, agent: &mut Agent<'_>) -> anyhow::Result<()> {
        let ways = [
            (VIP4, TCP.0, Transport::Tcp),
            (VIP6, TCP.0, Transport::Tcp),
            (VIP4, UDP.0, Transport::Udp),
            (VIP6, UDP.0, Transport::Udp),
        ];
        let mut flows = Vec::new();
        for (vip, port, transport) in ways {
            let to = SocketAddr::new(vip, port);
            flows.push((to, Conversations::open(&self.net.client, transport, to, 25)?));
        }
        let alive = |when: &str| {
            let mut flows = flows.iter();
            flows.try_for_each(|(to, flows)| flows.keep_talking(20).with_context(|| format!("{to} {when}")))
        };
        agent.kill()?;
        alive("with the agent killed")?;
        stage.interrupt.check()?;
        agent.restart()?;
        alive("with the agent back")?;
        let (mut answers, mut resent, mut slowest, mut failures) = (0, 0, Duration::ZERO, Vec::new());
        for (_, flows) in flows {
            let ledger = flows.finish()?;
            answers += ledger.exchanges;
            resent += ledger.resent;
            slowest = slowest.max(ledger.slowest);
            failures.extend(ledger.failures);
        }
        let failed = failures.len();
        say(&format!(
            "    100 open flows, {answers} answers, slowest {slowest:.1?}, {resent} resent, {failed} failed or reset\n"
        ))?;
        ensure!(failures.is_empty(), "flows broke: {failures:#?}");
        Ok(())
    }

    pub(crate) fn show_throughput(&self, stage: &Stage) -> anyhow::Result<()> {
        const GIGABIT: f64 = 1e9;
        let tenant = self.net.tenants.first().context("there are no tenants")?;
        say(&format!(
            "    {:<24}{:>16}{:>16}\n",
            "Gbit/s", "through the VIP", "direct"
        ))?;
        for (vip, family) in [(VIP4, "IPv4"), (VIP6, "IPv6")] {
            for (transport, name) in [(Transport::Tcp, "TCP"), (Transport::Udp, "UDP at 200 Mbit/s")] {
                let mut rates = Vec::new();
                for to in [
                    SocketAddr::new(vip, BULK.0),
                    SocketAddr::new(tenant.address(vip), BULK.1),
                ] {
                    stage.interrupt.check()?;
                    let run = Iperf::start(
                        &tenant.namespace,
                        BULK.1,
                        &self.net.client,
                        transport,
                        to,
                        2,
                        200_000_000,
                    )?;
                    let report = run.finish().with_context(|| format!("{name} to {to}"))?;
                    ensure!(report.bits_per_second > 1e6, "{name} to {to}: {report:?}");
                    rates.push(format!("{:>16.2}", report.bits_per_second / GIGABIT));
                }
                say(&format!("    {:<24}{}\n", format!("{family} {name}"), rates.concat()))?;
            }
        }
        Ok(())
    }

    /// What to do with a scene that stays.
    pub(crate) fn hints(&self, agent: &Agent<'_>) -> String {
        let client = format!("nsenter --net={}", self.net.client.path().display());
        let node = format!("nsenter --net={}", self.net.node.path().display());
        let victim = self
            .net
            .tenants
            .get(1)
            .map(|tenant| tenant.namespace.name())
            .unwrap_or_default();
        let status = kubelb_tests::tool::show(&agent.cli("status"));
        format!(
            "
Everything stays up. From another terminal, as root:
    {client} curl http://{VIP4}/
    {client} curl -g 'http://[{VIP6}]/'
    {status}
    {node} ip addr
    $EDITOR {config}        # the agent applies it at once
    ip -n {victim} link set eth0 down        # tenant2 dies
    ip -n {victim} link set eth0 up
Ctrl-C here (or kill {pid}) removes everything.
",
            config = agent.config_file().display(),
            pid = std::process::id(),
        )
    }

    fn config(&self) -> Config {
        let mut frontends = Vec::new();
        for (vip, family) in [(VIP4, "v4"), (VIP6, "v6")] {
            for (name, (port, node_port), protocol) in [("http", HTTP, "TCP"), ("tcp", TCP, "TCP"), ("udp", UDP, "UDP")]
            {
                let backends = self.backends(vip, node_port);
                let name = format!("demo/{name}-{family}");
                frontends.push(Frontend::new(&name, SocketAddr::new(vip, port), protocol, &backends).checked(CHECK));
            }
            for protocol in ["TCP", "UDP"] {
                let name = format!("demo/iperf-{}-{family}", protocol.to_lowercase());
                let backends: Vec<SocketAddr> = self.backends(vip, BULK.1).into_iter().take(1).collect();
                // iperf3 listens only while it measures.
                let frontend = Frontend::new(&name, SocketAddr::new(vip, BULK.0), protocol, &backends);
                frontends.push(frontend.checked("{type: None}"));
            }
        }
        Config::new(frontends)
    }

    fn backends(&self, vip: IpAddr, port: u16) -> Vec<SocketAddr> {
        self.net
            .tenants
            .iter()
            .map(|tenant| SocketAddr::new(tenant.address(vip), port))
            .collect()
    }

    /// One line: what the health checks say of each tenant.
    fn health(&self, agent: &Agent<'_>) -> anyhow::Result<String> {
        let status = agent.status()?;
        let healths = status.frontend("demo/http-v4")?.healths();
        let words = self.net.tenants.iter().map(|tenant| {
            let address = SocketAddr::new(tenant.v4, HTTP.1);
            format!("{:>10}", healths.get(&address).map_or("?", String::as_str))
        });
        Ok(format!("{:<32}{}", "health checks say", words.collect::<String>()))
    }

    fn board(&self, stage: &Stage) -> Board<'_> {
        Board::new(&self.services, self.names().collect(), stage.terminal)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        (0..self.net.tenants.len()).map(name)
    }
}

fn name(tenant: usize) -> String {
    format!("tenant{}", tenant + 1)
}

fn start_servers(tenant: &Tenant) -> anyhow::Result<Vec<Server>> {
    [(Kind::Http, HTTP.1), (Kind::Tcp, TCP.1), (Kind::Udp, UDP.1)]
        .into_iter()
        .map(|(kind, port)| Server::start(&tenant.namespace, kind, &tenant.node_interface, port))
        .collect()
}

fn count(counts: &Counts, service: usize, name: &str) -> u64 {
    counts.get(&(service, name.to_owned())).copied().unwrap_or(0)
}
