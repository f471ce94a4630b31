//! Where the traffic of one LoadBalancer may go, for those who forward it by other means than listeners.

use std::net::IpAddr;
use std::num::NonZeroU16;

use kubelb_api::v1alpha1::{Addresses, ConfigSpec, LoadBalancer, TenantSpec};

use super::backends::{self, Backends};
use super::policy::Policy;
use super::{Host, Location, Protocol, draft};
use crate::object::{Kind, ObjectKey};

/// Ports, and addresses that are no mistake and nobody forbids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) ports: Vec<Pair>,
    /// Without those of weight 0.
    pub(crate) v4: Vec<IpAddr>,
    pub(crate) v6: Vec<IpAddr>,
}

/// A port that clients dial, and that of the endpoints behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) frontend: NonZeroU16,
    pub(crate) protocol: Protocol,
    pub(crate) backend: NonZeroU16,
}

/// Reads one object. `addresses` is what it refers to. What is wrong is told by those who build the IR.
pub(crate) fn reach(
    object: &LoadBalancer,
    addresses: Option<&Addresses>,
    config: &ConfigSpec,
    tenant: &TenantSpec,
) -> Reach {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let key = ObjectKey::new(Kind::LoadBalancer, namespace, name);
    let policy = Policy::new(Some(config), tenant);
    let group = object.spec.endpoints.first();
    let list = match group.map(|group| group.addresses_reference.is_some()) {
        Some(true) => addresses.map(|addresses| addresses.spec.addresses.as_slice()),
        Some(false) => group.map(|group| group.addresses.as_slice()),
        None => None,
    };
    let (Backends { v4, v6, .. }, _) = backends::read(&key, "", list.unwrap_or_default(), &policy);
    let numbers = |hosts: &[Host]| {
        let willing = hosts.iter().filter(|host| host.weight > 0);
        let numbers = willing.filter_map(|host| match host.location {
            Location::Address(address) => Some(address),
            Location::Name(_) => None,
        });
        numbers.collect()
    };
    Reach {
        ports: draft::pairs(&key, &object.spec),
        v4: numbers(&v4),
        v6: numbers(&v6),
    }
}
