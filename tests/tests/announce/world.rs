//! Two nodes, a client and a server on one LAN. Each node has an agent, and a manager of its own that follows manifests of its own, so that a
//! test can have managers that have not heard the same.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kubelb_api::names::AddressName;
use kubelb_tests::agent::{Agent, Setup};
use kubelb_tests::capture::Capture;
use kubelb_tests::lan::{self, FIRST_FREE, Host, INTERFACE, Lan};
use kubelb_tests::manager::{self, Manager};
use kubelb_tests::packet::link::{Arp, solicitation, unsolicited_advertisement};
use kubelb_tests::scratch::Scratch;
use kubelb_tests::tool;
use kubelb_tests::traffic::{Kind, Server};
use kubelb_tests::wait;
use kubelb_tests::wire::Wire;

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The bound of what must have settled: one answerer, whatever died.
pub(crate) const SETTLED: Duration = Duration::from_secs(3);
pub(crate) const PORT: u16 = 8_080;
pub(crate) const NODE_PORT: u16 = 30_700;
/// Of a node, in its own namespace: where it serves, and where it tells of it.
const MANAGER: [&str; 2] = ["127.0.0.1:18000", "127.0.0.1:19000"];

pub(crate) fn vips() -> [IpAddr; 2] {
    [lan::v4(FIRST_FREE).into(), lan::v6(FIRST_FREE).into()]
}

/// The MAC address of a host of the LAN.
pub(crate) fn mac(host: &Host) -> [u8; 6] {
    let [a, b, c, d] = host.v4.octets();
    [2, 0, a, b, c, d]
}

pub(crate) struct Node {
    pub(crate) host: Host,
    name: &'static str,
    directory: Scratch,
    manager: RefCell<Option<Manager>>,
}

impl Node {
    fn new(lan: &Lan, name: &'static str) -> Self {
        let host = lan.host(name).unwrap();
        for setting in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
            host.namespace.sysctl(setting, "1").unwrap();
        }
        let directory = Scratch::new().unwrap();
        std::fs::create_dir(directory.path().join("manifests")).unwrap();
        Self {
            host,
            name,
            directory,
            manager: RefCell::default(),
        }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("manager")
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.directory.path().join("manifests").join(file)).unwrap();
    }

    pub(crate) fn start_manager(&self) {
        // What a test writes is what holds: each manager knows of one agent only.
        let manifests = self.directory.path().join("manifests");
        let started = Manager::start(&self.host.namespace, MANAGER, &self.state(), &manifests);
        *self.manager.borrow_mut() = Some(started.unwrap());
    }

    pub(crate) fn stop_manager(&self) {
        drop(self.manager.take());
    }

    pub(crate) fn agent(&self, mode: &str) -> Agent<'_> {
        let mut setup = Setup::new(&[INTERFACE], mode);
        setup.managers = manager::agent_flags(self.name, [MANAGER[0]], &self.state()).unwrap();
        Agent::start(&self.host.namespace, setup, "").unwrap()
    }

    /// What `ip` prints in the node's namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        tool::output(self.host.namespace.command("ip").args(arguments)).unwrap()
    }
}

pub(crate) struct World {
    pub(crate) nodes: [Node; 2],
    pub(crate) client: Host,
    pub(crate) server: Host,
    _servers: [Server; 2],
    _lan: Lan,
}

impl World {
    /// With a manager on each node, and nobody who announces anything.
    pub(crate) fn new() -> Self {
        let lan = Lan::new().unwrap();
        let nodes = ["node-1", "node-2"].map(|name| Node::new(&lan, name));
        let (client, server) = (lan.host("client").unwrap(), lan.host("server").unwrap());
        for host in [&client, &server]
            .into_iter()
            .chain(nodes.iter().map(|node| &node.host))
        {
            host.finish_checksums().unwrap();
        }
        let servers =
            [Kind::Tcp, Kind::Udp].map(|kind| Server::start(&server.namespace, kind, "server", NODE_PORT).unwrap());
        for node in &nodes {
            node.write("tenant.yaml", &manager::tenant(server.addresses()));
            node.write("web.yaml", &load_balancer("web", PORT, ""));
            node.start_manager();
        }
        Self {
            nodes,
            client,
            server,
            _servers: servers,
            _lan: lan,
        }
    }

    /// Both managers say that this node has the addresses.
    pub(crate) fn give_to(&self, owner: usize, epoch: u64) {
        for node in &self.nodes {
            node.write("owners.yaml", &owners(self.nodes[owner].name, epoch));
        }
    }

    pub(crate) fn mac(&self, node: usize) -> [u8; 6] {
        mac(&self.nodes[node].host)
    }

