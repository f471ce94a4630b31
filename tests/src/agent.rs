//! The agent as a process in a node's namespace: started, killed, restarted and asked.
//!
//! Its maps live on a bpffs of the test's own, so that nothing is shared with another test or with the machine, and
//! everything is gone when the test is.

pub mod config;
mod log;
pub mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use config::Config;
use log::Log;
pub use status::Status;

use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::traffic::http_get;
use crate::{tool, wait};

/// Names the agent's program; `cargo xtask` sets it.
pub const BINARY_VARIABLE: &str = "KUBELB_AGENT_BIN";
/// Loading the programs takes the verifier seconds on a slow machine with a debug build.
const START_WITHIN: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const END_WITHIN: Duration = Duration::from_secs(20);

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `--interface`, each.
    pub interfaces: Vec<String>,
    /// `--attach-mode`, each.
    pub attach_modes: Vec<String>,
    /// Other arguments of `run`.
    pub more: Vec<String>,
    /// Flags that name managers: used instead of the configuration file when there are any.
    pub managers: Vec<String>,
}

impl Setup {
    /// All of `interfaces`, attached in `mode`.
    #[must_use]
    pub fn new(interfaces: &[&str], mode: &str) -> Self {
        Self {
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            attach_modes: vec![mode.to_owned()],
            ..Self::default()
        }
    }
}

/// An agent, running or not, with its configuration and pins. Killed on drop; its pins go with it.
#[derive(Debug)]
pub struct Agent<'a> {
    // Before `scratch`: the process must be gone when the bpffs is unmounted.
    running: Option<Running>,
    namespace: &'a Namespace,
    binary: PathBuf,
    setup: Setup,
    config: PathBuf,
    bpffs: PathBuf,
    scratch: Scratch,
}

#[derive(Debug)]
struct Running {
    child: Child,
    log: Log,
    /// `None` until it said so.
    admin: Option<SocketAddr>,
}

impl<'a> Agent<'a> {
    /// Writes `config` and starts the agent; it is ready when this returns. Call it on a thread that outlives the agent,
    /// which is killed when that thread ends.
    ///
    /// # Errors
    /// When there is no agent to start or it does not become ready; what it logged is in the message.
    pub fn start(namespace: &'a Namespace, setup: Setup, config: &str) -> anyhow::Result<Self> {
        let mut agent = Self::prepare(namespace, setup, config)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Writes `config`, and starts nothing.
    ///
    /// # Errors
    /// When there is no agent to start later.
    pub fn prepare(namespace: &'a Namespace, setup: Setup, config: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let agent = Self {
            running: None,
            namespace,
            binary: binary()?,
            setup,
            config: scratch.path().join("config.yaml"),
            bpffs: scratch.bpffs()?.join("kubelb"),
            scratch,
        };
        agent.write_config(config)?;
        Ok(agent)
    }

