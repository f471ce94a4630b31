//! The command line of `kubelb-agent`.
//!
//! Owns flags, their defaults and the errors about them; knows nothing of what the commands do. It is the only reader of
//! environment variables.

mod xds;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kubelb_common::maps::DEFAULT_BACKENDS;
use kubelb_runtime::telemetry::LogFormat;
use serde::Serialize;

use crate::health::DEFAULT_CHECKS_PER_SECOND;

pub use xds::{XdsArgs, XdsArgsError};

/// Where pins live unless `--bpffs` says otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/kubelb";
/// Flow records unless `--max-flows` says otherwise.
pub const DEFAULT_MAX_FLOWS: u32 = 262_144;
/// Fewest flow records that can be asked for.
pub const MIN_MAX_FLOWS: u32 = 1_024;
/// Most flow records that can be asked for; keeps the maps' memory within a few GiB.
pub const MAX_MAX_FLOWS: u32 = 16_777_216;
/// Fewest backends that room can be made for.
pub const MIN_MAX_BACKENDS: u32 = 1_024;
/// Most backends that room can be made for; their rows and slots then take 128 MiB, and their counters 40 MiB for each CPU.
pub const MAX_MAX_BACKENDS: u32 = 1_048_576;
/// Longest interface name, in bytes (`IFNAMSIZ` of `linux/if.h` less the terminating zero).
const MAX_INTERFACE_NAME: usize = 15;

/// L4 load balancing in eBPF: forwards TCP and UDP from virtual addresses to backends.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubelb-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Attach the programs and keep their maps as the configuration says. Forwarding goes on after it ends.
    Run(Box<RunArgs>),
    /// Show frontends, backends, interfaces and map fill of the programs on this node, with or without a running agent.
    Status(StatusArgs),
    /// Remove programs, maps and pins: forwarding stops and open flows break.
    Detach(DetachArgs),
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Interface to attach to; repeat for more.
    #[arg(long = "interface", value_name = "IF", required = true, value_parser = interface_name)]
    pub interfaces: Vec<String>,
    /// YAML file with the frontends; watched for changes.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "managers",
        conflicts_with = "managers"
    )]
    pub config: Option<PathBuf>,
    /// Where configuration comes from instead of a file.
    #[command(flatten)]
    pub xds: XdsArgs,
    /// How to attach, for all interfaces or for one; the last that fits an interface wins, one that names it first.
    #[arg(long = "attach-mode", value_name = "[IF=]auto|xdp|tcx|generic")]
    pub attach_modes: Vec<AttachModeFor>,
    /// Directory on a BPF file system for maps and links.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Serve /healthz, /readyz, /metrics and /status here, for example 127.0.0.1:9090.
    #[arg(long, value_name = "ADDR", value_parser = admin_address)]
    pub admin_address: Option<SocketAddr>,
    /// How log lines look: text or json. What is logged is set by RUST_LOG.
    #[arg(long, value_name = "text|json", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Flow records to make room for (1024 to 16777216).
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_FLOWS, value_parser = max_flows)]
    pub max_flows: u32,
    /// Backends to make room for, of all frontends together (1024 to 1048576). Each takes some 100 bytes, and 40 more for each CPU.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BACKENDS, value_parser = max_backends)]
    pub max_backends: u32,
    /// Health checks to start in a second at most (1 to 100000). Where backends ask for more, their intervals are longer, which the status shows.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CHECKS_PER_SECOND, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_checks_per_second: u32,
}

/// Flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
    /// Directory that `run` was given.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// State directory that `run` was given: what is known of managers is read there.
    #[arg(long, value_name = "DIR", default_value = xds::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Flags of `detach`.
#[derive(Args, Clone, Debug)]
pub struct DetachArgs {
    /// Directory that `run` was given.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
}

/// What `status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How the programs meet packets on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native XDP where the driver has it and it is the better choice, tcx elsewhere.
    #[default]
    Auto,
    /// Native XDP or an error.
    Xdp,
    /// tcx (clsact on kernels before 6.6).
    Tcx,
    /// Generic XDP: slower than tcx, for tests and odd drivers.
    Generic,
}

/// The text is no attach mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachModeError {
    /// No such mode.
    #[error("{0:?} is not an attach mode; use auto, xdp, tcx or generic, or IF=MODE for one interface")]
    Mode(String),
    /// The part before `=` is no interface.
    #[error("{0}")]
    Interface(String),
}

impl FromStr for AttachMode {
    type Err = AttachModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "xdp" => Ok(Self::Xdp),
            "tcx" => Ok(Self::Tcx),
            "generic" => Ok(Self::Generic),
            _ => Err(AttachModeError::Mode(text.to_owned())),
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Generic => "generic",
        })
    }
}

/// One `--attach-mode`: a mode for one interface, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachModeFor {
    /// `None`: every interface that no other flag names.
    pub interface: Option<String>,
    /// The mode.
    pub mode: AttachMode,
}

impl FromStr for AttachModeFor {
    type Err = AttachModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Interface names may hold `=`, modes may not.
        match text.rsplit_once('=') {
            None => Ok(Self {
                interface: None,
                mode: text.parse()?,
            }),
            Some((interface, mode)) => Ok(Self {
                interface: Some(interface_name(interface).map_err(AttachModeError::Interface)?),
                mode: mode.parse()?,
            }),
        }
    }
}

