//! The report for people: aligned columns within 120 characters.
//!
//! Owns layout and rounding only; every figure in full is in the JSON.

mod address;
mod xds;

use super::{BackendReport, BackendState, FrontendReport, Report};
use crate::model::Algorithm;

/// Longest line, in characters, as long as names and reasons can be shortened to fit.
const WIDTH: usize = 120;
/// Shortest that a name or reason is cut to.
const SHORTEST: usize = 12;
const GAP: &str = "  ";

/// Renders `report` as text, without colours.
#[must_use]
pub fn render_table(report: &Report) -> String {
    let mut out = String::new();
    agent(report, &mut out);
    if let Some(managers) = &report.xds {
        xds::write(managers, &mut out);
    }
    interfaces(report, &mut out);
    address::write(report, &mut out);
    snat(report, &mut out);
    maps(report, &mut out);
    frontends(&report.frontends, &mut out);
    for frontend in report.frontends.iter().filter(|frontend| !frontend.backends.is_empty()) {
        backends(frontend, &mut out);
    }
    drops(report, &mut out);
    out
}

fn agent(report: &Report, out: &mut String) {
    let agent = &report.agent;
    let state = match agent.pid {
        Some(pid) if agent.running => format!("running, pid {pid}"),
        _ if agent.running => "running".to_owned(),
        _ => "not running; forwarding goes on with the last configuration and health".to_owned(),
    };
    line(out, &format!("Agent    {} ({state})", clean(&agent.version)));
    match &agent.config_error {
        None => line(out, "Config   in force"),
        Some(error) => {
            line(out, "Config   last change refused, the one before stays in force:");
            for text in error.lines() {
                line(out, &format!("         {}", clean(text)));
            }
        }
    }
    if let Some(checks) = report.checks {
        let total = checks.passed + checks.failed;
        let mut text = format!("Checks   {} done, {} failed", count(total), count(checks.failed));
        for (value, what) in [
            (checks.delayed, "started late"),
            (checks.local_errors, "impossible on this node"),
        ] {
            if value > 0 {
                text += &format!(", {} {what}", count(value));
            }
        }
        if checks.stretch_thousandths > 1_000 {
            let (whole, rest) = (
                checks.stretch_thousandths / 1_000,
                checks.stretch_thousandths % 1_000 / 100,
            );
            text += &format!(
                "; {} targets are too many for --max-checks-per-second, intervals are {whole}.{rest} times as long",
                count(checks.targets)
            );
        }
        line(out, &text);
    }
}

fn interfaces(report: &Report, out: &mut String) {
    let mut table = Table::new(&["INTERFACE", "INDEX", "MODE", "REASON"], &[1], 3);
    for interface in &report.interfaces {
        table.row([
            clean(&interface.name),
            interface.ifindex.to_string(),
            clean(&interface.mode),
            clean(&interface.reason),
        ]);
    }
    table.write("", out);
}

fn snat(report: &Report, out: &mut String) {
    let mut table = Table::new(&["SNAT ADDRESS", "PORTS", "USED", "CAPACITY", "FILL"], &[2, 3, 4], 0);
    for snat in &report.snat {
        table.row([
            snat.address.to_string(),
            format!("{}-{}", snat.ports.first(), snat.ports.last()),
            snat.used.to_string(),
            snat.capacity.to_string(),
            fill(snat.used, snat.capacity),
        ]);
    }
    table.write("", out);
}

fn maps(report: &Report, out: &mut String) {
    let mut table = Table::new(&["MAP", "USED", "CAPACITY", "FILL"], &[1, 2, 3], 0);
    for map in &report.maps {
        table.row([
            clean(&map.name),
            map.used.to_string(),
            map.capacity.to_string(),
            fill(map.used, map.capacity),
        ]);
    }
    table.write("", out);
}

