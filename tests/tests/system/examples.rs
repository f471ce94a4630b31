//! What the users' documentation of layer 4 shows, word for word, and what it promises of it.
//!
//! `examples/` has its manifests; what they leave out is here, beside them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use kubelb_tests::system::{CCM, SOON, World, ask_udp, get};
use kubelb_tests::wait;

const DEPLOYMENT: &str = include_str!("examples/deployment.yaml");
const SERVICE: &str = include_str!("examples/service.yaml");
const CLASS: &str = include_str!("examples/class.yaml");
const CLUSTER: &str = include_str!("examples/cluster.yaml");
const MULTI_PORT: &str = include_str!("examples/multi-port.yaml");
const DNS: &str = include_str!("examples/dns.yaml");
const PROXY_PROTOCOL: &str = include_str!("examples/proxy-protocol.yaml");

/// What the last one leaves out.
const LEFT_OUT: &str = "  selector: {app: my-app}\n  ports:\n  - {port: 80, targetPort: 7000}\n";

/// The documentation has no workload for these: an image of the same name serves the ports that its Services send to.
fn workload(name: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: [{{name: {name}, image: {name}}}]}}\n"
    )
}

fn answers(world: &World, to: SocketAddr) -> String {
    let answered = wait::until(SOON, || get(&world.client.namespace, to));
    answered.unwrap_or_else(|error| panic!("{to}: {error:#}")).0
}

async fn address_of(world: &World, service: &str) -> IpAddr {
    *world.addresses_of(world.tenant(), service, 1).await.first().unwrap()
}

/// "Creating a Basic LoadBalancer Service": an address, as kubectl shows it, and an answer.
pub(crate) async fn basic(world: &World) {
    world.apply(world.tenant(), DEPLOYMENT).await;
    world.apply(world.tenant(), SERVICE).await;
    let vip = address_of(world, "echo-server").await.to_string();
    let table = world.says(world.tenant(), &["get", "service", "echo-server"]).await;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [columns, row] = &rows[..] else {
        panic!("{table}");
    };
    assert_eq!(
        *columns,
        ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    );
    let [name, type_, _, external, ports, _] = row[..] else {
        panic!("{table}");
    };
    assert_eq!((name, type_, external), ("echo-server", "LoadBalancer", &*vip));
    assert!(ports.starts_with("80:") && ports.ends_with("/TCP"), "{table}");
}

/// "Verifying Load Balancer Status" and "Troubleshooting": each command, and what it is looked at for.
pub(crate) async fn troubleshooting(world: &World, vip: IpAddr) {
    let vip = vip.to_string();
    let vip = vip.as_str();
    let (here, there) = (world.tenant(), &world.management);
    let uid = world
        .says(
            here,
            &["get", "service", "echo-server", "-o", "jsonpath={.metadata.uid}"],
        )
        .await;
    let describe = format!("describe loadbalancer {uid} -n tenant-primary");
    for (cluster, line, said) in [
        (here, "get service echo-server -o yaml", vip),
        (here, "get service echo-server -o yaml", "kubelb.k8c.io/cleanup"),
        (here, "describe service echo-server", "AddressAssigned"),
        (here, "describe service echo-server", "LoadBalancer Ingress"),
        (
            here,
            "get svc echo-server -o jsonpath={.status.loadBalancer.ingress[0].ip}",
            vip,
        ),
        (here, "logs -n kubelb -l app.kubernetes.io/name=kubelb-ccm", "leads"),
        (
            here,
            "get deployment -n kubelb kubelb-ccm -o yaml",
            "--use-loadbalancer-class",
        ),
        (here, "get deployment -n kubelb kubelb-ccm -o yaml", "--cluster-name"),
        (there, "get loadbalancers -n tenant-primary", vip),
        (there, "get loadbalancers -n tenant-primary", "echo-server"),
        (there, "get loadbalancers -A", "tenant-primary"),
        (there, &describe, "kubelb.k8c.io/origin-name=echo-server"),
        (there, &describe, "kubelb.k8c.io/origin-ns=default"),
        (there, &describe, vip),
        (there, &describe, "Programmed"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let text = world.says(cluster, &words).await;
        assert!(text.contains(said), "kubectl {line} does not say {said}:\n{text}");
    }
    let from_within = format!("run -it --rm debug --image=curlimages/curl --restart=Never -- curl http://{vip}");
    let words: Vec<&str> = from_within.split(' ').collect();
    // A container that ends before kubectl is attached to it says nothing to it.
    wait_for(world, async || {
        world.says(here, &words).await.contains("echo-server-").then_some(())
    })
    .await;
}

/// "External Traffic Policy": `Cluster` is shown, and goes to all nodes; `Local` is the same with that word, and goes where Pods are.
pub(crate) async fn traffic_policies(world: &World) {
    let vip = address_of(world, "echo-server").await;
    let uid = world
        .says(
            world.tenant(),
            &["get", "service", "echo-server", "-o", "jsonpath={.metadata.uid}"],
        )
        .await;
    let read = |path: &'static str| {
        let uid = uid.clone();
        async move {
            world
                .says(
                    &world.management,
                    &["-n", "tenant-primary", "get", "lb", &uid, "-o", path],
                )
                .await
        }
    };
    // One Pod, so that one node of two has it.
    world
        .says(world.tenant(), &["scale", "deployment", "echo-server", "--replicas=1"])
        .await;
    let pods = [
        "get",
        "pods",
        "-l",
        "app=echo-server",
        "-o",
        "jsonpath={.items[*].status.hostIP}",
    ];
    wait_for(world, async || {
        let nodes = world.says(world.tenant(), &pods).await;
        (nodes.split_whitespace().count() == 1).then_some(())
    })
    .await;
    let node = world.says(world.tenant(), &pods).await;
    world
        .apply(world.tenant(), &CLUSTER.replace("Policy: Cluster", "Policy: Local"))
        .await;
    let backends = "jsonpath={.spec.externalTrafficPolicy} {.spec.endpoints[*].addresses[*].ip}";
    // Both addresses of one node.
    let one = format!("Local {node} fd77::");
    wait_for(world, async || {
        let text = read(backends).await;
        (text.starts_with(&one) && text.split(' ').count() == 3).then_some(())
    })
    .await;
    for _ in 0..4 {
        answers(world, SocketAddr::new(vip, 80));
    }
    world.apply(world.tenant(), CLUSTER).await;
    let reference = "jsonpath={.spec.externalTrafficPolicy} {.spec.endpoints[*].addressesReference.name}";
    wait_for(world, async || {
        (read(reference).await == "Cluster default").then_some(())
    })
    .await;
    assert_eq!(address_of(world, "echo-server").await, vip, "the address stays");
    answers(world, SocketAddr::new(vip, 80));
}

