//! Messages of agents' reports, equal to `proto/kubelb/v1alpha1/reports.proto`, where they are explained. Owns their form only.

use prost::Message;

/// Path of the one method of the service, client-streaming: [`Report`]s, answered by a status.
pub const METHOD: &str = "/kubelb.v1alpha1.Reports/Stream";

/// What has changed since the report before it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Report {
    /// Of the agent's process, never 0.
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    /// 1 for the first of a stream, then one more for each.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Part of everything that there is to tell.
    #[prost(bool, tag = "3")]
    pub full: bool,
    /// Of which the rest follows.
    #[prost(bool, tag = "4")]
    pub more: bool,
    /// Listeners of which something is to be told.
    #[prost(message, repeated, tag = "5")]
    pub listeners: Vec<ListenerReport>,
    /// Listeners of which nothing is to be told any more.
    #[prost(string, repeated, tag = "6")]
    pub removed: Vec<String>,
}

/// What is told of one listener.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListenerReport {
    /// The resource's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Absent: as it was.
    #[prost(message, optional, tag = "2")]
    pub standing: Option<Standing>,
    /// Absent: as it was.
    #[prost(message, optional, tag = "3")]
    pub traffic: Option<Traffic>,
}

/// How a listener and its backends are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Standing {
    /// Why the node does not forward it as it is configured; empty: it does.
    #[prost(string, tag = "1")]
    pub problem: String,
    /// Backends that answer their checks.
    #[prost(uint32, tag = "2")]
    pub healthy: u32,
    /// Backends that nobody asked to check.
    #[prost(uint32, tag = "3")]
    pub unchecked: u32,
    /// Backends whose checks have no result yet.
    #[prost(uint32, tag = "4")]
    pub pending: u32,
    /// Backends that take no new flows, whatever their health.
    #[prost(uint32, tag = "5")]
    pub draining: u32,
    /// Each that does not answer its checks.
    #[prost(message, repeated, tag = "6")]
    pub unhealthy: Vec<UnhealthyBackend>,
}

impl Standing {
    /// Whether it is as that of a listener that is not named: there is nothing to tell.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.problem.is_empty() && self.pending == 0 && self.unhealthy.is_empty()
    }
}

/// A backend that does not answer its checks.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnhealthyBackend {
    /// In canonical text form.
    #[prost(string, tag = "1")]
    pub address: String,
    /// 1 to 65535.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// When it was first found so, in seconds since 1970.
    #[prost(uint64, tag = "3")]
    pub since: u64,
}

/// Totals, since the agent's counters were last at 0.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Traffic {
    /// Flows that were opened.
    #[prost(uint64, tag = "1")]
    pub new_flows: u64,
    /// Flows that are there; not a total.
    #[prost(uint64, tag = "2")]
    pub active_flows: u64,
    /// Packets from clients.
    #[prost(uint64, tag = "3")]
    pub packets_in: u64,
    /// Bytes from clients, IP headers included.
    #[prost(uint64, tag = "4")]
    pub bytes_in: u64,
    /// Packets to clients.
    #[prost(uint64, tag = "5")]
    pub packets_out: u64,
    /// Bytes to clients, IP headers included.
    #[prost(uint64, tag = "6")]
    pub bytes_out: u64,
    /// Packets that were dropped.
    #[prost(message, repeated, tag = "7")]
    pub drops: Vec<Drops>,
}

impl Traffic {
    /// Whether there has been none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another node, or another listener, has had.
    pub fn add(&mut self, other: &Self) {
        let Self {
            new_flows,
            active_flows,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            drops,
        } = other;
        let sums = [
            (&mut self.new_flows, new_flows),
            (&mut self.active_flows, active_flows),
            (&mut self.packets_in, packets_in),
            (&mut self.bytes_in, bytes_in),
            (&mut self.packets_out, packets_out),
            (&mut self.bytes_out, bytes_out),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(*more);
        }
        for more in drops {
            match self.drops.iter_mut().find(|sum| sum.reason == more.reason) {
                Some(sum) => sum.packets = sum.packets.saturating_add(more.packets),
                None => self.drops.push(more.clone()),
            }
        }
    }
}

/// Packets that were dropped for one reason.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Drops {
    /// As in the agent's own metrics.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub packets: u64,
}

/// Never sent: the stream ends with a status.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ReportsEnd {}
