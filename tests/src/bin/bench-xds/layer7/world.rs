//! A management cluster with a manager and an Envoy, and a tenant with an API server and a CCM of its own.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, WatchParams};
use kube::core::{CustomResourceExt as _, GroupVersionKind};
use kubelb_api::v1alpha1::Route;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::{apiserver, gateway_api, wait};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::hops::{self, Backend};
use super::objects::{self, NODE, TENANT, VIP};
use super::watch::{Seen, Watch};
use super::{PART, Plan};
use crate::hub::{self, Ccm, WITHIN};
use crate::manager::{Manager, bootstrap};

/// Changes under way to the API server.
const AT_ONCE: usize = 32;

/// See the module. In this order it ends.
pub(super) struct World<'a> {
    envoy: Option<Envoy<'a>>,
    manager: Option<Manager<'a>>,
    ccm: Ccm,
    _backend: Backend,
    _servers: [ControlPlane; 2],
    namespace: &'a Namespace,
    runtime: &'static Runtime,
    tenant: Client,
    /// The tenant's Gateway.
    pub(super) gateways: Watch,
    /// The tenant's HTTPRoutes.
    pub(super) http_routes: Watch,
    /// What the manager answers, in the management cluster.
    pub(super) routes: Watch,
    flags: Vec<String>,
    log: String,
    quiet: Duration,
    scratch: Scratch,
}

impl<'a> World<'a> {
    /// Starts all of it, with a Gateway that has its address. Call it on a thread in the namespace.
    pub(super) fn start(namespace: &'a Namespace, plan: &Plan) -> anyhow::Result<Self> {
        let log = plan.log.as_str();
        for address in [VIP, NODE] {
            namespace.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        // The watches live as long as the process: it is the bench's own.
        let runtime: &'static Runtime = Box::leak(Box::new(in_namespace(namespace)?));
        let scratch = Scratch::new()?;
        let path = |name: &str| scratch.path().join(name);
        let server = |name: &str| ControlPlane::launch(apiserver::Config::new(&path(name)), Host::Here);
        let (management, tenant) = (server("management")?, server("tenant")?);
        std::fs::write(path("ca.crt"), management.ca()?)?;
        let flags = vec![
            "--source=kubernetes".to_owned(),
            format!("--kubeconfig={}", management.kubeconfig().display()),
            format!("--state-dir={}", path("state").display()),
            format!("--api-server-url=https://{}", management.address()),
            format!("--api-server-ca={}", path("ca.crt").display()),
            "--announce=false".to_owned(),
        ];
        let (hub, client) = runtime.block_on(async {
            let hub = hub::client(&management).await?;
            hub::prepare(&hub, objects::config()).await?;
            let client = hub::client(&tenant).await?;
            hub::install(&client, gateway_api::definitions()).await?;
            hub::create_all(&client, std::iter::once(objects::node()).chain(objects::services())).await?;
            let nodes: Api<Node> = Api::all(client.clone());
            let status = Patch::Merge(objects::node_status());
            nodes.patch_status("node", &PatchParams::default(), &status).await?;
            anyhow::Ok((hub, client))
        })?;
        let backend = Backend::start(namespace, objects::NODE_PORTS)?;
        let manager = Manager::launch(namespace, &flags, log)?;
        let ccm = runtime.block_on(async {
            hub::register(&hub, [TENANT.to_owned()]).await?;
            let layer7 = ["--enable-gateway-api", "--enable-leader-election=false"];
            Ccm::start(&hub, TENANT, &tenant, scratch.path(), &layer7, log).await
        })?;
        let of_tenant = |kind: &str| Api::namespaced_with(client.clone(), "default", &gateway_kind(kind));
        let routes = Api::namespaced_with(hub, &format!("tenant-{TENANT}"), &Route::api_resource());
        let [gateways, http_routes, routes] = {
            let _entered = runtime.enter();
            let everything = WatchParams::default();
            let copies = everything.clone().labels(objects::COPIES);
            [
                Watch::start(of_tenant("Gateway"), everything.clone()),
                Watch::start(of_tenant("HTTPRoute"), everything),
                Watch::start(routes, copies),
            ]
        };
        let mut world = Self {
            envoy: None,
            manager: Some(manager),
            ccm,
            _backend: backend,
            _servers: [management, tenant],
            namespace,
            runtime,
            tenant: client,
            gateways,
            http_routes,
            routes,
            flags,
            log: log.to_owned(),
            quiet: plan.quiet,
            scratch,
        };
        world.start_envoy()?;
        world
            .runtime
            .block_on(hub::create_all(&world.tenant, [objects::gateway()]))?;
        wait::until(WITHIN, || {
            ensure!(
                !world.gateways.seen().writes.is_empty(),
                "nothing is told of the Gateway"
            );
            Ok(())
        })?;
        world.until_quiet(wait::now())?;
        Ok(world)
    }

    fn start_envoy(&mut self) -> anyhow::Result<()> {
        let bootstrap = bootstrap(&self.scratch.path().join("state"), ["--fleet", TENANT])?;
        self.envoy = Some(Envoy::start(self.namespace, Setup::default(), &bootstrap)?);
        Ok(())
    }

    /// Starts manager and Envoy again.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        self.manager = Some(Manager::launch(self.namespace, &self.flags, &self.log)?);
        self.start_envoy()
    }

