//! The flags of `run` that name managers. Owns how they go together.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::model::{PortRange, Snat};
use crate::source::file::MAX_SNAT_ADDRESSES;
use crate::source::xds::stream::{Credential, Manager, Settings};

/// Where the last good configuration is kept unless `--state-dir` says otherwise.
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/kubelb-agent";

/// Flags for configuration from managers.
#[derive(Args, Clone, Debug)]
pub struct XdsArgs {
    /// Manager to get the configuration from over xDS, https://HOST:PORT; repeat, or separate by commas, for more.
    #[arg(
        long = "xds",
        id = "managers",
        value_name = "URL",
        value_delimiter = ',',
        requires = "node"
    )]
    pub managers: Vec<Url>,
    /// Name of the Kubernetes node that this agent runs on.
    #[arg(long, value_name = "NAME", requires = "managers", value_parser = node_name)]
    pub node: Option<String>,
    /// PEM file with the authorities that sign managers' certificates.
    #[arg(long = "xds-ca", value_name = "FILE", requires = "managers")]
    pub ca: Option<PathBuf>,
    /// File with a bearer token to show to managers; read again for each connection.
    #[arg(long = "xds-token-file", value_name = "FILE", requires = "managers", conflicts_with_all = ["cert", "key"])]
    pub token_file: Option<PathBuf>,
    /// PEM file with the client certificate to show to managers; read again for each connection.
    #[arg(
        long = "xds-cert",
        id = "cert",
        value_name = "FILE",
        requires = "managers",
        requires = "key"
    )]
    pub cert: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long = "xds-key", id = "key", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Allow http:// in --xds: anyone on the way can read and change what this node forwards. For tests.
    #[arg(long = "xds-insecure", requires = "managers")]
    pub insecure: bool,
    /// Directory for the last good configuration, which an agent that starts while no manager answers takes up.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Source address for translated flows instead of the node's own, of each family; repeat, or separate by commas. Only with --xds.
    #[arg(
        long = "snat-address",
        value_name = "IP",
        value_delimiter = ',',
        requires = "managers"
    )]
    pub snat_addresses: Vec<IpAddr>,
    /// Source ports for translated flows. Only with --xds.
    #[arg(long = "snat-ports", value_name = "FIRST-LAST", requires = "managers", value_parser = port_range)]
    pub snat_ports: Option<PortRange>,
}

/// A manager's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    is_secure: bool,
}

/// Flags that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdsArgsError {
    /// `http` without consent.
    #[error("--xds {0}: use https, or add --xds-insecure to let anyone on the way change what this node forwards")]
    Insecure(String),
    /// TLS needs authorities.
    #[error("--xds {0} needs --xds-ca FILE, the authorities that sign the manager's certificate")]
    NoAuthority(String),
    /// TLS needs a credential.
    #[error("--xds {0} needs --xds-token-file FILE, or --xds-cert FILE and --xds-key FILE, to show who asks")]
    NoCredential(String),
    /// More addresses than the data path has room for.
    #[error("--snat-address: {0} addresses are too many; use at most {MAX_SNAT_ADDRESSES}")]
    TooManyAddresses(usize),
}

impl XdsArgs {
    /// The settings, `None` when no manager is named.
    ///
    /// # Errors
    /// When the flags do not go together.
    pub fn settings(&self) -> Result<Option<Settings>, XdsArgsError> {
        let Some(node) = self.node.clone().filter(|_| !self.managers.is_empty()) else {
            return Ok(None);
        };
        if self.snat_addresses.len() > MAX_SNAT_ADDRESSES {
            return Err(XdsArgsError::TooManyAddresses(self.snat_addresses.len()));
        }
        Ok(Some(Settings {
            managers: self
                .managers
                .iter()
                .map(|url| self.manager(url))
                .collect::<Result<_, _>>()?,
            node,
            state_dir: Some(self.state_dir.clone()),
            snat: Snat {
                addresses: self.snat_addresses.clone(),
                ports: self.snat_ports.unwrap_or(PortRange::NODE_DEFAULT),
            },
        }))
    }

