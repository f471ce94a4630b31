//! Figures of agents' reports as Prometheus metrics. Listeners are summed up: each agent's own metrics have them one by one.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Instant;

use kubelb_xds::contract::reports::Traffic;
use kubelb_xds::reports::{Changes, Fault};

use super::{Agent, Presence};

/// What came of all agents.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    reports: u64,
    bytes: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Figures {
    pub(super) fn note(&mut self, bytes: usize, taken: &Result<Changes, Fault>) {
        self.reports = self.reports.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if let Err(fault) = taken {
            *self.faults.entry(fault.reason()).or_default() += 1;
        }
    }

    pub(super) fn render(&self, agents: &[Agent], now: Instant) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _infallible = self.write(agents, now, &mut out);
        out
    }

    fn write(&self, agents: &[Agent], now: Instant, out: &mut String) -> fmt::Result {
        let many = |wanted: fn(&Presence) -> bool| agents.iter().filter(|agent| wanted(&agent.presence)).count();
        head(out, "agents", "gauge", "Agents by whether they are heard.")?;
        let heard = many(|presence| *presence == Presence::Heard);
        let silent = many(|presence| *presence == Presence::Silent);
        writeln!(out, "kubelb_manager_reports_agents{{state=\"heard\"}} {heard}")?;
        writeln!(out, "kubelb_manager_reports_agents{{state=\"silent\"}} {silent}")?;
        head(out, "total", "counter", "Reports of agents, heartbeats included.")?;
        writeln!(out, "kubelb_manager_reports_total {}", self.reports)?;
        head(out, "bytes_total", "counter", "Bytes of reports.")?;
        writeln!(out, "kubelb_manager_reports_bytes_total {}", self.bytes)?;
        head(
            out,
            "faults_total",
            "counter",
            "Reports after which a stream could not go on.",
        )?;
        for (reason, many) in &self.faults {
            writeln!(out, "kubelb_manager_reports_faults_total{{reason=\"{reason}\"}} {many}")?;
        }
        let nodes: Vec<(&str, &Agent, Traffic)> = agents
            .iter()
            .filter(|agent| matches!(agent.presence, Presence::Heard | Presence::Silent))
            .filter_map(|agent| Some((agent.node.as_deref()?, agent, total(agent))))
            .collect();
        head(
            out,
            "silence_seconds",
            "gauge",
            "Time since the node's agent was heard last.",
        )?;
        for (node, agent, _) in &nodes {
            let silence = now.saturating_duration_since(agent.last_heard).as_secs_f64();
            writeln!(
                out,
                "kubelb_manager_reports_silence_seconds{{node=\"{node}\"}} {silence}"
            )?;
        }
        head(
            out,
            "listeners",
            "gauge",
            "Listeners that are not as they should be on the node.",
        )?;
        for (node, agent, _) in &nodes {
            let many = agent.received.standings().count();
            writeln!(out, "kubelb_manager_reports_listeners{{node=\"{node}\"}} {many}")?;
        }
        write_traffic(&nodes, out)
    }
}

fn write_traffic(nodes: &[(&str, &Agent, Traffic)], out: &mut String) -> fmt::Result {
    head(
        out,
        "flows_total",
        "counter",
        "Flows that were opened, by the node's count.",
    )?;
    for (node, _, traffic) in nodes {
        writeln!(
            out,
            "kubelb_manager_reports_flows_total{{node=\"{node}\"}} {}",
            traffic.new_flows
        )?;
    }
    head(out, "flows", "gauge", "Flows that are there, by the node's count.")?;
    for (node, _, traffic) in nodes {
        writeln!(
            out,
            "kubelb_manager_reports_flows{{node=\"{node}\"}} {}",
            traffic.active_flows
        )?;
    }
    for (name, help, of_clients, to_clients) in [
        (
            "packets_total",
            "Packets that were forwarded, by the node's count.",
            (|traffic| traffic.packets_in) as fn(&Traffic) -> u64,
            (|traffic| traffic.packets_out) as fn(&Traffic) -> u64,
        ),
        (
            "traffic_bytes_total",
            "Bytes that were forwarded, by the node's count.",
            |traffic| traffic.bytes_in,
            |traffic| traffic.bytes_out,
        ),
    ] {
        head(out, name, "counter", help)?;
        for (node, _, traffic) in nodes {
            let (incoming, outgoing) = (of_clients(traffic), to_clients(traffic));
            writeln!(
                out,
                "kubelb_manager_reports_{name}{{node=\"{node}\",direction=\"in\"}} {incoming}"
            )?;
            writeln!(
                out,
                "kubelb_manager_reports_{name}{{node=\"{node}\",direction=\"out\"}} {outgoing}"
            )?;
        }
    }
    head(
        out,
        "dropped_packets_total",
        "counter",
        "Packets that were dropped, by the node's count.",
    )?;
    for (node, _, traffic) in nodes {
        for drops in &traffic.drops {
            // An agent says what the reason is: it must not become another label.
            let reason: String = drops
                .reason
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            writeln!(
                out,
                "kubelb_manager_reports_dropped_packets_total{{node=\"{node}\",reason=\"{reason}\"}} {}",
                drops.packets
            )?;
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP kubelb_manager_reports_{name} {help}")?;
    writeln!(out, "# TYPE kubelb_manager_reports_{name} {kind}")
}

/// Traffic of all listeners of a node.
#[must_use]
pub fn total(agent: &Agent) -> Traffic {
    let mut sum = Traffic::default();
    for (_, traffic) in agent.received.all_traffic() {
        sum.add(traffic);
    }
    sum
}
