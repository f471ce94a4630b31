//! What the users' documentation of layer 7 shows, word for word, asked by a machine outside; and one address with ports of both layers.
//!
//! `examples/layer7/` has its manifests; what they leave out is here, beside them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use kubelb_tests::system::{AGENT, SOON, World, get};
use kubelb_tests::traffic::exchange::{Answer, ask, call};
use kubelb_tests::traffic::{ClientAuthority, Trust, https_get};
use kubelb_tests::wait;

const GATEWAY: &str = include_str!("examples/layer7/gateway.yaml");
const BACKEND: &str = include_str!("examples/layer7/backend.yaml");
const ROUTE: &str = include_str!("examples/layer7/api-route.yaml");
const GRPC: &str = include_str!("examples/layer7/grpc-gateway.yaml");
const GRPC_METHODS: &str = include_str!("examples/layer7/grpc-method-routing.yaml");
const CROSS_NAMESPACE: &str = include_str!("examples/layer7/cross-ns-route.yaml");
const CANARY: &str = include_str!("examples/layer7/canary-routing.yaml");

/// A request, headers of it, and the port of the Pods by which the answer shows the Service.
type Case = (&'static str, &'static [(&'static str, &'static str)], u64);

/// Manifests, and what is answered with them.
const ROUTING: [(&str, &[Case]); 6] = [
    (
        include_str!("examples/layer7/path-routing.yaml"),
        &[
            ("GET example.com/web/x", &[], 8110),
            ("GET example.com/api", &[], 8080),
            ("GET example.com/", &[], 8111),
            ("GET example.com/apis", &[], 8111),
        ],
    ),
    (
        include_str!("examples/layer7/header-routing.yaml"),
        &[
            ("GET api.example.com/", &[("X-Version", "v2")], 8102),
            ("GET api.example.com/", &[("X-Version", "v3")], 8101),
            ("GET api.example.com/", &[], 8101),
        ],
    ),
    (
        include_str!("examples/layer7/query-routing.yaml"),
        &[
            ("GET any.example/?version=beta", &[], 8103),
            ("GET any.example/?version=1", &[], 8104),
        ],
    ),
    (
        include_str!("examples/layer7/method-routing.yaml"),
        &[
            ("POST any.example/", &[], 8105),
            ("PUT any.example/", &[], 8105),
            ("DELETE any.example/", &[], 8105),
            ("GET any.example/", &[], 8106),
        ],
    ),
    (
        include_str!("examples/layer7/timeout-route.yaml"),
        &[("GET any.example/", &[], 8109)],
    ),
    (
        include_str!("examples/layer7/retry-route.yaml"),
        &[("GET any.example/", &[], 8080)],
    ),
];

/// Services of the examples that have no manifest there: name, port, and the Pods' port that tells them apart.
const SERVICES: [(&str, u16, u16); 14] = [
    ("api-v1", 8080, 8101),
    ("api-v2", 8080, 8102),
    ("beta-backend", 8080, 8103),
    ("stable-backend", 8080, 8104),
    ("write-service", 8080, 8105),
    ("read-service", 8080, 8106),
    ("api-stable", 8080, 8107),
    ("api-canary", 8080, 8108),
    ("slow-backend", 8080, 8109),
    ("web-backend", 80, 8110),
    ("default-backend", 80, 8111),
    ("user-service-v2", 9000, 9102),
    ("auth-service", 9000, 9103),
    ("default-grpc", 9000, 9104),
];

/// "Ensure that the Gateway permits it", and the Service's namespace as well.
const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: frontend, namespace: backend}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: frontend}]
  to: [{group: '', kind: Service}]
";

/// One address, two layers; and a certificate.
const HYBRID: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: hybrid, annotations: {kubelb.k8c.io/allow-shared-ip: hybrid}}
spec:
  gatewayClassName: kubelb
  listeners:
  - {name: http, protocol: HTTP, port: 80}
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: hybrid}]}}
  - {name: clients, protocol: HTTPS, port: 8443, tls: {certificateRefs: [{name: hybrid}]}}
  tls:
    frontend:
      default: {}
      perPort: [{port: 8443, tls: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: hybrid-clients}]}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hybrid}
