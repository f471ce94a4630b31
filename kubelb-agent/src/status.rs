//! What the agent tells about itself and its data path, as data.
//!
//! Owns the shape of `kubelb-agent status --output json` and of `/status`; [`render_table`] and [`crate::metrics`] are
//! two more views of the same [`Report`]. Reads neither maps nor clock: whoever does fills it in.
//!
//! Lists are shown in the order they are given; fill them from sorted maps, so that two reports of one state are equal.

pub mod address;
mod table;
pub mod xds;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{Algorithm, Health, PortRange, Protocol};

use address::AddressReport;
pub use table::render_table;
use xds::XdsReport;

/// Everything that is known of the node's data path at one moment. Counters count since the programs were first loaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The process that feeds the maps.
    pub agent: AgentInfo,
    /// Managers that the configuration comes from; `None` when it comes from a file.
    pub xds: Option<XdsReport>,
    /// What the programs are attached to.
    pub interfaces: Vec<InterfaceReport>,
    /// Addresses that somebody announces on a link.
    pub addresses: Vec<AddressReport>,
    /// Questions about announced addresses that were malformed; they were left to the node's own stack.
    pub malformed_questions: u64,
    /// Source addresses of translated flows.
    pub snat: Vec<SnatReport>,
    /// Fill of the eBPF maps.
    pub maps: Vec<MapReport>,
    /// `None` when no agent is running to ask.
    pub checks: Option<ChecksReport>,
    /// What is balanced.
    pub frontends: Vec<FrontendReport>,
    /// Packets dropped before their frontend was known, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The agent process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentInfo {
    /// Version that wrote the pins last.
    pub version: String,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// Whether it runs; forwarding does not depend on it.
    pub running: bool,
    /// Why the last change of the configuration was refused; `None` when it is in force.
    pub config_error: Option<String>,
}

/// One interface with its programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceReport {
    /// Name, as `ip link` has it.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How packets meet the programs: xdp, tcx, clsact or generic.
    pub mode: String,
    /// Why that mode.
    pub reason: String,
}

/// One SNAT address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnatReport {
    /// The address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: PortRange,
    /// Ports that can be given out.
    pub capacity: u64,
    /// Ports that are given out.
    pub used: u64,
}

/// One eBPF map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapReport {
    /// Name of the pin.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries there is room for.
    pub capacity: u64,
}

/// Health checks since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChecksReport {
    /// Checks that passed.
    pub passed: u64,
    /// Checks that found a backend not answering as it should.
    pub failed: u64,
    /// Checks that told nothing, for want of something on this node.
    pub local_errors: u64,
    /// Checks that started late because too many were running.
    pub delayed: u64,
    /// What is checked: identical checks of several frontends count once.
    pub targets: u64,
    /// By how much intervals are longer than asked for, in thousandths, because the node may not check more in a second; 1,000 when they are not.
    pub stretch_thousandths: u64,
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrontendReport {
    /// Name from the configuration.
    pub name: String,
    /// The address that clients dial.
    pub vip: IpAddr,
    /// The port that clients dial.
    pub port: u16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// Traffic, backends taken together.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// New flows per second of late, when two samples are at hand.
    pub flows_per_second: Option<f64>,
    /// Packets per second of late, both directions, when two samples are at hand.
    pub packets_per_second: Option<f64>,
    /// Handshakes that are not complete; `None` for UDP.
    pub half_open: Option<HalfOpenReport>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// In one word.
    pub condition: Condition,
    /// How a backend is chosen for a new flow.
    pub algorithm: Algorithm,
    /// How long a client address without new flows stays with its backend; `None`: not at all.
    pub affinity_timeout_seconds: Option<u64>,
    /// New flows whose client could not be noted down with its backend.
    pub affinity_failures: u64,
    /// Networks that clients may come from; `None`: any, empty: none.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Where new flows go, and removed backends that still have flows.
    pub backends: Vec<BackendReport>,
}

/// TCP connections of a frontend whose client has not been seen to hear the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HalfOpenReport {
    /// How many there are.
    pub flows: u32,
    /// How many there may be before a new one has to take the place of the oldest; 0: any number.
    pub budget: u32,
}

/// Counters of one direction pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, IP headers included.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, IP headers included.
    pub bytes_out: u64,
    /// Flows that were opened.
    pub flows_total: u64,
}

/// How a frontend is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// No backend is known to be unhealthy.
    Ok,
    /// Some are.
    Degraded,
    /// All are: new flows go to all of them, since a check may be wrong and refusing is certain to be.
    FailOpen,
    /// There is none: clients get a reset or port unreachable.
    NoBackends,
}

/// One backend of one frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendReport {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Share of new flows.
    pub weight: u16,
    /// What its checks say.
    pub health: BackendHealth,
    /// Whether it is wanted.
    pub state: BackendState,
    /// Its traffic.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Health as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendHealth {
    /// Checked, no result yet.
    Unknown,
    /// Passes its checks.
    Healthy,
    /// Fails them.
    Unhealthy,
    /// Has no check.
    Unchecked,
}

/// Whether a backend is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// In the configuration.
    Active,
    /// Removed, or of weight 0: keeps its flows and gets no new ones.
    Draining,
}

impl Condition {
    /// All conditions, best first.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Degraded, Self::FailOpen, Self::NoBackends];

    /// Follows from the backends that may get new flows.
    #[must_use]
    pub fn of(backends: &[BackendReport]) -> Self {
        let (mut active, mut unhealthy) = (0_usize, 0_usize);
        for backend in backends.iter().filter(|backend| backend.state == BackendState::Active) {
            active += 1;
            unhealthy += usize::from(backend.health == BackendHealth::Unhealthy);
        }
        match unhealthy {
            _ if active == 0 => Self::NoBackends,
            0 => Self::Ok,
            all if all == active => Self::FailOpen,
            _ => Self::Degraded,
        }
    }

    /// As JSON and the metrics have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::FailOpen => "fail-open",
            Self::NoBackends => "no-backends",
        }
    }
}

impl BackendHealth {
    /// As JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unchecked => "unchecked",
        }
    }
}

impl From<Health> for BackendHealth {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unknown,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

impl FrontendReport {
    /// `203.0.113.10:80/TCP`.
    #[must_use]
    pub fn listener(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        format!("{}/{protocol}", SocketAddr::new(self.vip, self.port))
    }
}

impl BackendReport {
    /// Address and port.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

#[cfg(test)]
pub(crate) mod tests;
