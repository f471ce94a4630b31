//! An API server as processes: the testbed's own, or `kube-apiserver` with `etcd` where `KUBEBUILDER_ASSETS` names a directory
//! with both. Either is started with the same options, and killed and started again on what it has kept.
//!
//! It knows nothing of what runs against the server: no controllers, no nodes.

mod process;
mod real;

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::apiserver::{Config, kubeconfig_for};
use crate::netns::Namespace;
use crate::{tool, wait};
use process::Process;
use real::Real;

/// Names a directory with `kube-apiserver` and `etcd`, as other projects' tests take it.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

const OWN: &str = "apiserver";
/// `kube-apiserver` makes its first objects before it is ready, which takes a while on two cores.
const START_WITHIN: Duration = Duration::from_secs(90);
/// Ports of servers are chosen from here on, up to those that the kernel gives to connections.
const LOWEST_PORT: u16 = 10_000;
const PORT_ATTEMPTS: u64 = 200;
/// From SIGTERM to the end.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Which server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Software {
    /// The program `apiserver` of this package.
    Own,
    /// `kube-apiserver` and `etcd` in this directory.
    Real(PathBuf),
}

impl Software {
    /// The real one where [`ASSETS_VARIABLE`] is set, else the own one.
    #[must_use]
    pub fn wanted() -> Self {
        let directory = std::env::var_os(ASSETS_VARIABLE).filter(|directory| !directory.is_empty());
        directory.map_or(Self::Own, |directory| Self::Real(PathBuf::from(directory)))
    }
}

/// Where processes run.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// In this process's network namespace.
    Here,
    /// In a network namespace of the testbed's.
    Inside(&'a Namespace),
}

impl Host<'_> {
    /// A command that will run there, and is killed when the calling *thread* ends.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Here => tool::bound(program),
            Self::Inside(namespace) => namespace.command(program),
        }
    }

    /// A port for a server that binds it seconds later: not one of those that connections are given, which others may have by then.
    fn free_port(self) -> anyhow::Result<u16> {
        let free = || {
            let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
            let low = text.split_whitespace().next().and_then(|low| low.parse::<u16>().ok());
            let ports = LOWEST_PORT..low.unwrap_or(32_768);
            let count = u64::from(ports.end.saturating_sub(ports.start)).max(1);
            let start = RandomState::new().hash_one(std::process::id());
            let candidates = (0..count.min(PORT_ATTEMPTS))
                .filter_map(|step| u16::try_from(start.wrapping_add(step) % count).ok())
                .map(|offset| ports.start.saturating_add(offset));
            let mut error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
            for port in candidates {
                match TcpListener::bind(("127.0.0.1", port)) {
                    Ok(_listener) => return Ok(port),
                    Err(other) => error = other,
                }
            }
            Err(error)
        };
        match self {
            Self::Here => free(),
            Self::Inside(namespace) => namespace.run(free)?,
        }
        .map_err(|error: std::io::Error| anyhow::Error::new(error).context("cannot take a free port"))
    }
}

/// A server, running or not, with what it has kept. Killed on drop; its directory stays with who made it.
#[derive(Debug)]
pub struct ControlPlane {
    config: Config,
    software: Software,
    server: Option<Process>,
    real: Option<Real>,
    access: Option<Access>,
}

#[derive(Clone, Debug)]
struct Access {
    ca: String,
    token: String,
}

impl ControlPlane {
    /// Nothing runs yet. Of `config`, the limits of the own server (`watch_log`, `compact_at`, `stalled_after`) mean nothing to the real one.
    #[must_use]
    pub fn new(config: Config, software: Software) -> Self {
        Self {
            config,
            software,
            server: None,
            real: None,
            access: None,
        }
    }

