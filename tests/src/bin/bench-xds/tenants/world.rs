//! The management cluster with everything in it, manager and agent, and the tenants that have machines.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::CustomResourceExt as _;
use kube::{Client, ResourceExt as _};
use kubelb_api::v1alpha1::{Addresses, Config, LoadBalancer, TenantPhase};
use kubelb_tests::agent::{Agent, Setup};
use kubelb_tests::apiserver;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use kubelb_tests::world::Mode;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::machines::{Machines, TENANTS};
use super::objects::{self, ALL_TENANTS};
use super::tenant::Tenant;
use super::{PART, Plan};
use crate::manager::{Manager, bootstrap};
use crate::report::{Report, float};

const WITHIN: Duration = Duration::from_secs(300);
/// Objects under way to the API server.
const AT_ONCE: usize = 32;

/// A client with a kubeconfig.
pub(super) async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// See the module. In this order it ends.
pub(super) struct World<'a> {
    _agent: Agent<'a>,
    tenants: Vec<Tenant<'a>>,
    _manager: Manager<'a>,
    _server: ControlPlane,
    _scratch: Scratch,
}

impl<'a> World<'a> {
    /// Starts all of it; everything is programmed and told when this returns. Call it on a thread in the management node.
    pub(super) fn start(machines: &'a Machines, plan: &Plan, report: &mut Report) -> anyhow::Result<Self> {
        // The clients of the tenants live as long as the process: it is the bench's own.
        let runtime: &Runtime = Box::leak(Box::new(
            tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        ));
        let scratch = Scratch::new()?;
        let path = |name: &str| scratch.path().join(name);
        let server = ControlPlane::launch(apiserver::Config::new(&path("management")), Host::Here)?;
        let hub = runtime.block_on(client(&std::fs::read_to_string(server.kubeconfig())?))?;
        runtime.block_on(install(&hub))?;
        std::fs::write(path("ca.crt"), server.ca()?)?;
        let flags = [
            "--source=kubernetes".to_owned(),
            format!("--kubeconfig={}", server.kubeconfig().display()),
            format!("--state-dir={}", path("state").display()),
            format!("--api-server-url=https://{}", server.address()),
            format!("--api-server-ca={}", path("ca.crt").display()),
        ];
        let manager = Manager::launch(machines.node(), &flags, &plan.log)?;
        let each = plan.load_balancers.div_ceil(ALL_TENANTS).clamp(3, 60);
        let all = plan.load_balancers.div_ceil(each);
        let each = u16::try_from(each)?;
        runtime.block_on(register(&hub, all))?;
        let own = u32::try_from(TENANTS)?;
        runtime.block_on(fill(&hub, own..all, each))?;

        let mut tenants = Vec::new();
        for number in 0..TENANTS {
            let directory = path(&format!("tenant-{number}"));
            std::fs::create_dir(&directory)?;
            let mut tenant = Tenant::start(runtime, machines, number, each, &directory)?;
            let credential = directory.join("credential");
            runtime.block_on(keep_credential(&hub, number, &credential))?;
            tenant.start_ccm(&credential, &plan.log)?;
            tenants.push(tenant);
        }
        let mut setup = Setup::new(&machines.interfaces(), Mode::Xdp.flag());
        let credential = bootstrap(&path("state"), ["--agent", "node"])?;
        setup.managers = credential.split_whitespace().map(str::to_owned).collect();
        let agent = Agent::start(machines.node(), setup, "")?;
        let total = usize::try_from(all)? * usize::from(each);
        let ((), taken) = wait::until(WITHIN, || runtime.block_on(programmed(&hub, total)))?;
        report.add(PART, "LoadBalancers", float(total), "");
        report.add(PART, "tenants", f64::from(all), "");
        report.add(
            PART,
            "agent ready: until all objects say that they are programmed",
            taken.as_secs_f64(),
            "s",
        );
        for tenant in &mut tenants {
            wait::until(WITHIN, || tenant.find_vips())?;
        }
        Ok(Self {
            _agent: agent,
            tenants,
            _manager: manager,
            _server: server,
            _scratch: scratch,
        })
    }

