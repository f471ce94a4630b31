//! Which addresses a tenant's endpoints may have.
//!
//! Owns the rules about addresses and names that tenants must not send traffic to. Fails closed: a range that cannot be read never lets
//! more in. Must not know: objects other than the two that hold the ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use kubelb_api::v1alpha1::{ConfigSpec, TenantSpec};

use crate::allocate::Range;
use crate::problem::Reason;

/// Longest name of a DNS host, in characters (RFC 1035 §2.3.4, less the root's).
const MAX_NAME: usize = 253;

/// Last labels of names that mean something inside of the management cluster or of a node only.
const LOCAL_DOMAINS: &[&str] = &[
    "local",
    "localhost",
    "svc",
    "internal",
    "localdomain",
    "home",
    "lan",
    "arpa",
];

/// What holds for the endpoints of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    denied: Vec<IpNet>,
    /// What is given out to those whom clients dial; traffic sent there would come back, or be another tenant's.
    pools: Vec<(String, Range)>,
    /// `None`: whatever is not denied.
    allowed: Option<Vec<IpNet>>,
}

impl Policy {
    /// What the Config and a Tenant say together.
    #[must_use]
    pub fn new(config: Option<&ConfigSpec>, tenant: &TenantSpec) -> Self {
        let denied = config
            .into_iter()
            .flat_map(|config| &config.denied_ranges)
            .filter_map(|range| network(range).ok())
            .collect();
        let pools = config.into_iter().flat_map(|config| &config.address_pools);
        let ranges = pools.flat_map(|pool| {
            let ranges = pool.ranges.iter().filter_map(|range| Range::parse(range).ok());
            ranges.map(|range| (pool.name.clone(), range))
        });
        let pools = ranges.collect();
        let allowed = (!tenant.allowed_ranges.is_empty()).then(|| {
            let ranges = tenant.allowed_ranges.iter();
            ranges.filter_map(|range| network(range).ok()).collect()
        });
        Self { denied, pools, allowed }
    }

    /// Why an endpoint may not have this address.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_address(&self, address: IpAddr) -> Result<(), (Reason, String)> {
        if let Some(why) = not_routable(address) {
            return Err((Reason::AddressNotAllowed, format!("{address} {why}")));
        }
        // What a translator would make of it counts as well (RFC 6052).
        let inner = match address {
            IpAddr::V6(address) => embedded(address).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        for seen in [Some(address), inner].into_iter().flatten() {
            if let Some(range) = self.denied.iter().find(|range| range.contains(&seen)) {
                let why = format!("{address} is in {range}, which Config.spec.deniedRanges keeps from tenants");
                return Err((Reason::AddressNotAllowed, why));
            }
            if let Some((pool, _)) = self.pools.iter().find(|(_, range)| range.contains(seen)) {
                let why = format!("{address} is one of the address pool {pool}, and so no node of a tenant");
                return Err((Reason::AddressNotAllowed, why));
            }
        }
        match &self.allowed {
            Some(allowed) if !allowed.iter().any(|range| range.contains(&address)) => Err((
                Reason::AddressNotAllowed,
                format!("{address} is in none of the networks of Tenant.spec.allowedRanges"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Why an endpoint may not have this name. What it resolves to is not known here; names that can only mean something inside of
    /// the management cluster are refused, and all of them where addresses are restricted.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_name(&self, name: &str) -> Result<(), (Reason, String)> {
        let labels: Vec<&str> = name.split('.').collect();
        let last = labels.last().copied().unwrap_or_default().to_ascii_lowercase();
        let invalid = |why: &str| Err((Reason::InvalidAddress, format!("{name:?} {why}")));
        let refused = |why: &str| Err((Reason::AddressNotAllowed, format!("{name:?} {why}")));
        let is_label = |label: &&str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() > MAX_NAME || !labels.iter().all(is_label) {
            return invalid("is neither an IP address nor a DNS name");
        }
        // Resolvers read such names as numbers, and so as addresses: 127.1, 0x7f000001.
        if last.starts_with(|first: char| first.is_ascii_digit()) {
            return invalid("ends like a number; write an address in full, or a DNS name");
        }
        if LOCAL_DOMAINS.contains(&last.as_str()) || labels.len() < 2 {
            return refused("means something inside of the management cluster only; use a public name, or an address");
        }
        if self.allowed.is_some() {
            return refused(
                "cannot be checked against Tenant.spec.allowedRanges, for its address may change; use an address",
            );
        }
        Ok(())
    }
}

/// A network, or a single address.
///
/// # Errors
/// With what is wrong, in words.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|range| range.trunc())
        .map_err(|error| format!("{text:?} is not a network such as 203.0.113.0/24 or 2001:db8::/32: {error}"))
}

/// Why an address is nobody's outside of a node or a link.
#[must_use]
pub fn not_routable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_routable_v4(address),
        IpAddr::V6(address) => not_routable_v6(address),
    }
}

fn not_routable_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [first, ..] = address.octets();
    if first == 0 {
        Some("is in 0.0.0.0/8, which is no address of a host")
    } else if address.is_loopback() {
        Some("is a loopback address, which is the management node's own")
    } else if address.is_link_local() {
        Some("is a link-local address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if address.is_broadcast() {
        Some("is the broadcast address")
    } else if first >= 240 {
        Some("is in 240.0.0.0/4, which is reserved")
    } else {
        None
    }
}

fn not_routable_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("is the unspecified address")
    } else if address.is_loopback() {
        Some("is a loopback address, which is the management node's own")
    } else if address.is_unicast_link_local() {
        Some("is a link-local address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if address.to_ipv4_mapped().is_some() {
        Some("is an IPv4 address in IPv6 form; write it as IPv4")
    } else {
        embedded(address).and_then(not_routable_v4)
    }
}

