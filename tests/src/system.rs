//! The whole system as its users install it: a management cluster and clusters of tenants on one network, with the charts of this project and
//! images that stand for the built programs.
//!
//! Everything here panics where a test would: it is part of the tests that use it, and of the demonstration.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use crate::cluster::{Cluster, Node, Plan};
use crate::lan::{Host, Lan};
use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::traffic::client::http_get_here;
use crate::{agent, envoy, gateway_api, tool, wait};

/// What the image `many-backends` serves: answers tell the port, so that one Pod can stand for many Services.
const MANY_BACKENDS: [&str; 15] = [
    "http=8101",
    "http=8102",
    "http=8103",
    "http=8104",
    "http=8105",
    "http=8106",
    "http=8107",
    "http=8108",
    "http=8109",
    "http=8110",
    "http=8111",
    "grpc=9101",
    "grpc=9102",
    "grpc=9103",
    "grpc=9104",
];
/// How long anything may take.
pub const SOON: Duration = Duration::from_secs(60);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(100);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses that are given out; the network's hosts have none of them.
const POOLS: [&str; 2] = ["192.168.77.208/28", "fd77::1:0/112"];
/// Of all charts.
pub const NAMESPACE: &str = "kubelb";
/// The releases of the management cluster, then the one of the tenants'; each has its chart's name.
pub const MANAGER: &str = "kubelb-manager";
/// See [`MANAGER`].
pub const AGENT: &str = "kubelb-agent";
/// See [`MANAGER`].
pub const ENVOY: &str = "kubelb-envoy";
/// See [`MANAGER`].
pub const CCM: &str = "kubelb-ccm";

/// The clusters, and a machine outside of them. All ends when it is dropped.
pub struct World {
    // Pods end before what they have mounted goes.
    /// Of the managers and agents.
    pub management: Cluster,
    /// Of tenants, with their names.
    pub tenants: Vec<(String, Cluster)>,
    /// The machine outside.
    pub client: Host,
    scratch: Scratch,
    bpffs: PathBuf,
    _lan: Lan,
}

impl World {
    /// Clusters with nothing in them: one of `nodes` for management, and one for each tenant.
    pub async fn start(tenants: &[&str], nodes: u8) -> Self {
        let begin = wait::now();
        let lan = Lan::new().unwrap();
        let scratch = Scratch::new().unwrap();
        let bpffs = scratch.bpffs().unwrap();
        let management = Plan {
            nodes,
            images: images([
                (MANAGER, tool::built(MANAGER)),
                (AGENT, agent::binary()),
                ("envoy", envoy::program()),
            ]),
            ..Plan::new("mgmt")
        };
        let plans: Vec<Plan> = (1..)
            .zip(tenants)
            .map(|(number, name)| tenant_plan(number, name))
            .collect();
        let (management, tenants) = tokio::join!(
            Cluster::start(&lan, &management),
            futures_util::future::join_all(plans.iter().map(|plan| Cluster::start(&lan, plan)))
        );
        let tenants = plans.into_iter().zip(tenants);
        let world = Self {
            management: management.unwrap(),
            tenants: tenants.map(|(plan, cluster)| (plan.name, cluster.unwrap())).collect(),
            client: lan.host("client").unwrap(),
            scratch,
            bpffs,
            _lan: lan,
        };
        eprintln!("clusters are up after {:?}", wait::now() - begin);
        world
    }

    /// The cluster of the first tenant.
    #[must_use]
    pub fn tenant(&self) -> &Cluster {
        &self.tenants.first().unwrap().1
    }

    /// Everything, in the order of the documentation.
    pub async fn install(&self) {
        let begin = wait::now();
        self.install_management(&[], &[]).await;
        self.install_envoy(&[]).await;
        for (name, cluster) in &self.tenants {
            self.install_gateway_api(cluster).await;
            self.register(name, cluster).await;
            self.install_ccm(name, cluster).await;
        }
        self.rolled_out(self.charts().iter().map(|(cluster, chart, _)| (*cluster, *chart)))
            .await;
        eprintln!("installed after {:?}", wait::now() - begin);
    }