spec: {parentRefs: [{name: hybrid}], rules: [{backendRefs: [{name: api-backend, port: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: database, annotations: {kubelb.k8c.io/allow-shared-ip: hybrid}}
spec:
  type: LoadBalancer
  loadBalancerClass: kubelb
  selector: {app: api}
  ports: [{port: 5432, targetPort: 8080}]
";

/// A Deployment whose Pods have the label `app`.
fn deployment(name: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: [{{name: {name}, image: {image}}}]}}\n---\n"
    )
}

fn services() -> String {
    let service = |(name, port, target): &(&str, u16, u16)| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{selector: {{app: many-backends}}, ports: [{{port: {port}, targetPort: {target}}}]}}\n---\n"
        )
    };
    SERVICES.iter().map(service).collect()
}

/// The client, before an address.
struct Site<'a> {
    world: &'a World,
    vip: IpAddr,
}

impl Site<'_> {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip, port)
    }

    fn ask(&self, request: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        ask(&self.world.client.namespace, self.at(80), request, headers)
    }

    /// Asks until the answer is right.
    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> anyhow::Result<T>) -> T {
        match wait::until(SOON, &mut look) {
            Ok((found, _)) => found,
            Err(error) => panic!("{what}: {error:#}\n{}", self.world.story().await),
        }
    }

    async fn until_served_by(&self, (request, headers, port): Case) {
        self.until(request, || {
            let answer = self.ask(request, headers)?;
            ensure!(answer.status == 200 && answer.number("port") == port, "{answer:?}");
            Ok(())
        })
        .await;
    }
}

/// All of it. Nothing of it is left in the tenant's cluster.
pub(crate) async fn play(world: &World) {
    let begin = wait::now();
    let tenant = world.tenant();
    let workloads = deployment("many-backends", "many-backends") + &deployment("grpc-app", "grpc-app") + &services();
    world.apply(tenant, &workloads).await;
    for manifests in [GATEWAY, BACKEND, ROUTE] {
        world.apply(tenant, manifests).await;
    }
    let vip = address_of(world, "my-gateway").await;
    let site = Site { world, vip };
    is_shown(&site).await;
    world.delete(tenant, ROUTE).await;
    for (manifests, cases) in ROUTING {
        world.apply(tenant, manifests).await;
        for case in cases {
            site.until_served_by(*case).await;
        }
        world.delete(tenant, manifests).await;
    }
    canary(&site).await;
    changes(&site).await;
    across_namespaces(&site).await;
    calls(&site).await;
    world.delete(tenant, GATEWAY).await;
    hybrid(world).await;
    world.delete(tenant, &format!("{workloads}{BACKEND}")).await;
    let left = ["get", "routes.kubelb.k8c.io,syncsecrets", "-A", "-o", "name"];
    world.until_says(&world.management, &left, "").await;
    eprintln!("layer 7 took {:?}", wait::now() - begin);
}

/// The address of a Gateway that is programmed.
async fn address_of(world: &World, gateway: &str) -> IpAddr {
    let programmed = "jsonpath={.status.conditions[?(@.type==\"Programmed\")].status}";
    let ask = ["get", "gateway", gateway, "-o", programmed];
    world.until_says(world.tenant(), &ask, "True").await;
    let address = "jsonpath={.status.addresses[0].value}";
    let said = world
        .says(world.tenant(), &["get", "gateway", gateway, "-o", address])
        .await;
    said.parse().unwrap()
}

