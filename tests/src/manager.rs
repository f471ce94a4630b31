//! A manager over a directory of manifests, in this process, with its sockets in a namespace; its peers' flags, and manifests.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail};
use clap::Parser as _;
use kubelb_manager::args::{Cli, Command};
use kubelb_manager::bootstrap::BootstrapArgs;
use kubelb_manager::{bootstrap, run};
use kubelb_xds::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::netns::Namespace;
use crate::traffic::http_get;
use crate::wait;

/// What a manager serves, again and again.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// One that runs. Ends in good order on drop.
#[derive(Debug)]
pub struct Manager {
    stop: CancellationToken,
    kill: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<anyhow::Result<()>>>>,
    snapshots: Snapshots,
}

impl Manager {
    /// Starts one that serves and tells of itself at these addresses of `namespace`. Without an API server, managers cannot agree on who announces
    /// an address, so nobody does.
    ///
    /// # Errors
    /// When it does not start; what it says is in the error.
    pub fn start(
        namespace: &Namespace,
        [listen, admin]: [&str; 2],
        state: &Path,
        manifests: &Path,
    ) -> anyhow::Result<Self> {
        let flags = [
            "kubelb-manager".to_owned(),
            "run".to_owned(),
            format!("--listen-xds={listen}"),
            format!("--admin-address={admin}"),
            "--announce=false".to_owned(),
            format!("--source=file://{}", manifests.display()),
            format!("--state-dir={}", state.display()),
        ];
        let Command::Run(args) = Cli::try_parse_from(flags)?.command else {
            bail!("the command is `run`");
        };
        Self::start_with(namespace, move |stop| run::start(args, stop))
    }

    /// Starts what `run` makes of a manager, which ends when it is told to.
    ///
    /// # Errors
    /// When it does not start; what it says is in the error.
    pub fn start_with<R, E>(
        namespace: &Namespace,
        run: impl FnOnce(CancellationToken) -> R + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        R: Future<Output = anyhow::Result<(Snapshots, E)>>,
        E: Future<Output = anyhow::Result<()>>,
    {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (token, killed) = (stop.clone(), kill.clone());
        let (started, has_started) = mpsc::sync_channel(1);
        let serve = move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(async {
                let run = async {
                    let (snapshots, ended) = run(token).await?;
                    // Whoever waits for it may be gone.
                    drop(started.send(snapshots));
                    ended.await
                };
                tokio::select! {
                    ended = run => ended,
                    () = killed.cancelled() => Ok(()),
                }
            });
            runtime.shutdown_background();
            ended
        };
        let thread = namespace.spawn(serve)?;
        let Ok(snapshots) = has_started.recv() else {
            let ended = thread.join().map_err(|_panic| anyhow!("the manager panicked"))??;
            return Err(ended.err().unwrap_or_else(|| anyhow!("the manager ended at once")));
        };
        Ok(Self {
            stop,
            kill,
            thread: Some(thread),
            snapshots,
        })
    }

    /// What it serves; `None` until everything was read once.
    #[must_use]
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    /// As SIGKILL would: its connections break off in the middle of whatever.
    pub fn kill(self) {
        self.kill.cancel();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(
                matches!(ended, None | Some(Ok(Ok(Ok(()))))),
                "the manager ended otherwise: {ended:?}"
            );
        }
    }
}

/// Waits until the manager that tells of itself at `admin` is ready.
///
/// # Errors
/// When it is not in time.
pub fn until_ready(namespace: &Namespace, admin: &str) -> anyhow::Result<()> {
    let admin: SocketAddr = admin.parse()?;
    wait::until(std::time::Duration::from_secs(30), || {
        let (code, body) = http_get(namespace, admin, "/readyz")?;
        anyhow::ensure!(code == 200, "the manager is not ready: {body}");
        Ok(())
    })
    .map(drop)
}