    /// Tenants take turns.
    pub(super) fn tenant(&self, turn: usize) -> anyhow::Result<&Tenant<'a>> {
        self.tenants.get(turn % self.tenants()).context("there are tenants")
    }

    pub(super) fn tenants(&self) -> usize {
        self.tenants.len().max(1)
    }
}

async fn install(hub: &Client) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(hub.clone());
    for definition in kubelb_api::crds::all() {
        definitions.create(&PostParams::default(), &definition).await?;
        let established = kube::runtime::wait::conditions::is_crd_established();
        let name = definition.name_any();
        let waiting = kube::runtime::wait::await_condition(definitions.clone(), &name, established);
        tokio::time::timeout(WITHIN, waiting)
            .await
            .context("a kind is not served")??;
    }
    let namespaces: Api<Namespace> = Api::all(hub.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kubelb"}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let configs: Api<Config> = Api::namespaced(hub.clone(), "kubelb");
    configs
        .create(&PostParams::default(), &serde_json::from_value(objects::config())?)
        .await?;
    Ok(())
}

/// Creates the tenants, and waits until the manager has made what each needs.
async fn register(hub: &Client, all: u32) -> anyhow::Result<()> {
    let tenants: Api<kubelb_api::v1alpha1::Tenant> = Api::all(hub.clone());
    for tenant in 0..all {
        let tenant = serde_json::from_value(objects::tenant(tenant))?;
        tenants.create(&PostParams::default(), &tenant).await?;
    }
    let deadline = wait::now() + WITHIN;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        let list = tenants.list(&ListParams::default()).await?;
        let is_ready = |tenant: &kubelb_api::v1alpha1::Tenant| {
            tenant.status.as_ref().and_then(|status| status.phase) == Some(TenantPhase::Ready)
        };
        let missing = list.iter().filter(|tenant| !is_ready(tenant)).count();
        if missing == 0 {
            return Ok(());
        }
        ensure!(wait::now() < deadline, "{missing} tenants are not registered");
    }
}

/// Writes the objects of tenants that have no machines.
async fn fill(hub: &Client, tenants: std::ops::Range<u32>, each: u16) -> anyhow::Result<()> {
    let objects = tenants.flat_map(|tenant| {
        let balancers = (0..each).map(move |number| objects::load_balancer(tenant, number));
        std::iter::once(objects::addresses(tenant)).chain(balancers)
    });
    let created = futures_util::stream::iter(objects.map(|object| create(hub, object)));
    let mut created = created.buffer_unordered(AT_ONCE);
    while let Some(made) = created.next().await {
        made?;
    }
    Ok(())
}

async fn create(hub: &Client, object: Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    let resource = if kind == "Addresses" {
        Addresses::api_resource()
    } else {
        LoadBalancer::api_resource()
    };
    let namespace = object.namespace().context("an object of a tenant")?;
    let api: Api<DynamicObject> = Api::namespaced_with(hub.clone(), &namespace, &resource);
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

async fn keep_credential(hub: &Client, tenant: usize, file: &Path) -> anyhow::Result<()> {
    let namespace = format!("tenant-{}", objects::tenant_name(u32::try_from(tenant)?));
    let secrets: Api<Secret> = Api::namespaced(hub.clone(), &namespace);
    let secret = secrets.get("kubelb-ccm-kubeconfig").await?;
    let text = secret
        .data
        .and_then(|mut data| data.remove("kubelb"))
        .context("no kubeconfig")?;
    std::fs::write(file, text.0)?;
    Ok(())
}

async fn programmed(hub: &Client, total: usize) -> anyhow::Result<()> {
    let load_balancers: Api<LoadBalancer> = Api::all(hub.clone());
    let list = load_balancers.list(&ListParams::default()).await?;
    let is_programmed = |object: &&LoadBalancer| {
        let conditions = object.status.iter().flat_map(|status| &status.conditions);
        conditions
            .into_iter()
            .any(|known| known.type_ == "Programmed" && known.status == "True")
    };
    let done = list.iter().filter(is_programmed).count();
    ensure!(done == total, "{done} of {total} LoadBalancers are programmed");
    Ok(())
}
