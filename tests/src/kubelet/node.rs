//! The Node object and its Lease.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::network::Cidr;
use super::{Options, clock};

const LEASES: &str = "kube-node-lease";
const VERSION: &str = "v1.36.0-kubelb.test";
const PODS: u32 = 110;
/// Pause after a failed attempt to register.
const AGAIN: Duration = Duration::from_millis(500);
/// Heartbeats between two writes of the whole status.
const STATUS_EVERY: u32 = 30;

/// What the machine has, as a Node says it.
pub(super) fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()
            .map(str::to_owned)
    });
    let quantity = |name: &str, value: String| (name.to_owned(), Quantity(value));
    [
        quantity("cpu", cpus.to_string()),
        quantity("memory", format!("{}Ki", total.unwrap_or_else(|| "0".to_owned()))),
        quantity("ephemeral-storage", "10Gi".to_owned()),
        quantity("pods", PODS.to_string()),
    ]
    .into()
}

/// The Node as it is created. Pure.
fn object(options: &Options) -> Value {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), options.node.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
    ]);
    labels.extend(options.labels.clone());
    let cidrs: Vec<String> = options.pod_cidrs.iter().map(Cidr::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": options.node, "labels": labels},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The status of a node that is well. Pure but for facts of the machine.
fn status(options: &Options, port: u16, old: Option<&Node>, now: Timestamp) -> Value {
    let addresses: Vec<Value> = options
        .addresses
        .iter()
        .map(|address: &IpAddr| json!({"type": "InternalIP", "address": address.to_string()}))
        .chain([json!({"type": "Hostname", "address": options.node})])
        // The API merges this list by type, and would keep one address only of the two that are of one type.
        .chain([json!({"$patch": "replace"})])
        .collect();
    let old: Vec<_> = old
        .and_then(|node| node.status.as_ref()?.conditions.clone())
        .unwrap_or_default();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let before = old
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == status);
        let since = before
            .and_then(|before| before.last_transition_time.as_ref())
            .map_or(now, |time| time.0);
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": format!("{now:.0}"), "lastTransitionTime": format!("{since:.0}")})
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({"status": {
        "addresses": addresses,
        "capacity": capacity(),
        "allocatable": capacity(),
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "kernelVersion": kernel.trim(),
            "osImage": "kubelb test node", "containerRuntimeVersion": "kubelb://0.1", "kubeletVersion": VERSION,
            "kubeProxyVersion": "", "machineID": options.node, "systemUUID": options.node, "bootID": options.node,
        },
    }})
}

/// Creates the Node where it is missing and writes its status, until that has worked.
pub(super) async fn register(client: &Client, options: &Options, port: u16) {
    while let Err(error) = try_register(client, options, port).await {
        eprintln!("cannot register the node, trying again: {error}");
        clock::pause(AGAIN).await;
    }
}

async fn try_register(client: &Client, options: &Options, port: u16) -> kube::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let object = object(options);
    if api.get_opt(&options.node).await?.is_none() {
        let node: Node = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &node).await?;
    } else {
        api.patch(&options.node, &PatchParams::default(), &Patch::Merge(object))
            .await?;
    }
    write_status(&api, options, port).await?;
    renew(client, options).await
}

async fn write_status(api: &Api<Node>, options: &Options, port: u16) -> kube::Result<()> {
    let old = api.get_opt(&options.node).await?;
    let status = status(options, port, old.as_ref(), clock::now());
    api.patch_status(&options.node, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .map(drop)
}

/// Renews the Lease again and again, and now and then the status.
pub(super) async fn heartbeat(client: Client, options: Options, port: u16) {
    let api: Api<Node> = Api::all(client.clone());
    let mut beat = 0_u32;
    loop {
        clock::pause(options.lease_interval).await;
        beat = beat.wrapping_add(1);
        let mut result = renew(&client, &options).await;
        // Somebody may have deleted the Node, or judged it by a Lease that was late.
        if result.is_ok() && beat.is_multiple_of(STATUS_EVERY) || result.is_err() {
            result = write_status(&api, &options, port).await;
        }
        if let Err(error) = result {
            eprintln!("heartbeat: {error}");
        }
        match api.get_opt(&options.node).await {
            Ok(Some(node)) if !is_ready(&node) => {
                if let Err(error) = write_status(&api, &options, port).await {
                    eprintln!("node status: {error}");
                }
            }
            Ok(None) => register(&client, &options, port).await,
            _ => {}
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn renew(client: &Client, options: &Options) -> kube::Result<()> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let now = MicroTime(clock::now());
    let seconds = options.lease_interval.as_secs().saturating_mul(4).max(1);
    let spec = json!({"holderIdentity": options.node, "leaseDurationSeconds": seconds, "renewTime": now});
    let patch = Patch::Merge(json!({"spec": spec}));
    match api.patch(&options.node, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let lease = json!({"metadata": {"name": options.node, "namespace": LEASES}, "spec": spec});
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
