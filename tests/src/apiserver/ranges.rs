//! The ranges that Services get their cluster addresses and node ports from. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Hosts of a range that are given away at random; larger ranges are used as far as this.
const MOST_HOSTS: u32 = 1 << 16;
/// The first hosts are left to those who ask for an address by name, as a real server leaves a lower band.
const RESERVED: u32 = 16;

/// A range of cluster addresses, such as `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no range of cluster addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network with room for Services, such as 10.96.0.0/16 or fd00:96::/108")]
pub struct NoRange(String);

impl FromStr for ServiceRange {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let parse = || -> Option<Self> {
            let (network, prefix) = text.split_once('/')?;
            let (network, prefix): (IpAddr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
            let range = Self { network, prefix };
            // At least 64 hosts.
            (prefix <= range.width().checked_sub(6)?).then_some(range.masked())
        };
        parse().ok_or_else(|| NoRange(text.to_owned()))
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl ServiceRange {
    /// What a server has when nothing is said: 10.96.0.0/16.
    #[must_use]
    pub const fn usual() -> Self {
        Self {
            network: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)),
            prefix: 16,
        }
    }

    fn width(self) -> u8 {
        if self.network.is_ipv4() { 32 } else { 128 }
    }

    fn masked(self) -> Self {
        let host_bits = u32::from(self.width().saturating_sub(self.prefix));
        let network = match self.network {
            IpAddr::V4(network) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() & mask))
            }
            IpAddr::V6(network) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() & mask))
            }
        };
        Self { network, ..self }
    }

    /// `IPv4` or `IPv6`.
    pub(crate) fn family(self) -> &'static str {
        family_of(self.network)
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4()
            && Self {
                network: address,
                ..self
            }
            .masked()
            .network
                == self.network
    }

    /// The host of this number, counted from the network's own address.
    pub(crate) fn host(self, number: u32) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | number)),
            IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | u128::from(number))),
        }
    }

    /// Numbers of the hosts that may be given away.
    pub(crate) fn hosts(self) -> RangeInclusive<u32> {
        let host_bits = u32::from(self.width().saturating_sub(self.prefix));
        let all = 1_u32.checked_shl(host_bits).unwrap_or(MOST_HOSTS).min(MOST_HOSTS);
        // The last one is the broadcast address of an IPv4 network.
        RESERVED..=all.saturating_sub(2)
    }
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// All that Services are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// One of each family at most, the preferred one first.
    pub(crate) addresses: Vec<ServiceRange>,
    pub(crate) node_ports: RangeInclusive<u16>,
}

impl Ranges {
    pub(crate) fn of_family(&self, family: &str) -> Option<ServiceRange> {
        self.addresses.iter().copied().find(|range| range.family() == family)
    }

    pub(crate) fn is_dual_stack(&self) -> bool {
        self.addresses.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_hosts() {
        let range: ServiceRange = "10.96.3.1/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/16");
        assert_eq!(range.host(1).to_string(), "10.96.0.1");
        assert!(range.contains("10.96.255.255".parse().unwrap()) && !range.contains("10.97.0.0".parse().unwrap()));
        assert_eq!(*range.hosts().end(), 65_534);
        let range: ServiceRange = "fd00:96::/108".parse().unwrap();
        assert_eq!(
            (range.family(), range.host(16).to_string().as_str()),
            ("IPv6", "fd00:96::10")
        );
        assert!(range.contains("fd00:96::ffff".parse().unwrap()) && !range.contains("10.96.0.1".parse().unwrap()));
        for wrong in ["10.96.0.0", "10.96.0.0/33", "10.96.0.0/30", "x/8", ""] {
            assert!(wrong.parse::<ServiceRange>().is_err(), "{wrong}");
        }
    }
}
