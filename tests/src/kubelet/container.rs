//! Starts one container: from the Pod's words to a running process.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use nix::sys::signal::Signal;
use ring::digest::{SHA256, digest};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::command::Inside;
use super::downward::Facts;
use super::env::{self, Objects};
use super::images::{Image, Images};
use super::launch::{Bind, CONTAINER, ContainerSpec, ProcessSpec};
use super::launcher::{self, Started, Stdio3};
use super::log_file::Stream;
use super::output::{Input, Output};
use super::probing::Place;
use super::terminal::Terminal;
use super::{Kubelet, security};

/// Where an image's program is seen.
const PROGRAMS: &str = "/usr/local/bin";
const TERMINATION_LOG: &str = "/dev/termination-log";
/// How long output may come after the end of a container's process.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a container does not run.
pub(super) enum Refusal {
    /// No such image.
    Image(String),
    /// What it refers to is missing, or what it asks for is forbidden.
    Config(String),
    /// Its process could not be started.
    Start(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Start(error.to_string())
    }
}

/// Everything that the start of a container depends on.
pub(super) struct Request<'a> {
    pub(super) kubelet: &'a Arc<Kubelet>,
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) facts: &'a Facts,
    pub(super) volumes: &'a std::collections::BTreeMap<String, PathBuf>,
    pub(super) hostname: &'a str,
    /// The Pod's directory.
    pub(super) directory: &'a Path,
    pub(super) sandbox: i32,
    /// Number of this run, from 0.
    pub(super) run: i32,
    pub(super) log: PathBuf,
}

/// A container that runs.
pub(super) struct Running {
    pub(super) run: i32,
    pub(super) id: String,
    pub(super) output: Arc<Output>,
    pub(super) place: Place,
    pub(super) signals: mpsc::Sender<Signal>,
    /// The startup probe has succeeded.
    pub(super) started: watch::Sender<bool>,
    /// Tasks that end with it.
    pub(super) probes: JoinSet<()>,
    pub(super) stopping: bool,
}

/// Starts it. The receiver gets the exit code.
pub(super) async fn start(request: &Request<'_>) -> Result<(Running, oneshot::Receiver<i32>), Refusal> {
    let (name, options) = (&request.container.name, &request.kubelet.options);
    let wanted = request.container.image.clone().unwrap_or_default();
    let images = Images::read(options.images.as_deref(), &options.programs)
        .map_err(|error| Refusal::Image(error.to_string()))?;
    let unknown = || {
        Refusal::Image(format!(
            "failed to pull image {wanted:?}: not in the image table of this node"
        ))
    };
    let image = images.find(&wanted).ok_or_else(unknown)?;
    let spec = specification(request, image).await?;
    let directory = request.directory.join("containers").join(name);
    let file = directory.join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec).map_err(io::Error::from)?)?;

    let (mut terminal, mut input) = (None, None);
    let stdio = if request.container.tty == Some(true) {
        let (own, end) = Terminal::open()?;
        input = Some(Box::new(own.clone()) as Input);
        terminal = Some(own);
        on_terminal(end)?
    } else {
        let asked = request.container.stdin == Some(true);
        Stdio3 {
            stdin: if asked { Stdio::piped() } else { Stdio::null() },
            stdout: Stdio::piped(),
            stderr: Stdio::piped(),
        }
    };
    let arguments: [OsString; 2] = [file.into_os_string(), request.sandbox.to_string().into()];
    let started = launcher::start(CONTAINER, &arguments, stdio).await;
    let Started { mut child, inside } = started.map_err(|error| Refusal::Start(error.to_string()))?;
    if let Some(stdin) = child.stdin.take() {
        input = Some(Box::new(stdin));
    }
    let output = Arc::new(Output::create(&request.log, input, terminal.clone())?);
    let (signals, mut asked) = mpsc::channel(8);
    let (tell, exit) = oneshot::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let writer = Arc::clone(&output);
    tokio::spawn(async move {
        let mut pumps = JoinSet::new();
        if let Some(terminal) = terminal {
            let to = Arc::clone(&writer);
            pumps.spawn(async move { to.pump(Stream::Stdout, terminal).await });
        }
        if let Some(stdout) = stdout {
            let to = Arc::clone(&writer);
            pumps.spawn(async move { to.pump(Stream::Stdout, stdout).await });
        }
        if let Some(stderr) = stderr {
            let to = Arc::clone(&writer);
            pumps.spawn(async move { to.pump(Stream::Stderr, stderr).await });
        }
        let code = loop {
            tokio::select! {
                status = child.wait() => break status.ok().and_then(|status| status.code()).unwrap_or(137),
                Some(signal) = asked.recv() => launcher::signal(&child, signal),
            }
        };
        let all = async { while pumps.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            eprintln!("a container has ended, but something still holds its output");
        }
        writer.end();
        if tell.send(code).is_err() {
            eprintln!("a container has ended after its Pod");
        }
    });
    let inside = Arc::new(Inside {
        pid: inside,
        process: ProcessSpec {
            terminal: false,
            ..spec.process
        },
        directory,
    });
    let running = Running {
        run: request.run,
        id: id(&request.pod.uid().unwrap_or_default(), name, request.run),
        place: Place {
            inside,
            address: request
                .facts
                .pod_ips
                .first()
                .copied()
                .unwrap_or(IpAddr::from([127, 0, 0, 1])),
            container: request.container.clone(),
        },
        output,
        signals,
        started: watch::Sender::new(false),
        probes: JoinSet::new(),
        stopping: false,
    };
    Ok((running, exit))
}