    /// Manager and agents, with further values of each.
    pub async fn install_management(&self, manager: &[&str], agent: &[&str]) {
        self.helm_installs(&self.management, MANAGER, manager).await;
        self.says(
            &self.management,
            &["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"],
        )
        .await;
        let pools = POOLS.join(", ");
        self.apply(
            &self.management,
            &format!(
                "apiVersion: kubelb.k8c.io/v1alpha1\nkind: Config\nmetadata: {{name: default, namespace: {NAMESPACE}}}\n\
                 spec: {{addressPools: [{{name: default, ranges: [{pools}]}}]}}\n"
            ),
        )
        .await;
        let bpffs = format!("hostPaths.bpffs={}", self.bpffs.display());
        let state = format!("hostPaths.state={}", self.scratch.path().join("agents").display());
        // All nodes of these clusters are one machine.
        let mut values = vec![
            "interfaces={eth0}",
            &bpffs,
            &state,
            "hostPaths.subPathExpr=$(NODE_NAME)",
        ];
        values.extend(agent);
        self.helm_installs(&self.management, AGENT, &values).await;
    }

    /// Envoys on the nodes of agents.
    pub async fn install_envoy(&self, values: &[&str]) {
        // Each worker costs a machine that is all nodes at once.
        let values = [&["concurrency=1"], values].concat();
        self.helm_installs(&self.management, ENVOY, &values).await;
    }

    /// The kinds of the Gateway API, as a tenant's administrator installs them.
    pub async fn install_gateway_api(&self, cluster: &Cluster) {
        let definitions = gateway_api::definitions();
        // With a line that is no JSON first, for else all of it would be taken for such.
        let texts = definitions
            .iter()
            .map(|one| format!("---\n{}\n", serde_json::to_string(one).unwrap()));
        self.apply(cluster, &texts.collect::<String>()).await;
    }

    /// The CCM of a tenant that is registered.
    pub async fn install_ccm(&self, name: &str, cluster: &Cluster) {
        let tenant = format!("kubelb.tenantName={name}");
        let values = [
            &tenant,
            "kubelb.nodeAddressType=InternalIP",
            "kubelb.enableGatewayAPI=true",
        ];
        self.helm_installs(cluster, CCM, &values).await;
    }

    /// Waits until all Pods of these charts are ready.
    pub async fn rolled_out(&self, charts: impl Iterator<Item = (&Cluster, &str)>) {
        for (cluster, chart) in charts {
            let kind = if matches!(chart, AGENT | ENVOY) {
                "daemonset"
            } else {
                "deployment"
            };
            let workload = format!("{kind}/{chart}");
            let rolled = ["-n", NAMESPACE, "rollout", "status", &workload, "--timeout=60s"];
            if let Err(error) = said(&rolled, cluster.kubectl(&rolled).await) {
                panic!("{error:#}\n{}", self.story().await);
            }
        }
    }

    /// Changes values of a chart that is installed, and waits until its Pods have them.
    pub async fn upgrade(&self, cluster: &Cluster, chart: &str, values: &[&str]) {
        let path = path(chart);
        let mut line = vec!["upgrade", chart, &path, "--namespace", NAMESPACE, "--reuse-values"];
        for value in values {
            line.extend(["--set", value]);
        }
        said(&line, cluster.helm(&line).await).unwrap();
        self.rolled_out(std::iter::once((cluster, chart))).await;
    }

    async fn helm_installs(&self, cluster: &Cluster, chart: &str, values: &[&str]) {
        let path = path(chart);
        let mut line = vec!["install", chart, &path, "--namespace", NAMESPACE, "--create-namespace"];
        for value in values {
            line.extend(["--set", value]);
        }
        said(&line, cluster.helm(&line).await).unwrap();
    }

    /// What administrators do: a Tenant, and the credential that is made for it becomes a Secret of the tenant's cluster.
    pub async fn register(&self, name: &str, cluster: &Cluster) {
        let tenant = format!("apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\n");
        self.apply(&self.management, &tenant).await;
        let namespace = format!("tenant-{name}");
        let path = "jsonpath={.data.kubelb}";
        let ask = [
            "-n",
            &namespace,
            "get",
            "secret",
            "kubelb-ccm-kubeconfig",
            "--ignore-not-found",
            "-o",
            path,
        ];
        let mut again = tokio::time::interval(STEP);
        let made = async {
            loop {
                let text = self.says(&self.management, &ask).await;
                if !text.is_empty() {
                    return text;
                }
                again.tick().await;
            }
        };
        let Ok(text) = tokio::time::timeout(SOON, made).await else {
            panic!("the tenant is not registered\n{}", self.story().await);
        };
        let file = self.scratch.path().join("kubelb");
        std::fs::write(&file, BASE64_STANDARD.decode(text).unwrap()).unwrap();
        let from = format!("--from-file={}", file.display());
        self.says(cluster, &["create", "namespace", NAMESPACE]).await;
        let secret = ["-n", NAMESPACE, "create", "secret", "generic", "kubelb-cluster", &from];
        self.says(cluster, &secret).await;
    }

