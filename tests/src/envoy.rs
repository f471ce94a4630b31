//! The real Envoy as a process in a namespace: started, asked through its admin interface, killed.
//!
//! Its admin interface is a Unix socket in a directory of its own, so that it takes no port and can be asked from anywhere.
//! What its configuration means is the test's business.

mod admin;
mod view;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

pub use view::{ClusterView, EndpointView, ListenerView};

use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::{tool, wait};

/// Names Envoy's program; `cargo xtask` sets it.
pub const BINARY_VARIABLE: &str = "KUBELB_ENVOY";
/// A hundred megabytes to load, on a machine that builds something else at the same time.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Name of its admin socket.
const SOCKET: &str = "admin.sock";

/// How to start it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Worker threads.
    pub concurrency: u32,
    /// `trace` to `critical`.
    pub log_level: String,
    /// Levels of single components, `name:level,…`; empty for none.
    pub component_log_level: String,
    /// Extensions that it does as if it did not have, `category/name`.
    pub without: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            concurrency: 1,
            log_level: "warn".to_owned(),
            component_log_level: "upstream:info,config:info".to_owned(),
            without: &[],
        }
    }
}

/// An Envoy, running or not. Killed on drop.
#[derive(Debug)]
pub struct Envoy<'a> {
    // Before `scratch`, which holds its log and its socket.
    child: Option<Child>,
    namespace: &'a Namespace,
    setup: Setup,
    program: PathBuf,
    scratch: Scratch,
}

impl<'a> Envoy<'a> {
    /// Starts one with `bootstrap` (YAML or JSON) in `namespace`; its admin interface answers when this returns. What the
    /// bootstrap says of the admin interface is replaced. Call it on a thread that outlives the Envoy, which is killed when
    /// that thread ends.
    ///
    /// # Errors
    /// When there is no Envoy, or it refuses the bootstrap; what it logged is in the message.
    pub fn start(namespace: &'a Namespace, setup: Setup, bootstrap: &str) -> anyhow::Result<Self> {
        let mut envoy = Self {
            child: None,
            namespace,
            setup,
            program: program()?,
            scratch: Scratch::new()?,
        };
        envoy.write_bootstrap(bootstrap)?;
        envoy.restart()?;
        Ok(envoy)
    }

