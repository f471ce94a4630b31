//! The management cluster with everything in it, manager and agent, and the tenants that have machines.

use anyhow::{Context as _, ensure};
use kube::Client;
use kube::api::{Api, ListParams};
use kubelb_api::v1alpha1::LoadBalancer;
use kubelb_tests::agent::{Agent, Setup};
use kubelb_tests::apiserver;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use kubelb_tests::world::Mode;
use tokio::runtime::Runtime;

use super::machines::{Machines, TENANTS};
use super::objects::{self, ALL_TENANTS};
use super::tenant::Tenant;
use super::{PART, Plan};
use crate::hub::{self, WITHIN};
use crate::manager::{Manager, bootstrap};
use crate::report::{Report, float};

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
        let management = runtime.block_on(hub::client(&server))?;
        runtime.block_on(hub::prepare(&management, objects::config()))?;
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
        runtime.block_on(hub::register(&management, (0..all).map(objects::tenant_name)))?;
        let own = u32::try_from(TENANTS)?;
        runtime.block_on(fill(&management, own..all, each))?;

        let mut tenants = Vec::new();
        for number in 0..TENANTS {
            let directory = path(&format!("tenant-{number}"));
            std::fs::create_dir(&directory)?;
            let mut tenant = Tenant::start(runtime, machines, number, each, &directory)?;
            tenant.start_ccm(&management, &directory, &plan.log)?;
            tenants.push(tenant);
        }
        let mut setup = Setup::new(&machines.interfaces(), Mode::Xdp.flag());
        let credential = bootstrap(&path("state"), ["--agent", "node"])?;
        setup.managers = credential.split_whitespace().map(str::to_owned).collect();
        let agent = Agent::start(machines.node(), setup, "")?;
        let total = usize::try_from(all)? * usize::from(each);
        let ((), taken) = wait::until(WITHIN, || runtime.block_on(programmed(&management, total)))?;
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

/// Writes the objects of tenants that have no machines.
async fn fill(management: &Client, tenants: std::ops::Range<u32>, each: u16) -> anyhow::Result<()> {
    let objects = tenants.flat_map(|tenant| {
        let balancers = (0..each).map(move |number| objects::load_balancer(tenant, number));
        std::iter::once(objects::addresses(tenant)).chain(balancers)
    });
    hub::create_all(management, objects).await
}

async fn programmed(management: &Client, total: usize) -> anyhow::Result<()> {
    let load_balancers: Api<LoadBalancer> = Api::all(management.clone());
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
