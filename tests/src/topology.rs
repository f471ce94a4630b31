//! The network of a test: one client, one node, some tenant nodes, joined by veth pairs.
//!
//! ```text
//!   client                        node                          tenant 1..n
//!   eth0 10.1.0.2/24  ───────  client 10.1.0.1/24
//!        fd01::2/64                   fd01::1/64
//!                              tenant1 10.2.1.1/24  ───────────  eth0 10.2.1.2/24
//!                                      fd02:1::1/64                   fd02:1::2/64
//! ```
//! Client and tenants have default routes through the node, so that VIPs are reached through it, and tenants are too,
//! directly, for comparison. Each test has namespaces of its own, so addresses are the same everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Context as _;

use crate::netns::Namespace;
use crate::tool;

/// A VIP (RFC 5737 TEST-NET-3); any address behind the client's default route would do.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// A VIP (RFC 3849 documentation prefix).
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// Interface of the client and of each tenant.
pub const PEER_INTERFACE: &str = "eth0";
/// The node's interface towards the client.
pub const CLIENT_INTERFACE: &str = "client";

/// What can differ between tests.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tenant nodes, 1 to 250.
    pub tenants: u8,
    /// Whether client and tenants leave checksums (and segmentation) to the "hardware". Off is needed with native XDP on
    /// veth: a packet from the peer would carry an unfinished sum, which XDP has no way to see.
    pub peer_offload: bool,
    /// The same for the node's own ends: off makes the kernel finish every sum before it is on the wire, so that a capture
    /// can verify it.
    pub node_offload: bool,
    /// Receive and transmit queues of each end.
    pub queues: u8,
    /// In bytes, of every link.
    pub mtu: u32,
}

impl Default for Plan {
    /// Three tenants, ready for native XDP.
    fn default() -> Self {
        Self {
            tenants: 3,
            peer_offload: false,
            node_offload: true,
            queues: 2,
            mtu: 1500,
        }
    }
}

/// A tenant's node.
#[derive(Debug)]
pub struct Tenant {
    /// Where it lives.
    pub namespace: Namespace,
    /// The node's interface towards it.
    pub node_interface: String,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
}

impl Tenant {
    /// Its address of the family of `like`.
    #[must_use]
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// The node's address on the link to it, of the family of `like`.
    #[must_use]
    pub fn gateway(&self, like: IpAddr) -> IpAddr {
        let [v4, v6] = gateways(self.v4, self.v6);
        if like.is_ipv4() { v4 } else { v6 }
    }
}

/// The namespaces, wired up and addressed.
#[derive(Debug)]
pub struct Topology {
    /// Who dials VIPs.
    pub client: Namespace,
    /// Where the agent runs.
    pub node: Namespace,
    /// Where backends run.
    pub tenants: Vec<Tenant>,
}

impl Topology {
    /// Builds it. Everything works when this returns: nothing has to be waited for.
    ///
    /// # Errors
    /// Without root, `ip` or `ethtool`, or when the kernel refuses.
    pub fn new(plan: Plan) -> anyhow::Result<Self> {
        let node = Namespace::new("node")?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let client = Namespace::new("client")?;
        wire(&node, CLIENT_INTERFACE, &client, ["10.1.0", "fd01:"], plan)?;
        let mut tenants = Vec::new();
        for number in 1..=plan.tenants {
            let namespace = Namespace::new(&format!("tenant{number}"))?;
            let node_interface = format!("tenant{number}");
            let nets = [format!("10.2.{number}"), format!("fd02:{number:x}:")];
            wire(&node, &node_interface, &namespace, [&nets[0], &nets[1]], plan)?;
            tenants.push(Tenant {
                namespace,
                node_interface,
                v4: IpAddr::V4(Ipv4Addr::new(10, 2, number, 2)),
                v6: IpAddr::V6(Ipv6Addr::new(0xfd02, number.into(), 0, 0, 0, 0, 0, 2)),
            });
        }
        Ok(Self { client, node, tenants })
    }

