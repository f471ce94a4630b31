//! The part of layer 7: a Gateway with TLS and two routes, a canary split, and gRPC calls.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use kubelb_tests::system::{SOON, World};
use kubelb_tests::traffic::Trust;
use kubelb_tests::traffic::exchange::{Answer, ask_over_tls, call};
use kubelb_tests::wait;
use serde_json::json;

use crate::{Stage, indent, say};

/// What the user applies.
const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: kubelb
  listeners:
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: shop}]}}
  - {name: grpc, protocol: HTTP, port: 80}
";
const SHOP: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge, sectionName: https}]
  hostnames: [shop.example]
  rules:
  - backendRefs: [{name: stable, port: 80, weight: 90}, {name: canary, port: 80, weight: 10}]
";
const DOCS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: docs}
spec:
  parentRefs: [{name: edge, sectionName: https}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /docs}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: docs, port: 80}]
";
const CALLS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{name: edge, sectionName: grpc}]
  hostnames: [calls.example]
  rules:
  - matches: [{method: {service: shop.v1.Orders}}]
    backendRefs: [{name: orders, port: 9000}]
";
const HOST: &str = "shop.example";
/// Deployments, what they run, and the port of their Services.
const WORKLOADS: [(&str, &str, u16); 4] = [
    ("stable", "ealen/echo-server", 80),
    ("canary", "ealen/echo-server", 80),
    ("docs", "ealen/echo-server", 80),
    ("orders", "grpc-app", 9000),
];
/// Requests for one table.
const REQUESTS: usize = 100;

/// Tells it, in the first tenant's cluster.
pub(crate) async fn tell(stage: &mut Stage, world: &World) -> anyhow::Result<()> {
    let (name, cluster) = world.tenants.first().context("no tenant")?;
    stage.step(&format!(
        "{name} asks for layer 7: a Gateway with a certificate, two routes, of which one tries a canary, and gRPC calls"
    ))?;
    let manifests = [GATEWAY, SHOP, DOCS, CALLS].join("---\n");
    say(&indent(&manifests))?;
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
    });
    // Who routes to Pods that are not there yet gets 503 from there.
    world.apply(cluster, &format!("{}{secret}\n", workloads())).await;
    for (name, ..) in WORKLOADS {
        let deployment = format!("deployment/{name}");
        world
            .says(cluster, &["rollout", "status", &deployment, "--timeout=60s"])
            .await;
    }
    world.apply(cluster, &manifests).await;
    let programmed = "jsonpath={.status.conditions[?(@.type==\"Programmed\")].status}";
    world
        .until_says(cluster, &["get", "gateway", "edge", "-o", programmed], "True")
        .await;
    let address = ["get", "gateway", "edge", "-o", "jsonpath={.status.addresses[0].value}"];
    let vip: IpAddr = world.says(cluster, &address).await.parse()?;
    for line in ["get gateway edge", "get httproutes,grpcroutes"] {
        let words: Vec<&str> = line.split(' ').collect();
        let said = world.says(cluster, &words).await;
        say(&indent(&format!("{name}: kubectl {line}\n{said}")))?;
    }

    stage.step("The machine asks again: an Envoy on the node that answers for the address takes TLS off and routes to the Pods")?;
    let client = &world.client.namespace;
    let trust = Trust::only(made.cert.der())?;
    let to = SocketAddr::new(vip, 443);
    let ask = |path: &str| ask_over_tls(client, to, &format!("GET {HOST}{path}"), &[], &trust);
    wait::until(SOON, || {
        let answer = ask("/docs/")?;
        ensure!(workload(&answer) == "docs", "{answer:?}");
        let answer = ask("/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .with_context(|| format!("https://{HOST}/ at {vip}"))?;
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..REQUESTS {
        *served.entry(workload(&ask("/")?)).or_default() += 1;
    }
    let shares = served
        .iter()
        .map(|(workload, count)| format!("{workload} {count} times"));
    say(&indent(&format!(
        "https://{HOST}/ at {vip}: {}",
        shares.collect::<Vec<_>>().join(", ")
    )))?;
    let answer = ask("/docs/install")?;
    ensure!(workload(&answer) == "docs", "{answer:?}");
    say(&indent(&format!(
        "https://{HOST}/docs/install: {} was asked for {}, by a client that Envoy knows as {}",
        answer.text("hostname"),
        answer.text("path"),
        answer.seen("x-forwarded-for")
    )))?;
    let (method, to) = ("/shop.v1.Orders/Place", SocketAddr::new(vip, 80));
    let (headers, _) = wait::until(SOON, || call(client, to, "calls.example", method))?;
    let pod = headers.get("x-hostname").map_or("nobody", String::as_str);
    say(&indent(&format!("gRPC {method} at {vip}: {pod}")))
}

/// Which workload has answered: its Pods' names begin with it.
fn workload(answer: &Answer) -> String {
    let pod = answer.text("hostname");
    pod.split('-').next().unwrap_or_default().to_owned()
}

/// Deployments with a Service each.
fn workloads() -> String {
    let workload = |(name, image, port): (&str, &str, u16)| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: [{{name: {name}, image: {image}}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}\n---\n"
        )
    };
    WORKLOADS.map(workload).concat()
}
