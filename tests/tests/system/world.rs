//! A management cluster and a tenant's cluster on one network, with the charts of this project and images that stand for the built programs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use kubelb_tests::cluster::{Cluster, Node, Plan};
use kubelb_tests::lan::{Host, Lan};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::traffic::client::http_get_here;
use kubelb_tests::{agent, tool, wait};
use serde_json::Value;

/// How long anything may take.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// Pause between two looks.
const STEP: Duration = Duration::from_millis(100);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses that are given out; the network's hosts have none of them.
const POOLS: [&str; 2] = ["192.168.77.208/28", "fd77::1:0/112"];
const NAMESPACE: &str = "kubelb";
/// The releases of the management cluster, then the one of the tenant's; each has its chart's name.
const MANAGER: &str = "kubelb-manager";
const AGENT: &str = "kubelb-agent";
const CCM: &str = "kubelb-ccm";

/// Both clusters, and a machine outside of them.
pub(crate) struct World {
    // Pods end before what they have mounted goes.
    pub(crate) management: Cluster,
    pub(crate) tenant: Cluster,
    pub(crate) client: Host,
    scratch: Scratch,
    bpffs: PathBuf,
    _lan: Lan,
}

impl World {
    /// Two clusters with nothing in them.
    pub(crate) async fn start() -> Self {
        let begin = wait::now();
        let lan = Lan::new().unwrap();
        let scratch = Scratch::new().unwrap();
        let bpffs = scratch.bpffs().unwrap();
        let management = Plan {
            images: images([(MANAGER, tool::built(MANAGER)), (AGENT, agent::binary())]),
            ..Plan::new("mgmt")
        };
        let mut tenant = Plan {
            number: 1,
            images: images([(CCM, tool::built(CCM))]),
            ..Plan::new("tenant")
        };
        let echo = tool::built("echo-server").unwrap().display().to_string();
        let echo = [&echo, "--listen", "http=80", "udp=9000"].map(ToString::to_string);
        tenant.images.insert("ealen/echo-server".to_owned(), echo.into());
        let (management, tenant) = tokio::join!(Cluster::start(&lan, &management), Cluster::start(&lan, &tenant));
        let world = Self {
            management: management.unwrap(),
            tenant: tenant.unwrap(),
            client: lan.host("client").unwrap(),
            scratch,
            bpffs,
            _lan: lan,
        };
        eprintln!("clusters are up after {:?}", wait::now() - begin);
        world
    }

