//! Lists of addresses, as LoadBalancers and Addresses have them, checked and sorted by family.
//!
//! Must not know: ports and VIPs. One bad address costs itself only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kubelb_api::v1alpha1::EndpointAddress;

use super::policy::Policy;
use super::{Host, Location};
use crate::object::ObjectKey;
use crate::problem::{Problem, Reason};

/// Most addresses of one list; as the schema of Addresses has it.
const MAX_ADDRESSES: usize = 16_384;

/// Usable addresses of one list. Each is sorted and has no address twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Backends {
    pub(super) v4: Arc<[Host]>,
    pub(super) v6: Arc<[Host]>,
    /// Names, and all addresses beside them; empty without names.
    pub(super) dns: Arc<[Host]>,
}

impl Backends {
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.dns.is_empty()
    }
}

/// Reads a list, whose path in its object is `field`.
pub(super) fn read(
    object: &ObjectKey,
    field: &str,
    addresses: &[EndpointAddress],
    policy: &Policy,
) -> (Backends, Vec<Problem>) {
    let mut hosts: BTreeMap<Location, u16> = BTreeMap::new();
    let mut problems = Vec::new();
    if addresses.len() > MAX_ADDRESSES {
        let message = format!(
            "has {} addresses; those after the first {MAX_ADDRESSES} get no traffic",
            addresses.len()
        );
        problems.push(Problem::new(object, field, Reason::InvalidValue, message));
    }
    for (index, address) in addresses.iter().enumerate().take(MAX_ADDRESSES) {
        let mut refuse = |part: &str, reason, message| {
            problems.push(Problem::new(object, format!("{field}[{index}]{part}"), reason, message));
        };
        let (part, location) = match locate(address, policy) {
            Ok(located) => located,
            Err((part, reason, message)) => {
                refuse(part, reason, message);
                continue;
            }
        };
        let weight = match u16::try_from(address.weight.unwrap_or(1)) {
            Ok(weight) => weight,
            Err(_) => {
                refuse(".weight", Reason::InvalidValue, "must be 0 to 65535".to_owned());
                continue;
            }
        };
        match hosts.get(&location) {
            Some(known) if *known != weight => {
                refuse(
                    part,
                    Reason::InvalidValue,
                    format!("{location} is listed twice, with two weights"),
                );
            }
            Some(_) => {}
            None => {
                hosts.insert(location, weight);
            }
        }
    }
    (sort(hosts), problems)
}

type Refusal = (&'static str, Reason, String);

/// The address counts where both are given. KubeLB's CCM writes names as addresses when it is told to use nodes' names.
fn locate(address: &EndpointAddress, policy: &Policy) -> Result<(&'static str, Location), Refusal> {
    let given = |text: &Option<String>| {
        text.as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let (part, text) = match (given(&address.ip), given(&address.hostname)) {
        (Some(ip), _) => (".ip", ip),
        (None, Some(name)) => (".hostname", name),
        (None, None) => {
            let message = "has neither ip nor hostname".to_owned();
            return Err(("", Reason::InvalidAddress, message));
        }
    };
    let at = |(reason, message)| (part, reason, message);
    if let Ok(ip) = text.parse::<IpAddr>() {
        policy.check_address(ip).map_err(at)?;
        return Ok((part, Location::Address(ip)));
    }
    policy.check_name(&text).map_err(at)?;
    Ok((part, Location::Name(text.to_ascii_lowercase().into())))
}

fn sort(hosts: BTreeMap<Location, u16>) -> Backends {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    let mut all = Vec::with_capacity(hosts.len());
    let mut has_names = false;
    for (location, weight) in hosts {
        let host = Host { location, weight };
        match host.location {
            Location::Address(IpAddr::V4(_)) => v4.push(host.clone()),
            Location::Address(IpAddr::V6(_)) => v6.push(host.clone()),
            Location::Name(_) => has_names = true,
        }
        all.push(host);
    }
    Backends {
        v4: v4.into(),
        v6: v6.into(),
        dns: if has_names { all.into() } else { Arc::default() },
    }
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::{ConfigSpec, TenantSpec};

    use super::*;
    use crate::object::Kind;

    fn at(ip: &str) -> EndpointAddress {
        EndpointAddress {
            ip: Some(ip.to_owned()),
            ..EndpointAddress::default()
        }
    }

    #[test]
    fn one_bad_address_costs_itself_only() {
        let policy = Policy::new(Some(&ConfigSpec::default()), &TenantSpec::default());
        let object = ObjectKey::new(Kind::Addresses, "tenant-x", "default");
        let weighted = |weight| EndpointAddress {
            weight: Some(weight),
            ..at("10.0.0.9")
        };
        let list = [
            at("10.0.0.2"),
            at("127.0.0.1"),
            at("10.0.0.1"),
            at("10.0.0.2"),
            at(""),
            at("2001:db8::1"),
            weighted(0),
            weighted(70_000),
        ];
        let (backends, problems) = read(&object, "spec.addresses", &list, &policy);
        let shown: Vec<String> = backends.v4.iter().map(|host| host.location.to_string()).collect();
        assert_eq!(shown, ["10.0.0.1", "10.0.0.2", "10.0.0.9"]);
        assert_eq!(backends.v4[2].weight, 0);
        assert_eq!(backends.v6.len(), 1);
        assert!(backends.dns.is_empty());
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.addresses[1].ip", "spec.addresses[4]", "spec.addresses[7].weight"]
        );
    }

    #[test]
    fn a_name_in_place_of_an_address_is_a_name() {
        let policy = Policy::new(None, &TenantSpec::default());
        let object = ObjectKey::new(Kind::Addresses, "tenant-x", "default");
        let (backends, problems) = read(
            &object,
            "spec.addresses",
            &[at("Node.example.com"), at("10.0.0.1")],
            &policy,
        );
        assert_eq!(problems, []);
        assert_eq!(backends.dns.len(), 2, "addresses are among the names");
        assert_eq!(backends.dns[1].location, Location::Name("node.example.com".into()));
    }
}
