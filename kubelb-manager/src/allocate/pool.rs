//! The pools of the Config: ranges of addresses, and the tenants that get some of them.
//!
//! Must not know: who has which address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use kubelb_api::names::DEFAULT_CONFIG;
use kubelb_api::v1alpha1::AddressPool;

use super::{IpFamily, Want};
use crate::object::{Kind, ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Addresses from the first to the last, both among them and of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// Reads a network, or first and last address with `-` between.
    ///
    /// # Errors
    /// With what is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self {
                first: network.network(),
                last: network.broadcast(),
            });
        }
        let ends = text.split_once('-').and_then(|(first, last)| {
            let first = first.trim().parse::<IpAddr>().ok()?;
            Some((first, last.trim().parse::<IpAddr>().ok()?))
        });
        match ends {
            None => Err(format!(
                "{text:?} is neither a network such as 203.0.113.0/24 nor a range such as 203.0.113.10-203.0.113.20"
            )),
            Some((first, last)) if IpFamily::of(first) != IpFamily::of(last) || first > last => Err(format!(
                "{text:?} does not go from a lower to a higher address of the same family"
            )),
            Some((first, last)) => Ok(Self { first, last }),
        }
    }

    /// Its lowest address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// Its highest address.
    #[must_use]
    pub const fn last(self) -> IpAddr {
        self.last
    }

    /// Whether an address is among them.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        IpFamily::of(address) == IpFamily::of(self.first) && (self.first..=self.last).contains(&address)
    }
}

/// The next higher address, if there is one.
pub(super) fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Ranges that cannot be read, and so give nothing.
pub(super) fn problems(store: &Store, namespace: &str) -> Vec<Problem> {
    let key = ObjectKey::new(Kind::Config, namespace, DEFAULT_CONFIG);
    let config = store.configs().get(&key.name);
    let pools = config
        .into_iter()
        .flat_map(|config| config.spec.address_pools.iter().enumerate());
    let mut problems = Vec::new();
    for (place, pool) in pools {
        for (index, range) in pool.ranges.iter().enumerate() {
            if let Err(why) = Range::parse(range) {
                let field = format!("spec.addressPools[{place}].ranges[{index}]");
                problems.push(Problem::new(&key, field, Reason::InvalidValue, why));
            }
        }
    }
    problems
}

/// All pools, in the Config's order.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    /// Whether there is a Config.
    is_configured: bool,
    pools: Vec<Pool>,
}

#[derive(Clone, Debug)]
struct Pool {
    name: String,
    ranges: Vec<Range>,
    /// Empty: all.
    tenants: BTreeSet<String>,
}

impl Pools {
    /// Whether the Config says that there are none.
    #[must_use]
    pub fn are_absent(&self) -> bool {
        self.is_configured && self.pools.is_empty()
    }

    /// Reads those of the Config; a range that cannot be read gives nothing.
    #[must_use]
    pub fn read(store: &Store, namespace: &str) -> Self {
        let config = store.configs().get(&ObjectName::new(namespace, DEFAULT_CONFIG));
        let is_configured = config.is_some();
        let pools = config.into_iter().flat_map(|config| &config.spec.address_pools);
        Self {
            is_configured,
            pools: pools.map(Pool::read).collect(),
        }
    }

    /// Whether addresses come from elsewhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Whether the tenant may have this address.
    #[must_use]
    pub fn allow(&self, want: &Want, address: IpAddr) -> bool {
        self.of(want)
            .any(|pool| pool.ranges.iter().any(|range| range.contains(address)))
    }

    /// Ranges that the tenant gets addresses from.
    pub fn ranges(&self, want: &Want, family: IpFamily) -> impl Iterator<Item = Range> {
        let ranges = self.of(want).flat_map(|pool| pool.ranges.iter().copied());
        ranges.filter(move |range| IpFamily::of(range.first) == family)
    }

    fn of(&self, want: &Want) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(|pool| {
            let is_named = want.pool.as_ref().is_none_or(|name| *name == pool.name);
            is_named && (pool.tenants.is_empty() || pool.tenants.contains(want.tenant.as_str()))
        })
    }
}

impl Pool {
    fn read(pool: &AddressPool) -> Self {
        Self {
            name: pool.name.clone(),
            ranges: pool
                .ranges
                .iter()
                .filter_map(|range| Range::parse(range).ok())
                .collect(),
            tenants: pool.tenants.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_networks_or_first_and_last() {
        for (text, first, last) in [
            ("203.0.113.0/30", "203.0.113.0", "203.0.113.3"),
            ("203.0.113.9-203.0.113.10", "203.0.113.9", "203.0.113.10"),
            ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
        ] {
            let range = Range::parse(text).unwrap();
            assert_eq!(
                (range.first().to_string(), range.last().to_string()),
                (first.to_owned(), last.to_owned())
            );
        }
        for text in [
            "203.0.113.1",
            "203.0.113.2-203.0.113.1",
            "203.0.113.1-2001:db8::1",
            "a-b",
            "",
        ] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
        assert_eq!(successor("255.255.255.255".parse().unwrap()), None);
    }
}
