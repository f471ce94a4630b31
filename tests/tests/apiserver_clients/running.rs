//! A server of one test, and clients of it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kubelb_tests::apiserver::{Config, StaticToken};
use kubelb_tests::control_plane::{ControlPlane, Host, Software};
use kubelb_tests::tool;
use kubelb_tests::tool::kubernetes::{helm, kubectl};
use tempfile::TempDir;

/// Of a user who may do nothing unless a test says so.
pub(crate) const NOBODY_TOKEN: &str = "nobodytoken";
pub(crate) const NOBODY: &str = "nobody";

pub(crate) struct Running {
    // Before the directory, which must outlive it.
    pub(crate) server: ControlPlane,
    directory: TempDir,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_as(Software::wanted(), |_| {})
    }

    /// The testbed's own server, whatever else there is.
    pub(crate) fn start_own(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_as(Software::Own, change)
    }

    fn start_as(software: Software, change: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = Config::new(&directory.path().join("server"));
        config.tokens.push(StaticToken {
            token: NOBODY_TOKEN.to_owned(),
            user: NOBODY.to_owned(),
            groups: Vec::new(),
        });
        change(&mut config);
        let mut server = ControlPlane::new(config, software);
        server.start(Host::Here).unwrap();
        Self { server, directory }
    }

    /// A directory for files of the test.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills the server with SIGKILL and starts it again on what it has kept.
    pub(crate) fn kill_and_start(&mut self) {
        self.server.kill().unwrap();
        self.server.start(Host::Here).unwrap();
    }

    pub(crate) async fn kube(&self) -> kube::Client {
        let kubeconfig = Kubeconfig::read_from(self.server.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        kube::Client::try_from(config.unwrap()).unwrap()
    }

    /// `kubectl` with the words of `line`, which must hold no quotes.
    pub(crate) fn kubectl(&self, line: &str) -> Command {
        let mut command = self.client(kubectl().unwrap());
        command.args(line.split_whitespace());
        command
    }

    pub(crate) fn helm(&self, line: &str) -> Command {
        let mut command = self.client(helm().unwrap());
        command
            .env("HELM_CACHE_HOME", self.directory().join("helm-cache"))
            .env("HELM_CONFIG_HOME", self.directory().join("helm-config"))
            .env("HELM_DATA_HOME", self.directory().join("helm-data"))
            .args(line.split_whitespace());
        command
    }

    fn client(&self, program: &Path) -> Command {
        // Bound to this thread, so that a client that waits does not outlive the test.
        let mut command = tool::bound(program);
        command
            .env("KUBECONFIG", self.server.kubeconfig())
            .env("HOME", self.directory())
            .current_dir(self.directory());
        command
    }

    /// What kubectl prints when it succeeds without a warning.
    #[track_caller]
    pub(crate) fn says(&self, line: &str) -> String {
        says(&mut self.kubectl(line), "")
    }

    /// The same, with `input` on its standard input.
    #[track_caller]
    pub(crate) fn says_of(&self, line: &str, input: &str) -> String {
        says(&mut self.kubectl(line), input)
    }

    /// What kubectl complains of when it fails.
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str, input: &str) -> String {
        refuses(&mut self.kubectl(line), input)
    }

    /// A field, by JSONPath without the braces.
    #[track_caller]
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.says(&format!("get {object} -o jsonpath={{{path}}}"))
    }

    /// Writes a file into the test's directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// What `command` prints when it succeeds without a warning.
#[track_caller]
pub(crate) fn says(command: &mut Command, input: &str) -> String {
    let line = tool::show(command);
    let output = finish(start(command, input));
    let (text, errors) = texts(&output);
    assert!(output.status.success(), "{line}: {text}{errors}");
    assert!(!errors.contains("arning"), "{line}: {errors}");
    text
}

/// What `command` complains of when it fails.
#[track_caller]
pub(crate) fn refuses(command: &mut Command, input: &str) -> String {
    let line = tool::show(command);
    let output = finish(start(command, input));
    let (text, errors) = texts(&output);
    assert!(!output.status.success(), "{line}: {text}{errors}");
    text + &errors
}

pub(crate) fn start(command: &mut Command, input: &str) -> Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A client that fails early does not read it.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child
}

pub(crate) fn finish(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
