//! The one-box hub: a manager that follows a directory of manifests, an agent that gets its configuration from it, traffic.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

mod failover;
#[cfg(feature = "soak")]
mod go;
mod reports;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use kubelb_tests::agent::{Agent, Setup, Status};
use kubelb_tests::manager::{self, Manager};
use kubelb_tests::scratch::Scratch;
use kubelb_tests::topology::{VIP4, VIP6};
use kubelb_tests::traffic::{Conversations, Transport, ask, ask_many, client};
use kubelb_tests::wait;
use kubelb_tests::world::{Mode, NODE_PORT, VIP_PORT, Way, World, ensure_round_robin};

/// Of managers, in the node's own namespace: where they serve, and where they tell of it.
const MANAGER: [&str; 2] = ["127.0.0.1:18000", "127.0.0.1:19000"];
const SECOND: [&str; 2] = ["127.0.0.1:18001", "127.0.0.1:19001"];
const SOON: Duration = Duration::from_secs(20);
const FLOWS: usize = 12;

/// The world with a hub's directories.
struct Hub<'a> {
    world: &'a World,
    directory: Scratch,
}

impl<'a> Hub<'a> {
    fn new(world: &'a World) -> Self {
        let hub = Self {
            world,
            directory: Scratch::new().unwrap(),
        };
        std::fs::create_dir(hub.manifests()).unwrap();
        hub
    }

    fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("manager")
    }

    fn write(&self, file: &str, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.manifests().join(file)).unwrap();
    }

    fn manager(&self) -> Manager {
        Manager::start(&self.world.net.node, MANAGER, &self.state(), &self.manifests()).unwrap()
    }

    /// The flags that `kubelb-manager bootstrap` prints for the agent.
    fn issue(&self) -> Vec<String> {
        self.issue_for(&[MANAGER], &self.state())
    }

    /// The same for these managers, by the authority of a state directory.
    fn issue_for(&self, managers: &[[&str; 2]], state: &Path) -> Vec<String> {
        manager::agent_flags("node-1", managers.iter().map(|[listen, _]| listen), state).unwrap()
    }

    fn agent(&self) -> Agent<'a> {
        self.agent_with(self.issue())
    }

    fn agent_with(&self, managers: Vec<String>) -> Agent<'a> {
        let mut setup = Setup::new(&self.world.net.node_interfaces(), Mode::Tcx.flag());
        setup.managers = managers;
        Agent::start(&self.world.net.node, setup, "").unwrap()
    }

    /// A tenant whose nodes are all but the last `without` tenants of the world.
    fn tenant(&self, without: usize) -> String {
        let tenants = &self.world.net.tenants;
        let nodes = &tenants[..tenants.len() - without];
        manager::tenant(nodes.iter().flat_map(|node| [node.v4, node.v6]))
    }
}

/// A LoadBalancer in front of the tenant's servers, TCP and UDP.
fn load_balancer(name: &str, port: u16, more: &str) -> String {
    manager::load_balancer(name, [port, NODE_PORT], [VIP4, VIP6], ["", more])
}

/// That all ways go round over this many backends.
fn until_served_by(world: &World, backends: usize) {
    until_ways_served_by(world, &Way::ALL, backends);
}

fn until_ways_served_by(world: &World, ways: &[Way], backends: usize) {
    wait::until(SOON, || {
        for way in ways {
            let counts = ask_many(&world.net.client, way.transport, way.address(), FLOWS)?;
            ensure_round_robin(&counts, backends)?;
        }
        Ok(())
    })
    .unwrap();
}

fn tcp() -> Vec<Way> {
    let is_tcp = |way: &Way| matches!(way.transport, Transport::Tcp);
    Way::ALL.into_iter().filter(is_tcp).collect()
}

/// What the agent says is refused.
fn refusal(status: &Status) -> Option<String> {
    status.get("/agent/config_error")?.as_str().map(str::to_owned)
}

#[test]
fn manifests_become_forwarding_and_changes_follow() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, ""));
    let _manager = hub.manager();
    let agent = hub.agent();
    until_served_by(&world, 3);
    let name = format!("tenant-x/web/{VIP4}/{VIP_PORT}-tcp");
    assert!(
        agent.status().unwrap().frontend(&name).is_ok(),
        "frontends are called as their listeners"
    );

    hub.write("tenant.yaml", &hub.tenant(1));
    until_served_by(&world, 2);

    hub.write("second.yaml", &load_balancer("second", VIP_PORT + 1, ""));
    let second = SocketAddr::new(VIP4, VIP_PORT + 1);
    wait::until(SOON, || ask(&world.net.client, Transport::Tcp, second)).unwrap();
    std::fs::remove_file(hub.manifests().join("second.yaml")).unwrap();
    wait::until(SOON, || {
        let answered = ask(&world.net.client, Transport::Tcp, second);
        ensure!(answered.is_err(), "{second} answers still");
        Ok(())
    })
    .unwrap();
    until_served_by(&world, 2);
}