/// An `--attach-mode` names an interface that no `--interface` does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--attach-mode {interface}={mode}: {interface} is not attached to; add --interface {interface} or remove this flag"
)]
pub struct UnusedAttachMode {
    /// The interface.
    pub interface: String,
    /// The mode asked for it.
    pub mode: AttachMode,
}

impl RunArgs {
    /// The interfaces in the order given, each once, with the mode asked for.
    ///
    /// # Errors
    /// When a mode is given for an interface that is not attached to.
    pub fn attachments(&self) -> Result<Vec<(String, AttachMode)>, UnusedAttachMode> {
        let mut attachments: Vec<(String, AttachMode)> = Vec::with_capacity(self.interfaces.len());
        for name in &self.interfaces {
            if !attachments.iter().any(|(known, _)| known == name) {
                attachments.push((name.clone(), self.mode_of(name)));
            }
        }
        for AttachModeFor { interface, mode } in &self.attach_modes {
            if let Some(interface) = interface.as_ref().filter(|name| !self.interfaces.contains(name)) {
                return Err(UnusedAttachMode {
                    interface: interface.clone(),
                    mode: *mode,
                });
            }
        }
        Ok(attachments)
    }

    fn mode_of(&self, name: &str) -> AttachMode {
        let last = |wanted: Option<&str>| {
            self.attach_modes
                .iter()
                .rev()
                .find(|flag| flag.interface.as_deref() == wanted)
                .map(|flag| flag.mode)
        };
        last(Some(name)).or_else(|| last(None)).unwrap_or_default()
    }
}

/// The filter of the logs: `RUST_LOG`, or `info` when it is not set.
#[must_use]
pub fn log_filter() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// Checks as the kernel does (`dev_valid_name` in net/core/dev.c).
fn interface_name(text: &str) -> Result<String, String> {
    let bad = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_INTERFACE_NAME {
        "is longer than 15 bytes"
    } else if text == "." || text == ".." || text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        "has characters that no interface name has"
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("the interface name {bad}; `ip link` lists the names"))
}

fn admin_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|error| format!("{error}; use an IP address and a port, such as 127.0.0.1:9090 or [::1]:9090"))
}

fn max_flows(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|flows| (MIN_MAX_FLOWS..=MAX_MAX_FLOWS).contains(flows))
        .ok_or_else(|| format!("use a number from {MIN_MAX_FLOWS} to {MAX_MAX_FLOWS}"))
}

fn max_backends(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|backends| (MIN_MAX_BACKENDS..=MAX_MAX_BACKENDS).contains(backends))
        .ok_or_else(|| format!("use a number from {MIN_MAX_BACKENDS} to {MAX_MAX_BACKENDS}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(flags: &[&str]) -> Result<RunArgs, String> {
        let line = ["kubelb-agent", "run", "--config", "kubelb.yaml"].iter().chain(flags);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Run(args) => Ok(*args),
            other @ (Command::Status(_) | Command::Detach(_)) => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let args = run(&["--interface", "eth0"]).unwrap();
        assert_eq!(args.bpffs, PathBuf::from("/sys/fs/bpf/kubelb"));
        assert_eq!(args.max_flows, 262_144);
        assert_eq!(args.max_backends, 131_072);
        assert_eq!(args.log_format, LogFormat::Text);
        assert_eq!(args.admin_address, None);
        assert_eq!(args.attachments().unwrap(), [("eth0".to_owned(), AttachMode::Auto)]);
    }

    #[test]
    fn a_mode_for_one_interface_beats_the_mode_for_all() {
        let args = run(&[
            "--interface",
            "eth0",
            "--interface",
            "eth1",
            "--interface",
            "eth0",
            "--attach-mode",
            "eth1=generic",
            "--attach-mode",
            "tcx",
        ])
        .unwrap();
        assert_eq!(
            args.attachments().unwrap(),
            [
                ("eth0".to_owned(), AttachMode::Tcx),
                ("eth1".to_owned(), AttachMode::Generic)
            ]
        );
    }

    #[test]
    fn a_mode_for_an_interface_that_is_not_attached_is_refused() {
        let error = run(&["--interface", "eth0", "--attach-mode", "eth9=xdp"])
            .unwrap()
            .attachments()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "--attach-mode eth9=xdp: eth9 is not attached to; add --interface eth9 or remove this flag"
        );
    }

    #[test]
    fn errors_name_the_flag_and_the_fix() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&[], "--interface", "required"),
            (&["--interface", "a/b"], "--interface", "ip link"),
            (
                &["--interface", "an-interface-name-too-long"],
                "--interface",
                "15 bytes",
            ),
            (
                &["--interface", "e", "--attach-mode", "fast"],
                "--attach-mode",
                "use auto, xdp, tcx or generic",
            ),
            (
                &["--interface", "e", "--attach-mode", "=xdp"],
                "--attach-mode",
                "is empty",
            ),
            (
                &["--interface", "e", "--admin-address", "localhost:9090"],
                "--admin-address",
                "127.0.0.1:9090",
            ),
            (
                &["--interface", "e", "--log-format", "xml"],
                "--log-format",
                "use text or json",
            ),
            (
                &["--interface", "e", "--max-flows", "10"],
                "--max-flows",
                "1024 to 16777216",
            ),
            (
                &["--interface", "e", "--max-flows", "many"],
                "--max-flows",
                "1024 to 16777216",
            ),
        ];
        for (flags, flag, fix) in cases {
            let error = run(flags).unwrap_err();
            assert!(error.contains(flag) && error.contains(fix), "{flags:?}: {error}");
        }
    }
}
