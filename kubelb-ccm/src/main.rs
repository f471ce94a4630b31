//! Entry point; everything else is in the library.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    kubelb_ccm::run::run(kubelb_ccm::args::Cli::parse())
}
