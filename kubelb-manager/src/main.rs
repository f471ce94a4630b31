//! Entry point; everything else is in the library.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    kubelb_manager::run::run(kubelb_manager::args::Cli::parse().command)
}