/// "Get Gateway Address" and "Test Connectivity"; then what troubleshooting looks at.
async fn is_shown(site: &Site<'_>) {
    let (world, vip) = (site.world, site.vip.to_string());
    let table = world.says(world.tenant(), &["get", "gateway", "my-gateway"]).await;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let [columns, row] = &rows[..] else {
        panic!("{table}");
    };
    assert_eq!(*columns, ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"]);
    assert!(row.starts_with(&["my-gateway", "kubelb", &vip, "True"]), "{table}");
    site.until_served_by(("GET api.example.com/", &[], 8080)).await;
    assert_eq!(site.ask("GET other.example.com/", &[]).unwrap().status, 404);
    // Who asked is known, whatever the client says of itself.
    let client = world.client.address(site.vip).to_string();
    let answer = site
        .ask("GET api.example.com/", &[("x-forwarded-for", "8.8.8.8")])
        .unwrap();
    let forwarded = answer.seen("x-forwarded-for").to_owned();
    assert_eq!(forwarded.replace(' ', ""), format!("8.8.8.8,{client}"));
    let accepted = "jsonpath={.status.parents[0].conditions[?(@.type==\"Accepted\")].status}";
    let ask = ["get", "httproute", "api-route", "-o", accepted];
    world.until_says(world.tenant(), &ask, "True").await;
    let routes = ["-n", "tenant-primary", "get", "routes.kubelb.k8c.io"];
    let routes = world.says(&world.management, &routes).await;
    assert!(routes.contains("api-route"), "{routes}");
}

/// "Traffic Splitting".
async fn canary(site: &Site<'_>) {
    let tenant = site.world.tenant();
    site.world.apply(tenant, CANARY).await;
    let served = site.until("both versions have answered", || {
        let mut ports = Vec::new();
        for _ in 0..100 {
            ports.push(site.ask("GET api.example.com/", &[])?.number("port"));
        }
        let both = BTreeSet::from_iter(ports.iter().copied()) == BTreeSet::from([8107, 8108]);
        ensure!(both, "{ports:?}");
        Ok(ports)
    });
    let canary = served.await.iter().filter(|port| **port == 8108).count();
    assert!((1..=30).contains(&canary), "{canary} of 100");
    site.world.delete(tenant, CANARY).await;
}

/// Headers and paths.
async fn changes(site: &Site<'_>) {
    let (world, tenant) = (site.world, site.world.tenant());
    let manifests = include_str!("examples/layer7/add-headers.yaml");
    world.apply(tenant, manifests).await;
    site.until("headers are added", || {
        let answer = site.ask("GET any.example/", &[])?;
        ensure!(answer.seen("x-custom-header") == "custom-value", "{answer:?}");
        Ok(())
    })
    .await;
    world.delete(tenant, manifests).await;

    let manifests = include_str!("examples/layer7/modify-headers.yaml");
    world.apply(tenant, manifests).await;
    site.until("headers are changed", || {
        let answer = site.ask("GET any.example/", &[("x-internal-header", "1")])?;
        ensure!(answer.seen("x-forwarded-proto") == "https", "{answer:?}");
        ensure!(answer.seen("x-internal-header").is_empty(), "{answer:?}");
        let took = answer.headers.get("x-response-time").context("no time")?;
        took.parse::<u32>().with_context(|| took.clone())?;
        Ok(())
    })
    .await;
    world.delete(tenant, manifests).await;

    let manifests = include_str!("examples/layer7/rewrite-route.yaml");
    world.apply(tenant, manifests).await;
    site.until("the path is rewritten", || {
        let answer = site.ask("GET any.example/api/v1/users", &[])?;
        ensure!(answer.text("path") == "/api/v2/users", "{answer:?}");
        ensure!(answer.number("port") == 8102, "{answer:?}");
        Ok(())
    })
    .await;
    world.delete(tenant, manifests).await;
}

/// "Cross-Namespace Routing".
async fn across_namespaces(site: &Site<'_>) {
    let (world, tenant) = (site.world, site.world.tenant());
    for namespace in ["frontend", "backend"] {
        world.says(tenant, &["create", "namespace", namespace]).await;
    }
    let there = BACKEND
        .replace("namespace: default", "namespace: backend")
        .replace("api-backend", "api-service")
        .replace("replicas: 2", "replicas: 1");
    world.apply(tenant, &there).await;
    world.apply(tenant, CROSS_NAMESPACE).await;
    let path = "jsonpath={.status.parents[0].conditions[?(@.type==\"ResolvedRefs\")].reason}";
    let ask = ["-n", "frontend", "get", "httproute", "cross-ns-route", "-o", path];
    world.until_says(tenant, &ask, "RefNotPermitted").await;
    world.apply(tenant, GRANT).await;
    site.until_served_by(("GET any.example/", &[], 8080)).await;
    for namespace in ["frontend", "backend"] {
        world.says(tenant, &["delete", "namespace", namespace]).await;
    }
}

/// "gRPC Routing".
async fn calls(site: &Site<'_>) {
    let (world, tenant) = (site.world, site.world.tenant());
    let client = &world.client.namespace;
    let port_of = |to: SocketAddr, host: &str, method: &str| {
        let headers = call(client, to, host, method)?;
        headers.get("x-port").cloned().context("no port")
    };
    world.apply(tenant, GRPC).await;
    let vip = address_of(world, "grpc-gateway").await;
    let to = SocketAddr::new(vip, 80);
    site.until("grpc.example.com", || {
        let port = port_of(to, "grpc.example.com", "/my.service.v1.MyService/MyMethod")?;
        ensure!(port == "9000", "{port}");
        Ok(())
    })
    .await;
    world.delete(tenant, GRPC).await;

    world.apply(tenant, GRPC_METHODS).await;
    for (method, wanted) in [
        ("/my.service.v1.UserService/Get", "9102"),
        ("/my.service.v1.AuthService/Login", "9103"),
        ("/my.service.v1.AuthService/Logout", "9104"),
        ("/other.Service/Any", "9104"),
    ] {
        site.until(method, || {
            let port = port_of(site.at(80), "any.example", method)?;
            ensure!(port == wanted, "{port}");
            Ok(())
        })
        .await;
    }
    world.delete(tenant, GRPC_METHODS).await;
}

/// Port 80, 443 and 8443 in Envoy, 5432 in the kernel, of one address. At 8443 clients have to show who they are.
async fn hybrid(world: &World) {
    let tenant = world.tenant();
    let made = rcgen::generate_simple_self_signed(vec!["hybrid.example".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hybrid"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key},
    });
    let authority = ClientAuthority::new("clients.example").unwrap();
    let authorities = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hybrid-clients"}, "data": {"ca.crt": &authority.pem},
    });
    let manifests = format!("---\n{secret}\n---\n{authorities}\n---\n{HYBRID}");
    world.apply(tenant, &manifests).await;
    let vip = address_of(world, "hybrid").await;
    let database = world.addresses_of(tenant, "database", 1).await;
    assert_eq!(database, [vip], "one address for both");
    let site = Site { world, vip };
    site.until_served_by(("GET any.example/", &[], 8080)).await;
    let answer = site.ask("GET any.example/", &[]).unwrap();
    assert_eq!(answer.seen("x-forwarded-for"), world.client.address(vip).to_string());
    let trust = Trust::only(made.cert.der()).unwrap();
    let client = &world.client.namespace;
    site.until("over TLS", || {
        let status = https_get(client, site.at(443), "hybrid.example", &trust)?;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await;
    let known = Trust::of_client(made.cert.der(), &authority).unwrap();
    site.until("by who shows who it is", || {
        let status = https_get(client, site.at(8443), "hybrid.example", &known)?;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await;
    https_get(client, site.at(8443), "hybrid.example", &trust).unwrap_err();
    site.until("the Service", || get(client, site.at(5432))).await;
    // The kernel has forwarded one of them, and only that.
    let mut frontends = Vec::new();
    for pod in world.pods_of(&world.management, AGENT).await {
        let status = ["-n", "kubelb", "exec", &pod, "--", "kubelb-agent", "status"];
        let said = world.says(&world.management, &status).await;
        frontends.extend(
            said.lines()
                .filter(|line| line.contains(&format!("/{vip}/")))
                .map(str::to_owned),
        );
    }
    assert!(!frontends.is_empty(), "no agent has {vip}");
    assert!(
        frontends.iter().all(|line| line.contains("/5432-tcp")),
        "{frontends:#?}"
    );
    world.delete(tenant, &manifests).await;
}
