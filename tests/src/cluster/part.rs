//! One process of a cluster: started, ended, started again; what it says goes to a file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apiserver::Config;
use crate::control_plane::{ControlPlane, Host};
use crate::netns::Namespace;
use crate::{tool, wait};

/// Lines of a log that an error shows.
const SHOWN: usize = 40;

type Work = Box<dyn FnOnce() + Send>;

/// The thread on which all processes are started. They are killed when it ends, which is when this is dropped: the kernel
/// takes the starting thread for the parent, and a thread of the runtime may end at any time.
#[derive(Debug)]
pub(super) struct Nursery(SyncSender<Work>);

impl Nursery {
    pub(super) fn new() -> anyhow::Result<Self> {
        let (sender, receiver) = sync_channel::<Work>(1);
        let work = move || receiver.into_iter().for_each(|work| work());
        let thread = std::thread::Builder::new().name("cluster".to_owned()).spawn(work);
        thread.map(|_detached| Self(sender)).context("cannot start a thread")
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            // Who asked is waiting.
            drop(sender.send(work()));
        };
        self.0
            .send(Box::new(work))
            .ok()
            .context("the starting thread is gone")?;
        receiver.recv().context("the starting thread is gone")
    }

    pub(super) fn launch(&self, config: Config, namespace: &Arc<Namespace>) -> anyhow::Result<ControlPlane> {
        let namespace = Arc::clone(namespace);
        self.run(move || ControlPlane::launch(config, Host::Inside(&namespace)))?
    }

    /// Starts a server that was stopped or killed.
    pub(super) fn start_again(
        &self,
        mut server: ControlPlane,
        namespace: &Arc<Namespace>,
    ) -> anyhow::Result<ControlPlane> {
        let namespace = Arc::clone(namespace);
        self.run(move || server.start(Host::Inside(&namespace)).map(|()| server))?
    }
}

/// A process, or what is needed to start it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<String>,
    namespace: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    pub(super) fn new(
        name: &str,
        program: PathBuf,
        arguments: Vec<String>,
        namespace: &Namespace,
        logs: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments,
            namespace: namespace.path(),
            log: logs.join(format!("{}.log", name.replace('/', "-"))),
            child: None,
        }
    }

    pub(super) fn start(&mut self, nursery: &Nursery) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let namespace = File::open(&self.namespace).with_context(|| format!("no {}", self.namespace.display()))?;
        let mut command = crate::netns::command_in(&namespace, &self.program);
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = nursery.run(move || command.spawn())?;
        let child = started.map_err(|error| tool::explain(self.program.as_os_str(), error));
        self.child = Some(child.with_context(|| format!("cannot start {}", self.program.display()))?);
        Ok(())
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    pub(super) fn terminate(&mut self) -> anyhow::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        if let Some(child) = &self.child {
            let id = i32::try_from(child.id()).context("no process id")?;
            kill(Pid::from_raw(id), Signal::SIGTERM)?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub(super) fn end_within(&mut self, time: Duration) -> anyhow::Result<()> {
        let gone = wait::until(time, || match self.ended()? {
            None if self.child.is_some() => anyhow::bail!("it runs"),
            _ => Ok(()),
        });
        gone.map(drop).with_context(|| format!("{} does not end", self.name))
    }

    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The end of what it said.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default();
        format!("--- {} ({})\n{}\n", self.name, self.log.display(), tail.join("\n"))
    }
}
