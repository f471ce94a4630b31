//! Bulk traffic with iperf3 between network namespaces: through the data path, and routed by the kernel without it.

use std::net::SocketAddr;

use anyhow::Context as _;
use kubelb_tests::agent::Config;
use kubelb_tests::topology::{Plan, VIP4};
use kubelb_tests::traffic::{Iperf, Transport};
use kubelb_tests::world::{BULK_PORT, Mode, World};
use serde::Serialize;

/// Figures of one transport in one attach mode.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Throughput {
    /// `xdp` or `tcx`.
    pub(crate) mode: &'static str,
    /// How client and tenant send, which suits the mode.
    pub(crate) peers: &'static str,
    /// `TCP` or `UDP`, over IPv4.
    pub(crate) transport: &'static str,
    /// Routed by the kernel between the same namespaces with the same offloads, no program attached: bits per second that
    /// arrived.
    pub(crate) direct: f64,
    /// Through the VIP, likewise.
    pub(crate) through: f64,
    /// `through` over `direct`.
    pub(crate) ratio: f64,
}

/// How long to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Of one measurement, in seconds.
    pub(crate) seconds: u32,
    /// Measurements, of which the median counts; odd.
    pub(crate) times: usize,
}

/// Measures TCP and UDP in both attach modes.
pub(crate) fn take(span: Span, mut say: impl FnMut(&Throughput)) -> anyhow::Result<Vec<Throughput>> {
    let mut all = Vec::new();
    for mode in Mode::ALL {
        for figure in of_mode(mode, span).with_context(|| format!("iperf3, mode {}", mode.flag()))? {
            say(&figure);
            all.push(figure);
        }
    }
    Ok(all)
}

fn of_mode(mode: Mode, span: Span) -> anyhow::Result<Vec<Throughput>> {
    let plan = Plan {
        tenants: 1,
        ..mode.plan()
    };
    let world = World::with(mode, plan)?;
    let tenant = world.net.tenants.first().context("there is one tenant")?;
    let send = |transport, to| rate(&world, transport, SocketAddr::new(to, BULK_PORT), span);
    let transports = [Transport::Tcp, Transport::Udp];
    let mut direct = Vec::new();
    for transport in transports {
        direct.push(send(transport, tenant.v4)?);
    }
    let _agent = world.agent(&Config::new(world.bulk_frontends()))?;
    let mut figures = Vec::new();
    for (transport, direct) in transports.into_iter().zip(direct) {
        let through = send(transport, VIP4)?;
        figures.push(Throughput {
            mode: mode.flag(),
            peers: if plan.peer_offload {
                "offloads on"
            } else {
                "tx checksum off"
            },
            transport: match transport {
                Transport::Tcp => "TCP",
                Transport::Udp => "UDP",
            },
            direct,
            through,
            ratio: through / direct,
        });
    }
    Ok(figures)
}

/// Median rate that arrives at `to`, bits per second.
fn rate(world: &World, transport: Transport, to: SocketAddr, span: Span) -> anyhow::Result<f64> {
    let tenant = world.net.tenants.first().context("there is one tenant")?;
    let mut rates = Vec::new();
    for _ in 0..span.times {
        // As fast as the sender can: rate 0 is no limit.
        let iperf = Iperf::start(
            &tenant.namespace,
            BULK_PORT,
            &world.net.client,
            transport,
            to,
            span.seconds,
            0,
        )?;
        rates.push(iperf.finish()?.bits_per_second);
    }
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().context("nothing was measured")
}