fn frontends(frontends: &[FrontendReport], out: &mut String) {
    let columns = [
        "FRONTEND",
        "LISTENER",
        "CONDITION",
        "UP",
        "FLOWS",
        "FLOWS/S",
        "PKTS/S",
        "DROPS",
    ];
    let mut table = Table::new(&columns, &[3, 4, 5, 6, 7], 0);
    for frontend in frontends {
        let active = || {
            frontend
                .backends
                .iter()
                .filter(|backend| backend.state == BackendState::Active)
        };
        let up = active()
            .filter(|backend| backend.health != super::BackendHealth::Unhealthy)
            .count();
        let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), scaled);
        table.row([
            clean(&frontend.name),
            frontend.listener(),
            frontend.condition.as_str().to_owned(),
            format!("{up}/{}", active().count()),
            count(frontend.traffic.flows_total),
            rate(frontend.flows_per_second),
            rate(frontend.packets_per_second),
            count(frontend.drops.values().fold(0, |sum, drops| sum.saturating_add(*drops))),
        ]);
    }
    table.write("", out);
    if frontends.is_empty() {
        line(out, "\nNo frontends.");
    }
}

fn backends(frontend: &FrontendReport, out: &mut String) {
    line(
        out,
        &format!("\nBackends of {}", shorten(&clean(&frontend.name), WIDTH - 12)),
    );
    for text in terms(frontend) {
        line(out, &text);
    }
    let columns = [
        "ADDRESS",
        "WEIGHT",
        "HEALTH",
        "FLOWS",
        "PKTS IN",
        "BYTES IN",
        "PKTS OUT",
        "BYTES OUT",
    ];
    let mut table = Table::new(&columns, &[1, 3, 4, 5, 6, 7], 0);
    for backend in &frontend.backends {
        let traffic = &backend.traffic;
        table.row([
            backend.socket_address().to_string(),
            backend.weight.to_string(),
            health(backend).to_owned(),
            count(traffic.flows_total),
            count(traffic.packets_in),
            count(traffic.bytes_in),
            count(traffic.packets_out),
            count(traffic.bytes_out),
        ]);
    }
    table.write_rows(GAP, out);
}

/// Source ranges that are listed; the others are counted.
const LISTED_RANGES: usize = 4;

/// What is out of the ordinary about new flows.
fn terms(frontend: &FrontendReport) -> Vec<String> {
    let mut terms = Vec::new();
    let choice = match frontend.algorithm {
        Algorithm::RoundRobin => None,
        Algorithm::Maglev => Some("by Maglev".to_owned()),
        Algorithm::MaglevBySource => Some("by Maglev over the client's address".to_owned()),
    };
    let stays = |seconds: u64| format!("a client stays with its backend for {seconds} s");
    let parts: Vec<String> = choice
        .into_iter()
        .chain(frontend.affinity_timeout_seconds.map(stays))
        .collect();
    if !parts.is_empty() {
        terms.push(format!("New flows: {}", parts.join("; ")));
    }
    if frontend.affinity_failures > 0 {
        terms.push(format!("Clients not noted down: {}", frontend.affinity_failures));
    }
    if let Some(ranges) = &frontend.source_ranges {
        let mut listed: Vec<String> = ranges.iter().take(LISTED_RANGES).map(ToString::to_string).collect();
        if let Some(more @ 1..) = ranges.len().checked_sub(LISTED_RANGES) {
            listed.push(format!("and {more} more"));
        }
        let listed = if listed.is_empty() {
            "nowhere".to_owned()
        } else {
            listed.join(", ")
        };
        terms.push(format!("Clients may come from {listed}"));
    }
    terms
}

fn health(backend: &BackendReport) -> &'static str {
    match backend.state {
        BackendState::Active => backend.health.as_str(),
        BackendState::Draining => "draining",
    }
}

fn drops(report: &Report, out: &mut String) {
    let mut table = Table::new(&["DROPS", "REASON", "PACKETS"], &[2], 0);
    let node = ("(no frontend)", &report.drops);
    let frontends = report
        .frontends
        .iter()
        .map(|frontend| (frontend.name.as_str(), &frontend.drops));
    for (name, drops) in std::iter::once(node).chain(frontends) {
        for (reason, packets) in drops.iter().filter(|(_, packets)| **packets > 0) {
            table.row([clean(name), clean(reason), packets.to_string()]);
        }
    }
    table.write("", out);
}

