//! `kubelb-manager run`: the one place that spawns tasks, reads clocks and writes files.
//!
//! Owns the order of writing: claims are on the disk before a resource is published that uses their addresses.

mod cluster;
mod complaints;
mod leading;
mod outbox;
mod output;
mod relaying;
mod requests;
mod telling;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kubelb_runtime::or_never::or_never;
use kubelb_runtime::{admin, shutdown, telemetry};
use kubelb_xds::Snapshot;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{Command, RunArgs, Source, log_filter};
use crate::bootstrap;
use crate::desk::Desk;
use crate::hub::{Hub, Settled};
use crate::identity::review;
use crate::identity::secret::Shared;
use crate::object::ObjectKey;
use crate::owners::Plan;
use crate::serve;
use crate::source::catalog::{Catalog, Files};
use crate::source::directory;
use crate::state::{StateDirectory, StateError};
use output::Output;
use relaying::Relaying;
use telling::{Due, Telling};

/// Carries a command out.
///
/// # Errors
/// When it cannot start, or cannot write down whose an address is.
pub fn run(command: Command) -> anyhow::Result<()> {
    let args = match command {
        Command::Run(args) => args,
        Command::Bootstrap(args) => return bootstrap::run_now(&args).context("bootstrap"),
        Command::RotateAuthority(args) => return bootstrap::rotate_now(&args).context("rotate-authority"),
    };
    telemetry::init(args.log_format, &log_filter())?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals().context("waiting for signals")?;
        let (_snapshots, manager) = start(args, shutdown).await?;
        manager.await
    })
}

/// Starts a manager until `shutdown`: its snapshots, `None` before the source was read for the first time, and what ends when it ends.
///
/// # Errors
/// When the state directory is not to be had, or the admin address.
pub async fn start(
    args: RunArgs,
    shutdown: CancellationToken,
) -> anyhow::Result<(
    watch::Receiver<Option<Arc<Snapshot>>>,
    impl Future<Output = anyhow::Result<()>>,
)> {
    let origin = Origin::open(&args, &shutdown).await?;
    let desk = Arc::new(Desk::default());
    let mut tasks = JoinSet::new();
    if let Some(address) = args.admin_address {
        let listener = admin::bind(address)
            .await
            .with_context(|| format!("--admin-address {address}"))?;
        let (answers, token) = (Arc::clone(&desk), shutdown.clone());
        tasks.spawn(async move {
            admin::serve(listener, answers, token).await;
            anyhow::Ok(())
        });
    }
    let reviewer = serve::reviewer(&args.xds).await.context("--kubeconfig")?;
    let serving = serve::bind(&args.xds, origin.directory(), reviewer)
        .await
        .context("--listen-xds")?;
    if let Some(serving) = &serving {
        desk.serves(Arc::clone(serving.server()));
    }
    let server = serving.as_ref().map(|serving| Arc::clone(serving.server()));
    let telling = server.as_ref().map(|server| Telling::new(Arc::clone(server)));
    let advertised = serving
        .as_ref()
        .and_then(|serving| args.xds.advertised(serving.address()));
    let (publish, snapshots) = watch::channel(None);
    if let Some(serving) = serving {
        let (snapshots, token) = (snapshots.clone(), shutdown.clone());
        tasks.spawn(async move {
            serving.run(snapshots, token).await;
            anyhow::Ok(())
        });
    }
    let output = Output {
        desk,
        publish,
        telling,
        settled: 0,
    };
    match origin {
        Origin::Directory { files, state } => {
            let before = state.load().context("--state-dir")?;
            let mut hub = Hub::new(&args.namespace);
            hub.announce(args.announce);
            hub.restore(before.claims, before.owners, before.statuses);
            if output.telling.is_some() {
                hub.await_peers();
            }
            let follower = Follower {
                hub,
                state: Arc::new(state),
                catalog: Catalog::default(),
                output,
            };
            let files = directory::watch(files, shutdown.clone());
            tasks.spawn(follower.follow(files, shutdown.clone()));
        }
        Origin::Cluster(origin) => {
            let ClusterOrigin {
                client,
                authority,
                directory,
            } = *origin;
            let standing = leading::campaign(&mut tasks, &client, &args, advertised, &shutdown);
            let identity = args.election.identity();
            let settings = args.controllers.settings(&args.namespace, &identity)?;
            let controllers = leading::control(client.clone(), settings, standing.leads.clone(), shutdown.clone());
            if let Some((server, telling)) = server.zip(output.telling.as_ref()) {
                let relaying = Relaying {
                    server,
                    identity,
                    directory: directory.path().to_owned(),
                    seen: standing.seen.clone(),
                    outgoing: telling.outgoing(),
                };
                let token = shutdown.clone();
                tasks.spawn(async move {
                    relaying.run(token).await;
                    Ok(())
                });
            }
            tasks.spawn(async move {
                controllers.await;
                Ok(())
            });
            let follower = cluster::Follower::new(cluster::Parts {
                client,
                namespace: args.namespace,
                announces: args.announce,
                output,
                standing,
            });
            tasks.spawn(follower.follow(shutdown.clone()));
            let token = shutdown.clone();
            tasks.spawn(async move {
                authority.follow(token).await;
                drop(directory);
                Ok(())
            });
        }
    }
    Ok((snapshots, async move { shutdown::ended(tasks, &shutdown).await }))
}

/// Where objects and the authority are.
enum Origin {
    Directory { files: PathBuf, state: StateDirectory },
    Cluster(Box<ClusterOrigin>),
}

struct ClusterOrigin {
    client: Client,
    authority: Shared,
    directory: CopyDirectory,
}

/// Where the copy of the authority is.
enum CopyDirectory {
    Named(PathBuf),
    /// Ends with the process.
    Own(TempDir),
}

