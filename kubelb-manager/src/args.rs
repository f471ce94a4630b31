//! The command line of `kubelb-manager`.
//!
//! Owns flags, their defaults and the errors about them. It is the only reader of environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand};
use kubelb_runtime::telemetry::LogFormat;

use crate::bootstrap::{BootstrapArgs, RotateArgs};
use crate::controllers::args::ControllersArgs;
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
    /// Where objects come from: `kubernetes`, the API server of --kubeconfig or of the cluster that this runs in; or file://DIR, a directory of
    /// manifests (.yaml, .yml, .json), watched for changes.
    #[arg(long, value_name = "kubernetes|file://DIR")]
    pub source: Source,
    /// With file://DIR: directory for what must outlive a restart, which is whose address it is, the status of objects, and the authority of the
    /// xDS server. With `kubernetes` all of that is kept by the API server, and this is where a copy of the authority is; left out: in a
    /// directory of its own, which ends with the process.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Namespace that this runs in: of the Config, the authority, and the Lease.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Choose a node that announces each address. Switch it off where addresses are routed to the nodes, where somebody else writes
    /// VirtualAddressOwners, and where several managers follow directories, of which each would choose by itself.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub announce: bool,
    /// How several managers of one API server take turns at writing.
    #[command(flatten)]
    pub election: ElectionArgs,
    /// What is made for each tenant.
    #[command(flatten)]
    pub controllers: ControllersArgs,
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

/// Flags of the election.
#[derive(Args, Clone, Debug)]
pub struct ElectionArgs {
    /// One of several managers writes claims, statuses and other objects; all serve.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_leader_election: bool,
    /// Name of this manager, unlike any other's; left out: the name of the Pod or the host, and a number.
    #[arg(long, value_name = "NAME")]
    pub leader_election_identity: Option<String>,
}

impl Default for ElectionArgs {
    /// As without any flag.
    fn default() -> Self {
        Self {
            enable_leader_election: true,
            leader_election_identity: None,
        }
    }
}

impl ElectionArgs {
    /// Name of this manager.
    #[must_use]
    pub fn identity(&self) -> String {
        self.leader_election_identity.clone().unwrap_or_else(|| {
            let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
            // Two on one host are two.
            format!(
                "{}_{}",
                host.unwrap_or_else(|_| "kubelb-manager".to_owned()),
                std::process::id()
            )
        })
    }
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API server.
    Cluster,
    /// A directory of manifests.
    Directory(PathBuf),
}

/// The text names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no source; use kubernetes, or file:// and a directory, such as file:///etc/kubelb")]
pub struct SourceError(String);

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "kubernetes" {
            return Ok(Self::Cluster);
        }
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
    fn a_source_is_a_cluster_or_a_directory() {
        assert_eq!("kubernetes".parse(), Ok(Source::Cluster));
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
