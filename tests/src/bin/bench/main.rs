//! The bench: what a packet costs in the data path, and how bulk traffic through it compares with plain routing.
//!
//! `cargo xtask bench` builds everything and runs it; `docs/benchmarks.md` says how it measures.

mod cells;
mod data_path;
mod driver;
mod report;
mod throughput;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kubelb_tests::{netns, tool};
use nix::sys::signal::{SigSet, Signal};

use cells::Thoroughness;
use driver::Effort;
use report::Report;
use throughput::Span;

/// Names the object with the driver; `cargo xtask bench` sets it.
const OBJECT_VARIABLE: &str = "KUBELB_BENCH_OBJECT";

const HELP: &str = "\
Measures the data path on this machine. Needs root, and a machine that does nothing else.

Usage: cargo xtask bench [--quick] [--json FILE]

      --quick      Less than a minute, less exact
      --json FILE  Also write the figures there
  -h, --help       Show this text

Ends with an error when a packet of an established TCPv4 flow costs too much.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
struct Options {
    quick: bool,
    json: Option<PathBuf>,
}

fn run() -> anyhow::Result<()> {
    let Some(options) = options()? else { return say(HELP) };
    tool::require_root()?;
    let object = std::env::var_os(OBJECT_VARIABLE).map(PathBuf::from);
    let object =
        object.with_context(|| format!("{OBJECT_VARIABLE} is not set; start this with `cargo xtask bench`"))?;
    remove_everything_when_interrupted()?;
    let (how, span) = if options.quick {
        (thoroughness(500_000, 5, 3), Span { seconds: 2, times: 1 })
    } else {
        (thoroughness(3_000_000, 7, 7), Span { seconds: 4, times: 3 })
    };
    let cells = cells::take(&object, how, |cell| {
        eprintln!("{} ({}): {:.0} ns", cell.name, cell.flows, cell.nanoseconds);
    })?;
    let throughput = throughput::take(span, |figure| {
        eprintln!("iperf3 {} {}: ratio {:.2}", figure.mode, figure.transport, figure.ratio);
    })?;
    let report = Report::new(cells, throughput)?;
    say(&report.text()?)?;
    if let Some(path) = options.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !report.passed() {
        bail!("an {} flow costs more than it must", report::BAR_CELL);
    }
    Ok(())
}

fn thoroughness(runs: u32, samples: usize, opening_samples: usize) -> Thoroughness {
    Thoroughness {
        steady: Effort { runs, samples },
        opening_samples,
    }
}

/// `None`: only help was asked for.
fn options() -> anyhow::Result<Option<Options>> {
    let mut options = Options {
        quick: false,
        json: None,
    };
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--quick") => options.quick = true,
            Some("--json") => {
                let path = arguments.next().context("--json wants a file")?;
                options.json = Some(path.into());
            }
            Some("-h" | "--help") => return Ok(None),
            _ => bail!("unknown argument {}\n\n{HELP}", argument.display()),
        }
    }
    Ok(Some(options))
}

/// Ctrl-C and SIGTERM leave no namespace or mount behind.
fn remove_everything_when_interrupted() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Threads that are started from here on inherit the mask, so only the one below sees them.
    signals.thread_block().context("cannot block signals")?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                if let Err(error) = netns::remove_own() {
                    eprintln!("error: {error:#}");
                }
                std::process::exit(130);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}
