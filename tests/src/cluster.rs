//! A simulated cluster on a [`Lan`]: an API server, controllers, and nodes with kubelet and service proxy, each a process
//! of its own in the network namespace of the machine that it would run on.
//!
//! With `KUBEBUILDER_ASSETS` naming a directory with `kube-apiserver` and `etcd`, those are the API server. Pods have
//! 10.(100+N).(node).0/24 and fd00:(100+N in hex):(node)::/64 where N is the cluster's number; Services have
//! 10.96.0.0/16, in every cluster the same.

mod connector;
mod part;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::apiserver::Config;
use crate::control_plane::ControlPlane;
use crate::lan::{self, Host, Lan};
use crate::netns::{self, Namespace};
use crate::scratch::Scratch;
use crate::tool;

use part::{Nursery, Part};

/// How long a cluster may take to come up on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(20);
/// How long a kubelet may take to end its pods.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Name of the API server among the parts, and its port.
const SERVER: &str = "apiserver";
const PORT: u16 = 6443;
/// Further names in its certificate.
const NAMES: [&str; 4] = [
    "10.96.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];
/// Addresses of Services.
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/108"];
/// The cluster's DNS, on every node.
const DNS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa)),
];

/// What can differ between clusters.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Begins the names of the cluster's nodes.
    pub name: String,
    /// Tells the pod networks of the clusters of one [`Lan`] apart; 0 to 99.
    pub number: u8,
    /// Nodes, 1 to 100.
    pub nodes: u8,
    /// Images beside those that the kubelet has built in: name to command.
    pub images: BTreeMap<String, Vec<String>>,
    /// Whether there are controllers and kubelets. Without, Nodes, pods and endpoints are the test's own to make.
    pub workloads: bool,
    /// Further arguments of each kubelet.
    pub kubelet_arguments: Vec<String>,
    /// Further arguments of the controllers.
    pub controllers_arguments: Vec<String>,
}

impl Plan {
    /// Two nodes.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            number: 0,
            nodes: 2,
            images: BTreeMap::new(),
            workloads: true,
            kubelet_arguments: Vec::new(),
            controllers_arguments: Vec::new(),
        }
    }
}

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Of its Node object.
    pub name: String,
    /// The machine.
    pub host: Host,
    /// Of its pods, IPv4 and IPv6.
    pub pod_cidrs: [String; 2],
}

/// A running cluster. Dropping it ends everything in it.
pub struct Cluster {
    name: String,
    parts: BTreeMap<String, Part>,
    server: Option<ControlPlane>,
    nursery: Nursery,
    kubeconfig: PathBuf,
    client: Client,
    // The hosts go after the processes in them, their directory last.
    nodes: Vec<Node>,
    control_plane: Host,
    scratch: Scratch,
}

impl Cluster {
    /// Starts a cluster; all nodes are ready when this returns.
    ///
    /// # Errors
    /// When a part does not come up; what the parts said is in the message.
    pub async fn start(lan: &Lan, plan: &Plan) -> anyhow::Result<Self> {
        ensure!(
            (1..=100).contains(&plan.nodes) && plan.number < 100,
            "the plan has no such network"
        );
        let scratch = Scratch::new()?;
        let control_plane = lan.host(&format!("{}-control-plane", plan.name))?;
        let nodes = (1..=plan.nodes)
            .map(|number| Node::new(lan, plan, number))
            .collect::<anyhow::Result<Vec<_>>>()?;
        connect(plan, &control_plane, &nodes)?;
        let nursery = Nursery::new()?;
        let server = nursery.launch(config(&control_plane, scratch.path())?, &control_plane.namespace)?;
        let kubeconfig = server.kubeconfig();
        let client = connector::client(&control_plane.namespace, &kubeconfig).await?;
        let mut cluster = Self {
            name: plan.name.clone(),
            parts: BTreeMap::new(),
            server: Some(server),
            nursery,
            kubeconfig,
            client,
            nodes,
            control_plane,
            scratch,
        };
        let up = tokio::time::timeout(UP_WITHIN, cluster.come_up(plan)).await;
        let result = up.unwrap_or_else(|_| bail!("cluster {} is not up within {UP_WITHIN:?}", plan.name));
        result.map_err(|error| anyhow::anyhow!("{error:#}\n{}", cluster.logs()))?;
        Ok(cluster)
    }

    async fn come_up(&mut self, plan: &Plan) -> anyhow::Result<()> {
        self.first_objects().await?;
        for index in 0..self.nodes.len() {
            self.add_service_proxy(index)?;
        }
        if !plan.workloads {
            return Ok(());
        }
        self.add_controllers(plan)?;
        let images = self.write_images(plan)?;
        for index in 0..self.nodes.len() {
            self.add_kubelet(index, plan, &images)?;
        }
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let mut again = tokio::time::interval(STEP);
        loop {
            again.tick().await;
            self.all_run()?;
            let ready = nodes.list(&ListParams::default()).await?;
            if ready.items.iter().filter(|node| is_ready(node)).count() >= self.nodes.len() {
                return Ok(());
            }
        }
    }

