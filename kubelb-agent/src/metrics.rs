//! The report as Prometheus metrics (text exposition format 0.0.4).
//!
//! Owns metric names, help texts and escaping; the figures come from [`Report`]. Series stand in the report's order.

mod xds;

use std::fmt::Display;

use crate::status::{BackendHealth, BackendReport, Condition, FrontendReport, Report};

/// Renders all metrics.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    agent(report, &mut out);
    if let Some(managers) = &report.xds {
        xds::render(managers, &mut out);
    }
    addresses(report, &mut out);
    capacity(report, &mut out);
    frontends(report, &mut out);
    backends(report, &mut out);
    drops(report, &mut out);
    out
}

fn agent(report: &Report, out: &mut String) {
    let mut family = Family::new(out, "kubelb_build_info", Kind::Gauge, "Version of the agent; always 1.");
    family.sample(&[("version", &report.agent.version)], 1);
    let help = "Whether the last change of the configuration is in force (1) or was refused (0).";
    let mut family = Family::new(out, "kubelb_config_valid", Kind::Gauge, help);
    family.sample(&[], u8::from(report.agent.config_error.is_none()));
    let help = "Interfaces with attached programs and how; always 1.";
    let mut family = Family::new(out, "kubelb_interface_info", Kind::Gauge, help);
    for interface in &report.interfaces {
        family.sample(&[("interface", &interface.name), ("mode", &interface.mode)], 1);
    }
    if let Some(checks) = report.checks {
        let help = "Health checks by result; local_error tells about this node, not a backend.";
        let mut family = Family::new(out, "kubelb_health_checks_total", Kind::Counter, help);
        family.sample(&[("result", &"passed")], checks.passed);
        family.sample(&[("result", &"failed")], checks.failed);
        family.sample(&[("result", &"local_error")], checks.local_errors);
        let help = "Health checks that started late because too many were running.";
        let mut family = Family::new(out, "kubelb_health_checks_delayed_total", Kind::Counter, help);
        family.sample(&[], checks.delayed);
        let help = "What is checked; identical checks of several frontends count once.";
        let mut family = Family::new(out, "kubelb_health_check_targets", Kind::Gauge, help);
        family.sample(&[], checks.targets);
        let help = "By how much check intervals are longer than asked for, in thousandths; 1000 when they are not.";
        let mut family = Family::new(out, "kubelb_health_check_stretch_thousandths", Kind::Gauge, help);
        family.sample(&[], checks.stretch_thousandths);
    }
}