    /// What [`Software::wanted`] says, started in `host`.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn launch(config: Config, host: Host<'_>) -> anyhow::Result<Self> {
        let mut control_plane = Self::new(config, Software::wanted());
        control_plane.start(host)?;
        Ok(control_plane)
    }

    /// Starts it, or starts it again with the same address, keys, tokens and objects; it answers when this returns. Call it on
    /// a thread that outlives the server, which is killed when that thread ends.
    ///
    /// # Errors
    /// When it runs already, there is no program, or it does not become ready; the end of its log is in the message.
    pub fn start(&mut self, host: Host<'_>) -> anyhow::Result<()> {
        ensure!(self.server.is_none(), "the API server runs already");
        let directory = self.config.data.clone();
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        match self.software.clone() {
            Software::Own => self.start_own(host),
            Software::Real(assets) => self.start_real(&assets, host),
        }
    }

    fn start_own(&mut self, host: Host<'_>) -> anyhow::Result<()> {
        let mut command = host.command(tool::built(OWN)?);
        command.args(own_arguments(&self.config));
        let mut server = Process::start(OWN, &mut command, &self.config.data)?;
        // The path of its kubeconfig, once it answers.
        let kubeconfig = PathBuf::from(server.first_line(START_WITHIN)?);
        let text =
            std::fs::read_to_string(&kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        let value = |key: &str| {
            let line = text.split_once(key).and_then(|(_, rest)| rest.lines().next());
            line.with_context(|| format!("there is no {key:?} in {}", kubeconfig.display()))
        };
        let address = value("server: https://")?;
        self.config.listen = address.parse().with_context(|| format!("{address} is no address"))?;
        let ca_file = self.config.data.join("ca.crt");
        self.access = Some(Access {
            ca: std::fs::read_to_string(&ca_file).with_context(|| format!("cannot read {}", ca_file.display()))?,
            token: value("token: ")?.to_owned(),
        });
        self.server = Some(server);
        Ok(())
    }

    fn start_real(&mut self, assets: &Path, host: Host<'_>) -> anyhow::Result<()> {
        if self.config.listen.port() == 0 {
            self.config.listen.set_port(host.free_port()?);
        }
        let real = match self.real.take() {
            Some(real) => self.real.insert(real),
            None => self.real.insert(Real::prepare(assets, &self.config, host)?),
        };
        real.run_etcd(&self.config, host)?;
        let server = real.start_server(&self.config, host)?;
        let server = self.server.insert(server);
        let access = Access {
            ca: real.ca().to_owned(),
            token: real.token().to_owned(),
        };
        let kubeconfig = kubeconfig_for(&format!("https://{}", self.config.listen), &access.ca, &access.token);
        std::fs::write(self.config.data.join("kubeconfig"), kubeconfig).context("cannot write the kubeconfig")?;
        self.access = Some(access);
        let ready = wait::until(START_WITHIN, || {
            server.check()?;
            real.ask_ready(&self.config, host)
        });
        ready
            .map(drop)
            .with_context(|| format!("the API server is not ready; its log ends with:\n{}", server.log_end()))
    }

    /// Kills the API server with SIGKILL and waits until it is gone. `etcd` runs on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().map(drop).context("the API server does not run")
    }

    /// Stops the API server with SIGTERM. `etcd` runs on.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let server = self.server.take().context("the API server does not run")?;
        server.terminate(END_WITHIN)
    }

    /// Where it listens; with port 0 until it was started.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// The administrator's kubeconfig, which names [`ControlPlane::address`].
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.config.data.join("kubeconfig")
    }

    /// A kubeconfig for another token, or at another address of the same server.
    ///
    /// # Errors
    /// When it was never started.
    pub fn kubeconfig_with(&self, url: &str, token: &str) -> anyhow::Result<String> {
        Ok(kubeconfig_for(url, self.ca()?, token))
    }

    /// The authority of the server's certificate, PEM.
    ///
    /// # Errors
    /// When it was never started.
    pub fn ca(&self) -> anyhow::Result<&str> {
        Ok(&self.access()?.ca)
    }

    /// The administrator's token.
    ///
    /// # Errors
    /// When it was never started.
    pub fn token(&self) -> anyhow::Result<&str> {
        Ok(&self.access()?.token)
    }

    /// Whether this is `kube-apiserver`.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.software != Software::Own
    }

    fn access(&self) -> anyhow::Result<&Access> {
        self.access.as_ref().context("the API server was never started")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Before etcd, or it would wait for that in vain.
        self.server = None;
    }
}

fn own_arguments(config: &Config) -> Vec<String> {
    let mut arguments = vec![
        format!("--data={}", config.data.display()),
        format!("--listen={}", config.listen),
        format!("--watch-log={}", config.watch_log),
        format!("--compact-at={}", config.compact_at),
        format!("--service-cluster-ip-range={}", ranges(config)),
        format!("--service-node-port-range={}", node_ports(config)),
    ];
    arguments.extend(config.names.iter().map(|name| format!("--name={name}")));
    arguments.extend(config.advertise.iter().map(|ip| format!("--advertise-address={ip}")));
    arguments.extend(config.tokens.iter().map(|token| {
        let user = std::iter::once(&token.user).chain(&token.groups);
        format!(
            "--token={}={}",
            token.token,
            user.cloned().collect::<Vec<_>>().join(",")
        )
    }));
    arguments
}

fn ranges(config: &Config) -> String {
    let ranges: Vec<String> = config.service_ranges.iter().map(ToString::to_string).collect();
    ranges.join(",")
}

fn node_ports(config: &Config) -> String {
    format!("{}-{}", config.node_ports.start(), config.node_ports.end())
}

/// The program `name` in `assets`.
fn asset(assets: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let program = assets.join(name);
    if !program.is_file() {
        bail!(
            "{ASSETS_VARIABLE} names {}, which has no program {name}",
            assets.display()
        );
    }
    Ok(program)
}
