//! What the agent is asked to do, free of wire formats, eBPF and I/O.
//!
//! Every source (file, xDS) decodes into [`Desired`]; [`crate::tables`] turns it into map rows. Values here are valid by
//! construction of the source: a source refuses what these types cannot say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

/// The whole configuration, level-triggered: what is absent is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Where translated flows get their source address and port from.
    pub snat: Snat,
    /// Frontends by unique name.
    pub frontends: BTreeMap<String, Frontend>,
    /// Who announces which address. `None`: nobody has said so yet, and what is announced stays as it is.
    pub addresses: Option<BTreeMap<IpAddr, VirtualAddress>>,
}

/// An address that clients dial, as those who announce it need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    /// Who announces it.
    pub owner: Owner,
    /// Grows with each change of owner; below 2^63.
    pub epoch: u64,
    /// Interfaces to announce it on; empty: all that the programs are attached to.
    pub interfaces: Vec<String>,
    /// Whose it is; empty: nobody's in particular.
    pub tenant: String,
    /// Ports that something on the node serves.
    pub local_ports: BTreeSet<(Protocol, NonZeroU16)>,
}

/// Who announces an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node.
    This,
    /// The node of this name.
    Other(String),
    /// Nobody: it is routed here, if anywhere.
    Nobody,
}

/// Source NAT settings of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// Addresses to translate to; empty means the node's own address of the egress interface.
    pub addresses: Vec<IpAddr>,
    /// Ports to use on each of them, inclusive.
    pub ports: PortRange,
}

impl Default for Snat {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: PortRange::NODE_DEFAULT,
        }
    }
}

/// An inclusive range of ports, `first <= last`, `first >= 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range used with the node's own address: below Linux's default ephemeral range (32768-60999) and below the
    /// default NodePort range (30000-32767).
    pub const NODE_DEFAULT: Self = Self {
        first: 10_000,
        last: 29_999,
    };

    /// `None` when `first` is zero or above `last`.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// Lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Number of ports, 1 to 65,535.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// Transport protocol of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// One VIP, port and protocol with its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The address that clients dial.
    pub vip: IpAddr,
    /// The port that clients dial.
    pub port: NonZeroU16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// How a backend is chosen for a new flow.
    pub algorithm: Algorithm,
    /// How long a client address without new flows stays with its backend; `None`: each flow is on its own.
    pub affinity: Option<Duration>,
    /// Networks that clients may come from; of the other family than the VIP's they say nothing. `None`: everybody may come; empty: nobody.
    pub source_ranges: Option<Vec<IpNet>>,
    /// `None`: backends are taken as healthy always.
    pub health_check: Option<HealthCheck>,
    /// How long idle flows live.
    pub timeouts: Timeouts,
    /// Half-open TCP flows at a time; `None`: the agent's default. Never for UDP.
    pub half_open_budget: Option<NonZeroU32>,
    /// All of the VIP's address family; weights sum to more than zero unless the list is empty.
    pub backends: Vec<Backend>,
}

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    /// In turn, exact over all CPUs, in proportion to the weights.
    #[default]
    RoundRobin,
    /// By a hash of the 5-tuple that all nodes share, in proportion to the weights; few flows move when backends change.
    Maglev,
    /// The same by the client's address alone.
    MaglevBySource,
}

/// A tenant node's address and NodePort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Never port 0.
    pub address: SocketAddr,
    /// Share of new flows; 0 takes none and keeps its established flows.
    pub weight: u16,
    /// What becomes of its flows when it turns unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// Address that it sees its clients as, one of [`Snat::addresses`] and of its own family; `None`: any of them.
    pub snat: Option<IpAddr>,
}

impl Backend {
    /// A backend with nothing special.
    #[must_use]
    pub fn new(address: SocketAddr, weight: u16) -> Self {
        Self {
            address,
            weight,
            on_unhealthy: OnUnhealthy::Drain,
            snat: None,
        }
    }
}

/// What becomes of the flows of a backend that turns unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnUnhealthy {
    /// They go on.
    #[default]
    Drain,
    /// While another backend takes new flows: TCP is reset, UDP moves, each at its next packet.
    Reset,
}

/// An active health check of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Port to check, when it is not the backend's own.
    pub port: Option<NonZeroU16>,
    /// Time from the start of one check to the start of the next, before jitter.
    pub interval: Duration,
    /// Longest time for one check.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy backend healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy backend unhealthy.
    pub unhealthy_threshold: u32,
}

impl HealthCheck {
    /// A TCP connect with the times that hold where nobody says others.
    #[must_use]
    pub fn tcp() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    }
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// A TCP connect, no payload.
    Tcp,
    /// `GET path` over HTTP/1.1 with this `Host`; 200 to 399 is healthy.
    Http {
        /// Request target, starts with `/`.
        path: String,
        /// Value of the `Host` header; `None`: the backend's address.
        host: Option<String>,
    },
}

/// How long a flow without packets keeps its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// TCP from the client's first SYN until both sides were heard.
    pub tcp_half_open: Duration,
    /// TCP after the handshake (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established: Duration,
    /// TCP after FINs from both sides or a RST.
    pub tcp_closing: Duration,
    /// UDP before the first reply.
    pub udp_unreplied: Duration,
    /// UDP after it (RFC 4787 REQ-5: at least 2 min).
    pub udp_replied: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: Duration::from_secs(30),
            tcp_established: Duration::from_secs(7_440),
            tcp_closing: Duration::from_secs(60),
            udp_unreplied: Duration::from_secs(30),
            udp_replied: Duration::from_secs(180),
        }
    }
}

/// One thing to check: identical ones of several frontends are checked once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckTarget {
    /// Address and port that the probe connects to.
    pub address: SocketAddr,
    /// The check, its `port` already applied to `address` and set to `None`. Shared by the targets of a frontend.
    pub check: Arc<HealthCheck>,
}

/// The check of a frontend, from which those of its backends are made.
#[derive(Clone, Debug)]
pub struct FrontendCheck {
    check: Arc<HealthCheck>,
    port: Option<NonZeroU16>,
}

impl Frontend {
    /// The check of its backends, `None` when they are not checked.
    #[must_use]
    pub fn check(&self) -> Option<FrontendCheck> {
        let mut check = self.health_check.clone()?;
        let port = check.port.take();
        Some(FrontendCheck {
            check: Arc::new(check),
            port,
        })
    }

    /// The check that decides about `backend`, `None` when it is not checked.
    #[must_use]
    pub fn check_target(&self, backend: &Backend) -> Option<CheckTarget> {
        Some(self.check()?.target(backend))
    }
}

impl FrontendCheck {
    /// The check that decides about `backend`.
    #[must_use]
    pub fn target(&self, backend: &Backend) -> CheckTarget {
        let port = self.port.map_or(backend.address.port(), NonZeroU16::get);
        CheckTarget {
            address: SocketAddr::new(backend.address.ip(), port),
            check: Arc::clone(&self.check),
        }
    }
}

/// What is known of a check target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Health {
    /// No result yet: takes traffic.
    #[default]
    Unknown,
    /// Takes traffic.
    Healthy,
    /// Takes no new flows.
    Unhealthy,
}

/// Health by target; a target that is absent is [`Health::Unknown`].
pub type HealthView = BTreeMap<CheckTarget, Health>;

/// How packets to one destination leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface index.
    pub ifindex: u32,
    /// MAC address of that interface.
    pub source_mac: [u8; 6],
    /// MAC address of the neighbour (the destination or its gateway); `None` while it is not resolved.
    pub neighbour_mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// The node's address that the kernel would send from.
    pub source: Option<IpAddr>,
}
