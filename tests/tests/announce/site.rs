//! A management cluster as it is run: an API server on a machine of its own, and two nodes on one LAN, each with an agent and a manager, all of
//! them processes. Managers choose who announces what.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::CustomResourceExt as _;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use kubelb_api::names::AddressName;
use kubelb_api::v1alpha1::{Addresses, Config, LoadBalancer, Tenant, VirtualAddressOwner};
use kubelb_tests::agent::{Agent, Setup};
use kubelb_tests::control_plane::{self, ControlPlane};
use kubelb_tests::lan::{Host, INTERFACE, Lan};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::traffic::client::{ask_here, http_get};
use kubelb_tests::traffic::{Kind, Server, Transport};
use kubelb_tests::{apiserver, manager, tool, wait};
use serde_json::{Value, json};

use crate::world::{NODE_PORT, SETTLED, addresses, answerers, mac, vips};

const API_PORT: u16 = 6_443;
const PORT: u16 = 18_000;
const ADMIN: &str = "127.0.0.1:9443";
pub(crate) const NAMESPACE: &str = "kubelb";
pub(crate) const TENANT: &str = "tenant-x";
const OBJECT: &str = "web";
/// For what is not measured, on a machine that does much else.
const LATER: Duration = Duration::from_secs(60);
/// For one answer: what is on its way to a node that is dead is lost.
const PATIENCE: Duration = Duration::from_millis(250);

/// The cluster and a client of its addresses.
pub(crate) struct Site {
    // Before the machines that they run on.
    managers: [Option<Manager>; 2],
    server: ControlPlane,
    _servers: [Server; 2],
    nodes: [Host; 2],
    client: Host,
    api: Host,
    scratch: Scratch,
    backend: Host,
    lan: Lan,
}

/// A manager that runs. Killed on drop.
struct Manager {
    child: Child,
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It may have ended by itself, which a test sees by other things.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const fn name(node: usize) -> &'static str {
    ["node-1", "node-2"][node]
}

