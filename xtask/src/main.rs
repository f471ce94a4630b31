//! `cargo xtask`: from a bare machine to a built, tested and running project, one command for each purpose.
//!
//! Owns the order of the steps and the tools that they need. Knows nothing of packets, maps or the agent's configuration.
#![forbid(unsafe_code)]

mod agent;
mod cli;
mod clients;
mod crds;
mod demo;
mod ebpf;
mod lint;
mod process;
mod root;
mod setup;
mod step;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
