//! An API server with the objects of one tenant, a manager that follows it, and an Envoy.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::CustomResourceExt as _;
use kube::{Client, ResourceExt as _};
use kubelb_api::v1alpha1::{Addresses, Config, Route, Tenant};
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::{apiserver, wait};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::hops::Backend;
use super::objects::{self, NODE, VIP};
use super::watch::{Seen, Watch};
use super::{PART, WITHIN};
use crate::manager::{Manager, bootstrap};

/// Objects under way to the API server.
const AT_ONCE: usize = 32;

/// See the module. In this order it ends.
pub(super) struct World<'a> {
    envoy: Option<Envoy<'a>>,
    manager: Option<Manager<'a>>,
    _backend: Backend,
    _server: ControlPlane,
    namespace: &'a Namespace,
    runtime: &'static Runtime,
    client: Client,
    watch: Watch,
    flags: Vec<String>,
    log: String,
    scratch: Scratch,
}

impl<'a> World<'a> {
    /// Starts all of it, with a Gateway that is programmed. Call it on a thread in the namespace.
    pub(super) fn start(namespace: &'a Namespace, log: &str) -> anyhow::Result<Self> {
        for address in [VIP, NODE] {
            namespace.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        // The watch lives as long as the process: it is the bench's own.
        let runtime: &'static Runtime = Box::leak(Box::new(in_namespace(namespace)?));
        let scratch = Scratch::new()?;
        let path = |name: &str| scratch.path().join(name);
        let server = ControlPlane::launch(apiserver::Config::new(&path("management")), Host::Here)?;
        let kubeconfig = std::fs::read_to_string(server.kubeconfig())?;
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::from_yaml(&kubeconfig)?;
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        runtime.block_on(install(&client))?;
        std::fs::write(path("ca.crt"), server.ca()?)?;
        let flags = vec![
            "--source=kubernetes".to_owned(),
            format!("--kubeconfig={}", server.kubeconfig().display()),
            format!("--state-dir={}", path("state").display()),
            format!("--api-server-url=https://{}", server.address()),
            format!("--api-server-ca={}", path("ca.crt").display()),
            "--announce=false".to_owned(),
        ];
        let backend = Backend::start(namespace, objects::BACKEND_PORT)?;
        let watch = {
            let _entered = runtime.enter();
            Watch::start(client.clone())
        };
        let mut world = Self {
            envoy: None,
            manager: None,
            _backend: backend,
            _server: server,
            namespace,
            runtime,
            client,
            watch,
            flags,
            log: log.to_owned(),
            scratch,
        };
        world.run()?;
        runtime.block_on(world.register())?;
        world.create_all([objects::addresses(), objects::gateway()])?;
        wait::until(WITHIN, || {
            ensure!(world.seen().of_gateway > 0, "nothing is told of the Gateway");
            Ok(())
        })?;
        Ok(world)
    }

    /// Starts manager and Envoy.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        self.manager = Some(Manager::launch(self.namespace, &self.flags, &self.log)?);
        let bootstrap = bootstrap(&self.scratch.path().join("state"), ["--fleet", "a"])?;
        self.envoy = Some(Envoy::start(self.namespace, Setup::default(), &bootstrap)?);
        Ok(())
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

    pub(super) fn envoy(&self) -> anyhow::Result<u32> {
        self.envoy.as_ref().and_then(Envoy::pid).context("Envoy runs")
    }

    /// What was told so far.
    pub(super) fn seen(&self) -> Seen {
        self.watch.seen()
    }

    /// Waits until nothing was told for so long; what was.
    pub(super) fn until_quiet(&self, quiet: Duration) -> anyhow::Result<Seen> {
        let (seen, _) = wait::until(WITHIN, || {
            let seen = self.seen();
            ensure!(
                wait::now().saturating_duration_since(seen.last) >= quiet,
                "{PART}: more is told"
            );
            Ok(seen)
        })?;
        Ok(seen)
    }

    /// Creates routes of these numbers.
    pub(super) fn fill(&self, numbers: Range<u32>) -> anyhow::Result<()> {
        self.create_all(numbers.map(|number| objects::http_route(number, 0)))
    }

    /// Changes them, all at once.
    pub(super) fn change(&self, numbers: Range<u32>) -> anyhow::Result<()> {
        let routes: Api<Route> = Api::namespaced(self.client.clone(), objects::NAMESPACE);
        let changes = numbers.map(|number| {
            let routes = routes.clone();
            async move {
                let mut changed = objects::http_route(number, 1);
                let spec = changed.get_mut("spec").map(Value::take);
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

    fn create_all(&self, objects: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let created = objects.into_iter().map(|object| create(&self.client, object));
            let mut created = futures_util::stream::iter(created).buffer_unordered(AT_ONCE);
            while let Some(made) = created.next().await {
                made?;
            }
            Ok(())
        })
    }

    /// Asks for the host of a route.
    pub(super) fn ask(&self, number: u32) -> anyhow::Result<()> {
        let to = SocketAddr::new(VIP.parse()?, 80);
        let status = super::hops::status(to, &objects::host(number))?;
        ensure!(status == 200, "{} says {status}", objects::host(number));
        Ok(())
    }

    /// The tenant, with its namespace, which the manager makes.
    async fn register(&self) -> anyhow::Result<()> {
        let tenants: Api<Tenant> = Api::all(self.client.clone());
        let tenant = serde_json::from_value(
            json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "a"}, "spec": {}}),
        )?;
        tenants.create(&PostParams::default(), &tenant).await?;
        let namespaces: Api<KubeNamespace> = Api::all(self.client.clone());
        let deadline = wait::now() + WITHIN;
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        while namespaces.get_opt(objects::NAMESPACE).await?.is_none() {
            ensure!(wait::now() < deadline, "the tenant is not registered");
            looks.tick().await;
        }
        Ok(())
    }
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

async fn install(client: &Client) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in kubelb_api::crds::all() {
        definitions.create(&PostParams::default(), &definition).await?;
        let established = kube::runtime::wait::conditions::is_crd_established();
        let name = definition.name_any();
        let waiting = kube::runtime::wait::await_condition(definitions.clone(), &name, established);
        tokio::time::timeout(WITHIN, waiting)
            .await
            .context("a kind is not served")??;
    }
    let namespaces: Api<KubeNamespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kubelb"}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let configs: Api<Config> = Api::namespaced(client.clone(), "kubelb");
    configs
        .create(&PostParams::default(), &serde_json::from_value(objects::config())?)
        .await?;
    Ok(())
}

async fn create(client: &Client, object: Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    let resource = if kind == "Addresses" {
        Addresses::api_resource()
    } else {
        Route::api_resource()
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), objects::NAMESPACE, &resource);
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}