/// What `kubelb-manager bootstrap` prints for a peer (`--agent NODE` or `--fleet TENANTS`, with further flags) of the managers at these addresses.
///
/// # Errors
/// When there is no authority, or no such peer.
pub fn bootstrap_for(
    peer: &[&str],
    managers: impl IntoIterator<Item: Display>,
    state: &Path,
) -> anyhow::Result<String> {
    let mut printed = Vec::new();
    bootstrap::run(&bootstrap_args(peer, managers, state)?, now(), &mut printed)?;
    String::from_utf8(printed).context("it prints text")
}

/// The same when the managers are asked, from `namespace`: what it prints, and of what it warns.
///
/// # Errors
/// When there is no authority, or no such peer.
pub fn bootstrap_as_told(
    namespace: &Namespace,
    peer: &[&str],
    managers: impl IntoIterator<Item: Display>,
    state: &Path,
) -> anyhow::Result<(String, String)> {
    let args = bootstrap_args(peer, managers, state)?;
    let (mut printed, mut warnings) = (Vec::new(), Vec::new());
    let told = namespace.run(|| bootstrap::ask(&args, now(), &mut warnings))??;
    bootstrap::run_as_told(&args, told, now(), &mut printed)?;
    Ok((String::from_utf8(printed)?, String::from_utf8(warnings)?))
}

#[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn bootstrap_args(
    peer: &[&str],
    managers: impl IntoIterator<Item: Display>,
    state: &Path,
) -> anyhow::Result<BootstrapArgs> {
    let urls: Vec<String> = managers
        .into_iter()
        .map(|address| format!("https://{address}"))
        .collect();
    let rest = [
        format!("--xds={}", urls.join(",")),
        format!("--state-dir={}", state.display()),
    ];
    let flags = ["kubelb-manager", "bootstrap"]
        .iter()
        .chain(peer)
        .map(|flag| (*flag).to_owned());
    let Command::Bootstrap(args) = Cli::try_parse_from(flags.chain(rest))?.command else {
        bail!("the command is `bootstrap`");
    };
    Ok(args)
}

/// The flags of an agent on this node, with a certificate of the authority in `state`.
///
/// # Errors
/// As [`bootstrap_for`].
pub fn agent_flags(
    node: &str,
    managers: impl IntoIterator<Item: Display>,
    state: &Path,
) -> anyhow::Result<Vec<String>> {
    let printed = bootstrap_for(&["--agent", node], managers, state)?;
    Ok(printed.split_whitespace().map(str::to_owned).collect())
}

/// Tenant `x`, whose nodes have these addresses.
#[must_use]
pub fn tenant(addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let addresses = addresses.into_iter().map(|address| format!("  - ip: \"{address}\"\n"));
    format!(
        "apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata: {{name: x}}\nspec: {{}}\n---\n\
         apiVersion: kubelb.k8c.io/v1alpha1\nkind: Addresses\nmetadata: {{name: default, namespace: tenant-x}}\n\
         spec:\n  addresses:\n{}",
        addresses.collect::<String>()
    )
}

/// A LoadBalancer in front of a port of the tenant's nodes, TCP and UDP; `metadata` and `spec` are further lines of these.
#[must_use]
pub fn load_balancer(
    name: &str,
    [port, node_port]: [u16; 2],
    vips: [IpAddr; 2],
    [metadata, spec]: [&str; 2],
) -> String {
    let [first, second] = vips;
    format!(
        "apiVersion: kubelb.k8c.io/v1alpha1\nkind: LoadBalancer\nmetadata:\n  name: {name}\n  namespace: tenant-x\n{metadata}spec:\n\
         {spec}  type: LoadBalancer\n  endpoints:\n  - addressesReference: {{name: default}}\n    ports:\n\
         \x20   - {{name: t, port: {node_port}, protocol: TCP}}\n    - {{name: u, port: {node_port}, protocol: UDP}}\n\
         \x20 ports:\n  - {{name: t, port: {port}, protocol: TCP}}\n  - {{name: u, port: {port}, protocol: UDP}}\n\
         status:\n  loadBalancer:\n    ingress:\n    - ip: \"{first}\"\n    - ip: \"{second}\"\n"
    )
}
