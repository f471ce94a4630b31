//! `kubelb-manager bootstrap`: what a peer needs to connect, certificate included.
//!
//! Owns the command; what Envoy's bootstrap says is in [`envoy`]. The files are for the user who runs the peer, and nobody else.

pub mod envoy;
mod limits;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde_json::Value;

use crate::identity::authority::{AuthorityError, Issued, PEER_LIFETIME, rotation};
use crate::identity::spiffe::SpiffeIdError;
use crate::identity::{Authority, SpiffeId, state_dir};

pub use envoy::{Credentials, Endpoint, EndpointError};
pub use limits::{EnvoyLimits, LimitFlags, Told, ask};

/// Files of a peer.
const CA_FILE: &str = "ca.crt";
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
const BOOTSTRAP_FILE: &str = "bootstrap.yaml";

/// Flags of `bootstrap`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("peer").required(true).args(["agent", "fleet"])))]
pub struct BootstrapArgs {
    /// For kubelb-agent on this node: writes its certificate and prints its flags.
    #[arg(long, value_name = "NODE")]
    pub agent: Option<String>,
    /// For an Envoy that serves these tenants, or all with `*`: prints its bootstrap.
    #[arg(long, value_name = "TENANT[,TENANT…]|*")]
    pub fleet: Option<String>,
    /// Where the peer finds the manager, or several of them.
    #[arg(
        long,
        value_name = "https://HOST:PORT[,…]",
        value_delimiter = ',',
        default_value = "https://127.0.0.1:18000"
    )]
    pub xds: Vec<String>,
    /// State directory of `kubelb-manager run`, which holds the authority.
    #[arg(long, value_name = "DIR", required_unless_present = "xds_ca")]
    pub state_dir: Option<PathBuf>,
    /// For an Envoy with --token-file: the certificates that it trusts are in this file, whose changes it follows. No state directory is needed then.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state_dir", "agent"], requires = "token_file")]
    pub xds_ca: Option<PathBuf>,
    /// Write everything into this directory, so that the certificate can be replaced (by the same command, at any time) while Envoy
    /// runs. An agent's default is a directory below the state directory.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Let the peer show the token of a service account, which it reads from this file and whose changes it follows, instead of a
    /// certificate. An Envoy needs --output then.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where an Envoy can be asked.
    #[command(flatten)]
    pub places: EnvoyPlaces,
    /// Envoy's own limits.
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// Where an Envoy can be asked how it is.
#[derive(Args, Clone, Debug)]
pub struct EnvoyPlaces {
    /// Unix socket of Envoy's admin interface.
    #[arg(long, value_name = "PATH", default_value = envoy::ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// Where Envoy answers `GET /ready` with 200 when it has its configuration. Left out: nowhere.
    #[arg(long, value_name = "IP:PORT")]
    pub ready_address: Option<SocketAddr>,
}

impl Default for EnvoyPlaces {
    fn default() -> Self {
        Self {
            admin_socket: envoy::ADMIN_SOCKET.into(),
            ready_address: None,
        }
    }
}

/// Flags of `rotate-authority`.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// State directory of `kubelb-manager run`, which holds the authority.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A name that nobody can have.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// `--xds`.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nothing that a certificate could come from.
    #[error("--state-dir is missing")]
    NoState,
    /// A token, and no directory.
    #[error("--token-file needs --output: Envoy watches files in that directory")]
    TokenNeedsOutput,
    /// The bootstrap as YAML.
    #[error("cannot write the bootstrap as YAML")]
    Yaml(#[source] serde_saphyr::ser_error::Error),
    /// A file.
    #[error("cannot write {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot print")]
    Print(#[source] io::Error),
    /// Nothing can be asked.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl BootstrapArgs {
    fn endpoints(&self) -> Result<Vec<Endpoint>, EndpointError> {
        self.xds.iter().map(|url| url.parse()).collect()
    }

    fn id(&self) -> Result<SpiffeId, SpiffeIdError> {
        match (&self.agent, &self.fleet) {
            (Some(node), _) => SpiffeId::agent(node),
            (None, tenants) => SpiffeId::fleet(tenants.as_deref().unwrap_or_default()),
        }
    }
}

/// Issues what `args` ask for, and writes to `out` what the peer is to be started with. Managers are not asked.
///
/// # Errors
/// When a name or address is none, or a file cannot be written.
pub fn run(args: &BootstrapArgs, now: SystemTime, out: &mut impl io::Write) -> Result<(), BootstrapError> {
    run_as_told(args, Told::default(), now, out)
}

/// The same for an Envoy of which managers were [asked](ask).
///
/// # Errors
/// Those of [`run`].
pub fn run_as_told(
    args: &BootstrapArgs,
    told: Told,
    now: SystemTime,
    out: &mut impl io::Write,
) -> Result<(), BootstrapError> {
    let endpoints = args.endpoints()?;
    let id = args.id()?;
    let limits = args.limits.with(told);
    if let (Some(authority), Some(token_file)) = (&args.xds_ca, &args.token_file) {
        let output = args.output.as_deref().ok_or(BootstrapError::TokenNeedsOutput)?;
        let trust = envoy::trust_in_file(&absolute(authority)?, &endpoints);
        let peer = EnvoyPeer {
            args,
            id: &id,
            endpoints: &endpoints,
            limits,
        };
        let text = peer.files(output, trust, &Proof::Token(absolute(token_file)?))?;
        return out.write_all(text.as_bytes()).map_err(BootstrapError::Print);
    }
    let state_dir = args.state_dir.as_deref().ok_or(BootstrapError::NoState)?;
    let authority = Authority::open(state_dir, now)?;
    let peer = EnvoyPeer {
        args,
        id: &id,
        endpoints: &endpoints,
        limits,
    };
    let text = match &id {
        SpiffeId::Agent(node) => {
            let default = || state_dir.join("agents").join(node);
            let directory = args.output.clone().unwrap_or_else(default);
            let proof = proof(args, &id, &authority, now)?;
            agent(&directory, node, &args.xds, &authority, &proof)?
        }
        // The command asks for one of the other two.
        SpiffeId::Fleet(_) | SpiffeId::Manager(_) => match (&args.output, proof(args, &id, &authority, now)?) {
            (None, Proof::Token(_)) => return Err(BootstrapError::TokenNeedsOutput),
            (None, Proof::Certificate(issued)) => {
                let credentials = Credentials::Inline {
                    authority: authority.pem(),
                    issued: &issued,
                };
                peer.text(&credentials)?
            }
            (Some(directory), proof) => {
                let trust = envoy::trust_secret(authority.pem(), &endpoints);
                peer.files(directory, trust, &proof)?
            }
        },
    };
    out.write_all(text.as_bytes()).map_err(BootstrapError::Print)
}

/// An Envoy.
struct EnvoyPeer<'a> {
    args: &'a BootstrapArgs,
    id: &'a SpiffeId,
    endpoints: &'a [Endpoint],
    limits: EnvoyLimits,
}

