//! The whole system as its users install it: charts by helm into a management cluster and a tenant's cluster, whose kubelets run the programs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect")]

mod world;

use std::net::SocketAddr;

use anyhow::ensure;
use kubelb_tests::agent::Status;
use kubelb_tests::wait;

use world::{SOON, World, ask_udp, get};

/// As the users' documentation has it.
const BASIC: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: echo-server
  namespace: default
spec:
  replicas: 2
  selector:
    matchLabels:
      app: echo-server
  template:
    metadata:
      labels:
        app: echo-server
    spec:
      containers:
      - name: echo
        image: ealen/echo-server:latest
        ports:
        - containerPort: 80
        env:
        - name: PORT
          value: \"80\"
---
apiVersion: v1
kind: Service
metadata:
  name: echo-server
  namespace: default
spec:
  type: LoadBalancer
  selector:
    app: echo-server
  ports:
  - port: 80
    targetPort: 80
    protocol: TCP
";

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
    let world = World::start().await;
    world.install().await;
    world.apply(&world.tenant, BASIC).await;
    world.apply(&world.tenant, DUAL).await;

    let basic = world.addresses_of("echo-server", 1).await;
    let both = world.addresses_of("both", 2).await;
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

    world.documented_commands_help(&vip.to_string()).await;

    // It was the programs in the kernel that forwarded.
    for pod in world.pods_of(&world.management, "kubelb-agent").await {
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

    world
        .says(
            &world.tenant,
            &["delete", "service", "echo-server", "both", "--timeout=60s"],
        )
        .await;
    let left = ["get", "loadbalancers,addressclaims", "-A", "-o", "name"];
    world.until_says(&world.management, &left, "").await;
    let gone = wait::until(SOON, || {
        ensure!(get(client, SocketAddr::new(vip, 80)).is_err(), "{vip} still answers");
        Ok(())
    });
    gone.unwrap();
    world.nobody_was_refused_anything().await;
    world.uninstall().await;
}
