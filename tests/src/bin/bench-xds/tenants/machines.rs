//! A client, the management node, and the nodes of tenants; each answers with its name.

use std::sync::Arc;

use anyhow::Context as _;
use kubelb_tests::netns::Namespace;
use kubelb_tests::topology::{Plan, Topology};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::objects::{FIRST_PORT, PORTS};

/// Where the nodes of the tenants without machines of their own are.
const CROWD: &str = "10.64.0.0/10";
/// Nodes of a tenant that has machines.
pub(super) const NODES: usize = 2;
/// Tenants that have.
pub(super) const TENANTS: usize = 2;
/// What a health check of a Service of `externalTrafficPolicy: Local` gets.
const HEALTHY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// All of them.
pub(crate) struct Machines {
    topology: Topology,
}

impl Machines {
    pub(super) fn new() -> anyhow::Result<Self> {
        let plan = Plan {
            tenants: u8::try_from(TENANTS * NODES + 1)?,
            ..Plan::default()
        };
        let topology = Topology::new(plan)?;
        let crowd = topology.tenants.last().context("the machine of all other tenants")?;
        crowd.namespace.ip(&["route", "add", "local", CROWD, "dev", "lo"])?;
        topology
            .node
            .ip(&["route", "add", CROWD, "via", &crowd.v4.to_string()])?;
        for machine in &topology.tenants {
            serve(&machine.namespace, &machine.node_interface)?;
        }
        Ok(Self { topology })
    }

    pub(super) fn client(&self) -> &Namespace {
        &self.topology.client
    }

    /// The management node.
    pub(super) fn node(&self) -> &Namespace {
        &self.topology.node
    }

    pub(super) fn interfaces(&self) -> Vec<&str> {
        self.topology.node_interfaces()
    }

    /// Names of a tenant's nodes.
    pub(super) fn names(&self, tenant: usize) -> [&str; NODES] {
        let machines = self.topology.tenants.iter().skip(tenant * NODES);
        let mut names = machines.map(|machine| machine.node_interface.as_str());
        std::array::from_fn(|_| names.next().unwrap_or_default())
    }

    /// Addresses of a tenant's nodes.
    pub(super) fn addresses(&self, tenant: usize) -> [String; NODES] {
        let mut machines = self.topology.tenants.iter().skip(tenant * NODES);
        std::array::from_fn(|_| machines.next().map_or(String::new(), |machine| machine.v4.to_string()))
    }
}

/// Every NodePort answers each line with the machine's name, and HTTP with 200.
fn serve(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let name: Arc<str> = format!("{name}\n").into();
    let work = move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut listening = tokio::task::JoinSet::new();
            for port in FIRST_PORT..FIRST_PORT + PORTS {
                let listener = TcpListener::bind(("0.0.0.0", port)).await?;
                let name = Arc::clone(&name);
                listening.spawn(async move {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        let name = Arc::clone(&name);
                        tokio::spawn(async move {
                            let mut asked = [0; 512];
                            let length = stream.read(&mut asked).await.unwrap_or(0);
                            let answer = match asked.get(..length) {
                                // A bare connect is a health check.
                                None | Some([]) => return,
                                Some(asked) if asked.starts_with(b"GET ") => HEALTHY,
                                Some(_) => name.as_bytes(),
                            };
                            if stream.write_all(answer).await.is_ok() {
                                // Until the client hangs up, which it does first.
                                drop(stream.read(&mut asked).await);
                            }
                        });
                    }
                });
            }
            while listening.join_next().await.is_some() {}
            anyhow::Ok(())
        })
    };
    drop(namespace.spawn(work).context("cannot start a machine's servers")?);
    Ok(())
}