impl Site {
    /// With the objects of one LoadBalancer, and neither managers nor agents.
    pub(crate) fn new() -> Self {
        let lan = Lan::new().unwrap();
        let nodes = [0, 1].map(|node| lan.host(name(node)).unwrap());
        let [client, backend, api] = ["client", "server", "api"].map(|role| lan.host(role).unwrap());
        for host in nodes.iter().chain([&client, &backend]) {
            host.finish_checksums().unwrap();
        }
        for node in &nodes {
            for setting in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
                node.namespace.sysctl(setting, "1").unwrap();
            }
        }
        let servers =
            [Kind::Tcp, Kind::Udp].map(|kind| Server::start(&backend.namespace, kind, "server", NODE_PORT).unwrap());
        let scratch = Scratch::new().unwrap();
        let config = apiserver::Config {
            listen: SocketAddr::new(api.v4.into(), API_PORT),
            ..apiserver::Config::new(&scratch.path().join("api"))
        };
        let server = ControlPlane::launch(config, control_plane::Host::Inside(&api.namespace)).unwrap();
        let site = Self {
            managers: [None, None],
            server,
            _servers: servers,
            nodes,
            client,
            api,
            scratch,
            backend,
            lan,
        };
        site.make_objects();
        site
    }

    /// Of the nodes.
    pub(crate) fn namespaces(&self) -> [Arc<Namespace>; 2] {
        [0, 1].map(|node| Arc::clone(&self.nodes[node].namespace))
    }

    /// Does something as an administrator, on the API server's machine.
    fn administer<T: Send>(&self, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        let kubeconfig = self.server.kubeconfig();
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
                work(Client::try_from(config.unwrap()).unwrap()).await
            })
        };
        self.api.namespace.run(run).unwrap()
    }

    fn make_objects(&self) {
        let [v4, v6] = vips();
        let servers: Vec<Value> = self.backend.addresses().iter().map(|ip| json!({"ip": ip})).collect();
        let both =
            |t: u16| json!([{"name": "t", "port": t, "protocol": "TCP"}, {"name": "u", "port": t, "protocol": "UDP"}]);
        let endpoints = json!([{"addressesReference": {"name": "default"}, "ports": both(NODE_PORT)}]);
        let objects = [
            (
                Config::api_resource(),
                NAMESPACE,
                "default",
                json!({"addressPools": [{"name": "lan", "ranges": [format!("{v4}/32"), format!("{v6}/128")]}]}),
            ),
            (Tenant::api_resource(), "", "x", json!({})),
            (
                Addresses::api_resource(),
                TENANT,
                "default",
                json!({"addresses": servers}),
            ),
            (
                LoadBalancer::api_resource(),
                TENANT,
                OBJECT,
                json!({
                    "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack",
                    "ports": both(crate::world::PORT), "endpoints": endpoints,
                }),
            ),
        ];
        self.administer(async |client: Client| {
            let parameters = PostParams::default();
            let definitions = Api::all(client.clone());
            for definition in kubelb_api::crds::all() {
                definitions.create(&parameters, &definition).await.unwrap();
            }
            for namespace in [NAMESPACE, TENANT] {
                let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
                let namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
                api.create(&parameters, &namespace).await.unwrap();
            }
        });
        for (resource, namespace, name, spec) in objects {
            self.create(&resource, namespace, name, &spec);
        }
    }

    /// Makes an object, as soon as its kind is served.
    pub(crate) fn create(&self, resource: &ApiResource, namespace: &str, name: &str, spec: &Value) {
        self.wait(|| {
            let object = object(resource, namespace, name, spec.clone());
            self.administer(async |client: Client| {
                let created = api(client, resource, namespace)
                    .create(&PostParams::default(), &object)
                    .await;
                if let Err(error) = &created {
                    let is_unknown = matches!(error, kube::Error::Api(status) if status.code == 404);
                    assert!(is_unknown, "{error}");
                }
                created.map(drop).map_err(anyhow::Error::from)
            })
        });
    }

    /// Changes a part of an object's spec.
    pub(crate) fn change(&self, resource: &ApiResource, namespace: &str, name: &str, spec: &Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.administer(async |client: Client| {
            let api = api(client, resource, namespace);
            api.patch(name, &PatchParams::default(), &patch).await.unwrap();
        });
    }

    /// Of an object of the tenant.
    pub(crate) fn condition(&self, resource: &ApiResource, name: &str, of: &str) -> anyhow::Result<Condition> {
        self.administer(async |client: Client| {
            let object = api(client, resource, TENANT).get(name).await?;
            let all = &object.data["status"]["conditions"];
            let all: Vec<Condition> = serde_json::from_value(all.clone()).context("no conditions")?;
            all.into_iter()
                .find(|one| one.type_ == of)
                .with_context(|| format!("{of} is not said yet"))
        })
    }

    /// A machine that is neither a node nor anything else yet.
    pub(crate) fn machine(&self, role: &str) -> Host {
        self.lan.host(role).unwrap()
    }

    /// Where the tenant's servers are.
    pub(crate) fn servers(&self) -> &Namespace {
        &self.backend.namespace
    }

    /// A node's address.
    pub(crate) fn address(&self, node: usize) -> Ipv4Addr {
        self.nodes[node].v4
    }

    fn manager_directory(&self, node: usize) -> PathBuf {
        self.scratch.path().join(format!("manager-{}", name(node)))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.scratch.path().join(format!("manager-{}.log", name(node)))
    }

    /// Starts the manager of a node, and waits until it serves.
    pub(crate) fn start_manager(&mut self, node: usize) {
        let host = &self.nodes[node];
        let log = File::options().create(true).append(true).open(self.log(node)).unwrap();
        let mut command = host.namespace.command(tool::built("kubelb-manager").unwrap());
        command
            .args([
                "run",
                "--source=kubernetes",
                "--admin-address",
                ADMIN,
                "--namespace",
                NAMESPACE,
            ])
            .arg(format!("--kubeconfig={}", self.server.kubeconfig().display()))
            .arg(format!("--state-dir={}", self.manager_directory(node).display()))
            .arg(format!("--listen-xds={}", SocketAddr::new(host.v4.into(), PORT)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().unwrap();
        self.managers[node] = Some(Manager { child });
        self.wait(|| {
            let (status, body) = http_get(&self.nodes[node].namespace, ADMIN.parse()?, "/readyz")?;
            ensure!(status == 200, "{body}");
            Ok(())
        });
    }

    /// Without a goodbye.
    pub(crate) fn kill_manager(&mut self, node: usize) {
        self.managers[node] = None;
    }

    /// Starts the agent of a node, which asks its own node's manager first.
    pub(crate) fn agent<'a>(&self, node: usize, namespace: &'a Namespace) -> Agent<'a> {
        let output = self.scratch.path().join(format!("agent-{}", name(node)));
        let printed = self.bootstrap(
            &["--agent", name(node), "--output", text(&output)],
            &[node, 1 - node].map(|node| self.address(node)),
        );
        let mut setup = Setup::new(&[INTERFACE], "tcx");
        setup.managers = printed.split_whitespace().map(str::to_owned).collect();
        Agent::start(namespace, setup, "").unwrap()
    }

    /// What `kubelb-manager bootstrap` prints for a peer of these managers.
    pub(crate) fn bootstrap(&self, peer: &[&str], managers: &[Ipv4Addr]) -> String {
        // Any manager's copy of the authority will do.
        let state = [0, 1]
            .map(|node| self.manager_directory(node))
            .into_iter()
            .find(|directory| directory.join("xds-ca.pem").exists())
            .unwrap();
        let managers = managers.iter().map(|at| format!("{at}:{PORT}"));
        manager::bootstrap_for(peer, managers, &state).unwrap()
    }

    /// The node as if its power were cut: nobody hears from it again.
    pub(crate) fn cut_off(&mut self, node: usize, agent: &mut Agent<'_>) -> Instant {
        let cut = wait::now();
        self.lan.cut_off(&self.nodes[node]).unwrap();
        agent.kill().unwrap();
        self.kill_manager(node);
        cut
    }

    /// Waits until both addresses answer over TCP and UDP, again and again; when they did first.
    pub(crate) fn until_served(&self) -> Instant {
        self.wait(|| {
            let ask = || {
                for to in addresses() {
                    for transport in [Transport::Tcp, Transport::Udp] {
                        ask_here(transport, to, "hello", PATIENCE)?;
                    }
                }
                anyhow::Ok(wait::now())
            };
            self.client.namespace.run(ask)?
        })
    }

    /// Waits for something, and tells what managers said when it does not come.
    pub(crate) fn wait<T>(&self, look: impl FnMut() -> anyhow::Result<T>) -> T {
        match wait::until(LATER, look) {
            Ok((found, _)) => found,
            Err(error) => panic!("{error:#}\n{}", self.story()),
        }
    }

    fn story(&self) -> String {
        let mut story = String::new();
        for node in [0, 1] {
            let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            story += &format!("--- manager of {}\n{}\n", name(node), last.join("\n"));
        }
        story
    }

    /// How many answer for each address.
    fn answerers(&self) -> [BTreeSet<[u8; 6]>; 2] {
        vips().map(|vip| answerers(&self.client, &[&self.nodes[0], &self.nodes[1]], vip))
    }

    /// Waits as long as anything may take to settle: by then, one node answers for each address. Which.
    pub(crate) fn one_answers_when_settled(&self) -> [usize; 2] {
        wait::pause(SETTLED);
        self.answerers().map(|found| {
            assert_eq!(found.len(), 1, "{found:02x?} answer\n{}", self.story());
            usize::from(found.contains(&mac(&self.nodes[1])))
        })
    }

    /// Waits until this node alone answers for both.
    pub(crate) fn until_answered_by(&self, node: usize) {
        self.wait(|| {
            let found = self.answerers();
            let expected = BTreeSet::from([mac(&self.nodes[node])]);
            ensure!(
                found.iter().all(|one| *one == expected),
                "{found:02x?}, not {expected:02x?}"
            );
            Ok(())
        });
    }

    /// Who announces the addresses, and with what epoch, by the objects.
    pub(crate) fn owners(&self) -> anyhow::Result<[(String, i64); 2]> {
        let found = self.administer(async |client: Client| {
            let api: Api<VirtualAddressOwner> = Api::all(client);
            let mut found = Vec::new();
            for vip in vips() {
                let owner = api.get_opt(&AddressName::new(vip).to_string()).await?;
                let owner = owner.with_context(|| format!("{vip} has no owner"))?;
                found.push((owner.spec.node, owner.spec.epoch));
            }
            anyhow::Ok(found)
        })?;
        found.try_into().ok().context("two")
    }

    /// Waits until this node announces both.
    pub(crate) fn until_owned_by(&self, node: usize) -> [(String, i64); 2] {
        self.wait(|| {
            let owners = self.owners()?;
            ensure!(owners.iter().all(|(owner, _)| owner == name(node)), "{owners:?}");
            Ok(owners)
        })
    }

    /// Status and message of the condition Programmed.
    pub(crate) fn programmed(&self) -> anyhow::Result<String> {
        let condition = self.condition(&LoadBalancer::api_resource(), OBJECT, "Programmed")?;
        Ok(format!("{}: {}", condition.status, condition.message))
    }

    /// Waits until the condition Programmed is so.
    pub(crate) fn until_programmed(&self, wanted: &str) {
        self.wait(|| {
            let said = self.programmed()?;
            ensure!(said == wanted, "{said:?}, not {wanted:?}");
            Ok(())
        });
    }

    /// A figure of a node's manager.
    pub(crate) fn figure(&self, node: usize, metric: &str) -> anyhow::Result<u64> {
        let (_, text) = http_get(&self.nodes[node].namespace, ADMIN.parse()?, "/metrics")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {metric}"))?.parse()?)
    }

    /// Waits until the manager of a node leads, and, where the other one runs, is told of its peers.
    pub(crate) fn until_led_by(&self, node: usize, relays: u64) {
        self.wait(|| {
            let found = ["leads", "relay_streams"].map(|figure| self.figure(node, &format!("kubelb_manager_{figure}")));
            let [leads, streams] = found;
            let found = (leads?, streams?);
            ensure!(found == (1, relays), "{found:?}");
            Ok(())
        });
    }
}

fn api(client: Client, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    if namespace.is_empty() {
        Api::all_with(client, resource)
    } else {
        Api::namespaced_with(client, namespace, resource)
    }
}

fn object(resource: &ApiResource, namespace: &str, name: &str, spec: Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, resource).data(json!({"spec": spec}));
    object.metadata.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    object
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