    /// Starts it (again) and waits until its admin interface answers.
    ///
    /// # Errors
    /// When it runs already or ends at once.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "Envoy runs already");
        // It does not replace a socket that a killed one has left.
        drop(std::fs::remove_file(self.socket()));
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.context("cannot open the log")?;
        let mut command = self.namespace.command(&self.program);
        command
            .arg("--config-path")
            .arg(self.bootstrap_file())
            // Nothing in shared memory: any number of them run side by side.
            .arg("--disable-hot-restart")
            .args(["--concurrency", &self.setup.concurrency.to_string()])
            // What it logs of requests is there soon.
            .args(["--file-flush-interval-msec", "100"])
            .args(["--log-level", &self.setup.log_level]);
        if !self.setup.without.is_empty() {
            command.args(["--disable-extensions", &self.setup.without.join(",")]);
        }
        if !self.setup.component_log_level.is_empty() {
            command.args(["--component-log-level", &self.setup.component_log_level]);
        }
        let output = File::options().create(true).append(true).open(self.output_file());
        let output = output.context("cannot open the file for its output")?;
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", self.program.display()))?;
        let child = self.child.insert(child);
        let socket = self.scratch.path().join(SOCKET);
        let (ended, _) = wait::until(START_WITHIN, || {
            let ended = child.try_wait()?;
            if ended.is_none() {
                admin::ask(&socket, "GET", "/server_info")?;
            }
            Ok(ended)
        })
        .with_context(|| self.logged())?;
        if let Some(status) = ended {
            self.child = None;
            bail!("Envoy ended at once ({status})\n{}", self.logged());
        }
        Ok(())
    }

    fn write_bootstrap(&self, bootstrap: &str) -> anyhow::Result<()> {
        let mut bootstrap: Value = serde_saphyr::from_str(bootstrap).context("the bootstrap is no YAML")?;
        let fields = bootstrap.as_object_mut().context("the bootstrap is no map")?;
        let socket = json!({ "address": { "pipe": { "path": self.socket(), "mode": 0o600 } } });
        fields.insert("admin".to_owned(), socket);
        std::fs::write(self.bootstrap_file(), bootstrap.to_string()).context("cannot write the bootstrap")
    }

    fn bootstrap_file(&self) -> PathBuf {
        self.scratch.path().join("bootstrap.json")
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    fn output_file(&self) -> PathBuf {
        self.scratch.path().join("output")
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join(SOCKET)
    }

    /// A directory that goes away with it, for what its configuration names.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it logged, over all its starts.
    #[must_use]
    pub fn logged(&self) -> String {
        let log = std::fs::read(self.log_file()).unwrap_or_default();
        format!("--- Envoy's log ---\n{}", String::from_utf8_lossy(&log))
    }

    /// What it printed, over all its starts: that is where requests are logged, a moment after they have ended.
    #[must_use]
    pub fn printed(&self) -> String {
        let output = std::fs::read(self.output_file()).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("Envoy is not running")?;
        child.kill().context("cannot kill Envoy")?;
        child.wait().context("cannot wait for Envoy")?;
        Ok(())
    }

    /// A page of its admin interface.
    ///
    /// # Errors
    /// When it does not run or answers with anything but 200.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        self.ask("GET", path)
    }

    /// A command to its admin interface, such as `/drain_listeners`.
    ///
    /// # Errors
    /// When it does not run or answers with anything but 200.
    pub fn post(&self, path: &str) -> anyhow::Result<String> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<String> {
        ensure!(self.child.is_some(), "Envoy is not running");
        let (status, body) = admin::ask(&self.socket(), method, path)?;
        ensure!(status == 200, "{path} says {status}: {body}");
        Ok(body)
    }

    fn get_json(&self, path: &str) -> anyhow::Result<Value> {
        let body = self.get(path)?;
        serde_json::from_str(&body).with_context(|| format!("{path} is no JSON: {body}"))
    }

    /// Clusters that serve: warming ones are not among them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn clusters(&self) -> anyhow::Result<Vec<ClusterView>> {
        view::clusters(&self.get_json("/clusters?format=json")?)
    }

    /// Listeners that serve: warming ones are not among them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn listeners(&self) -> anyhow::Result<Vec<ListenerView>> {
        view::listeners(&self.get_json("/listeners?format=json")?)
    }

    /// Whole configuration as it has it, endpoints included.
    ///
    /// # Errors
    /// When it does not run.
    pub fn config_dump(&self) -> anyhow::Result<Value> {
        self.get_json("/config_dump?include_eds")
    }

    /// A counter or gauge by its full name; 0 when there is none yet.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let filter: String = name
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || letter == '_' {
                    letter
                } else {
                    '.'
                }
            })
            .collect();
        let answer = self.get_json(&format!("/stats?format=json&filter=^{filter}$"))?;
        view::stat(&answer, name)
    }

    /// Waits until it accepts connections: before that, it has listeners that nobody can connect to.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_serving(&self, within: Duration) -> anyhow::Result<()> {
        self.until(within, Self::serves)
    }

    fn serves(&self) -> anyhow::Result<()> {
        let started = self.stat("listener_manager.workers_started")?;
        ensure!(started == 1, "its workers have not started");
        Ok(())
    }

    /// Waits until the listener `name` serves.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_listener(&self, within: Duration, name: &str) -> anyhow::Result<ListenerView> {
        self.until(within, |envoy| {
            envoy.serves()?;
            let listeners = envoy.listeners()?;
            let known: Vec<String> = listeners.iter().map(|listener| listener.name.clone()).collect();
            let found = listeners.into_iter().find(|listener| listener.name == name);
            found.with_context(|| format!("no listener {name}; there are {known:?}"))
        })
    }

    /// Waits until the cluster `name` serves.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn until_cluster(&self, within: Duration, name: &str) -> anyhow::Result<ClusterView> {
        self.until(within, |envoy| {
            let clusters = envoy.clusters()?;
            let known: Vec<String> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
            let found = clusters.into_iter().find(|cluster| cluster.name == name);
            found.with_context(|| format!("no cluster {name}; there are {known:?}"))
        })
    }

    /// Waits until `look` succeeds.
    ///
    /// # Errors
    /// With what `look` said last, and Envoy's log.
    pub fn until<T>(&self, within: Duration, look: impl Fn(&Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let found = wait::until(within, || look(self)).with_context(|| self.logged())?;
        Ok(found.0)
    }
}

impl Drop for Envoy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logged());
        }
        if self.child.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("warning: an Envoy stays: {error:#}");
        }
    }
}

/// Envoy's program: what `KUBELB_ENVOY` names, else that of `PATH`.
///
/// # Errors
/// When there is none; says how to get it.
pub fn program() -> anyhow::Result<PathBuf> {
    const HINT: &str = "`cargo xtask setup` gets one, and `cargo xtask test FILTER` runs tests with it";
    tool::program(BINARY_VARIABLE, HINT, || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).map(|directory| directory.join("envoy"));
        programs
            .find(|program| program.is_file())
            .context("there is no envoy on PATH")
    })
}
