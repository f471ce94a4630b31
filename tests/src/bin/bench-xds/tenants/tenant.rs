//! A tenant with an API server, a CCM and machines of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kubelb_tests::apiserver::Config;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::wait;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::machines::{Machines, NODES};
use super::objects::{self, PLAIN, WEB};
use crate::hub::{self, Ccm};

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// See the module. Killed on drop.
pub(super) struct Tenant<'a> {
    runtime: &'a Runtime,
    number: usize,
    nodes: Api<Node>,
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    names: [String; NODES],
    /// Of the Services that are measured, in the order of [`SERVICES`].
    vips: [Option<IpAddr>; SERVICES.len()],
    ccm: Option<Ccm>,
    server: ControlPlane,
}

/// The Services that are measured.
const SERVICES: [&str; 3] = ["web", "plain", "local"];

impl<'a> Tenant<'a> {
    /// Everything but the CCM, with `services` Services.
    pub(super) fn start(
        runtime: &'a Runtime,
        machines: &Machines,
        number: usize,
        services: u16,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let server = ControlPlane::launch(Config::new(&directory.join("server")), Host::Here)?;
        let client = runtime.block_on(hub::client(&server))?;
        let tenant = Self {
            runtime,
            number,
            nodes: Api::all(client.clone()),
            services: Api::default_namespaced(client.clone()),
            slices: Api::default_namespaced(client),
            names: machines.names(number).map(str::to_owned),
            vips: [None; SERVICES.len()],
            ccm: None,
            server,
        };
        tenant
            .runtime
            .block_on(tenant.fill(&machines.addresses(number), services))?;
        Ok(tenant)
    }

    async fn fill(&self, addresses: &[String; NODES], services: u16) -> anyhow::Result<()> {
        let post = PostParams::default();
        for (name, address) in self.names.iter().zip(addresses) {
            self.nodes
                .create(&post, &serde_json::from_value(objects::node(name))?)
                .await?;
            let status = Patch::Merge(objects::node_status(address));
            self.nodes.patch_status(name, &PatchParams::default(), &status).await?;
        }
        let measured = [
            objects::service("web", 80, WEB),
            objects::service("plain", 80, PLAIN),
            objects::local_service(),
        ];
        let others = services.saturating_sub(u16::try_from(measured.len())?);
        for service in measured.into_iter().chain((0..others).map(objects::other_service)) {
            self.services.create(&post, &serde_json::from_value(service)?).await?;
        }
        let first = self.names.first().context("a node")?;
        self.slices
            .create(&post, &serde_json::from_value(objects::slice(first))?)
            .await?;
        Ok(())
    }

    /// Starts the CCM with the credential that the manager has made.
    pub(super) fn start_ccm(&mut self, management: &kube::Client, directory: &Path, log: &str) -> anyhow::Result<()> {
        let name = objects::tenant_name(u32::try_from(self.number)?);
        let started = Ccm::start(management, &name, &self.server, directory, &[], log);
        self.ccm = Some(self.runtime.block_on(started)?);
        Ok(())
    }

    /// Notes the addresses of the Services that are measured.
    pub(super) fn find_vips(&mut self) -> anyhow::Result<()> {
        for (name, vip) in SERVICES.iter().zip(&mut self.vips) {
            let service = self.runtime.block_on(self.services.get(name))?;
            let status = service.status.and_then(|status| status.load_balancer);
            let first = status.and_then(|status| status.ingress?.into_iter().next()?.ip);
            let first = first.with_context(|| format!("{name} has no address yet"))?;
            *vip = Some(first.parse().with_context(|| format!("{first} is no address"))?);
        }
        Ok(())
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    fn vip_of(&self, index: usize) -> IpAddr {
        self.vips
            .get(index)
            .copied()
            .flatten()
            .unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    /// Address of the Service whose port changes.
    pub(super) fn vip(&self) -> IpAddr {
        self.vip_of(0)
    }

    /// The Service with all nodes.
    pub(super) fn plain(&self) -> SocketAddr {
        SocketAddr::new(self.vip_of(1), 80)
    }

    /// The Service with one endpoint.
    pub(super) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.vip_of(2), 80)
    }

    /// Gives the first Service another port; when that was begun.
    pub(super) fn set_port(&self, port: u16) -> anyhow::Result<Instant> {
        let ports = json!([{"name": "web", "port": port, "protocol": "TCP", "targetPort": port, "nodePort": WEB}]);
        self.write(async {
            let patch = Patch::Merge(json!({"spec": {"ports": ports}}));
            self.services
                .patch("web", &PatchParams::default(), &patch)
                .await
                .map(drop)
        })
    }

    /// Takes a node out of all Services, or in again; when that was begun.
    pub(super) fn exclude(&self, node: usize, excluded: bool) -> anyhow::Result<Instant> {
        let name = self.names.get(node).context("no such node")?;
        let value = if excluded { json!("") } else { Value::Null };
        self.write(async {
            let patch = Patch::Merge(json!({"metadata": {"labels": {EXCLUDED: value}}}));
            self.nodes.patch(name, &PatchParams::default(), &patch).await.map(drop)
        })
    }

    /// The endpoint is on another node; when that was begun.
    pub(super) fn move_endpoint(&self, node: usize) -> anyhow::Result<Instant> {
        let name = self.names.get(node).context("no such node")?;
        let endpoints = objects::slice(name).get("endpoints").cloned();
        ensure!(endpoints.is_some(), "a slice has endpoints");
        self.write(async {
            let patch = Patch::Merge(json!({"endpoints": endpoints}));
            self.slices
                .patch("local-1", &PatchParams::default(), &patch)
                .await
                .map(drop)
        })
    }

    fn write(&self, request: impl Future<Output = kube::Result<()>>) -> anyhow::Result<Instant> {
        let at = wait::now();
        self.runtime.block_on(request)?;
        Ok(at)
    }
}