/// The IPv4 address inside of one that a translator or a tunnel would open: 64:ff9b::/96 (RFC 6052), 2002::/16 (RFC 3056), ::/96
/// (RFC 4291 §2.5.5.1).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |low: u16, high: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => Some(last(low, high)),
        [0x2002, high, low, ..] => Some(last(low, high)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::AddressPool;

    use super::*;

    fn policy(denied: &[&str], allowed: &[&str]) -> Policy {
        let owned = |ranges: &[&str]| ranges.iter().map(ToString::to_string).collect();
        let config = ConfigSpec {
            denied_ranges: owned(denied),
            ..ConfigSpec::default()
        };
        let tenant = TenantSpec {
            allowed_ranges: owned(allowed),
            ..TenantSpec::default()
        };
        Policy::new(Some(&config), &tenant)
    }

    fn allows(policy: &Policy, address: &str) -> bool {
        policy.check_address(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn addresses_of_the_node_and_the_link_are_never_allowed() {
        let open = policy(&[], &["0.0.0.0/0", "::/0"]);
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
        ] {
            assert!(!allows(&open, address), "{address}");
        }
        for address in ["10.0.0.1", "203.0.113.1", "2001:db8::1", "fd00::1", "64:ff9b::a00:1"] {
            assert!(allows(&open, address), "{address}");
        }
    }

    #[test]
    fn denied_wins_over_allowed() {
        let policy = policy(&["10.96.0.0/12", "fd00::/8"], &["10.0.0.0/8", "fd00::/8"]);
        assert!(allows(&policy, "10.1.0.1"));
        assert!(!allows(&policy, "10.96.0.1"));
        assert!(!allows(&policy, "192.168.0.1"), "not in the list");
        assert!(!allows(&policy, "fd00::1"));
    }

    #[test]
    fn an_address_that_clients_dial_is_no_endpoint() {
        let pool = |name: &str, range: &str| AddressPool {
            name: name.to_owned(),
            ranges: vec![range.to_owned()],
            tenants: Vec::new(),
        };
        let config = ConfigSpec {
            address_pools: vec![pool("lan", "203.0.113.10-203.0.113.20"), pool("v6", "2001:db8:1::/64")],
            ..ConfigSpec::default()
        };
        let policy = Policy::new(Some(&config), &TenantSpec::default());
        for address in ["203.0.113.10", "203.0.113.20", "2001:db8:1::7", "64:ff9b::203.0.113.11"] {
            assert!(!allows(&policy, address), "{address}");
        }
        for address in ["203.0.113.9", "203.0.113.21", "2001:db8:2::7"] {
            assert!(allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn a_denied_address_is_denied_behind_a_translator_too() {
        let policy = policy(&["10.96.0.0/12"], &[]);
        assert!(!allows(&policy, "64:ff9b::a60:1"));
        assert!(allows(&policy, "64:ff9b::a00:1"));
    }

    #[test]
    fn a_range_that_cannot_be_read_lets_nobody_in() {
        let policy = policy(&[], &["10.0.0.0"]);
        assert!(!allows(&policy, "10.0.0.1"));
        assert!(!allows(&policy, "203.0.113.1"));
    }

    #[test]
    fn names_that_could_mean_the_management_cluster_are_refused() {
        let open = policy(&[], &[]);
        for name in [
            "node-1.example.com",
            "a_b.example.org",
            "EXAMPLE.com",
            "xn--a.example.com",
        ] {
            assert!(open.check_name(name).is_ok(), "{name}");
        }
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "metadata.google.internal",
            "127.1",
            "0x7f000001",
            "2130706433",
            "10.0.0.0x1",
            "a..b",
            "-a.example.com",
            "a b.example.com",
            "",
            "example.com.",
        ] {
            assert!(open.check_name(name).is_err(), "{name:?}");
        }
        assert!(policy(&[], &["10.0.0.0/8"]).check_name("node.example.com").is_err());
    }
}
