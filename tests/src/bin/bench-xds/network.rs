//! A node, and behind it a machine that answers for every node of every tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use kubelb_tests::netns::Namespace;
use tokio::net::TcpListener;

use crate::scenario::{FIRST_PORT, NODES, Scenario};

/// The node's interface.
pub(crate) const INTERFACE: &str = "uplink";

/// Both, joined by a veth pair.
pub(crate) struct Network {
    pub(crate) node: Namespace,
    _tenants: Namespace,
    accepted: Arc<AtomicU64>,
}

impl Network {
    /// Builds it. `scenario`'s NodePorts take connections, of which nothing is made but a count.
    pub(crate) fn new(scenario: &Scenario) -> anyhow::Result<Self> {
        let node = Namespace::new("node")?;
        let tenants = Namespace::new("tenants")?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.ip(&[
            "link",
            "add",
            INTERFACE,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            tenants.name(),
        ])?;
        node.ip(&["addr", "add", "192.0.2.1/24", "dev", INTERFACE])?;
        node.ip(&["link", "set", INTERFACE, "up"])?;
        tenants.ip(&["addr", "add", "192.0.2.2/24", "dev", "eth0"])?;
        tenants.ip(&["link", "set", "eth0", "up"])?;
        tenants.ip(&["route", "add", "local", NODES, "dev", "lo"])?;
        node.ip(&["route", "add", NODES, "via", "192.0.2.2"])?;
        let accepted = Arc::new(AtomicU64::new(0));
        let (counter, ports) = (Arc::clone(&accepted), scenario.ports());
        let serve = move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for port in FIRST_PORT..FIRST_PORT + ports {
                    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
                    let counter = Arc::clone(&counter);
                    tasks.spawn(async move {
                        while listener.accept().await.is_ok() {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                while tasks.join_next().await.is_some() {}
                anyhow::Ok(())
            })
        };
        drop(tenants.spawn(serve).context("cannot start the tenants' servers")?);
        Ok(Self {
            node,
            _tenants: tenants,
            accepted,
        })
    }

    /// Connections that the tenants' nodes have taken so far: health checks.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}
