//! The figures as text and as JSON, and whether they pass.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cells::{Cell, Cells};
use crate::throughput::Throughput;

/// Name of the cell that the bar is for.
pub(crate) const BAR_CELL: &str = "established TCPv4";
/// Most hash hits that a packet of [`BAR_CELL`] with one flow may cost.
const MUST: f64 = 3.0;
/// What to get below.
const AIM: f64 = 1.0;

/// Everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Of one hit in the stock hash map.
    unit_nanoseconds: f64,
    unit: Cell,
    cells: Vec<Row>,
    throughput: Vec<Throughput>,
    bar: Bar,
}

/// What it was measured on.
#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cpus: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    cell: Cell,
    /// `nanoseconds` in units.
    hash_hits: f64,
}

#[derive(Debug, Serialize)]
struct Bar {
    /// The dearest variant with one flow.
    hash_hits: f64,
    nanoseconds: f64,
    must: f64,
    aim: f64,
    passed: bool,
}

impl Report {
    pub(crate) fn new(cells: Cells, throughput: Vec<Throughput>) -> anyhow::Result<Self> {
        let unit = cells.unit.nanoseconds;
        anyhow::ensure!(
            unit > 0.0,
            "a hash map's hit takes {unit} ns: the machine is too busy to measure"
        );
        let judged = cells
            .cells
            .iter()
            .filter(|cell| cell.name == BAR_CELL && cell.flows == 1);
        let nanoseconds = judged.map(|cell| cell.nanoseconds).fold(f64::NAN, f64::max);
        let bar = Bar {
            hash_hits: nanoseconds / unit,
            nanoseconds,
            must: MUST,
            aim: AIM,
            passed: nanoseconds / unit <= MUST,
        };
        let row = |cell: Cell| Row {
            hash_hits: cell.nanoseconds / unit,
            cell,
        };
        Ok(Self {
            machine: Machine {
                kernel: kernel()?,
                cpus: std::thread::available_parallelism()?.get(),
            },
            unit_nanoseconds: unit,
            unit: cells.unit,
            cells: cells.cells.into_iter().map(row).collect(),
            throughput,
            bar,
        })
    }

    pub(crate) fn passed(&self) -> bool {
        self.bar.passed
    }

    /// For people.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let out = &mut text;
        writeln!(
            out,
            "\nXDP program on one CPU, net of an empty program (kernel {}, {} CPUs)",
            self.machine.kernel, self.machine.cpus
        )?;
        writeln!(
            out,
            "unit: {}, {} key: {:.0} ns\n",
            self.unit.name, self.unit.flows, self.unit_nanoseconds
        )?;
        writeln!(
            out,
            "{:<34} {:>7} {:>9} {:>10}  verdict",
            "packet", "flows", "ns", "hash hits"
        )?;
        for row in &self.cells {
            writeln!(
                out,
                "{:<34} {:>7} {:>9.0} {:>10.2}  {}",
                row.cell.name, row.cell.flows, row.cell.nanoseconds, row.hash_hits, row.cell.verdict
            )?;
        }
        if !self.throughput.is_empty() {
            writeln!(out, "\niperf3 over veth, IPv4, against routing by the kernel alone\n")?;
            writeln!(
                out,
                "{:<5} {:<5} {:<16} {:>14} {:>14} {:>7}",
                "mode", "", "peers", "direct Gbit/s", "VIP Gbit/s", "ratio"
            )?;
            for row in &self.throughput {
                writeln!(
                    out,
                    "{:<5} {:<5} {:<16} {:>14.2} {:>14.2} {:>7.2}",
                    row.mode,
                    row.transport,
                    row.peers,
                    row.direct / 1e9,
                    row.through / 1e9,
                    row.ratio
                )?;
            }
        }
        let Bar {
            hash_hits,
            nanoseconds,
            must,
            aim,
            ..
        } = self.bar;
        writeln!(
            out,
            "\n{BAR_CELL}: {nanoseconds:.0} ns = {hash_hits:.2} hash hits (must ≤ {must:.0}, aim ≤ {aim:.0})"
        )?;
        Ok(text)
    }
}

fn kernel() -> anyhow::Result<String> {
    let names = nix::sys::utsname::uname()?;
    Ok(names.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{BAR_CELL, Report};
    use crate::cells::{Cell, Cells};

    fn cell(name: &str, flows: u32, nanoseconds: f64) -> Cell {
        Cell {
            name: name.to_owned(),
            flows,
            verdict: "XDP_TX",
            nanoseconds,
            with_driver: nanoseconds + 30.0,
        }
    }

    fn report(unit: f64, cells: Vec<Cell>) -> anyhow::Result<Report> {
        let unit = cell("hit", 1, unit);
        Report::new(Cells { unit, cells }, Vec::new())
    }

    #[test]
    fn the_bar_is_for_the_dearest_single_flow() {
        let cheap = cell(BAR_CELL, 1, 20.0);
        let many = cell(BAR_CELL, 65_536, 500.0);
        assert!(report(30.0, vec![cheap.clone(), many.clone()]).unwrap().passed());
        assert!(
            !report(30.0, vec![cheap, many, cell(BAR_CELL, 1, 91.0)])
                .unwrap()
                .passed()
        );
    }

    #[test]
    fn nothing_measured_does_not_pass() {
        assert!(!report(30.0, vec![cell("reply TCPv4", 1, 20.0)]).unwrap().passed());
        assert!(report(0.0, Vec::new()).is_err());
    }

    #[test]
    fn the_text_names_the_ratio() {
        let text = report(30.0, vec![cell(BAR_CELL, 1, 12.0)]).unwrap().text().unwrap();
        assert!(
            text.contains("established TCPv4: 12 ns = 0.40 hash hits (must ≤ 3, aim ≤ 1)"),
            "{text}"
        );
    }
}