/// The three standard streams on one terminal.
pub(super) fn on_terminal(end: OwnedFd) -> io::Result<Stdio3> {
    Ok(Stdio3 {
        stdin: launcher::duplicate(&end)?.into(),
        stdout: launcher::duplicate(&end)?.into(),
        stderr: end.into(),
    })
}

/// As container engines name what they run.
pub(super) fn id(uid: &str, name: &str, run: i32) -> String {
    let hash = digest(&SHA256, format!("{uid}/{name}/{run}").as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("kubelb://{hex}")
}

async fn specification(request: &Request<'_>, image: &Image) -> Result<ContainerSpec, Refusal> {
    let (pod, container) = (request.pod, request.container);
    let spec = pod.spec.clone().unwrap_or_default();
    let objects = objects(request)
        .await
        .map_err(|error| Refusal::Config(error.to_string()))?;
    let mut env =
        env::environment(pod, container, image, request.hostname, request.facts, &objects).map_err(Refusal::Config)?;
    let identity = security::identity(&spec, container, image.user).map_err(Refusal::Config)?;
    let mut argv = env::command(container, image, &env);
    let mut binds = mounts(request, &env)?;
    let taken = |binds: &[Bind], target: &str| binds.iter().any(|bind| bind.target == Path::new(target));
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !taken(&binds, &target) {
            binds.push(Bind::new(request.directory.join("etc").join(name), target));
        }
    }
    let termination = termination_log(request.directory, &container.name);
    if let Some(parent) = termination.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&termination, "")?;
    fs::set_permissions(&termination, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let path = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty());
    binds.push(Bind::new(termination, path.unwrap_or(TERMINATION_LOG)));
    binds.extend(
        image
            .files
            .iter()
            .map(|(target, source)| Bind::new(source, target).read_only()),
    );
    if let Some(program) = image.command.first().filter(|program| program.contains('/')) {
        let name = Path::new(program).file_name().unwrap_or_default();
        let target = Path::new(PROGRAMS).join(name);
        if container.command.as_ref().is_none_or(Vec::is_empty)
            && let Some(first) = argv.first_mut()
        {
            *first = target.display().to_string();
        }
        binds.push(Bind::new(program, target).read_only());
    }
    let directory = container
        .working_dir
        .clone()
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| image.working_dir.clone());
    env.sort();
    Ok(ContainerSpec {
        scratch: request.directory.join("run").join(&container.name),
        binds,
        read_only_root: identity.read_only_root,
        privileged: identity.privileged,
        host_pid: spec.host_pid == Some(true),
        process: ProcessSpec {
            argv,
            env,
            directory: if directory.is_empty() {
                "/".to_owned()
            } else {
                directory
            },
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups,
            capabilities: identity.capabilities,
            no_new_privileges: identity.no_new_privileges,
            terminal: container.tty == Some(true),
        },
    })
}

/// Where a container leaves its last message.
pub(super) fn termination_log(directory: &Path, container: &str) -> PathBuf {
    directory.join("containers").join(container).join("termination-log")
}

fn mounts(request: &Request<'_>, env: &[(String, String)]) -> Result<Vec<Bind>, Refusal> {
    let known = env.iter().cloned().collect();
    let volumes = request
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.clone())
        .unwrap_or_default();
    let mut binds = Vec::new();
    for mount in request.container.volume_mounts.iter().flatten() {
        let missing = || Refusal::Config(format!("volume {:?} not found", mount.name));
        let mut source = request.volumes.get(&mount.name).ok_or_else(missing)?.clone();
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(missing)?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(env::expand(expression, &known)),
            _ => None,
        };
        let of_objects = volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some();
        if let Some(path) = sub_path {
            source = source.join(super::volumes::relative(&path).map_err(Refusal::Config)?);
            if !source.exists() && !of_objects {
                fs::create_dir_all(&source)?;
            }
        }
        let target = Path::new("/").join(&mount.mount_path);
        let bind = Bind::new(source, target);
        binds.push(if of_objects || mount.read_only == Some(true) {
            bind.read_only()
        } else {
            bind
        });
    }
    Ok(binds)
}

async fn objects(request: &Request<'_>) -> kube::Result<Objects> {
    let client = &request.kubelet.client;
    let namespace = request.pod.namespace().unwrap_or_default();
    let (config_maps, secrets) = env::references(request.container);
    let mut objects = Objects::default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    for name in config_maps {
        let found = api.get_opt(&name).await?;
        objects.config_maps.insert(name, found);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    for name in secrets {
        let found = api.get_opt(&name).await?;
        objects.secrets.insert(name, found);
    }
    let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
    objects.services = api.list(&ListParams::default()).await?.items;
    objects.kubernetes = Api::<Service>::namespaced(client.clone(), "default")
        .get_opt("kubernetes")
        .await?;
    Ok(objects)
}
