//! The story of the whole system: a management cluster, two tenants' clusters, and what their users and administrators do, by helm and kubectl.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::FutureExt as _;
use kubelb_tests::cluster::{Cluster, kubectl_line};
use kubelb_tests::system::{AGENT, CCM, ENVOY, MANAGER, NAMESPACE, World, get};
use kubelb_tests::traffic::client::http_get_here;
use kubelb_tests::wait;

use crate::{Stage, indent, layer7, say};

const TENANTS: [&str; 2] = ["blue", "red"];
const NODES: u8 = 3;
/// What each tenant's user applies.
const WEB: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80}]
";
const WORKLOAD: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: ealen/echo-server}]}
";
/// Requests for one table.
const REQUESTS: usize = 40;
/// How long anything may take.
const SOON: Duration = Duration::from_secs(60);
/// How long one request may take while a node is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Tells it, to its end or until Ctrl-C.
pub(crate) fn play(stage: &mut Stage, keep: bool) -> anyhow::Result<()> {
    let interrupt = stage.interrupt.clone();
    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
    let result = runtime.block_on(async {
        let interrupted = tokio::task::spawn_blocking(move || interrupt.wait());
        tokio::select! {
            told = AssertUnwindSafe(tell(stage, keep)).catch_unwind() => match told {
                Ok(told) => told,
                // What it was is on the screen already.
                Err(_) => bail!("the demonstration came to an end of its own"),
            },
            _ = interrupted => bail!("interrupted; everything is removed"),
        }
    });
    // One of its threads still waits for Ctrl-C.
    runtime.shutdown_background();
    result
}

async fn tell(stage: &mut Stage, keep: bool) -> anyhow::Result<()> {
    stage.step(&format!(
        "Three clusters on one network, each with an API server of its own: management ({NODES} nodes), and tenants {} (2 nodes each)",
        TENANTS.join(" and ")
    ))?;
    let mut world = World::start(&TENANTS, NODES).await;
    let hosts = world.tenants.iter().flat_map(|(_, cluster)| cluster.nodes());
    for host in hosts.map(|node| &node.host).chain([&world.client]) {
        // veth leaves that to a card which is not there.
        host.finish_checksums()?;
    }

    stage.step(
        "helm install kubelb-manager, kubelb-agent and kubelb-envoy into the management cluster: the agents attach in native XDP",
    )?;
    let first = world.management.nodes().first().context("no node")?.name.clone();
    let stays = format!("nodeSelector.kubernetes\\.io/hostname={first}");
    world.install_management(&[&stays], &["attachModes={xdp}"]).await;
    world.install_envoy(&[]).await;

    stage.step(
        "kubectl apply a Tenant for each; its credential goes into its cluster, and with it helm install kubelb-ccm",
    )?;
    for (name, cluster) in &world.tenants {
        world.install_gateway_api(cluster).await;
        world.register(name, cluster).await;
        world.install_ccm(name, cluster).await;
    }
    let ccms = world.tenants.iter().map(|(_, cluster)| (cluster, CCM));
    let management = [MANAGER, AGENT, ENVOY].map(|chart| (&world.management, chart));
    world.rolled_out(ccms.chain(management)).await;
    say(&indent(&world.says(&world.management, &["get", "tenants"]).await))?;

    stage.step("kubectl apply of a Service in each tenant's cluster; it gets an address")?;
    say(&indent(WEB))?;
    let mut vips = Vec::new();
    for (name, cluster) in &world.tenants {
        world.apply(cluster, &format!("{WORKLOAD}---\n{WEB}")).await;
        let found = world.addresses_of(cluster, "web", 1).await;
        vips.push(*found.first().context("no address")?);
        world
            .says(cluster, &["rollout", "status", "deployment/web", "--timeout=60s"])
            .await;
        say(&indent(&format!(
            "{name}: kubectl get service web\n{}",
            world.says(cluster, &["get", "service", "web"]).await
        )))?;
    }

    stage.step(&format!("A machine on the network asks each {REQUESTS} times: the kernel of a management node forwards to the Pods, in turn"))?;
    for ((name, _), vip) in world.tenants.iter().zip(&vips) {
        say(&indent(&format!("{name}, http://{vip}/: {}", ask(&world, *vip)?)))?;
    }
    say(&indent(&forwarded(&world).await))?;

    layer7::tell(stage, &world).await?;

    stage.step("Who answers for an address on the network; one of these nodes loses its power")?;
    say(&indent(
        &world.says(&world.management, &["get", "virtualaddressowners"]).await,
    ))?;
    let (name, vip, node) = owned_elsewhere(&world, &vips, &first).await?;
    world.management.power_off(&node)?;
    let begin = wait::now();
    let answered = wait::until(SOON, || {
        let to = SocketAddr::new(vip, 80);
        let (status, _) = world.client.namespace.run(|| http_get_here(to, "/", PATIENCE))??;
        ensure!(status == 200, "{status}");
        Ok(())
    });
    answered.with_context(|| format!("{vip} does not answer any more"))?;
    say(&indent(&format!(
        "{node} is off; {name}'s {vip} answers again after {:.1} s",
        (wait::now() - begin).as_secs_f64()
    )))?;
    say(&indent(
        &world.says(&world.management, &["get", "virtualaddressowners"]).await,
    ))?;

    stage.step("kubectl delete tenant red: everything of it goes, its own cluster is told, and the other tenant notices nothing")?;
    world
        .says(&world.management, &["delete", "tenant", "red", "--timeout=60s"])
        .await;
    let (_, red) = world.tenants.last().context("no tenant")?;
    let left = "jsonpath={.metadata.finalizers}{.status.loadBalancer.ingress}";
    world.until_says(red, &["get", "service", "web", "-o", left], "").await;
    say(&indent(&world.says(&world.management, &["get", "tenants"]).await))?;
    say(&indent(&format!(
        "red: kubectl get service web\n{}",
        world.says(red, &["get", "service", "web"]).await
    )))?;
    let why = "jsonpath={.status.conditions[?(@.type==\"kubelb.k8c.io/Submitted\")].message}\n";
    say(&indent(&world.says(red, &["get", "service", "web", "-o", why]).await))?;
    if let Some(vip) = vips.first() {
        say(&indent(&format!("blue, http://{vip}/: {}", ask(&world, *vip)?)))?;
    }
    if keep {
        say(&hints(&world))?;
        // Ctrl-C ends it.
        std::future::pending::<()>().await;
    }
    stage.step("All of it is removed")?;
    drop(world);
    Ok(())
}