    /// Kills both.
    pub(super) fn stop(&mut self) {
        self.envoy = None;
        self.manager = None;
    }

    pub(super) fn namespace(&self) -> &'a Namespace {
        self.namespace
    }

    pub(super) fn manager(&self) -> u32 {
        self.manager.as_ref().map_or(0, Manager::pid)
    }

    pub(super) fn ccm(&self) -> u32 {
        self.ccm.pid()
    }

    pub(super) fn envoy(&self) -> anyhow::Result<u32> {
        self.envoy.as_ref().and_then(Envoy::pid).context("Envoy runs")
    }

    /// Waits until nothing was told for a while, since then.
    pub(super) fn until_quiet(&self, since: Instant) -> anyhow::Result<()> {
        let told = |watch: &Watch| watch.seen().last;
        wait::until(WITHIN, || {
            let last = [&self.gateways, &self.http_routes, &self.routes].map(told);
            let last = last.into_iter().fold(since, Ord::max);
            ensure!(
                wait::now().saturating_duration_since(last) >= self.quiet,
                "{PART}: more is told"
            );
            Ok(())
        })?;
        Ok(())
    }

    /// What was told of HTTPRoutes and, by the manager, of their copies.
    pub(super) fn told(&self) -> [Seen; 2] {
        [self.http_routes.seen(), self.routes.seen()]
    }

    /// Creates HTTPRoutes of these numbers.
    pub(super) fn fill(&self, numbers: Range<u32>) -> anyhow::Result<()> {
        let objects = numbers.map(|number| objects::http_route(number, 0));
        self.runtime.block_on(hub::create_all(&self.tenant, objects))
    }

    /// Gives them another version, all at once.
    pub(super) fn change(&self, numbers: Range<u32>, version: u32) -> anyhow::Result<()> {
        let routes: Api<DynamicObject> =
            Api::namespaced_with(self.tenant.clone(), "default", &gateway_kind("HTTPRoute"));
        let changes = numbers.map(|number| {
            let routes = routes.clone();
            async move {
                let spec = objects::http_route(number, version).get_mut("spec").map(Value::take);
                let patch = Patch::Merge(json!({"spec": spec}));
                routes
                    .patch(&objects::name(number), &PatchParams::default(), &patch)
                    .await
            }
        });
        self.runtime.block_on(async {
            let mut changes = futures_util::stream::iter(changes).buffer_unordered(AT_ONCE);
            while let Some(changed) = changes.next().await {
                changed?;
            }
            Ok(())
        })
    }

    /// Asks for the host of a route; right is an answer of that version.
    pub(super) fn ask(&self, number: u32, version: u32) -> anyhow::Result<()> {
        let to = SocketAddr::new(VIP.parse()?, 80);
        hops::ask_once(to, &objects::host(number), version)
    }
}

fn gateway_kind(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind))
}

/// A runtime whose threads are in the namespace.
fn in_namespace(namespace: &Namespace) -> anyhow::Result<Runtime> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    // The worker inherits the namespace of the thread that starts it.
    let started = namespace.spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        drop(sender.send(runtime));
    })?;
    let runtime = receiver.recv().context("no runtime")??;
    started
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread panicked"))??;
    Ok(runtime)
}
