//! `kube-apiserver` with an `etcd` of its own, with the options that the testbed's own server has.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rcgen::KeyPair;

use super::process::Process;
use super::{Host, asset, node_ports, ranges};
use crate::apiserver::tls::{certify, kept_secret, write_secret};
use crate::apiserver::{Config, certificate_names};
use crate::tool;

const ADMIN: &str = "admin";
/// Of the tokens of service accounts, which the own server names as well.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The files and ports that outlive a restart of the server, and `etcd`, which runs on.
#[derive(Debug)]
pub(super) struct Real {
    etcd: Option<Process>,
    etcd_program: PathBuf,
    server_program: PathBuf,
    ports: EtcdPorts,
    ca: String,
    token: String,
}

#[derive(Clone, Copy, Debug)]
struct EtcdPorts {
    client: u16,
    peer: u16,
}

impl Real {
    /// Writes the keys and the tokens, unless they are there.
    pub(super) fn prepare(assets: &Path, config: &Config, host: Host<'_>) -> anyhow::Result<Self> {
        let directory = &config.data;
        let names = certificate_names(config, config.listen.ip());
        let certificate = certify(directory, &names).context("cannot make a certificate")?;
        let random = || format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let token = kept_secret(directory, "token", random).context("cannot keep the administrator's token")?;
        let account_key = directory.join("sa.key");
        if !account_key.exists() {
            let key = KeyPair::generate().context("cannot make a key")?;
            // In a file of its own: the server does not read the public part from a private key of this form.
            fs::write(directory.join("sa.pub"), key.public_key_pem()).context("cannot write a key")?;
            write_secret(&account_key, &key.serialize_pem()).context("cannot write a key")?;
        }
        fs::write(directory.join("tls.crt"), &certificate.chain).context("cannot write the certificate")?;
        write_secret(&directory.join("tls.key"), &certificate.key).context("cannot write the certificate's key")?;
        write_secret(&directory.join("tokens.csv"), &tokens(config, &token)).context("cannot write the tokens")?;
        Ok(Self {
            etcd: None,
            etcd_program: asset(assets, "etcd")?,
            server_program: asset(assets, "kube-apiserver")?,
            ports: EtcdPorts {
                client: host.free_port()?,
                peer: host.free_port()?,
            },
            ca: certificate.ca,
            token,
        })
    }

    /// Starts `etcd` unless it runs. The server waits for it by itself.
    pub(super) fn run_etcd(&mut self, config: &Config, host: Host<'_>) -> anyhow::Result<()> {
        if let Some(etcd) = &mut self.etcd
            && etcd.check().is_ok()
        {
            return Ok(());
        }
        let mut command = host.command(&self.etcd_program);
        command.args(etcd_arguments(&config.data, self.ports));
        self.etcd = Some(Process::start("etcd", &mut command, &config.data)?);
        Ok(())
    }

    pub(super) fn start_server(&mut self, config: &Config, host: Host<'_>) -> anyhow::Result<Process> {
        let mut command = host.command(&self.server_program);
        command.args(server_arguments(config, self.ports));
        Process::start("kube-apiserver", &mut command, &config.data)
    }

    /// Whether the server says that it is ready, asked from where it runs.
    pub(super) fn ask_ready(&self, config: &Config, host: Host<'_>) -> anyhow::Result<()> {
        let mut command = host.command("curl");
        command
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--max-time",
                "5",
                "--noproxy",
                "*",
            ])
            .arg("--cacert")
            .arg(config.data.join("ca.crt"))
            .arg("--header")
            .arg(format!("Authorization: Bearer {}", self.token))
            .arg(format!("https://{}/readyz", reachable(config)));
        let said = tool::output(&mut command)?;
        ensure!(said == "ok", "it says {said}");
        Ok(())
    }

    pub(super) fn ca(&self) -> &str {
        &self.ca
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

/// The server's address as a client on the same machine dials it.
fn reachable(config: &Config) -> String {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            IpAddr::from([127, 0, 0, 1])
        } else {
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
        });
    }
    address.to_string()
}

/// A line for each token: token, name, uid, groups in quotes.
fn tokens(config: &Config, admin: &str) -> String {
    let mut lines = format!("{admin},{ADMIN},{ADMIN},\"system:masters\"\n");
    for token in &config.tokens {
        let groups = match token.groups.as_slice() {
            [] => String::new(),
            groups => format!(",\"{}\"", groups.join(",")),
        };
        lines.push_str(&format!("{},{},{}{groups}\n", token.token, token.user, token.user));
    }
    lines
}

fn etcd_arguments(directory: &Path, ports: EtcdPorts) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", ports.client);
    let peer = format!("http://127.0.0.1:{}", ports.peer);
    vec![
        format!("--data-dir={}", directory.join("etcd").display()),
        "--name=default".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn server_arguments(config: &Config, ports: EtcdPorts) -> Vec<String> {
    let at = |name: &str| config.data.join(name).display().to_string();
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", ports.client),
        format!("--bind-address={}", config.listen.ip()),
        format!("--secure-port={}", config.listen.port()),
        format!("--tls-cert-file={}", at("tls.crt")),
        format!("--tls-private-key-file={}", at("tls.key")),
        format!("--token-auth-file={}", at("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        // Privileged Pods are refused without it.
        "--allow-privileged=true".to_owned(),
        // Else it waits a minute, after SIGTERM, for watches that do not end by themselves.
        "--shutdown-watch-termination-grace-period=5s".to_owned(),
        // Nodes' names do not resolve in the testbed.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-cluster-ip-range={}", ranges(config)),
        format!("--service-node-port-range={}", node_ports(config)),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", at("sa.pub")),
        format!("--service-account-signing-key-file={}", at("sa.key")),
    ];
    let listen = config.listen.ip();
    let advertise = config
        .advertise
        .or_else(|| (!listen.is_loopback() && !listen.is_unspecified()).then_some(listen));
    // On loopback the server looks for an address of the machine, since the endpoints of its Service may not name loopback.
    arguments.extend(advertise.map(|ip| format!("--advertise-address={ip}")));
    arguments
}

#[cfg(test)]
mod tests {
    use super::{EtcdPorts, server_arguments, tokens};
    use crate::apiserver::{Config, StaticToken};

    fn config() -> Config {
        let mut config = Config::new("/data".as_ref());
        config.listen = "192.168.77.2:6443".parse().expect("an address");
        let token = |token: &str, user: &str, groups: &[&str]| StaticToken {
            token: token.to_owned(),
            user: user.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        config.tokens = vec![token("t", "tenant", &[]), token("n", "node", &["a", "b"])];
        config
    }

    #[test]
    fn tokens_are_lines_with_quoted_groups() {
        assert_eq!(
            tokens(&config(), "secret"),
            "secret,admin,admin,\"system:masters\"\nt,tenant,tenant\nn,node,node,\"a,b\"\n"
        );
    }

    #[test]
    fn the_server_advertises_what_it_listens_on_unless_that_is_loopback() {
        let ports = EtcdPorts { client: 1, peer: 2 };
        let mut config = config();
        let advertised = |config: &Config| {
            let arguments = server_arguments(config, ports);
            arguments
                .iter()
                .find_map(|one| Some(one.strip_prefix("--advertise-address=")?.to_owned()))
        };
        assert_eq!(advertised(&config).as_deref(), Some("192.168.77.2"));
        config.listen = "127.0.0.1:6443".parse().expect("an address");
        assert_eq!(advertised(&config), None);
        config.advertise = Some([10, 0, 0, 1].into());
        assert_eq!(advertised(&config).as_deref(), Some("10.0.0.1"));
    }
}