fn addresses(report: &Report, out: &mut String) {
    let links = || {
        let all = report.addresses.iter();
        all.flat_map(|report| report.links.iter().map(move |link| (&report.address, link)))
    };
    let help = "Whether questions about an address that is this node's are answered on an interface (1), or another machine has taken it (0).";
    let mut family = Family::new(out, "kubelb_address_answering", Kind::Gauge, help);
    for (address, link) in links() {
        let labels: [Label<'_>; 2] = [("address", address), ("interface", &link.interface)];
        family.sample(&labels, u8::from(link.is_answering));
    }
    let help = "Questions of ARP and neighbour discovery about an address that were answered.";
    let mut family = Family::new(out, "kubelb_address_answers_total", Kind::Counter, help);
    for (address, link) in links() {
        family.sample(&[("address", address), ("interface", &link.interface)], link.answered);
    }
    let help = "Times that another machine announced an address of this node's.";
    let mut family = Family::new(out, "kubelb_address_conflicts_total", Kind::Counter, help);
    for (address, link) in links() {
        family.sample(&[("address", address), ("interface", &link.interface)], link.conflicts);
    }
    let help = "Malformed questions about addresses of this node's.";
    let mut family = Family::new(out, "kubelb_address_malformed_questions_total", Kind::Counter, help);
    family.sample(&[], report.malformed_questions);
}

fn capacity(report: &Report, out: &mut String) {
    let mut family = Family::new(
        out,
        "kubelb_snat_ports_used",
        Kind::Gauge,
        "SNAT ports given out to flows.",
    );
    for snat in &report.snat {
        family.sample(&[("address", &snat.address)], snat.used);
    }
    let mut family = Family::new(
        out,
        "kubelb_snat_ports_capacity",
        Kind::Gauge,
        "SNAT ports that can be given out.",
    );
    for snat in &report.snat {
        family.sample(&[("address", &snat.address)], snat.capacity);
    }
    let mut family = Family::new(out, "kubelb_map_entries", Kind::Gauge, "Entries in use in an eBPF map.");
    for map in &report.maps {
        family.sample(&[("map", &map.name)], map.used);
    }
    let mut family = Family::new(
        out,
        "kubelb_map_capacity",
        Kind::Gauge,
        "Entries an eBPF map has room for.",
    );
    for map in &report.maps {
        family.sample(&[("map", &map.name)], map.capacity);
    }
}

fn frontends(report: &Report, out: &mut String) {
    let help = "Address, port and protocol of a frontend; always 1.";
    let mut family = Family::new(out, "kubelb_frontend_info", Kind::Gauge, help);
    for frontend in &report.frontends {
        family.sample(&[("frontend", &frontend.name), ("listener", &frontend.listener())], 1);
    }
    let help = "Condition of a frontend: 1 for the one it is in, 0 for the others.";
    let mut family = Family::new(out, "kubelb_frontend_condition", Kind::Gauge, help);
    for frontend in &report.frontends {
        for condition in Condition::ALL {
            let labels: [Label<'_>; 2] = [("frontend", &frontend.name), ("condition", &condition.as_str())];
            family.sample(&labels, u8::from(frontend.condition == condition));
        }
    }
    let half_open = || {
        let rows = report.frontends.iter();
        rows.filter_map(|frontend| Some((&frontend.name, frontend.half_open?)))
    };
    let help = "TCP flows of a frontend whose handshake is not complete.";
    let mut family = Family::new(out, "kubelb_frontend_half_open_flows", Kind::Gauge, help);
    for (name, half_open) in half_open() {
        family.sample(&[("frontend", name)], half_open.flows);
    }
    let help = "Half-open flows above which a new one has to take the place of the oldest; 0: any number.";
    let mut family = Family::new(out, "kubelb_frontend_half_open_budget", Kind::Gauge, help);
    for (name, half_open) in half_open() {
        family.sample(&[("frontend", name)], half_open.budget);
    }
    let help = "Packets of a frontend, from (in) and to (out) clients.";
    let mut family = Family::new(out, "kubelb_frontend_packets_total", Kind::Counter, help);
    for FrontendReport { name, traffic, .. } in &report.frontends {
        family.directions(&[("frontend", name)], traffic.packets_in, traffic.packets_out);
    }
    let help = "Bytes of a frontend, IP headers included, from (in) and to (out) clients.";
    let mut family = Family::new(out, "kubelb_frontend_bytes_total", Kind::Counter, help);
    for FrontendReport { name, traffic, .. } in &report.frontends {
        family.directions(&[("frontend", name)], traffic.bytes_in, traffic.bytes_out);
    }
    let mut family = Family::new(
        out,
        "kubelb_frontend_flows_total",
        Kind::Counter,
        "Flows opened to a frontend.",
    );
    for frontend in &report.frontends {
        family.sample(&[("frontend", &frontend.name)], frontend.traffic.flows_total);
    }
    let help = "New flows whose client could not be noted down with its backend.";
    let mut family = Family::new(out, "kubelb_frontend_affinity_failures_total", Kind::Counter, help);
    for frontend in &report.frontends {
        family.sample(&[("frontend", &frontend.name)], frontend.affinity_failures);
    }
}

fn backends(report: &Report, out: &mut String) {
    let all = || {
        report
            .frontends
            .iter()
            .flat_map(|frontend| frontend.backends.iter().map(|backend| (&frontend.name, backend)))
    };
    let help = "Whether a backend passes its checks; absent while it has no result or no check.";
    let mut family = Family::new(out, "kubelb_backend_healthy", Kind::Gauge, help);
    for (frontend, backend) in all() {
        let healthy = match backend.health {
            BackendHealth::Healthy => 1,
            BackendHealth::Unhealthy => 0,
            BackendHealth::Unknown | BackendHealth::Unchecked => continue,
        };
        family.sample(
            &[("frontend", frontend), ("backend", &backend.socket_address())],
            healthy,
        );
    }
    let help = "Packets between clients and a backend, from (in) and to (out) clients.";
    let mut family = Family::new(out, "kubelb_backend_packets_total", Kind::Counter, help);
    for (frontend, BackendReport { traffic, .. }, address) in
        all().map(|(name, backend)| (name, backend, backend.socket_address()))
    {
        family.directions(
            &[("frontend", frontend), ("backend", &address)],
            traffic.packets_in,
            traffic.packets_out,
        );
    }
    let help = "Bytes between clients and a backend, IP headers included, from (in) and to (out) clients.";
    let mut family = Family::new(out, "kubelb_backend_bytes_total", Kind::Counter, help);
    for (frontend, BackendReport { traffic, .. }, address) in
        all().map(|(name, backend)| (name, backend, backend.socket_address()))
    {
        family.directions(
            &[("frontend", frontend), ("backend", &address)],
            traffic.bytes_in,
            traffic.bytes_out,
        );
    }
    let mut family = Family::new(
        out,
        "kubelb_backend_flows_total",
        Kind::Counter,
        "Flows given to a backend.",
    );
    for (frontend, backend) in all() {
        family.sample(
            &[("frontend", frontend), ("backend", &backend.socket_address())],
            backend.traffic.flows_total,
        );
    }
}

fn drops(report: &Report, out: &mut String) {
    let help = "Packets dropped, by reason; the frontend is empty where it was not known yet.";
    let mut family = Family::new(out, "kubelb_drops_total", Kind::Counter, help);
    let frontends = report
        .frontends
        .iter()
        .map(|frontend| (frontend.name.as_str(), &frontend.drops));
    for (frontend, drops) in std::iter::once(("", &report.drops)).chain(frontends) {
        for (reason, packets) in drops {
            family.sample(&[("frontend", &frontend), ("reason", reason)], *packets);
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

type Label<'a> = (&'static str, &'a dyn Display);

/// One metric: its HELP and TYPE once, then its samples.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: Kind, help: &'static str) -> Self {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let mut family = Self { out, name };
        family.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        family
    }

    fn directions(&mut self, labels: &[Label<'_>], inward: u64, outward: u64) {
        for (direction, value) in [("in", inward), ("out", outward)] {
            let mut labels = labels.to_vec();
            labels.push(("direction", &direction));
            self.sample(&labels, value);
        }
    }

    fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.out.push_str(self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            let value = escape(&value.to_string());
            self.write(format_args!("{separator}{name}=\"{value}\""));
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.push_str(&text.to_string());
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::status::tests::{assert_golden, example};

    #[test]
    fn the_metrics_are_as_checked_in() {
        assert_golden(
            &render(&example()),
            include_str!("../testdata/metrics.txt"),
            "metrics.txt",
        );
    }

    #[test]
    fn each_metric_is_introduced_once_and_no_series_repeats() {
        let text = render(&example());
        let mut introduced = BTreeSet::new();
        let mut series = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(introduced.insert(rest.split(' ').next().unwrap().to_owned()), "{line}");
            } else if !line.starts_with('#') {
                let (key, value) = line.rsplit_once(' ').unwrap();
                assert!(series.insert(key.to_owned()), "{line}");
                assert!(introduced.contains(key.split('{').next().unwrap()), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn label_values_cannot_break_out_of_their_quotes() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
