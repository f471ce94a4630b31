//! What the kubelet tells the processes that it starts of its own program: plain data, written to a file, read by
//! [`super::init`]. Knows no Kubernetes types.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// First argument of the program that holds a Pod's namespaces.
pub(super) const SANDBOX: &str = "sandbox-init";
/// First argument of the program that becomes a container.
pub(super) const CONTAINER: &str = "container-init";
/// First argument of the program that runs a command beside a container's.
pub(super) const EXEC: &str = "container-exec";
/// Where a started process finds the pipe on which it reports; the end of the pipe means that it runs.
pub(super) const REPORT_FD: i32 = 3;

/// What all containers of a Pod share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SandboxSpec {
    pub(super) hostname: String,
    /// `None`: the node's own network.
    pub(super) network: Option<NetworkSpec>,
    /// Keys below `/proc/sys` of the Pod's network namespace, and their values.
    pub(super) sysctls: Vec<(String, String)>,
    /// Directory on which the memory for what containers write is mounted.
    pub(super) run: PathBuf,
    /// Directories to be memory of their own, with a size limit in bytes.
    pub(super) memory: Vec<(PathBuf, Option<u64>)>,
}

/// Commands for `ip -batch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkSpec {
    pub(super) addresses: Vec<IpAddr>,
    /// For the Pod's namespace.
    pub(super) pod: String,
    /// For the node's.
    pub(super) node: String,
}

/// A container's process and what it sees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ContainerSpec {
    /// A directory in the Pod's memory, for what this container writes.
    pub(super) scratch: PathBuf,
    pub(super) binds: Vec<Bind>,
    pub(super) read_only_root: bool,
    pub(super) privileged: bool,
    /// The machine's processes are seen, and the process is one of them.
    pub(super) host_pid: bool,
    pub(super) process: ProcessSpec,
}

/// A program to be run and as whom.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ProcessSpec {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) directory: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Numbers as in capabilities(7).
    pub(super) capabilities: Vec<u8>,
    pub(super) no_new_privileges: bool,
    /// Standard input is a terminal, and becomes the controlling one.
    pub(super) terminal: bool,
}

/// Something of the machine's that is seen inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    /// Absolute, as seen inside.
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

impl Bind {
    pub(super) fn new(source: impl Into<PathBuf>, target: impl AsRef<Path>) -> Self {
        Self {
            source: source.into(),
            target: target.as_ref().to_owned(),
            read_only: false,
        }
    }

    pub(super) fn read_only(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }
}