#[test]
fn what_the_kernel_path_cannot_do_costs_only_itself() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, ""));
    hub.write(
        "odd.yaml",
        &load_balancer("odd", VIP_PORT + 1, "  timeouts: {tcpClosing: 48h}\n"),
    );
    let _manager = hub.manager();
    let agent = hub.agent();
    until_served_by(&world, 3);
    let (error, _) = wait::until(SOON, || {
        let status = agent.status()?;
        refusal(&status).ok_or_else(|| anyhow::anyhow!("nothing is refused"))
    })
    .unwrap();
    assert!(
        error.contains("tenant-x/odd/") && error.contains("tcpClosing"),
        "{error}"
    );
    assert!(!error.contains("tenant-x/web/"), "{error}");

    hub.write("odd.yaml", &load_balancer("odd", VIP_PORT + 1, ""));
    let odd = SocketAddr::new(VIP4, VIP_PORT + 1);
    wait::until(SOON, || ask(&world.net.client, Transport::Tcp, odd)).unwrap();
    wait::until(SOON, || {
        let refused = refusal(&agent.status()?);
        ensure!(refused.is_none(), "still: {refused:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn source_ranges_affinity_and_maglev_come_from_manifests() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    let clients = [VIP4, VIP6].map(|vip| world.net.client_address(vip));
    let admitting = |addresses: &[std::net::IpAddr]| {
        let ranges: Vec<String> = addresses
            .iter()
            .map(|ip| format!("\"{}\"", ipnet::IpNet::from(*ip)))
            .collect();
        load_balancer("web", VIP_PORT, &format!("  sourceRanges: [{}]\n", ranges.join(", ")))
    };
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &admitting(&clients));
    let _manager = hub.manager();
    let agent = hub.agent();
    until_served_by(&world, 3);
    assert_eq!(refusal(&agent.status().unwrap()), None);

    // Of IPv4 clients only; there is no range of IPv6, so nobody comes that way.
    hub.write("web.yaml", &admitting(&clients[..1]));
    wait::until(SOON, || {
        for way in Way::ALL.into_iter().filter(|way| way.vip.is_ipv6()) {
            let asked = ask_quickly(&world, way);
            ensure!(asked.is_err(), "{} is served", way.name());
        }
        Ok(())
    })
    .unwrap();
    let v4: Vec<Way> = Way::ALL.into_iter().filter(|way| way.vip.is_ipv4()).collect();
    until_ways_served_by(&world, &v4, 3);

    let sticky = "  persistence: {type: SourceIP, timeoutSeconds: 600}\n";
    for (more, backends) in [(sticky, 1), ("  algorithm: Maglev\n", 3)] {
        hub.write("web.yaml", &load_balancer("web", VIP_PORT, more));
        wait::until(SOON, || {
            for way in Way::ALL {
                let counts = ask_many(&world.net.client, way.transport, way.address(), 3 * FLOWS)?;
                ensure!(counts.len() == backends, "{more}: {counts:?}");
            }
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(refusal(&agent.status().unwrap()), None);
}

/// With little patience, for where nobody answers.
fn ask_quickly(world: &World, way: Way) -> anyhow::Result<String> {
    world
        .net
        .client
        .run(|| client::ask_here(way.transport, way.address(), "hello", Duration::from_secs(1)))?
}

#[test]
fn neither_end_needs_the_other_to_forward() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.write("tenant.yaml", &hub.tenant(0));
    hub.write("web.yaml", &load_balancer("web", VIP_PORT, ""));
    let manager = hub.manager();
    let mut agent = hub.agent();
    until_served_by(&world, 3);
    let web = Way::ALL[0];
    let conversations = Conversations::open(&world.net.client, web.transport, web.address(), 10).unwrap();
    // What is kept is written a second later.
    let kept = agent.state_dir().join("xds-resources.pb");
    wait::until(SOON, || {
        ensure!(kept.is_file(), "nothing is kept yet");
        Ok(())
    })
    .unwrap();

    drop(manager);
    until_served_by(&world, 3);
    agent.kill().unwrap();
    until_served_by(&world, 3);
    conversations.keep_talking(10).unwrap();
    let ledger = conversations.finish().unwrap();
    assert!(ledger.failures.is_empty(), "{:?}", ledger.failures);
    // A tenant's machine dies while neither is there; the agent that starts without a manager sees to it.
    world.kill(2).unwrap();
    agent.restart().unwrap();
    // UDP ports are not checked unless somebody says how.
    until_ways_served_by(&world, &tcp(), 2);

    world.revive(2).unwrap();
    hub.write("tenant.yaml", &hub.tenant(1));
    let _manager = hub.manager();
    until_served_by(&world, 2);
}
