//! What is to be served, free of the API's types and of the wire's: per tenant and object, its listeners and clusters.
//!
//! [`build`] makes it from the objects, all at once; a [`Builder`] keeps it up with what changes, to the same result. Values here are valid:
//! what cannot be served has become a [`Problem`](crate::problem::Problem), and costs itself only.

mod backends;
mod build;
mod data_plane;
mod draft;
pub mod http;
mod index;
mod policy;
pub(crate) mod reach;
mod traffic;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kubelb_api::names::TenantName;
use serde::Serialize;

pub use build::{Builder, Update, build};
pub use data_plane::{Choice, DataPlane, Needs, choose};
pub use policy::{Policy, not_routable};

use crate::object::ObjectName;

/// Everything that is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ir {
    /// By tenant; those that serve nothing are left out.
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// Addresses that clients dial.
    pub addresses: BTreeMap<IpAddr, Arc<VirtualAddress>>,
}

impl Ir {
    /// A tenant's object.
    #[must_use]
    pub fn load_balancer(&self, name: &ObjectName) -> Option<&Arc<LoadBalancer>> {
        let tenant = TenantName::from_namespace(&name.namespace)?;
        self.tenants.get(&tenant)?.load_balancers.get(&name.name)
    }

    /// Layer 7 of a tenant.
    #[must_use]
    pub fn http(&self, tenant: &TenantName) -> Option<&Arc<http::Http>> {
        self.tenants.get(tenant)?.http.as_ref()
    }

    /// All objects, in order.
    pub fn load_balancers(&self) -> impl Iterator<Item = &Arc<LoadBalancer>> {
        self.tenants.values().flat_map(|tenant| tenant.load_balancers.values())
    }
}

/// What one tenant serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// By name.
    pub load_balancers: BTreeMap<Arc<str>, Arc<LoadBalancer>>,
    /// Layer 7; `None` without Routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Arc<http::Http>>,
}

/// What one LoadBalancer serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The VIPs, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// What forwards its traffic, and why; that of the listener that asks for most.
    pub data_plane: Choice,
    /// Whether only nodes with an endpoint of their own are among the backends, so that they need no second hop.
    #[serde(skip_serializing_if = "is_false")]
    pub local_only: bool,
    /// Whether its addresses are those of a Service of the management cluster, whoever implements that.
    #[serde(skip_serializing_if = "is_false")]
    pub is_delegated: bool,
    /// One for each address, port and protocol.
    pub listeners: Vec<Listener>,
    /// Where listeners send traffic to.
    pub clusters: Vec<Cluster>,
}

/// An address, a port and a protocol that are accepted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// What tells it from all other listeners.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// What accepts and forwards.
    pub data_plane: DataPlane,
    /// Networks whose clients are let in; empty: all. Of either family, so that a list without the VIP's own lets nobody in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNet>,
    /// For how long a client keeps its backend; `None`: no affinity.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub affinity: Option<Duration>,
    /// How long flows without packets are remembered.
    pub timeouts: Timeouts,
    /// Clusters and their shares of new flows; more than zero in sum.
    pub targets: Vec<Target>,
}

/// What clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Frontend {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: NonZeroU16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A cluster's share of a listener's new flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The cluster, of the same object.
    pub cluster: ClusterId,
    /// Its share.
    pub weight: u32,
}

/// What tells a cluster from the others of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ClusterId {
    /// The frontend's port.
    pub port: NonZeroU16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What the endpoints have in common.
    pub family: Family,
}

/// What the endpoints of a cluster have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4 addresses.
    #[serde(rename = "v4")]
    V4,
    /// IPv6 addresses.
    #[serde(rename = "v6")]
    V6,
    /// Names, and addresses beside them, of both families.
    #[serde(rename = "dns")]
    Dns,
}

impl Family {
    /// Of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A group of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// What tells it from the others of its object.
    #[serde(flatten)]
    pub id: ClusterId,
    /// What forwards to it.
    pub data_plane: DataPlane,
    /// The port of every endpoint.
    pub backend_port: NonZeroU16,
    /// Hosts of the endpoints, each once. Shared by all clusters that refer to the same Addresses.
    pub hosts: Arc<[Host]>,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// How they are checked; `None`: by what the kernel can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What happens to the flows of one that became unhealthy.
    pub on_unhealthy: OnUnhealthy,
    /// Each connection starts with a header that names the client (PROXY protocol version 2).
    #[serde(skip_serializing_if = "is_false")]
    pub proxy_protocol: bool,
}

/// One endpoint, less its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Host {
    /// Its address or name.
    pub location: Location,
    /// Share of new flows; 0 takes none and keeps those it has.
    #[serde(skip_serializing_if = "is_one")]
    pub weight: u16,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Location {
    /// An address.
    Address(IpAddr),
    /// An absolute name, without the dot at its end.
    Name(Arc<str>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How an endpoint is chosen for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    /// In turn, in proportion to the weights.
    #[default]
    RoundRobin,
    /// By a hash of the flow.
    Maglev,
}

/// What happens to the flows of an endpoint that became unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum OnUnhealthy {
    /// They go on.
    #[default]
    Drain,
    /// They are reset.
    Reset,
}

/// An active check of every endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Port to check, when it is not the endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// Time from one check to the next.
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
    /// Longest time for one check.
    #[serde(serialize_with = "seconds")]
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Probe {
    /// A TCP connection that is closed at once.
    Tcp,
    /// A GET over HTTP/1.1; 200 to 399 is healthy.
    Http {
        /// Request target, starts with `/`.
        path: String,
        /// The `Host` header; `None`: the endpoint's address.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

/// How long a flow without packets is remembered; `None`: the data plane's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// TCP from the client's first SYN until both sides were heard.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub tcp_half_open: Option<Duration>,
    /// TCP after the handshake.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub tcp_idle: Option<Duration>,
    /// TCP after FINs from both sides, or a RST.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub tcp_closing: Option<Duration>,
    /// UDP before the first answer.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub udp_unreplied: Option<Duration>,
    /// UDP after it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds_if_some")]
    pub udp_idle: Option<Duration>,
}

/// An address that clients dial, as those who announce it need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddress {
    /// The tenant that has it.
    pub tenant: TenantName,
    /// The node that announces it; `None`: nobody does, it is routed to the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Ports that Envoy accepts on, which the kernel's program must let through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_ports: Vec<(Protocol, NonZeroU16)>,
}

/// Who announces an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Name of the node.
    pub node: String,
    /// How often the owner was chosen; the higher one counts.
    pub epoch: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_one(value: &u16) -> bool {
    *value == 1
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

fn seconds_if_some<S: serde::Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => seconds(value, serializer),
        None => serializer.serialize_none(),
    }
}
