//! Entry point; everything else is in the library.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    kubelb_agent::run::run(kubelb_agent::args::Cli::parse().command)
}