    /// The client's packets to all virtual addresses go to this node.
    pub fn route_by(&self, node: &Node) {
        let routes = [
            ("-4", POOLS[0], node.host.v4.to_string()),
            ("-6", POOLS[1], node.host.v6.to_string()),
        ];
        for (family, pool, via) in routes {
            let route = [family, "route", "replace", pool, "via", &via];
            self.client.namespace.ip(&route).unwrap();
        }
    }

    /// The client's packets to virtual addresses go to whoever answers for them.
    pub fn route_by_owner(&self) {
        for (family, pool) in [("-4", POOLS[0]), ("-6", POOLS[1])] {
            self.client.namespace.ip(&[family, "route", "flush", pool]).unwrap();
        }
    }

    /// What a user has in a file.
    pub async fn apply(&self, cluster: &Cluster, manifests: &str) {
        self.kubectl_file(cluster, "apply", manifests).await;
    }

    /// As [`apply`](Self::apply), the other way round; it is gone when this returns.
    pub async fn delete(&self, cluster: &Cluster, manifests: &str) {
        self.kubectl_file(cluster, "delete", manifests).await;
    }

    async fn kubectl_file(&self, cluster: &Cluster, verb: &str, manifests: &str) {
        let file = self.scratch.path().join("manifests.yaml");
        std::fs::write(&file, manifests).unwrap();
        self.says(cluster, &[verb, "-f", file.to_str().unwrap()]).await;
    }

    /// What kubectl says when it succeeds.
    pub async fn says(&self, cluster: &Cluster, arguments: &[&str]) -> String {
        said(arguments, cluster.kubectl(arguments).await).unwrap()
    }

    /// Waits until kubectl says just this.
    pub async fn until_says(&self, cluster: &Cluster, arguments: &[&str], wanted: &str) {
        let mut last = String::new();
        let mut again = tokio::time::interval(STEP);
        let asked = async {
            loop {
                last = self.says(cluster, arguments).await;
                if last.trim() == wanted {
                    return;
                }
                again.tick().await;
            }
        };
        if tokio::time::timeout(SOON, asked).await.is_err() {
            panic!(
                "kubectl {} says {last:?}, not {wanted:?}\n{}",
                arguments.join(" "),
                self.story().await
            );
        }
    }

    /// The addresses in a Service's status, once there are as many.
    pub async fn addresses_of(&self, cluster: &Cluster, service: &str, count: usize) -> Vec<IpAddr> {
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        let ask = ["get", "service", service, "-o", path];
        let mut again = tokio::time::interval(STEP);
        let asked = async {
            loop {
                let text = self.says(cluster, &ask).await;
                let found: Vec<IpAddr> = text.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
                if found.len() == count {
                    return found;
                }
                again.tick().await;
            }
        };
        match tokio::time::timeout(SOON, asked).await {
            Ok(found) => found,
            Err(_) => panic!("Service {service} has no {count} addresses\n{}", self.story().await),
        }
    }

    /// Waits until these conditions of a Service are True.
    pub async fn conditions(&self, service: &str, types: &[&str]) {
        for type_ in types {
            let path = format!("jsonpath={{.status.conditions[?(@.type==\"kubelb.k8c.io/{type_}\")].status}}");
            self.until_says(self.tenant(), &["get", "service", service, "-o", &path], "True")
                .await;
        }
    }