    /// Starts it (again) and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already or does not become ready.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.until_ready()
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// When it runs already or can't be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the agent runs already");
        let mut command = self.namespace.command(&self.binary);
        command.arg("run").arg("--bpffs").arg(&self.bpffs);
        if self.setup.managers.is_empty() {
            command.arg("--config").arg(&self.config);
        } else {
            command.args(&self.setup.managers);
            command.arg("--state-dir").arg(self.state_dir());
        }
        for interface in &self.setup.interfaces {
            command.args(["--interface", interface]);
        }
        for mode in &self.setup.attach_modes {
            command.args(["--attach-mode", mode]);
        }
        command
            .args(["--admin-address", "127.0.0.1:0", "--log-format", "json"])
            .args(&self.setup.more);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let stderr = child.stderr.take().context("its standard error is a pipe")?;
        self.running = Some(Running {
            child,
            log: Log::follow(stderr)?,
            admin: None,
        });
        Ok(())
    }

    /// Other arguments of `run` from the next start on.
    pub fn set_flags(&mut self, more: &[&str]) {
        self.setup.more = more.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub fn until_ready(&mut self) -> anyhow::Result<()> {
        let line = self.until_logged(START_WITHIN, "admin server listening")?;
        let address = line
            .get("address")
            .and_then(Value::as_str)
            .context("the admin server's log line has no address")?;
        let admin: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        let running = self.running.as_mut().context("the agent is not running")?;
        running.admin = Some(admin);
        wait::until(START_WITHIN, || {
            let (status, body) = http_get(self.namespace, admin, "/readyz")?;
            ensure!(status == 200, "/readyz says {status}: {}", body.trim());
            Ok(())
        })
        .map(drop)
        .with_context(|| self.logged())
    }

    /// Waits for a log line with this message, from the last start on.
    ///
    /// # Errors
    /// When it does not come, or the agent ends.
    pub fn until_logged(&self, within: Duration, message: &str) -> anyhow::Result<Value> {
        let running = self.running.as_ref().context("the agent is not running")?;
        running
            .log
            .until(within, message)
            .with_context(|| format!("the agent did not log {message:?}.\n{}", self.logged()))
    }

    /// What it logged since its last start.
    #[must_use]
    pub fn logged(&self) -> String {
        let lines = self.running.as_ref().map(|running| running.log.text());
        format!("--- the agent's log ---\n{}", lines.unwrap_or_default())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the agent is not running")?;
        running.child.kill().context("cannot kill the agent")?;
        running.child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// Asks it to end with SIGTERM; how it ended, and what it had logged.
    ///
    /// # Errors
    /// When it isn't running, or does not end in time.
    pub fn terminate(&mut self) -> anyhow::Result<(ExitStatus, String)> {
        let running = self.running.as_mut().context("the agent is not running")?;
        let pid = Pid::from_raw(i32::try_from(running.child.id())?);
        kill(pid, Signal::SIGTERM).context("cannot signal the agent")?;
        let (status, _) = wait::until(END_WITHIN, || {
            running.child.try_wait()?.context("the agent did not end after SIGTERM")
        })?;
        let running = self.running.take().context("the agent is not running")?;
        Ok((status, running.log.all()?))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Where it keeps what managers told it.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// The directory of its pins.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Replaces its configuration in one step, as an editor or a ConfigMap volume does. Does not wait for the agent.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_config(&self, config: &str) -> anyhow::Result<()> {
        let new = self.config.with_extension("new");
        std::fs::write(&new, config).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &self.config).with_context(|| format!("cannot replace {}", self.config.display()))
    }

    /// A page of its admin server: status and body.
    ///
    /// # Errors
    /// When it isn't ready.
    pub fn admin(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let admin = self.running.as_ref().and_then(|running| running.admin);
        http_get(self.namespace, admin.context("the agent is not ready")?, path)
    }

    /// What `kubelb-agent status --output json` prints; the agent need not run.
    ///
    /// # Errors
    /// When that fails or is no JSON.
    pub fn status(&self) -> anyhow::Result<Status> {
        Status::parse(&tool::output(self.show().args(["--output", "json"]))?)
    }

    /// What its admin server says under `/status`: what `status` says, and what only the process knows.
    ///
    /// # Errors
    /// When it isn't ready.
    pub fn live_status(&self) -> anyhow::Result<Status> {
        let (code, body) = self.admin("/status")?;
        ensure!(code == 200, "/status says {code}: {body}");
        Status::parse(&body)
    }

    /// What `kubelb-agent status` prints for people.
    ///
    /// # Errors
    /// When that fails.
    pub fn status_table(&self) -> anyhow::Result<String> {
        tool::output(&mut self.show())
    }

    /// Waits until `wanted` is content with the status (from the agent while it runs), and returns how long that took.
    ///
    /// # Errors
    /// With what `wanted` said last, and the status it said it of.
    pub fn until_status(
        &self,
        within: Duration,
        wanted: impl Fn(&Status) -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        wait::until(within, || {
            let status = if self.running.is_some() {
                self.live_status()?
            } else {
                self.status()?
            };
            wanted(&status).with_context(|| format!("status: {status}"))
        })
        .map(|(_, taken)| taken)
        .with_context(|| self.logged())
    }

    fn show(&self) -> Command {
        let mut command = self.cli("status");
        command.arg("--state-dir").arg(self.state_dir());
        command
    }

    /// Runs `kubelb-agent detach`.
    ///
    /// # Errors
    /// When that fails.
    pub fn detach(&self) -> anyhow::Result<()> {
        tool::output(&mut self.cli("detach")).map(drop)
    }

    /// A subcommand with this agent's pins, in its namespace.
    #[must_use]
    pub fn cli(&self, subcommand: &str) -> Command {
        let mut command = self.namespace.command(&self.binary);
        command.arg(subcommand).arg("--bpffs").arg(&self.bpffs);
        command
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            eprintln!("{}", self.logged());
        }
        if self.running.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("warning: an agent stays: {error:#}");
        }
    }
}

/// The agent's program: what `KUBELB_AGENT_BIN` names, else the one built beside this test.
///
/// # Errors
/// When it is not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    const HINT: &str = "`cargo xtask test` and `cargo xtask demo` build it";
    tool::program(BINARY_VARIABLE, HINT, || tool::built("kubelb-agent"))
}