/// Columns as wide as their widest cell; one of them gives way when a line gets too long.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    right: &'static [usize],
    elastic: usize,
}

impl<const N: usize> Table<N> {
    fn new(header: &[&str; N], right: &'static [usize], elastic: usize) -> Self {
        Self {
            rows: vec![header.map(str::to_owned)],
            right,
            elastic,
        }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Writes an empty line and the table, nothing when it has no rows.
    fn write(self, indent: &str, out: &mut String) {
        if self.rows.len() > 1 {
            out.push('\n');
            self.write_rows(indent, out);
        }
    }

    fn write_rows(mut self, indent: &str, out: &mut String) {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let total = indent.len() + widths.iter().sum::<usize>() + GAP.len() * N.saturating_sub(1);
        if let Some(width) = widths.get_mut(self.elastic) {
            *width = width
                .saturating_sub(total.saturating_sub(WIDTH))
                .max(SHORTEST.min(*width));
        }
        for row in &mut self.rows {
            let mut text = indent.to_owned();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let cell = shorten(cell, width);
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if self.right.contains(&column) {
                    (padding.as_str(), "")
                } else {
                    ("", padding.as_str())
                };
                let gap = if column == 0 { "" } else { GAP };
                text.extend([gap, before, &cell, after]);
            }
            line(out, text.trim_end());
        }
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Control characters must not reach a terminal.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn fill(used: u64, capacity: u64) -> String {
    // In tenths of a percent, in whole numbers: no rounding up to a full map that is not.
    let tenths = (u128::from(used) * 1000)
        .checked_div(u128::from(capacity))
        .unwrap_or_default();
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// At most six characters: 999999, then 1.00M.
fn count(value: u64) -> String {
    const UNITS: [(u64, char); 6] = [
        (1_000_000_000_000_000_000, 'E'),
        (1_000_000_000_000_000, 'P'),
        (1_000_000_000_000, 'T'),
        (1_000_000_000, 'G'),
        (1_000_000, 'M'),
        (1_000, 'k'),
    ];
    if value < 1_000_000 {
        return value.to_string();
    }
    let Some((unit, letter)) = UNITS.into_iter().find(|(unit, _)| value >= *unit) else {
        return value.to_string();
    };
    let (whole, rest) = (value / unit, value % unit);
    let mut text = whole.to_string();
    let decimals = 3_usize.saturating_sub(text.len());
    if decimals > 0 {
        let hundredths = u128::from(rest) * 100 / u128::from(unit);
        let digits = if decimals == 2 {
            format!("{hundredths:02}")
        } else {
            (hundredths / 10).to_string()
        };
        text.push('.');
        text.push_str(&digits);
    }
    text.push(letter);
    text
}

fn scaled(rate: f64) -> String {
    let (value, letter) = match rate {
        _ if rate >= 999_500_000.0 => (rate / 1e9, "G"),
        _ if rate >= 999_500.0 => (rate / 1e6, "M"),
        _ if rate >= 9_999.5 => (rate / 1e3, "k"),
        _ => (rate, ""),
    };
    if letter.is_empty() && value >= 99.95 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}{letter}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        let cases = [
            (0, "0"),
            (999_999, "999999"),
            (1_000_000, "1.00M"),
            (12_345_678, "12.3M"),
            (999_999_999, "999M"),
            (1_050_000_000, "1.05G"),
            (u64::MAX, "18.4E"),
        ];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
        for (rate, text) in [
            (0.0, "0.0"),
            (99.9, "99.9"),
            (1234.4, "1234"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.0M"),
            (2.5e9, "2.5G"),
        ] {
            assert_eq!(scaled(rate), text);
        }
        assert_eq!(fill(999_999, 1_000_000), "99.9%");
        assert_eq!(fill(0, 0), "0.0%");
    }
}