    fn manager(&self, url: &Url) -> Result<Manager, XdsArgsError> {
        let text = url.text.clone();
        let credential = match (&self.token_file, &self.cert, &self.key) {
            (Some(token), _, _) => Credential::Token(token.clone()),
            (None, Some(chain), Some(key)) => Credential::Certificate {
                chain: chain.clone(),
                key: key.clone(),
            },
            _ => Credential::None,
        };
        if !url.is_secure {
            return if self.insecure {
                Ok(Manager {
                    url: text,
                    ca: None,
                    credential,
                })
            } else {
                Err(XdsArgsError::Insecure(text))
            };
        }
        if matches!(credential, Credential::None) {
            return Err(XdsArgsError::NoCredential(text));
        }
        match &self.ca {
            Some(ca) => Ok(Manager {
                url: text,
                ca: Some(ca.clone()),
                credential,
            }),
            None => Err(XdsArgsError::NoAuthority(text)),
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("use https://HOST:PORT".to_owned()),
        };
        let has_port = rest
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
        if !has_port || text.parse::<hyper::Uri>().is_err() {
            return Err("use https://HOST:PORT, without a path".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            is_secure,
        })
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(is_plain) {
        return Err("use the name of the Node object: lower-case letters, digits, - and .".to_owned());
    }
    Ok(text.to_owned())
}

fn port_range(text: &str) -> Result<PortRange, String> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        PortRange::new(first.parse().ok()?, last.parse().ok()?)
    };
    parse().ok_or_else(|| "use FIRST-LAST, such as 10000-29999".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn run(flags: &[&str]) -> Result<Option<Settings>, String> {
        let flags = ["kubelb-agent", "run", "--interface", "eth0"].iter().chain(flags);
        let Command::Run(args) = Cli::try_parse_from(flags).map_err(|error| error.to_string())?.command else {
            return Err("another command".to_owned());
        };
        args.xds.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn managers_take_the_place_of_the_file() {
        let flags = [
            "--xds",
            "https://a:1,https://b:2",
            "--node",
            "n1",
            "--xds-ca",
            "ca",
            "--xds-token-file",
            "t",
        ];
        let settings = run(&flags).unwrap().unwrap();
        assert_eq!(settings.managers.len(), 2);
        assert_eq!(settings.node, "n1");
        assert!(run(&["--config", "f"]).unwrap().is_none());
        assert!(run(&[]).unwrap_err().contains("--config"));
        assert!(
            run(&["--config", "f", "--xds", "https://a:1", "--node", "n"])
                .unwrap_err()
                .contains("cannot be used with")
        );
        assert!(run(&["--xds", "https://a:1"]).unwrap_err().contains("--node"));
    }

    #[test]
    fn what_is_not_safe_is_asked_for_by_name() {
        assert!(
            run(&["--xds", "http://a:1", "--node", "n"])
                .unwrap_err()
                .contains("--xds-insecure")
        );
        assert!(
            run(&["--xds", "http://a:1", "--node", "n", "--xds-insecure"])
                .unwrap()
                .is_some()
        );
        assert!(
            run(&["--xds", "https://a:1", "--node", "n"])
                .unwrap_err()
                .contains("--xds-token-file")
        );
        let no_authority = run(&["--xds", "https://a:1", "--node", "n", "--xds-token-file", "t"]);
        assert!(no_authority.unwrap_err().contains("--xds-ca"));
        for url in ["a:1", "https://a", "https://a:0", "ftp://a:1"] {
            assert!(
                run(&["--xds", url, "--node", "n"])
                    .unwrap_err()
                    .contains("https://HOST:PORT"),
                "{url}"
            );
        }
    }

    #[test]
    fn source_addresses_and_ports_are_the_nodes_own() {
        let flags = [
            "--xds",
            "http://a:1",
            "--node",
            "n",
            "--xds-insecure",
            "--snat-address",
            "10.0.0.1,fd00::1",
            "--snat-ports",
            "1024-65535",
        ];
        let snat = run(&flags).unwrap().unwrap().snat;
        assert_eq!(snat.addresses.len(), 2);
        assert_eq!((snat.ports.first(), snat.ports.last()), (1_024, 65_535));
        assert!(
            run(&["--xds", "http://a:1", "--node", "n", "--snat-ports", "9-8"])
                .unwrap_err()
                .contains("FIRST-LAST")
        );
    }
}
