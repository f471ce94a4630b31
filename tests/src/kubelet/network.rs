//! Pod addresses and links: which address is free, and the commands that wire a Pod to its node. Pure.
//!
//! A Pod's address is a /32 (or /128) behind a veth pair of its own, and the node a router. Both ends know each other's MAC
//! for good, so that nothing depends on who answers ARP on the node.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::launch::NetworkSpec;

/// Next hops of the Pod's default routes; never in a packet.
const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// Addresses of a range that are looked at; a node has far fewer Pods.
const LOOKED_AT: u32 = 65_536;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: want ADDRESS/PREFIX");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_error| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_error| wrong())?;
        let longest = if address.is_ipv4() { 30 } else { 126 };
        if prefix > longest {
            return Err(format!("{text}: no room for Pods"));
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    fn size(self) -> u32 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        1_u32
            .checked_shl(bits - u32::from(self.prefix))
            .unwrap_or(u32::MAX)
            .min(LOOKED_AT)
    }

    fn nth(self, number: u32) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().wrapping_add(number))),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().wrapping_add(number.into()))),
        }
    }
}

/// Which addresses Pods have. One that was given back is not given out again before all others were.
#[derive(Debug)]
pub(super) struct Addresses {
    ranges: Vec<Cidr>,
    used: BTreeSet<IpAddr>,
    next: u32,
}

impl Addresses {
    pub(super) fn new(ranges: Vec<Cidr>) -> Self {
        let (used, next) = (BTreeSet::new(), 0);
        Self { ranges, used, next }
    }

    /// One address of each range, all with the same number in their range; `None` when a range is full.
    pub(super) fn take(&mut self) -> Option<Vec<IpAddr>> {
        // Neither the network's own address, nor the first, which bridges use to have, nor the last.
        let count = self.ranges.iter().map(|range| range.size()).min()?.checked_sub(3)?;
        let numbers = (0..count).map(|step| 2 + (self.next + step) % count);
        for number in numbers {
            let taken: Vec<IpAddr> = self.ranges.iter().map(|range| range.nth(number)).collect();
            if !taken.iter().any(|address| self.used.contains(address)) {
                self.used.extend(&taken);
                self.next = number - 1;
                return Some(taken);
            }
        }
        None
    }

    pub(super) fn give_back(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.used.remove(address);
        }
    }
}

/// The commands for a Pod. `interface` is the node's end, in the namespace of process `node`.
pub(super) fn wiring(interface: &str, addresses: &[IpAddr], node_addresses: &[IpAddr], node: u32) -> NetworkSpec {
    let bits: u64 = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(_) => 0,
        })
        .sum();
    let [.., a, b, c, d] = bits.to_be_bytes();
    // Locally administered.
    let mac = |end: u8| format!("0a:{end:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    let (pod_mac, node_mac) = (mac(0x58), mac(0x59));
    let mut pod = format!(
        "link set lo up\n\
         link add eth0 address {pod_mac} mtu 1500 type veth peer name {interface} address {node_mac} mtu 1500 netns {node}\n\
         link set eth0 up\n"
    );
    let mut on_node = format!("link set {interface} up\n");
    for address in addresses {
        let (bits, gateway, nodad) = if address.is_ipv4() {
            (32, GATEWAY4, "")
        } else {
            (128, GATEWAY6, " nodad")
        };
        let own = node_addresses.iter().find(|node| node.is_ipv4() == address.is_ipv4());
        let source = own.map(|own| format!(" src {own}")).unwrap_or_default();
        // Writing to a String does not fail.
        write!(
            pod,
            "address add {address}/{bits} dev eth0{nodad}\n\
             neighbour add {gateway} lladdr {node_mac} dev eth0 nud permanent\n\
             route add {gateway}/{bits} dev eth0\n\
             route add default via {gateway} dev eth0\n"
        )
        .ok();
        write!(
            on_node,
            "neighbour replace {address} lladdr {pod_mac} dev {interface} nud permanent\n\
             route replace {address}/{bits} dev {interface}{source}\n"
        )
        .ok();
    }
    NetworkSpec {
        addresses: addresses.to_vec(),
        pod,
        node: on_node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_go_together_and_are_not_reused_at_once() {
        let ranges = vec!["10.101.0.0/29".parse().unwrap(), "fd00:101::/64".parse().unwrap()];
        let mut addresses = Addresses::new(ranges);
        let mut take = || {
            addresses
                .take()
                .map(|taken| taken.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(take().as_deref(), Some("10.101.0.2 fd00:101::2"));
        assert_eq!(take().as_deref(), Some("10.101.0.3 fd00:101::3"));
        addresses.give_back(&["10.101.0.2".parse().unwrap(), "fd00:101::2".parse().unwrap()]);
        let rest: Vec<String> = std::iter::from_fn(|| addresses.take())
            .map(|taken| taken[0].to_string())
            .collect();
        assert_eq!(rest, ["10.101.0.4", "10.101.0.5", "10.101.0.6", "10.101.0.2"]);
    }

    #[test]
    fn ranges_are_checked() {
        for wrong in ["10.0.0.0", "10.0.0.0/31", "x/24", "fd00::/127"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
        assert_eq!("fd00::/64".parse::<Cidr>().unwrap().to_string(), "fd00::/64");
    }

    #[test]
    fn the_node_reaches_a_pod_from_its_own_address() {
        let node: Vec<IpAddr> = vec!["192.168.77.10".parse().unwrap()];
        let spec = wiring("veth1", &["10.101.0.2".parse().unwrap()], &node, 7);
        assert!(
            spec.node
                .contains("route replace 10.101.0.2/32 dev veth1 src 192.168.77.10\n"),
            "{}",
            spec.node
        );
        assert!(spec.pod.contains("netns 7\n") && spec.pod.contains("route add default via 169.254.1.1 dev eth0\n"));
    }
}