impl EnvoyPeer<'_> {
    fn text(&self, credentials: &Credentials<'_>) -> Result<String, BootstrapError> {
        let value = envoy::bootstrap(&self.id.node_id(), self.endpoints, credentials, self.limits);
        let value = envoy::placed(value, &self.args.places);
        serde_saphyr::to_string(&value).map_err(BootstrapError::Yaml)
    }

    /// Writes all that it reads; the command that starts it.
    fn files(
        &self,
        directory: &Path,
        (trust_file, trust): (&str, Value),
        proof: &Proof,
    ) -> Result<String, BootstrapError> {
        let directory = &absolute(directory)?;
        write(directory, trust_file, &trust.to_string())?;
        let (file, secret) = match proof {
            Proof::Certificate(issued) => envoy::client_secret(issued),
            Proof::Token(token_file) => envoy::token_secret(token_file),
        };
        write(directory, file, &secret.to_string())?;
        let credentials = match proof {
            Proof::Certificate(_) => Credentials::Files(directory),
            Proof::Token(token_file) => Credentials::Token { directory, token_file },
        };
        let text = self.text(&credentials)?;
        write(directory, BOOTSTRAP_FILE, &text)?;
        Ok(format!(
            "envoy --config-path {}\n",
            directory.join(BOOTSTRAP_FILE).display()
        ))
    }
}

/// What a peer shows.
enum Proof {
    Certificate(Issued),
    /// The file with its token.
    Token(PathBuf),
}

fn proof(args: &BootstrapArgs, id: &SpiffeId, authority: &Authority, now: SystemTime) -> Result<Proof, BootstrapError> {
    Ok(match &args.token_file {
        Some(file) => Proof::Token(absolute(file)?),
        None => Proof::Certificate(authority.issue_peer(id, PEER_LIFETIME, now)?),
    })
}

/// Takes a step of `rotate-authority` for a user.
///
/// # Errors
/// When the state directory is not to be had.
pub fn rotate_now(args: &RotateArgs) -> Result<(), BootstrapError> {
    #[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
    let step = rotation::step(&args.state_dir, SystemTime::now())?;
    writeln!(io::stdout(), "{}", step.advice()).map_err(BootstrapError::Print)
}

/// Runs it for a user.
///
/// # Errors
/// Those of [`run`].
pub fn run_now(args: &BootstrapArgs) -> Result<(), BootstrapError> {
    #[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
    let now = SystemTime::now();
    let told = ask(args, now, &mut io::stderr().lock())?;
    let mut out = io::stdout().lock();
    run_as_told(args, told, now, &mut out)?;
    out.flush().map_err(BootstrapError::Print)
}

fn agent(
    directory: &Path,
    node: &str,
    xds: &[String],
    authority: &Authority,
    proof: &Proof,
) -> Result<String, BootstrapError> {
    let directory = absolute(directory)?;
    write(&directory, CA_FILE, authority.pem())?;
    let mut files = vec![("--xds-ca", directory.join(CA_FILE))];
    match proof {
        Proof::Token(file) => files.push(("--xds-token-file", file.clone())),
        Proof::Certificate(issued) => {
            write(&directory, KEY_FILE, &issued.key)?;
            write(&directory, CERTIFICATE_FILE, &issued.certificate)?;
            files.push(("--xds-cert", directory.join(CERTIFICATE_FILE)));
            files.push(("--xds-key", directory.join(KEY_FILE)));
        }
    }
    let mut flags = format!("--node {node} --xds {}", xds.join(","));
    for (flag, file) in files {
        // Writing into a String cannot fail.
        let _infallible = write!(flags, " {flag} {}", file.display());
    }
    flags.push('\n');
    Ok(flags)
}

fn absolute(directory: &Path) -> Result<PathBuf, BootstrapError> {
    std::path::absolute(directory).map_err(|source| BootstrapError::File {
        path: directory.display().to_string(),
        source,
    })
}

fn write(directory: &Path, name: &str, content: &str) -> Result<(), BootstrapError> {
    let path = directory.join(name);
    state_dir::create(directory)
        .and_then(|()| state_dir::replace(&path, content))
        .map_err(|source| BootstrapError::File {
            path: path.display().to_string(),
            source,
        })
}

#[cfg(test)]
mod tests;