    /// What the installer of a cluster makes. The Service keeps its address from others; the nodes answer on it.
    async fn first_objects(&self) -> anyhow::Result<()> {
        let dns: Service = serde_json::from_value(json!({
            "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS[0], "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ]},
        }))?;
        create(Api::namespaced(self.client.clone(), "kube-system"), &dns).await
    }

    fn add_controllers(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let mut arguments = vec!["--kubeconfig".to_owned(), text(&self.kubeconfig)];
        arguments.extend(plan.controllers_arguments.iter().cloned());
        let namespace = &self.control_plane.namespace;
        let part = Part::new(
            "controllers",
            tool::built("controllers")?,
            arguments,
            namespace,
            self.scratch.path(),
        );
        self.add(part)
    }

    fn write_images(&self, plan: &Plan) -> anyhow::Result<PathBuf> {
        let images: BTreeMap<&String, _> = plan
            .images
            .iter()
            .map(|(name, command)| (name, json!({"command": command})))
            .collect();
        let path = self.scratch.path().join("images.yaml");
        // JSON is YAML.
        std::fs::write(&path, json!({"images": images}).to_string())?;
        Ok(path)
    }

    fn add_service_proxy(&mut self, index: usize) -> anyhow::Result<()> {
        let node = self.nodes.get(index).context("there is no such node")?;
        let mut arguments = self.node_arguments(node);
        arguments.extend(["--cluster-dns".to_owned(), joined(&DNS)]);
        let name = format!("service-proxy/{}", node.name);
        let program = tool::built("service-proxy")?;
        let part = Part::new(&name, program, arguments, &node.host.namespace, self.scratch.path());
        self.add(part)
    }

    fn add_kubelet(&mut self, index: usize, plan: &Plan, images: &Path) -> anyhow::Result<()> {
        let node = self.nodes.get(index).context("there is no such node")?;
        let data = self.scratch.path().join(format!("kubelet-{}", node.name));
        let mut arguments = self.node_arguments(node);
        for (flag, value) in [
            ("--address", joined(&node.host.addresses())),
            ("--pod-cidr", node.pod_cidrs.join(",")),
            ("--images", text(images)),
            ("--data", text(&data)),
            ("--cluster-dns", joined(&DNS)),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(plan.kubelet_arguments.iter().cloned());
        let name = format!("kubelet/{}", node.name);
        let part = Part::new(
            &name,
            tool::built("kubelet")?,
            arguments,
            &node.host.namespace,
            self.scratch.path(),
        );
        self.add(part)
    }

    fn node_arguments(&self, node: &Node) -> Vec<String> {
        ["--kubeconfig", &text(&self.kubeconfig), "--node", &node.name]
            .map(str::to_owned)
            .into()
    }

    fn add(&mut self, mut part: Part) -> anyhow::Result<()> {
        part.start(&self.nursery)?;
        self.parts.insert(part.name.clone(), part);
        Ok(())
    }

    fn all_run(&mut self) -> anyhow::Result<()> {
        for part in self.parts.values_mut() {
            if let Some(status) = part.ended()? {
                bail!("{} ended: {status}", part.name);
            }
        }
        Ok(())
    }

    /// A client for this process, as the cluster's administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig; its server is reached from the control plane's namespace and every host.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The machine of the API server.
    #[must_use]
    pub fn control_plane(&self) -> &Host {
        &self.control_plane
    }

    /// The nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Runs kubectl as the administrator, in the control plane's namespace, off the runtime's threads.
    ///
    /// # Errors
    /// When there is none that is new enough, or it can't be started.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.administer(tool::kubernetes::kubectl()?, arguments).await
    }

    /// Runs helm, likewise.
    ///
    /// # Errors
    /// See [`Self::kubectl`].
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.administer(tool::kubernetes::helm()?, arguments).await
    }

    async fn administer(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.control_plane.namespace.command(program);
        command.args(arguments);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.scratch.path());
        tokio::task::spawn_blocking(move || tool::finish(&mut command)).await?
    }

    /// Names of all parts: `apiserver`, `controllers`, `kubelet/NODE`, `service-proxy/NODE`.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(SERVER).chain(self.parts.keys().map(String::as_str))
    }

    /// Kills a part with SIGKILL.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn kill(&mut self, part: &str) -> anyhow::Result<()> {
        match &mut self.server {
            Some(server) if part == SERVER => server.kill(),
            _ => self.part(part)?.kill(),
        }
    }

    /// Ends a part with SIGTERM, and waits for it.
    ///
    /// # Errors
    /// When there is no such part, or it doesn't end within some seconds.
    pub fn stop(&mut self, part: &str) -> anyhow::Result<()> {
        match &mut self.server {
            Some(server) if part == SERVER => server.stop(),
            _ => {
                let part = self.part(part)?;
                part.terminate()?;
                part.end_within(END_WITHIN)
            }
        }
    }

    /// Starts a part again that was stopped or killed.
    ///
    /// # Errors
    /// When there is no such part, or it can't be started.
    pub fn start_again(&mut self, part: &str) -> anyhow::Result<()> {
        if part == SERVER {
            let server = self.server.take().context("the API server was lost")?;
            let started = self.nursery.start_again(server, &self.control_plane.namespace);
            self.server = Some(started?);
            return Ok(());
        }
        let part = self.parts.get_mut(part).with_context(|| format!("no part {part}"))?;
        part.start(&self.nursery)
    }

    /// Takes a node's power away: its network, its processes and its Pods are gone at once, and nobody is told. Its Node object
    /// stays; the machine does not come back.
    ///
    /// # Errors
    /// When there is no such node, or the kernel refuses.
    pub fn power_off(&mut self, node: &str) -> anyhow::Result<()> {
        let index = self.nodes.iter().position(|one| one.name == node);
        let node = self.nodes.remove(index.with_context(|| format!("no node {node}"))?);
        // First, so that no dying process says goodbye.
        node.host.namespace.ip(&["link", "delete", lan::INTERFACE])?;
        for part in [format!("kubelet/{}", node.name), format!("service-proxy/{}", node.name)] {
            if let Some(mut part) = self.parts.remove(&part) {
                part.kill()?;
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &str) -> anyhow::Result<&mut Part> {
        self.parts.get_mut(part).with_context(|| format!("no part {part}"))
    }

    /// The ends of what all parts said.
    #[must_use]
    pub fn logs(&self) -> String {
        self.parts.values().map(Part::log).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("cluster {}:\n{}", self.name, self.logs());
        }
        // Kubelets take their pods' namespaces away when they are asked to end.
        for part in self.parts.values_mut().filter(|part| part.name.starts_with("kubelet/")) {
            drop(part.terminate());
        }
        let kubelets = self.parts.values_mut().filter(|part| part.name.starts_with("kubelet/"));
        for part in kubelets {
            if let Err(error) = part.end_within(END_WITHIN) {
                eprintln!("warning: {error:#}");
            }
        }
        for part in self.parts.values_mut() {
            drop(part.kill());
        }
        if let Err(error) = netns::reap() {
            eprintln!("warning: leftovers of cluster {} stay: {error:#}", self.name);
        }
    }
}