async fn wait_for<T>(world: &World, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut again = tokio::time::interval(Duration::from_millis(100));
    let looked = async {
        loop {
            again.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    match tokio::time::timeout(SOON, looked).await {
        Ok(found) => found,
        Err(_) => panic!("it does not come about\n{}", world.story().await),
    }
}

/// "Multi-Port Services": all ports on the same address.
pub(crate) async fn many_ports(world: &World) {
    world.apply(world.tenant(), &workload("my-app")).await;
    world.apply(world.tenant(), MULTI_PORT).await;
    let vip = address_of(world, "multi-port-service").await;
    for port in [80, 443, 9090] {
        let pod = answers(world, SocketAddr::new(vip, port));
        assert!(pod.starts_with("my-app-"), "{port}: {pod}");
    }
}

/// "UDP Services".
pub(crate) async fn udp_and_tcp_on_one_port(world: &World) {
    world.apply(world.tenant(), &workload("dns-server")).await;
    world.apply(world.tenant(), DNS).await;
    let to = SocketAddr::new(address_of(world, "dns-server").await, 53);
    let pod = answers(world, to);
    assert!(pod.starts_with("dns-server-"), "{pod}");
    let answered = wait::until(SOON, || {
        let answer = ask_udp(&world.client.namespace, to)?;
        ensure!(answer.contains("dns-server-"), "{answer}");
        Ok(())
    });
    answered.unwrap();
}

/// "Proxy Protocol": an Envoy puts the headers, which say who the client is. The Pods send back what comes to them.
pub(crate) async fn proxy_protocol(world: &World) {
    world
        .apply(world.tenant(), &PROXY_PROTOCOL.replace("  # ...\n", LEFT_OUT))
        .await;
    let path = "jsonpath={.status.conditions[?(@.type==\"kubelb.k8c.io/Programmed\")]['status','reason']}";
    world
        .until_says(
            world.tenant(),
            &["get", "service", "my-app", "-o", path],
            "True Programmed",
        )
        .await;
    let to = SocketAddr::new(address_of(world, "my-app").await, 80);
    let client = world.client.v4.octets();
    let echoed = || {
        world.client.namespace.run(|| -> anyhow::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"hello")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        })?
    };
    let (answer, _) = wait::until(SOON, echoed).unwrap();
    // A line of facts, then the header: a signature, version and command, family, length, and the client's address.
    let at = answer.windows(SIGNATURE.len()).position(|part| part == SIGNATURE);
    let header = answer.get(at.unwrap_or(answer.len())..).unwrap_or_default();
    assert_eq!(header.get(16..20), Some(&client[..]), "{answer:?}");
    assert!(header.ends_with(b"hello"), "{answer:?}");
}

/// How a header begins (PROXY protocol, version 2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// "Using LoadBalancer Class": with the flag that it names, Services without the class are not the CCM's any more.
pub(crate) async fn class(world: &World) {
    world.apply(world.tenant(), SERVICE).await;
    address_of(world, "echo-server").await;
    world
        .upgrade(world.tenant(), CCM, &["kubelb.useLoadBalancerClass=true"])
        .await;
    let left = "jsonpath={.metadata.finalizers}{.status.loadBalancer.ingress}";
    world
        .until_says(world.tenant(), &["get", "service", "echo-server", "-o", left], "")
        .await;
    world
        .says(world.tenant(), &["delete", "service", "echo-server", "--timeout=60s"])
        .await;
    world.apply(world.tenant(), CLASS).await;
    let vip = address_of(world, "echo-server").await;
    answers(world, SocketAddr::new(vip, 80));
    let one = [
        "-n",
        "kubelb",
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/name=kubelb-ccm",
        "-o",
        "jsonpath={.items[*].status.phase}",
    ];
    world.until_says(world.tenant(), &one, "Running").await;
}