impl CopyDirectory {
    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Own(directory) => directory.path(),
        }
    }
}

impl Origin {
    async fn open(args: &RunArgs, shutdown: &CancellationToken) -> anyhow::Result<Self> {
        match &args.source {
            Source::Directory(files) => {
                let Some(path) = &args.state_dir else {
                    bail!("--state-dir: name a directory, in which is kept what must outlive a restart");
                };
                Ok(Self::Directory {
                    files: files.clone(),
                    state: StateDirectory::open(path).context("--state-dir")?,
                })
            }
            Source::Cluster => {
                let client = review::client(args.xds.kubeconfig.as_deref())
                    .await
                    .context("--kubeconfig")?;
                let directory = match &args.state_dir {
                    Some(path) => CopyDirectory::Named(path.clone()),
                    None => CopyDirectory::Own(tempfile::tempdir().context("a directory for the authority")?),
                };
                let authority = Shared::new(&client, &args.namespace, directory.path());
                if args.xds.listen_xds.is_some() {
                    authority.await_copy(shutdown).await;
                }
                Ok(Self::Cluster(Box::new(ClusterOrigin {
                    client,
                    authority,
                    directory,
                })))
            }
        }
    }

    /// Where the authority is.
    fn directory(&self) -> &Path {
        match self {
            Self::Directory { state, .. } => state.path(),
            Self::Cluster(origin) => origin.directory.path(),
        }
    }
}

/// Keeps the configuration up with the files.
struct Follower {
    hub: Hub,
    state: Arc<StateDirectory>,
    catalog: Catalog,
    output: Output,
}

impl Follower {
    async fn follow(
        mut self,
        mut files: mpsc::Receiver<Result<Files, String>>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let update = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                update = files.recv() => update,
                due = or_never(self.output.telling.as_mut().map(Telling::due)) => {
                    match due {
                        Due::Reports => self.tell().await?,
                        Due::Nodes => self.settle().await?,
                    }
                    continue;
                }
            };
            match update {
                Some(Ok(files)) => self.take(files).await?,
                Some(Err(error)) => {
                    tracing::error!("{error}; the configuration stays as it is. Name a directory with --source");
                }
                None => return Ok(()),
            }
        }
    }

    async fn take(&mut self, files: Files) -> anyhow::Result<()> {
        let difference = self.catalog.update(files);
        for mistake in &difference.faults {
            tracing::warn!("{mistake}");
        }
        for key in &difference.gone {
            self.hub.delete(key);
        }
        for seen in difference.seen {
            self.hub.apply(seen);
        }
        self.settle().await
    }

    async fn settle(&mut self) -> anyhow::Result<()> {
        let now = Time(Timestamp::now());
        let mut settled = self.hub.settle(&now);
        for key in &settled.problems {
            self.complain(key);
        }
        if let Some(telling) = &mut self.output.telling {
            let plan = self.hub.own(telling.nodes(self.hub.ir()), &now);
            if !plan.is_empty() {
                self.write(plan, write_owners).await?.context("--state-dir")?;
                settled.statuses.extend(self.hub.settle(&now).statuses);
            }
        }
        let (changed, tenants) = (settled.load_balancers.clone(), settled.http.clone());
        let settled = self.write(settled, write_claims).await?.context("--state-dir")?;
        self.output.publish(&self.hub, changed, &tenants);
        self.write(settled, write_statuses).await
    }

    /// Brings the statuses up with what peers tell.
    async fn tell(&mut self) -> anyhow::Result<()> {
        let Some(telling) = &mut self.output.telling else {
            return Ok(());
        };
        let (reports, about) = telling.look(self.hub.ir());
        let statuses = self.hub.report(reports, &about, &Time(Timestamp::now()));
        if statuses.is_empty() {
            return Ok(());
        }
        let settled = Settled {
            statuses,
            ..Settled::default()
        };
        self.write(settled, write_statuses).await
    }

    async fn write<W: Send + 'static, T: Send + 'static>(
        &self,
        what: W,
        write: impl FnOnce(&StateDirectory, W) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || write(&state, what))
            .await
            .context("writing state panicked")
    }

    /// Says what is wrong with an object, and where in the files.
    fn complain(&self, key: &ObjectKey) {
        let problems = self.hub.problems_of(key);
        if problems.is_empty() {
            tracing::info!("{key}: nothing is wrong with it any more");
        }
        for problem in problems {
            match self.catalog.place(key, &problem.field) {
                Some((path, document, line)) => {
                    let line = line.map_or(String::new(), |line| format!("{line}:"));
                    tracing::warn!("{}:{line} document {document}: {problem}", path.display());
                }
                None => tracing::warn!("{problem}"),
            }
        }
    }
}

/// A claim that cannot be written is an error that ends the process: it would be given to somebody else after the next start.
fn write_claims(state: &StateDirectory, settled: Settled) -> Result<Settled, StateError> {
    for name in &settled.claims_over {
        state.remove_claim(*name)?;
    }
    state.write_claims(&settled.claims)?;
    Ok(settled)
}

/// An epoch that is forgotten could be given to two nodes.
fn write_owners(state: &StateDirectory, plan: Plan) -> Result<(), StateError> {
    for name in &plan.over {
        state.remove_owner(*name)?;
    }
    state.write_owners(&plan.write)
}

/// A status that cannot be written is told later.
fn write_statuses(state: &StateDirectory, settled: Settled) {
    let told = settled
        .statuses
        .iter()
        .map(|patch| state.write_status(&patch.object, &patch.status));
    let untold = settled.gone.iter().map(|key| state.remove_status(key));
    for error in told.chain(untold).filter_map(Result::err) {
        tracing::warn!(error = %kubelb_runtime::error_chain::chain(&error), "a status could not be written");
    }
}