    /// Everything, in the order of the documentation.
    pub(crate) async fn install(&self) {
        let begin = wait::now();
        self.helm_installs(&self.management, MANAGER, &[]).await;
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
                 spec: {{addressPools: [{{name: default, ranges: [{pools}]}}]}}\n---\n\
                 apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata: {{name: primary}}\n"
            ),
        )
        .await;
        let bpffs = format!("hostPaths.bpffs={}", self.bpffs.display());
        let state = format!("hostPaths.state={}", self.scratch.path().join("agents").display());
        // All nodes of these clusters are one machine.
        let values = [
            "interfaces={eth0}",
            &bpffs,
            &state,
            "hostPaths.subPathExpr=$(NODE_NAME)",
        ];
        self.helm_installs(&self.management, AGENT, &values).await;
        self.register().await;
        let values = ["kubelb.tenantName=primary", "kubelb.nodeAddressType=InternalIP"];
        self.helm_installs(&self.tenant, CCM, &values).await;
        for (cluster, workload) in [
            (&self.management, format!("deployment/{MANAGER}")),
            (&self.management, format!("daemonset/{AGENT}")),
            (&self.tenant, format!("deployment/{CCM}")),
        ] {
            let rolled = ["-n", NAMESPACE, "rollout", "status", &workload, "--timeout=60s"];
            if let Err(error) = said(&rolled, cluster.kubectl(&rolled).await) {
                panic!("{error:#}\n{}", self.story().await);
            }
        }
        eprintln!("installed after {:?}", wait::now() - begin);
    }

    async fn helm_installs(&self, cluster: &Cluster, chart: &str, values: &[&str]) {
        let path = format!("{}/../charts/{chart}", env!("CARGO_MANIFEST_DIR"));
        let mut line = vec!["install", chart, &path, "--namespace", NAMESPACE, "--create-namespace"];
        for value in values {
            line.extend(["--set", value]);
        }
        said(&line, cluster.helm(&line).await).unwrap();
    }

    /// What the tenant's administrator does: the credential that the managers made becomes a Secret of the tenant's cluster.
    async fn register(&self) {
        let path = "jsonpath={.data.kubelb}";
        let ask = [
            "-n",
            "tenant-primary",
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
        self.says(&self.tenant, &["create", "namespace", NAMESPACE]).await;
        let secret = ["-n", NAMESPACE, "create", "secret", "generic", "kubelb-cluster", &from];
        self.says(&self.tenant, &secret).await;
    }

    /// The client's packets to all virtual addresses go to this node.
    pub(crate) fn route_by(&self, node: &Node) {
        let routes = [
            ("-4", POOLS[0], node.host.v4.to_string()),
            ("-6", POOLS[1], node.host.v6.to_string()),
        ];
        for (family, pool, via) in routes {
            let route = [family, "route", "replace", pool, "via", &via];
            self.client.namespace.ip(&route).unwrap();
        }
    }

    pub(crate) async fn apply(&self, cluster: &Cluster, manifests: &str) {
        let file = self.scratch.path().join("manifests.yaml");
        std::fs::write(&file, manifests).unwrap();
        self.says(cluster, &["apply", "-f", file.to_str().unwrap()]).await;
    }

    /// What kubectl says when it succeeds.
    pub(crate) async fn says(&self, cluster: &Cluster, arguments: &[&str]) -> String {
        said(arguments, cluster.kubectl(arguments).await).unwrap()
    }

    /// Waits until kubectl says just this.
    pub(crate) async fn until_says(&self, cluster: &Cluster, arguments: &[&str], wanted: &str) {
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
    pub(crate) async fn addresses_of(&self, service: &str, count: usize) -> Vec<IpAddr> {
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        let ask = ["get", "service", service, "-o", path];
        let mut again = tokio::time::interval(STEP);
        let asked = async {
            loop {
                let text = self.says(&self.tenant, &ask).await;
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
    pub(crate) async fn conditions(&self, service: &str, types: &[&str]) {
        for type_ in types {
            let path = format!("jsonpath={{.status.conditions[?(@.type==\"kubelb.k8c.io/{type_}\")].status}}");
            self.until_says(&self.tenant, &["get", "service", service, "-o", &path], "True")
                .await;
        }
    }

    /// Names of the Pods of a chart.
    pub(crate) async fn pods_of(&self, cluster: &Cluster, chart: &str) -> Vec<String> {
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

    /// What the users' documentation tells to look at.
    pub(crate) async fn documented_commands_help(&self, vip: &str) {
        for (cluster, line, said) in [
            (&self.tenant, "get service echo-server", vip),
            (&self.tenant, "describe service echo-server", "AddressAssigned"),
            (
                &self.tenant,
                "get svc echo-server -o jsonpath={.status.loadBalancer.ingress[0].ip}",
                vip,
            ),
            (
                &self.tenant,
                "logs -n kubelb -l app.kubernetes.io/name=kubelb-ccm",
                "leads",
            ),
            (
                &self.tenant,
                "get deployment -n kubelb kubelb-ccm -o yaml",
                "--use-loadbalancer-class",
            ),
            (
                &self.tenant,
                "get deployment -n kubelb kubelb-ccm -o yaml",
                "--cluster-name",
            ),
            (&self.management, "get loadbalancers -n tenant-primary", vip),
            (&self.management, "get loadbalancers -A", "tenant-primary"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let text = self.says(cluster, &words).await;
            assert!(text.contains(said), "kubectl {line} does not say {said}:\n{text}");
        }
    }

    /// That no program was restarted, or has logged that an API server did not allow it something.
    pub(crate) async fn nobody_was_refused_anything(&self) {
        for (cluster, chart, pods) in self.charts() {
            let names = self.pods_of(cluster, chart).await;
            assert_eq!(names.len(), pods, "{chart}: {names:?}");
            for pod in names {
                let log = self.says(cluster, &["-n", NAMESPACE, "logs", &pod]).await;
                assert!(!log.is_empty(), "{pod} says nothing");
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

    fn charts(&self) -> [(&Cluster, &'static str, usize); 3] {
        [
            (&self.tenant, CCM, 1),
            (&self.management, AGENT, 2),
            (&self.management, MANAGER, 2),
        ]
    }

    pub(crate) async fn uninstall(&self) {
        for (cluster, chart, _) in self.charts() {
            let line = ["uninstall", chart, "--namespace", NAMESPACE];
            said(&line, cluster.helm(&line).await).unwrap();
        }
        for (cluster, chart, _) in self.charts() {
            let label = format!("app.kubernetes.io/name={chart}");
            let left = [
                "get",
                "pods,services,deployments,daemonsets,networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings",
                "-A",
                "-l",
                &label,
                "-o",
                "name",
            ];
            self.until_says(cluster, &left, "").await;
        }
    }

    /// What a person would look at when something does not come about.
    async fn story(&self) -> String {
        let mut story = String::new();
        for cluster in [&self.management, &self.tenant] {
            for line in ["get pods -A -o wide", "get services -A", "get events -A"] {
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
pub(crate) fn get(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    let (status, body) = from.run(|| http_get_here(to, "/", PATIENCE))??;
    ensure!(status == 200, "{status}: {body}");
    let body: Value = serde_json::from_str(&body)?;
    let pod = body.get("hostname").and_then(Value::as_str);
    pod.map(str::to_owned).with_context(|| format!("no name in {body}"))
}

/// What is answered over UDP.
pub(crate) fn ask_udp(from: &Namespace, to: SocketAddr) -> anyhow::Result<String> {
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"hello", to)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    })?
}
