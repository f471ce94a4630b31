//! The whole system as its users install it: charts by helm into a management cluster and a tenant's cluster, whose kubelets run the programs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect")]

mod examples;
mod layer7;

use std::net::SocketAddr;

use anyhow::ensure;
use kubelb_tests::agent::Status;
use kubelb_tests::system::{AGENT, CCM, ENVOY, MANAGER, SOON, World, ask_udp, get};
use kubelb_tests::wait;

/// Both families, both protocols, one port.
const DUAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  type: LoadBalancer
  loadBalancerClass: kubelb
  ipFamilyPolicy: RequireDualStack
  selector: {app: echo-server}
  ports:
  - {name: tcp, port: 53, targetPort: 80, protocol: TCP}
  - {name: udp, port: 53, targetPort: 9000, protocol: UDP}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charts_give_a_system_that_serves_a_tenant_s_services() {
    let world = World::start(&["primary"], 2).await;
    world.install().await;
    let tenant = world.tenant();
    examples::basic(&world).await;
    world.apply(tenant, DUAL).await;

    let basic = world.addresses_of(tenant, "echo-server", 1).await;
    let both = world.addresses_of(tenant, "both", 2).await;
    let vip = *basic.first().unwrap();
    assert!(!both.contains(&vip), "one address for each Service: {both:?}, {vip}");
    let client = &world.client.namespace;
    let ways: Vec<SocketAddr> = basic
        .iter()
        .map(|ip| SocketAddr::new(*ip, 80))
        .chain(both.iter().map(|ip| SocketAddr::new(*ip, 53)))
        .collect();
    for node in world.management.nodes() {
        world.route_by(node);
        for way in &ways {
            // Until both Pods have answered, for flows go round.
            let mut pods: Vec<String> = Vec::new();
            let answered = wait::until(SOON, || {
                let pod = get(client, *way)?;
                if !pods.contains(&pod) {
                    pods.push(pod);
                }
                ensure!(pods.len() == 2, "only {pods:?}");
                Ok(())
            });
            answered.unwrap_or_else(|error| panic!("{way} by {}: {error:#}", node.name));
        }
        for ip in &both {
            let way = SocketAddr::new(*ip, 53);
            let answered = wait::until(SOON, || ask_udp(client, way));
            let (answer, _) = answered.unwrap_or_else(|error| panic!("UDP {way} by {}: {error:#}", node.name));
            assert!(answer.contains("echo-server-"), "{answer}");
        }
    }
    world.conditions("both", &["Submitted", "Accepted", "Programmed"]).await;
    // Whichever manager an agent is connected to.
    let messages = "jsonpath={.items[*].status.conditions[?(@.type==\"Programmed\")].message}";
    let all = ["-n", "tenant-primary", "get", "loadbalancers", "-o", messages];
    let both_serve = ["2 data planes serve it"; 2].join(" ");
    world.until_says(&world.management, &all, &both_serve).await;

    examples::troubleshooting(&world, vip).await;

    // It was the programs in the kernel that forwarded.
    for pod in world.pods_of(&world.management, AGENT).await {
        let exec = [
            "-n",
            "kubelb",
            "exec",
            &pod,
            "--",
            "kubelb-agent",
            "status",
            "--output",
            "json",
        ];
        let status = Status::parse(&world.says(&world.management, &exec).await).unwrap();
        let names = status.frontend_names();
        let name = names.iter().find(|name| name.contains(&format!("/{vip}/80-tcp")));
        let name = *name.unwrap_or_else(|| panic!("{vip} is not in {names:?}"));
        assert!(status.frontend(name).unwrap().flows() >= 2, "{status}");
    }

    examples::traffic_policies(&world).await;
    examples::many_ports(&world).await;
    examples::udp_and_tcp_on_one_port(&world).await;
    // From here on as it is without routes of hand: who answers for an address gets its packets.
    world.route_by_owner();
    examples::proxy_protocol(&world).await;
    let services = ["echo-server", "both", "multi-port-service", "dns-server", "my-app"];
    let delete = [&["delete", "service", "--timeout=60s"], &services[..]].concat();
    world.says(tenant, &delete).await;
    let left = ["get", "loadbalancers,addressclaims", "-A", "-o", "name"];
    world.until_says(&world.management, &left, "").await;
    let gone = wait::until(SOON, || {
        ensure!(get(client, SocketAddr::new(vip, 80)).is_err(), "{vip} still answers");
        Ok(())
    });
    gone.unwrap();

    layer7::play(&world).await;
    examples::class(&world).await;
    world.nobody_was_refused_anything().await;

    // The CCM goes first, and takes with it what it did.
    world.uninstall(tenant, CCM).await;
    let said = "jsonpath={.metadata.finalizers}{.status.loadBalancer.ingress}{.status.conditions}";
    world
        .until_says(tenant, &["get", "service", "echo-server", "-o", said], "")
        .await;
    let left = [
        "get",
        "loadbalancers,addresses.kubelb.k8c.io,addressclaims",
        "-A",
        "-o",
        "name",
    ];
    world.until_says(&world.management, &left, "").await;
    world
        .says(&world.management, &["delete", "tenant", "primary", "--timeout=60s"])
        .await;
    let namespace = ["get", "namespace", "tenant-primary", "--ignore-not-found", "-o", "name"];
    world.until_says(&world.management, &namespace, "").await;
    for chart in [ENVOY, AGENT, MANAGER] {
        world.uninstall(&world.management, chart).await;
    }
}