    /// Names of the Pods of a chart.
    pub async fn pods_of(&self, cluster: &Cluster, chart: &str) -> Vec<String> {
        let label = format!("app.kubernetes.io/name={chart}");
        let text = self
            .says(
                cluster,
                &[
                    "-n",
                    NAMESPACE,
                    "get",
                    "pods",
                    "-l",
                    &label,
                    "-o",
                    "jsonpath={.items[*].metadata.name}",
                ],
            )
            .await;
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// That no program was restarted, or has logged that an API server did not allow it something.
    pub async fn nobody_was_refused_anything(&self) {
        for (cluster, chart, pods) in self.charts() {
            let names = self.pods_of(cluster, chart).await;
            assert_eq!(names.len(), pods, "{chart}: {names:?}");
            for pod in names {
                let log = self.says(cluster, &["-n", NAMESPACE, "logs", &pod]).await;
                // Where all is well, Envoy has nothing to say.
                assert!(!log.is_empty() || chart == ENVOY, "{pod} says nothing");
                let refusals: Vec<&str> = log
                    .lines()
                    .filter(|line| line.to_lowercase().contains("forbidden"))
                    .collect();
                assert!(refusals.is_empty(), "{pod}:\n{}", refusals.join("\n"));
                let restarts = "jsonpath={.status.containerStatuses[*].restartCount}";
                let restarts = self
                    .says(cluster, &["-n", NAMESPACE, "get", "pod", &pod, "-o", restarts])
                    .await;
                assert_eq!(restarts, "0", "{pod} was started again:\n{log}");
            }
        }
    }

    fn charts(&self) -> Vec<(&Cluster, &'static str, usize)> {
        let ccms = self.tenants.iter().map(|(_, cluster)| (cluster, CCM, 1));
        let on_each = |chart| (&self.management, chart, self.management.nodes().len());
        ccms.chain([on_each(AGENT), on_each(ENVOY), (&self.management, MANAGER, 2)])
            .collect()
    }

    /// Removes a release; nothing of it is left.
    pub async fn uninstall(&self, cluster: &Cluster, chart: &str) {
        let line = ["uninstall", chart, "--namespace", NAMESPACE];
        if let Err(error) = said(&line, cluster.helm(&line).await) {
            panic!("{error:#}\n{}", self.story().await);
        }
        let label = format!("app.kubernetes.io/name in ({chart}, {chart}-cleanup)");
        let left = [
            "get",
            "pods,services,deployments,daemonsets,networkpolicies,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings",
            "-A",
            "-l",
            &label,
            "-o",
            "name",
        ];
        self.until_says(cluster, &left, "").await;
    }

    /// What a person would look at when something does not come about.
    pub async fn story(&self) -> String {
        let mut story = String::new();
        for cluster in std::iter::once(&self.management).chain(self.tenants.iter().map(|(_, cluster)| cluster)) {
            for line in [
                "get pods -A -o wide",
                "get services -A",
                "get gateways,httproutes,grpcroutes -A -o yaml",
                "get events -A",
            ] {
                let words: Vec<&str> = line.split(' ').collect();
                story += &tell(line, cluster.kubectl(&words).await);
            }
        }
        story += &tell(
            "tenant's objects",
            self.management.kubectl(&["get", "kubelb", "-A", "-o", "yaml"]).await,
        );
        for (cluster, chart, _) in self.charts() {
            let label = format!("app.kubernetes.io/name={chart}");
            story += &tell(
                chart,
                cluster
                    .kubectl(&["-n", NAMESPACE, "logs", "-l", &label, "--prefix", "--tail=60"])
                    .await,
            );
        }
        story
    }
}

fn path(chart: &str) -> String {
    format!("{}/../charts/{chart}", env!("CARGO_MANIFEST_DIR"))
}

fn tenant_plan(number: u8, name: &str) -> Plan {
    let mut plan = Plan {
        number,
        images: images([(CCM, tool::built(CCM))]),
        ..Plan::new(name)
    };
    let echo = tool::built("echo-server").unwrap().display().to_string();
    let listening = |at: &[&str]| {
        let words = [&[&*echo, "--listen"], at].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (image, command) in [
        ("ealen/echo-server", listening(&["http=80", "udp=9000"])),
        (
            "my-app",
            listening(&["http=8080", "http=8443", "http=9090", "tcp=7000"]),
        ),
        ("dns-server", listening(&["http=53", "udp=53"])),
        ("your-api", listening(&["http=8080"])),
        ("grpc-app", listening(&["grpc=9000"])),
        ("many-backends", listening(&MANY_BACKENDS)),
        // Its entry point runs what it is given.
        ("curlimages/curl", vec!["/usr/bin/env".to_owned()]),
    ] {
        plan.images.insert(image.to_owned(), command);
    }
    plan
}

fn tell(what: &str, output: anyhow::Result<Output>) -> String {
    let text = output.map_or_else(
        |error| format!("{error:#}"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    );
    format!("--- {what}\n{text}\n")
}

fn said(line: &[&str], output: anyhow::Result<Output>) -> anyhow::Result<String> {
    let output = output?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", line.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

fn images<const N: usize>(programs: [(&str, anyhow::Result<PathBuf>); N]) -> BTreeMap<String, Vec<String>> {
    let one = |(name, path): (&str, anyhow::Result<PathBuf>)| {
        let path = path
            .with_context(|| format!("{name} is not built; `cargo xtask test` builds it"))
            .unwrap();
        (name.to_owned(), vec![path.display().to_string()])
    };
    programs.map(one).into()
}

/// The Pod that answers over HTTP.
pub fn get(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    let (status, body) = from.run(|| http_get_here(to, "/", PATIENCE))??;
    ensure!(status == 200, "{status}: {body}");
    let body: Value = serde_json::from_str(&body)?;
    let pod = body.get("hostname").and_then(Value::as_str);
    pod.map(str::to_owned).with_context(|| format!("no name in {body}"))
}

/// What is answered over UDP.
pub fn ask_udp(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    })?
}