/// Which Pods answered, how often.
fn ask(world: &World, vip: IpAddr) -> anyhow::Result<String> {
    let mut pods: BTreeMap<String, usize> = BTreeMap::new();
    let to = SocketAddr::new(vip, 80);
    // A backend takes part when its first check has passed.
    wait::until(SOON, || get(&world.client.namespace, to)).with_context(|| format!("{vip} does not answer"))?;
    for _ in 0..REQUESTS {
        let pod = get(&world.client.namespace, to).with_context(|| format!("{vip} did not answer"))?;
        *pods.entry(pod).or_default() += 1;
    }
    let shown = pods.iter().map(|(pod, count)| format!("{pod} {count} times"));
    Ok(shown.collect::<Vec<_>>().join(", "))
}

/// What an agent says of its interfaces and frontends.
async fn forwarded(world: &World) -> String {
    let mut text = String::new();
    for pod in world.pods_of(&world.management, AGENT).await {
        let status = ["-n", NAMESPACE, "exec", &pod, "--", "kubelb-agent", "status"];
        let said = world.says(&world.management, &status).await;
        let lines = said
            .lines()
            .filter(|line| line.contains("eth0") || line.contains("/80"));
        text += &format!("{pod}: kubelb-agent status, in part\n");
        for line in lines {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// A tenant's address whose owner is another node than this, and the owner.
async fn owned_elsewhere(world: &World, vips: &[IpAddr], not: &str) -> anyhow::Result<(&'static str, IpAddr, String)> {
    for (name, vip) in TENANTS.into_iter().zip(vips) {
        let owner = format!("v4-{}", vip.to_string().replace('.', "-"));
        let node = world
            .says(
                &world.management,
                &["get", "virtualaddressowner", &owner, "-o", "jsonpath={.spec.node}"],
            )
            .await;
        if node != not {
            return Ok((name, *vip, node));
        }
    }
    bail!("{not} has all addresses, and the manager too")
}

/// How to look around.
fn hints(world: &World) -> String {
    let line = |cluster: &Cluster| kubectl_line(&cluster.control_plane().namespace, cluster.kubeconfig());
    let mut text = String::from("\nEverything is left running until Ctrl-C.\n\n");
    text += &format!("  management: {}\n", line(&world.management));
    for (name, cluster) in &world.tenants {
        text += &format!("  {name}: {}\n", line(cluster));
    }
    text += &format!(
        "  client: nsenter --net={} bash\n",
        world.client.namespace.path().display()
    );
    text
}
