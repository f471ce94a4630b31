//! The usual set-up of an end-to-end test: a topology with servers on every tenant, and an agent in front of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};

use crate::agent::config::Frontend;
use crate::agent::{Agent, Config, Setup};
use crate::topology::{Plan, Topology, VIP4, VIP6};
use crate::traffic::{Kind, Server, Transport};

/// Port of the TCP and UDP servers of every tenant.
pub const NODE_PORT: u16 = 30_700;
/// Port of the frontends in front of them.
pub const VIP_PORT: u16 = 700;
/// Port for iperf3 on the tenants and on the VIPs.
pub const BULK_PORT: u16 = 5_201;

/// How the agent attaches, and what suits the peers then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native XDP; the peers finish their checksums.
    Xdp,
    /// tcx; the peers leave checksums and segmentation open, as on a machine that talks to itself.
    Tcx,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tcx];

    /// For `--attach-mode`, and as the status has it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
        }
    }

    /// A topology that suits it.
    #[must_use]
    pub fn plan(self) -> Plan {
        Plan {
            peer_offload: self == Self::Tcx,
            ..Plan::default()
        }
    }
}

/// One kind of flow: a VIP and a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Decides the family.
    pub vip: IpAddr,
    /// TCP or UDP.
    pub transport: Transport,
}

impl Way {
    /// TCP and UDP over IPv4 and IPv6.
    pub const ALL: [Self; 4] = [
        Self {
            vip: VIP4,
            transport: Transport::Tcp,
        },
        Self {
            vip: VIP6,
            transport: Transport::Tcp,
        },
        Self {
            vip: VIP4,
            transport: Transport::Udp,
        },
        Self {
            vip: VIP6,
            transport: Transport::Udp,
        },
    ];

    /// What clients dial.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        SocketAddr::new(self.vip, VIP_PORT)
    }

    /// Name of its frontend in [`World::frontends`].
    #[must_use]
    pub fn name(self) -> String {
        let family = if self.vip.is_ipv4() { "v4" } else { "v6" };
        format!("test/{}-{family}", self.protocol().to_lowercase())
    }

    /// As the configuration has it.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }
}

/// A topology with a TCP and a UDP server on each tenant, named after it.
#[derive(Debug)]
pub struct World {
    /// The machines.
    pub net: Topology,
    mode: Mode,
    /// By tenant; none: its workload is dead. Behind a lock, since they come and go while the agent has the node borrowed.
    servers: Mutex<Vec<Vec<Server>>>,
}

impl World {
    /// Builds what suits `mode`.
    ///
    /// # Errors
    /// See [`Topology::new`].
    pub fn new(mode: Mode) -> anyhow::Result<Self> {
        Self::with(mode, mode.plan())
    }

    /// Builds another plan.
    ///
    /// # Errors
    /// See [`Topology::new`].
    pub fn with(mode: Mode, plan: Plan) -> anyhow::Result<Self> {
        let net = Topology::new(plan)?;
        let world = Self {
            servers: Mutex::new(net.tenants.iter().map(|_| Vec::new()).collect()),
            net,
            mode,
        };
        for tenant in 0..world.net.tenants.len() {
            world.revive(tenant)?;
        }
        Ok(world)
    }

    /// Starts an agent on all interfaces of the node.
    ///
    /// # Errors
    /// See [`Agent::start`].
    pub fn agent(&self, config: &Config) -> anyhow::Result<Agent<'_>> {
        let setup = Setup::new(&self.net.node_interfaces(), self.mode.flag());
        Agent::start(&self.net.node, setup, &config.yaml())
    }

    /// A frontend for each way, with all tenants as backends.
    #[must_use]
    pub fn frontends(&self) -> Vec<Frontend> {
        Way::ALL
            .map(|way| Frontend::new(&way.name(), way.address(), way.protocol(), &self.backends(way.vip)))
            .into()
    }

    /// Frontends for iperf3 over both families: the first tenant alone, TCP and UDP.
    #[must_use]
    pub fn bulk_frontends(&self) -> Vec<Frontend> {
        let mut frontends = Vec::new();
        for way in Way::ALL {
            let name = format!("{}-bulk", way.name());
            let backend = self
                .backends(way.vip)
                .first()
                .map(|first| SocketAddr::new(first.ip(), BULK_PORT));
            let address = SocketAddr::new(way.vip, BULK_PORT);
            let frontend = Frontend::new(&name, address, way.protocol(), &Vec::from_iter(backend));
            // iperf3 listens only while it measures.
            frontends.push(frontend.checked("{type: None}"));
        }
        frontends
    }

    /// The tenants' servers, of the family of `vip`.
    #[must_use]
    pub fn backends(&self, vip: IpAddr) -> Vec<SocketAddr> {
        self.net
            .tenants
            .iter()
            .map(|tenant| SocketAddr::new(tenant.address(vip), NODE_PORT))
            .collect()
    }

    /// Addresses that the servers have seen requests from.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<SocketAddr> {
        self.lock().iter().flatten().flat_map(Server::peers).collect()
    }

    /// Ends a tenant's servers as if they were killed.
    ///
    /// # Errors
    /// When one had failed before, or there is none.
    pub fn kill(&self, tenant: usize) -> anyhow::Result<()> {
        let servers = self.lock().get_mut(tenant).map(std::mem::take).unwrap_or_default();
        ensure!(!servers.is_empty(), "tenant {tenant} has no servers");
        servers.into_iter().try_for_each(Server::stop)
    }

    /// Starts a tenant's servers (again).
    ///
    /// # Errors
    /// When they run already.
    pub fn revive(&self, tenant: usize) -> anyhow::Result<()> {
        let place = self.net.tenants.get(tenant).context("there is no such tenant")?;
        let start = |kind| Server::start(&place.namespace, kind, &place.node_interface, NODE_PORT);
        let servers = [Kind::Tcp, Kind::Udp]
            .into_iter()
            .map(start)
            .collect::<anyhow::Result<_>>()?;
        if let Some(place) = self.lock().get_mut(tenant) {
            *place = servers;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That every backend has got its turn: all of `backends` answered, and none more than once more than another.
///
/// # Errors
/// When not.
pub fn ensure_round_robin(counts: &BTreeMap<String, usize>, backends: usize) -> anyhow::Result<()> {
    let (least, most) = (counts.values().min().copied(), counts.values().max().copied());
    ensure!(
        counts.len() == backends,
        "{} of {backends} backends were used: {counts:?}",
        counts.len()
    );
    ensure!(
        most.unwrap_or(0) - least.unwrap_or(0) <= 1,
        "the turns are not equal: {counts:?}"
    );
    Ok(())
}