    /// The client's address of the family of `like`.
    #[must_use]
    pub fn client_address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2))
        } else {
            IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2))
        }
    }

    /// The node's interfaces, the client's first.
    #[must_use]
    pub fn node_interfaces(&self) -> Vec<&str> {
        std::iter::once(CLIENT_INTERFACE)
            .chain(self.tenants.iter().map(|tenant| tenant.node_interface.as_str()))
            .collect()
    }

    /// Cuts or restores the link of one tenant, as a dead or recovered machine would.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn set_tenant_link(&self, tenant: usize, up: bool) -> anyhow::Result<()> {
        let tenant = self.tenants.get(tenant).context("there is no such tenant")?;
        let state = if up { "up" } else { "down" };
        tenant.namespace.ip(&["link", "set", PEER_INTERFACE, state])?;
        if up {
            // Taking a link down removes the routes through it.
            default_routes(&tenant.namespace, &gateways(tenant.v4, tenant.v6))?;
        }
        Ok(())
    }

    /// Fills in the MAC addresses by hand, for tests in which no neighbour resolution shall take place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin_neighbours(&self) -> anyhow::Result<()> {
        let ends = std::iter::once((
            CLIENT_INTERFACE,
            &self.client,
            [self.client_address(VIP4), self.client_address(VIP6)],
        ))
        .chain(
            self.tenants
                .iter()
                .map(|t| (t.node_interface.as_str(), &t.namespace, [t.v4, t.v6])),
        );
        for (interface, peer, addresses) in ends {
            let peer_mac = mac(peer, PEER_INTERFACE)?;
            let node_mac = mac(&self.node, interface)?;
            for (address, gateway) in addresses.iter().zip(gateways(addresses[0], addresses[1])) {
                pin(&self.node, interface, *address, peer_mac)?;
                pin(peer, PEER_INTERFACE, gateway, node_mac)?;
            }
        }
        Ok(())
    }
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac(namespace: &Namespace, interface: &str) -> anyhow::Result<[u8; 6]> {
    let text = tool::output(
        namespace
            .command("ip")
            .args(["-json", "link", "show", "dev", interface]),
    )?;
    let parsed: serde_json::Value = serde_json::from_str(&text).context("ip printed no JSON")?;
    let mac = parsed.pointer("/0/address").and_then(serde_json::Value::as_str);
    let mac = mac.with_context(|| format!("{interface} has no MAC address"))?;
    let bytes = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<Vec<u8>, _>>();
    let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    bytes.with_context(|| format!("{mac} is no MAC address"))
}

/// A MAC address as `ip` writes it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn pin(namespace: &Namespace, interface: &str, address: IpAddr, mac: [u8; 6]) -> anyhow::Result<()> {
    let (address, mac) = (address.to_string(), mac_text(mac));
    namespace.ip(&[
        "neigh",
        "replace",
        &address,
        "lladdr",
        &mac,
        "nud",
        "permanent",
        "dev",
        interface,
    ])
}

/// Joins `node` and `peer`; the node gets host number 1 of each net, the peer 2.
fn wire(node: &Namespace, node_interface: &str, peer: &Namespace, nets: [&str; 2], plan: Plan) -> anyhow::Result<()> {
    let queues = plan.queues.to_string();
    let mtu = plan.mtu.to_string();
    let shape = ["mtu", &mtu, "numtxqueues", &queues, "numrxqueues", &queues];
    let mut arguments = vec!["link", "add", node_interface];
    arguments.extend(shape);
    arguments.extend(["type", "veth", "peer", "name", PEER_INTERFACE, "netns", peer.name()]);
    arguments.extend(shape);
    node.ip(&arguments)?;

    // Large receive offload in software: a peer with neither that nor an XDP program of its own drops what XDP sends it.
    offload(peer, PEER_INTERFACE, plan.peer_offload)?;
    offload(node, node_interface, plan.node_offload)?;
    let [v4, v6] = nets;
    let hosts = |number: u8| -> anyhow::Result<[IpAddr; 2]> {
        let parse = |text: String| text.parse().with_context(|| format!("{text} is no address"));
        Ok([parse(format!("{v4}.{number}"))?, parse(format!("{v6}:{number}"))?])
    };
    for (namespace, interface, number) in [(node, node_interface, 1), (peer, PEER_INTERFACE, 2)] {
        address(namespace, interface, &hosts(number)?)?;
        namespace.ip(&["link", "set", interface, "up"])?;
    }
    default_routes(peer, &hosts(1)?)
}

fn offload(namespace: &Namespace, interface: &str, transmit: bool) -> anyhow::Result<()> {
    let transmit = if transmit { "on" } else { "off" };
    let mut command: Command = namespace.command("ethtool");
    tool::output(command.args(["-K", interface, "gro", "on", "tx", transmit])).map(drop)
}

fn address(namespace: &Namespace, interface: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    for address in addresses {
        let text = format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        let mut arguments = vec!["address", "replace", &text, "dev", interface];
        if address.is_ipv6() {
            arguments.push("nodad");
        }
        namespace.ip(&arguments)?;
    }
    Ok(())
}

fn default_routes(namespace: &Namespace, gateways: &[IpAddr]) -> anyhow::Result<()> {
    for gateway in gateways {
        let family = if gateway.is_ipv4() { "-4" } else { "-6" };
        namespace.ip(&[family, "route", "replace", "default", "via", &gateway.to_string()])?;
    }
    Ok(())
}

/// The node's addresses on the links of a peer with these.
fn gateways(v4: IpAddr, v6: IpAddr) -> [IpAddr; 2] {
    [v4, v6].map(|address| match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 1))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, _] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, 1))
        }
    })
}
