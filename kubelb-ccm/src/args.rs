//! The command line of `kubelb-ccm`.
//!
//! Owns flags, their defaults and the errors about them; names are those of KubeLB's CCM where it has the same thing. It is the only reader of
//! environment variables.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand};
use kubelb_api::names::{NameError, TenantName, is_label, is_subdomain};
use kubelb_runtime::telemetry::LogFormat;

use crate::plan::layer7::GatewaySettings;
use crate::plan::{AddressType, Settings};

/// Runs in a tenant's cluster: copies what its Services ask for into the management cluster, and the answers back.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubelb-ccm", version)]
pub struct Cli {
    /// Name of the tenant, with or without the prefix `tenant-` of its namespace in the management cluster.
    #[arg(long, value_name = "NAME", value_parser = cluster_name)]
    pub cluster_name: TenantName,
    /// Kubeconfig of the management cluster, as the tenant's credential.
    #[arg(long, value_name = "FILE", default_value = "/home/nonroot/.kube/kubelb")]
    pub kubelb_kubeconfig: PathBuf,
    /// Secret of the tenant's cluster that --kubelb-kubeconfig is mounted from (key `kubelb`): a renewed token is kept there, where the next start
    /// finds it. Left out: it is kept in memory.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub kubelb_kubeconfig_secret: Option<SecretName>,
    /// Renew the token for the management cluster at this age, when that is before half of its life. In Go's notation: 12h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub kubelb_token_renew_after: Option<Duration>,
    /// Kubeconfig of the tenant's cluster; left out: the one of the Pod this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Which of a node's addresses traffic is sent to: ExternalIP, InternalIP or Hostname.
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub node_address_type: AddressType,
    /// Only nodes that match take traffic, for example `pool=edge,zone notin (b)`.
    #[arg(long, value_name = "SELECTOR")]
    pub node_address_label_selector: Option<String>,
    /// Send traffic to nodes. With false, to the addresses that another implementation gave to the Service; its status is then left alone.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_cloud_provider: bool,
    /// Serve only Services of loadBalancerClass `kubelb`, not those without a class.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub use_loadbalancer_class: bool,
    /// Serve Gateways, HTTPRoutes and GRPCRoutes, as soon as their kinds are installed.
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_gateway_api: bool,
    /// Serve only Gateways of our classes: `kubelb`, and those whose GatewayClass names our controller. With false, of
    /// any class.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub use_gateway_class: bool,
    /// How long node ports and certificates stay that no route or Gateway refers to any more, for requests on their way. In Go's notation: 30s.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub unused_backend_grace: Duration,
    /// How long a Service that is being deleted waits for a management cluster that does not answer. What is left there is removed when it
    /// answers again. In Go's notation: 90s, 10m.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub cleanup_timeout: Duration,
    /// Serve /metrics and /status here; `:9445` is every address.
    #[arg(long, value_name = "ADDR", default_value = ":9445", value_parser = listen)]
    pub metrics_addr: Listen,
    /// Serve /healthz and /readyz here; 0 for nowhere.
    #[arg(long, value_name = "ADDR", default_value = ":8081", value_parser = listen)]
    pub health_probe_bind_address: Listen,
    /// One of several replicas works, the others wait.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_leader_election: bool,
    /// Namespace of the Lease; left out: the one of the Pod this runs in.
    #[arg(long, value_name = "NAME")]
    pub leader_election_namespace: Option<String>,
    /// How log lines look: text or json. What is logged is set by RUST_LOG.
    #[arg(long, value_name = "text|json", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do instead of running.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// What a CCM does once, instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Task {
    /// Take back what this CCM did, before it is gone for good: everything that it wrote into the management cluster; addresses, conditions and finalizers
    /// of Services, Gateways and routes; and Services that it made. Waits for a CCM that still runs to end, and for the management cluster no longer than half a minute.
    Cleanup,
}

impl Cli {
    /// What holds for all Gateways.
    #[must_use]
    pub fn gateway_settings(&self) -> GatewaySettings {
        GatewaySettings {
            use_class: self.use_gateway_class,
        }
    }

    /// What holds for all Services.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            tenant: self.cluster_name.clone(),
            use_class: self.use_loadbalancer_class,
            to_nodes: self.enable_cloud_provider,
        }
    }
}

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The text names no Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Secret; use NAMESPACE/NAME, such as kubelb/kubelb-cluster")]
pub struct SecretNameError(String);

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_subdomain(name) => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            Some(_) | None => Err(SecretNameError(text.to_owned())),
        }
    }
}

/// Where to listen; `None`: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

fn cluster_name(text: &str) -> Result<TenantName, NameError> {
    TenantName::from_cluster_name(text)
}

/// `HOST:PORT`, `:PORT` for every address of both families, `0` for nowhere: as Go's controllers take them.
fn listen(text: &str) -> Result<Listen, String> {
    if text == "0" {
        return Ok(Listen(None));
    }
    let parsed = match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        None => text.parse().ok(),
    };
    parsed
        .map(|address| Listen(Some(address)))
        .ok_or_else(|| format!("{text:?} is no address to listen at; use IP:PORT, :PORT or 0"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<kube::core::Duration, _> = text.parse();
    match parsed {
        Ok(span) if !span.is_negative() => Ok(span.into()),
        Ok(_) | Err(_) => Err(format!("{text:?} is no time such as 90s, 10m or 1h30m")),
    }
}

/// The filter of the logs: `RUST_LOG`, or `info` when it is not set.
#[must_use]
pub fn log_filter() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// Name of this replica among others: the Pod's, which is its host's.
#[must_use]
pub fn identity() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "kubelb-ccm".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["kubelb-ccm", "--cluster-name", "tenant-a"].iter().chain(arguments))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_taken_as_kubelb_takes_them() {
        let cli = parse(&[
            "--use-loadbalancer-class",
            "--enable-cloud-provider=false",
            "--metrics-addr",
            ":1",
        ])
        .unwrap();
        assert_eq!(cli.cluster_name.as_str(), "a");
        assert!(cli.use_loadbalancer_class && !cli.enable_cloud_provider && cli.enable_leader_election);
        assert_eq!(cli.metrics_addr, Listen(Some("[::]:1".parse().unwrap())));
        assert_eq!(cli.node_address_type, AddressType::ExternalIp);
        assert_eq!(cli.task, None);
        assert_eq!(parse(&["cleanup"]).unwrap().task, Some(Task::Cleanup));
        assert_eq!(cli.cleanup_timeout, Duration::from_secs(300));
        assert_eq!(
            parse(&["--health-probe-bind-address", "0"])
                .unwrap()
                .health_probe_bind_address,
            Listen(None)
        );
    }

    #[test]
    fn what_cannot_be_read_is_explained() {
        for (flag, value, said) in [
            ("--node-address-type", "internal", "ExternalIP, InternalIP or Hostname"),
            ("--metrics-addr", "host", "IP:PORT"),
            ("--cleanup-timeout", "soon", "90s"),
            ("--kubelb-kubeconfig-secret", "kubelb-cluster", "NAMESPACE/NAME"),
            ("--cluster-name", "A_b", "a-z"),
        ] {
            let arguments: Vec<&str> = match flag {
                "--cluster-name" => vec!["kubelb-ccm", flag, value],
                _ => vec!["kubelb-ccm", "--cluster-name", "a", flag, value],
            };
            let error = Cli::try_parse_from(arguments).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
