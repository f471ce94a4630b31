//! Peers for people: who is connected, what each has not taken or refuses, and what agents tell.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::xds::server::Server;
use crate::xds::server::agents::{self, Presence};
use crate::xds::server::registry::{Behind, PeerKind, PeerRejection, Protocol};

/// Entries of a list that are shown; the rest is counted.
const SHOWN: usize = 100;

/// A stream of configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PeerSummary {
    subject: String,
    kind: PeerKind,
    /// What it may see.
    scope: String,
    protocol: Protocol,
    address: String,
    /// What it calls itself.
    node: String,
    /// Seconds since 1970.
    since: u64,
    synced: bool,
    /// Resources that it has not taken yet; `null`: perhaps all.
    behind: Option<usize>,
    rejections: Vec<Rejection>,
}

#[derive(Serialize)]
struct Rejection {
    r#type: &'static str,
    name: String,
    #[serde(flatten)]
    rejection: PeerRejection,
}

/// An agent that reports, or did until lately.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgentSummary {
    node: Option<String>,
    subject: String,
    state: &'static str,
    seconds_since_heard: f64,
    reports: u64,
    /// It has told everything once.
    complete: bool,
    /// How many listeners are not as they should be.
    listeners: usize,
    /// The first of them.
    out_of_order: Vec<ListenerSummary>,
    new_flows: u64,
    active_flows: u64,
    packets_in: u64,
    packets_out: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListenerSummary {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    healthy: u32,
    pending: u32,
    unhealthy: Vec<String>,
}

pub(super) fn peers(server: &Server) -> Vec<PeerSummary> {
    let peers = server.registry().peers().into_iter();
    let summary = peers.map(|peer| PeerSummary {
        kind: peer.kind(),
        scope: peer.identity.scope.to_string(),
        subject: peer.identity.subject,
        protocol: peer.protocol,
        address: peer.address.to_string(),
        node: peer.node,
        since: seconds(peer.since),
        synced: peer.synced,
        behind: match &peer.behind {
            Behind::Everything => None,
            Behind::Names(names) => Some(names.len()),
        },
        rejections: peer
            .rejections
            .iter()
            .take(SHOWN)
            .map(|((kind, name), rejection)| Rejection {
                r#type: kind.label(),
                name: name.to_string(),
                rejection: rejection.clone(),
            })
            .collect(),
    });
    summary.collect()
}

pub(super) fn agents(server: &Server, now: Instant) -> Vec<AgentSummary> {
    let agents = server.agents().view(now).into_iter();
    let summary = agents.map(|agent| {
        let traffic = agents::total(&agent);
        let received = &agent.received;
        let listeners = received.standings().take(SHOWN).map(|(name, known)| ListenerSummary {
            name: name.to_string(),
            problem: known.problem.to_string(),
            healthy: known.healthy,
            pending: known.pending,
            unhealthy: known
                .unhealthy
                .iter()
                .map(|backend| backend.address.to_string())
                .collect(),
        });
        AgentSummary {
            state: match agent.presence {
                Presence::Heard => "heard",
                Presence::Silent => "silent",
                Presence::Closed(_) => "closed",
                Presence::Lost(_) => "lost",
            },
            seconds_since_heard: now.saturating_duration_since(agent.last_heard).as_secs_f64(),
            reports: received.sequence(),
            complete: received.is_complete(),
            listeners: received.standings().count(),
            out_of_order: listeners.collect(),
            new_flows: traffic.new_flows,
            active_flows: traffic.active_flows,
            packets_in: traffic.packets_in,
            packets_out: traffic.packets_out,
            node: agent.node,
            subject: agent.subject,
        }
    });
    summary.collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default()
}