    /// See [`answerers`].
    pub(crate) fn answerers(&self, vip: IpAddr) -> BTreeSet<[u8; 6]> {
        answerers(&self.client, &[&self.nodes[0].host, &self.nodes[1].host], vip)
    }

    /// Waits until this node alone answers for both addresses, over and over for a while.
    pub(crate) fn until_answered_by(&self, node: usize, within: Duration) -> Duration {
        let expected: BTreeSet<_> = [self.mac(node)].into();
        let (_, taken) = wait::until(within, || {
            for vip in vips() {
                let found = self.answerers(vip);
                ensure!(
                    found == expected,
                    "{vip} is answered by {found:02x?}, not {expected:02x?}"
                );
            }
            Ok(())
        })
        .unwrap();
        taken
    }

    /// Where the client's kernel believes an address to be.
    pub(crate) fn neighbour(&self, vip: IpAddr) -> anyhow::Result<[u8; 6]> {
        let vip = vip.to_string();
        let shown = tool::output(
            self.client
                .namespace
                .command("ip")
                .args(["neigh", "show", &vip, "dev", INTERFACE]),
        )?;
        let text = shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        let text = text.with_context(|| format!("the client does not know {vip}: {shown}"))?;
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes?.try_into().ok().context("six bytes")
    }

    /// Waits until the client's kernel has both addresses at this node.
    pub(crate) fn until_known_at(&self, node: usize) -> Duration {
        let (_, taken) = wait::until(SOON, || {
            for vip in vips() {
                let found = self.neighbour(vip)?;
                ensure!(found == self.mac(node), "{vip} is at {found:02x?}");
            }
            Ok(())
        })
        .unwrap();
        taken
    }

    /// A machine of no node says that it has the addresses.
    pub(crate) fn usurp(&self) {
        let wire = Wire::open(&self.server.namespace, INTERFACE).unwrap();
        let [v4, v6] = vips();
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
            unreachable!("one of each")
        };
        wire.send(&Arp::announcement(mac(&self.server), v4).bytes()).unwrap();
        wire.send(&unsolicited_advertisement(mac(&self.server), v6).bytes())
            .unwrap();
    }
}

/// Who answers the client's questions about an address: each node's answer is waited for, to a question about the node's own address that comes later.
pub(crate) fn answerers(client: &Host, nodes: &[&Host], vip: IpAddr) -> BTreeSet<[u8; 6]> {
    let wire = Wire::open(&client.namespace, INTERFACE).unwrap();
    let [_, _, a, b, c, d] = mac(client);
    let to = format!("ether dst 02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x} and");
    let filter = if vip.is_ipv4() {
        format!("{to} arp and arp[6:2] = 2")
    } else {
        format!("{to} icmp6 and ip6[40] = 136")
    };
    let capture = Capture::start(&client.namespace, INTERFACE, &filter).unwrap();
    let fences: Vec<IpAddr> = nodes.iter().map(|node| node.address(vip)).collect();
    for address in [vip; 3].into_iter().chain(fences.iter().copied()) {
        wire.send(&question(client, address)).unwrap();
    }
    let frames = capture.finish(fences.len()).unwrap();
    let answers = frames.iter().filter(|frame| asked_about(frame) == Some(vip));
    answers.map(|frame| frame[6..12].try_into().unwrap()).collect()
}

fn question(client: &Host, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => Arp::request((mac(client), client.v4), v4).bytes(),
        IpAddr::V6(v6) => solicitation((mac(client), client.v6), v6).bytes(),
    }
}

/// Which address a reply or an advertisement is about.
fn asked_about(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x06] => Some(Ipv4Addr::from(*frame.get(28..)?.first_chunk::<4>()?).into()),
        _ => Some(Ipv6Addr::from(*frame.get(62..)?.first_chunk::<16>()?).into()),
    }
}

pub(crate) fn addresses() -> [SocketAddr; 2] {
    vips().map(|vip| SocketAddr::new(vip, PORT))
}

/// TCP and UDP in front of the servers; `more` are further lines of its metadata.
pub(crate) fn load_balancer(name: &str, port: u16, more: &str) -> String {
    manager::load_balancer(name, [port, NODE_PORT], vips(), [more, ""])
}

fn owners(node: &str, epoch: u64) -> String {
    let object = |vip: IpAddr| {
        format!(
            "apiVersion: kubelb.k8c.io/v1alpha1\nkind: VirtualAddressOwner\nmetadata: {{name: {}}}\n\
             spec: {{node: {node}, epoch: {epoch}}}\n",
            AddressName::new(vip)
        )
    };
    vips().map(object).join("---\n")
}
