//! The manager under test: this program started again, in a namespace, with a directory of manifests.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::traffic::http_get;
use kubelb_tests::wait;

use crate::scenario::Scenario;

/// Where it serves, in the namespace's loopback.
pub(crate) const XDS: &str = "127.0.0.1:18000";
const ADMIN: &str = "127.0.0.1:19000";
/// Lines of a process's log that are shown.
const SHOWN: usize = 100_000;
const START_WITHIN: Duration = Duration::from_secs(300);

/// Manifests and a state directory.
pub(crate) struct Directories {
    scratch: Scratch,
}

impl Directories {
    /// Writes the manifests of `scenario`.
    pub(crate) fn write(scenario: &Scenario) -> anyhow::Result<Self> {
        let directories = Self {
            scratch: Scratch::new()?,
        };
        std::fs::create_dir(directories.manifests())?;
        for tenant in 0..scenario.tenants() {
            directories.put(tenant, &scenario.manifest(tenant, None))?;
        }
        Ok(directories)
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.scratch.path().join("manifests")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Replaces a tenant's manifest in one step; when it was there.
    pub(crate) fn put(&self, tenant: u32, text: &str) -> anyhow::Result<Instant> {
        let next = self.scratch.path().join("next");
        std::fs::write(&next, text).context("cannot write a manifest")?;
        let at = wait::now();
        std::fs::rename(&next, self.manifests().join(format!("t{tenant}.yaml")))?;
        Ok(at)
    }
}

/// Killed on drop.
pub(crate) struct Manager<'a> {
    child: Child,
    namespace: &'a Namespace,
    /// From its start until it was ready.
    pub(crate) ready_after: Duration,
}

impl<'a> Manager<'a> {
    /// Starts it; it serves all there is when this returns.
    pub(crate) fn start(namespace: &'a Namespace, directories: &Directories) -> anyhow::Result<Self> {
        Self::launch(
            namespace,
            &[
                format!("--source=file://{}", directories.manifests().display()),
                format!("--state-dir={}", directories.state().display()),
            ],
            "warn",
        )
    }

    /// The same with other sources. `log` is what it logs, to standard error.
    pub(crate) fn launch(namespace: &'a Namespace, flags: &[String], log: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let started = wait::now();
        let mut child = namespace
            .command(program)
            .args(["manager", "run", "--listen-xds", XDS, "--admin-address", ADMIN])
            .args(flags)
            .env("RUST_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the manager")?;
        let stderr = child.stderr.take().context("its standard error is a pipe")?;
        tell_lines("manager", stderr);
        let mut manager = Self {
            child,
            namespace,
            ready_after: Duration::ZERO,
        };
        wait::until(START_WITHIN, || {
            let (code, body) = manager.ask("/readyz")?;
            ensure!(code == 200, "the manager is not ready: {body}");
            Ok(())
        })?;
        manager.ready_after = wait::now().duration_since(started);
        Ok(manager)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let admin: SocketAddr = ADMIN.parse()?;
        http_get(self.namespace, admin, path)
    }

    /// The sum of a metric over those of its labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let (code, body) = self.ask("/metrics")?;
        ensure!(code == 200, "/metrics says {code}");
        let values = body.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then_some(())?;
            labels.contains(label).then(|| value.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Shows what a process logs, the first lines of it.
pub(crate) fn tell_lines(who: &'static str, stderr: ChildStderr) {
    std::thread::spawn(move || {
        for (number, line) in BufReader::new(stderr).lines().map_while(Result::ok).enumerate() {
            // The rest is read and not shown, so that the pipe never fills up.
            if number < SHOWN {
                eprintln!("{who}: {line}");
            }
        }
    });
}

/// What `kubelb-manager bootstrap` prints.
pub(crate) fn bootstrap(state: &Path, peer: [&str; 2]) -> anyhow::Result<String> {
    use clap::Parser as _;
    let flags = ["kubelb-manager", "bootstrap", peer[0], peer[1], "--xds"].map(str::to_owned);
    let rest = [
        format!("https://{XDS}"),
        "--state-dir".to_owned(),
        state.display().to_string(),
    ];
    let cli = kubelb_manager::args::Cli::try_parse_from(flags.into_iter().chain(rest))?;
    let kubelb_manager::args::Command::Bootstrap(args) = cli.command else {
        anyhow::bail!("the command is `bootstrap`");
    };
    let mut printed = Vec::new();
    kubelb_manager::bootstrap::run(&args, wall_clock(), &mut printed)?;
    Ok(String::from_utf8(printed)?)
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid from now")]
pub(crate) fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
