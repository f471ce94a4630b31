//! The command line of `kubelb-manager`.
//!
//! Owns flags, their defaults and the errors about them. It is the only reader of environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use kubelb_runtime::telemetry::LogFormat;

use crate::bootstrap::{BootstrapArgs, RotateArgs};
use crate::serve::XdsArgs;

/// Namespace of the Config unless `--namespace` says otherwise.
pub const DEFAULT_NAMESPACE: &str = "kubelb";

/// The control plane: turns LoadBalancers of many tenants into configuration of node agents and Envoys.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubelb-manager", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Follow the objects of a source and keep the configuration up with them.
    Run(RunArgs),
    /// Issue a certificate for an agent or an Envoy, and print what it is to be started with.
    Bootstrap(BootstrapArgs),
    /// Replace the authority of the state directory, a step at a time, while everything runs.
    RotateAuthority(RotateArgs),
}

/// Flags of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Where objects come from: file://DIR, a directory of manifests (.yaml, .yml, .json), watched for changes.
    #[arg(long, value_name = "file://DIR")]
    pub source: Source,
    /// Directory for what must outlive a restart: which address belongs to whom, and the status of objects.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Namespace of the Config.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// How agents and Envoys are served.
    #[command(flatten)]
    pub xds: XdsArgs,
    /// Serve /healthz, /readyz, /metrics, /status and /snapshot here, for example 127.0.0.1:9091.
    #[arg(long, value_name = "ADDR")]
    pub admin_address: Option<SocketAddr>,
    /// How log lines look: text or json. What is logged is set by RUST_LOG.
    #[arg(long, value_name = "text|json", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Directory(PathBuf),
}

/// The text names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no source; use file:// and a directory, such as file:///etc/kubelb")]
pub struct SourceError(String);

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("file://") {
            Some(path) if !path.is_empty() => Ok(Self::Directory(path.into())),
            Some(_) | None => Err(SourceError(text.to_owned())),
        }
    }
}

/// The filter of the logs: `RUST_LOG`, or `info` when it is not set.
#[must_use]
pub fn log_filter() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_source_is_a_directory() {
        assert_eq!(
            "file:///etc/kubelb".parse(),
            Ok(Source::Directory("/etc/kubelb".into()))
        );
        for text in ["/etc/kubelb", "file://", "http://x", ""] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.to_string().contains("file:///etc/kubelb"), "{error}");
        }
    }
}