impl Node {
    fn new(lan: &Lan, plan: &Plan, number: u8) -> anyhow::Result<Self> {
        let host = lan.host(&format!("{}-node{number}", plan.name))?;
        let net = 100 + u16::from(plan.number);
        Ok(Self {
            name: format!("{}-node{number}", plan.name),
            host,
            pod_cidrs: [
                format!("10.{net}.{number}.0/24"),
                format!("fd00:{net:x}:{number:x}::/64"),
            ],
        })
    }
}

/// Routes between the machines' pods, and the node's address as the source of what pods send to the world: what a network
/// plugin does.
fn connect(plan: &Plan, control_plane: &Host, nodes: &[Node]) -> anyhow::Result<()> {
    let machines = nodes.iter().map(|node| &node.host).chain([control_plane]);
    for machine in machines {
        let others = nodes.iter().filter(|node| node.host.v4 != machine.v4);
        let routes: String = others
            .map(|node| {
                let [v4, v6] = &node.pod_cidrs;
                format!(
                    "route add {v4} via {}\n-6 route add {v6} via {}\n",
                    node.host.v4, node.host.v6
                )
            })
            .collect();
        lan::batch(&machine.namespace, &routes)?;
    }
    let net = 100 + u16::from(plan.number);
    let inside = |family: fn(&Host) -> IpAddr| {
        let hosts = nodes.iter().map(|node| &node.host).chain([control_plane]);
        hosts
            .map(|host| family(host).to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (v4, v6) = (inside(|host| host.v4.into()), inside(|host| host.v6.into()));
    for node in nodes {
        let chain = format!(
            "table inet kubelb-pods {{\nchain leaving {{\ntype nat hook postrouting priority 101;\n\
             ip saddr 10.{net}.0.0/16 ip daddr != 10.{net}.0.0/16 ip daddr != {{ {v4} }} oif {eth} masquerade\n\
             ip6 saddr fd00:{net:x}::/32 ip6 daddr != fd00:{net:x}::/32 ip6 daddr != {{ {v6} }} oif {eth} masquerade\n}}\n}}\n",
            eth = lan::INTERFACE
        );
        tool::output(node.host.namespace.command("nft").arg(chain))?;
    }
    Ok(())
}

async fn create<K>(api: Api<K>, object: &K) -> anyhow::Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The API server on all addresses of its host.
fn config(host: &Host, directory: &Path) -> anyhow::Result<Config> {
    let mut config = Config::new(&directory.join(SERVER));
    config.listen = (host.v4, PORT).into();
    config.names = NAMES.map(str::to_owned).into();
    config.service_ranges = SERVICES.map(str::parse).into_iter().collect::<Result<_, _>>()?;
    Ok(config)
}

/// What a person types in front of kubectl's arguments, to have it run in `namespace`.
#[must_use]
pub fn kubectl_line(namespace: &Namespace, kubeconfig: &Path) -> String {
    format!(
        "nsenter --net={} env KUBECONFIG={} kubectl",
        namespace.path().display(),
        kubeconfig.display()
    )
}
