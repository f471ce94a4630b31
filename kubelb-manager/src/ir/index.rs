//! Who asks for which address and port, and who gets it.
//!
//! An address belongs to one tenant, and of those that ask for the same port of it, one is served: the oldest. Must not know: why an
//! object asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use jiff::Timestamp;
use kubelb_api::names::TenantName;

use super::{ClusterId, DataPlane, Frontend, LoadBalancer, Protocol};
use crate::object::{ObjectKey, ObjectName};
use crate::problem::{Problem, Reason};

/// When an object was created; what has no date counts as younger than all that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(pub(super) bool, pub(super) Option<Timestamp>);

/// Somebody who asks: the first in order is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    age: Age,
    pub(super) name: ObjectName,
    tenant: TenantName,
}

impl Claimant {
    pub(super) fn new(age: Age, load_balancer: &LoadBalancer) -> Self {
        Self {
            age,
            name: load_balancer.name.clone(),
            tenant: load_balancer.tenant.clone(),
        }
    }
}

/// Everything that is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    addresses: BTreeMap<IpAddr, BTreeSet<Claimant>>,
    frontends: BTreeMap<Frontend, BTreeMap<Claimant, DataPlane>>,
}

impl Index {
    pub(super) fn insert(&mut self, claimant: &Claimant, load_balancer: &LoadBalancer) {
        for address in &load_balancer.addresses {
            self.addresses.entry(*address).or_default().insert(claimant.clone());
        }
        for listener in &load_balancer.listeners {
            let claimants = self.frontends.entry(listener.frontend).or_default();
            claimants.insert(claimant.clone(), listener.data_plane);
        }
    }

    pub(super) fn remove(&mut self, claimant: &Claimant, load_balancer: &LoadBalancer) {
        for address in &load_balancer.addresses {
            if let Some(claimants) = self.addresses.get_mut(address) {
                claimants.remove(claimant);
                if claimants.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        for listener in &load_balancer.listeners {
            if let Some(claimants) = self.frontends.get_mut(&listener.frontend) {
                claimants.remove(claimant);
                if claimants.is_empty() {
                    self.frontends.remove(&listener.frontend);
                }
            }
        }
    }

    /// All who ask for an address.
    pub(super) fn dialled(&self, address: IpAddr) -> impl Iterator<Item = &Claimant> {
        self.addresses.get(&address).into_iter().flatten()
    }

    /// The tenant that an address belongs to.
    pub(super) fn tenant_of(&self, address: IpAddr) -> Option<&TenantName> {
        self.dialled(address).next().map(|oldest| &oldest.tenant)
    }

    /// Ports of an address that Envoy accepts on.
    pub(super) fn local_ports(&self, address: IpAddr) -> Vec<(Protocol, NonZeroU16)> {
        let Some(owner) = self.tenant_of(address) else {
            return Vec::new();
        };
        let first = Frontend {
            address,
            port: NonZeroU16::MIN,
            protocol: Protocol::Tcp,
        };
        let of_address = self
            .frontends
            .range(first..)
            .take_while(|(frontend, _)| frontend.address == address);
        let served = of_address.filter_map(|(frontend, claimants)| {
            let (_, data_plane) = claimants.iter().find(|(claimant, _)| claimant.tenant == *owner)?;
            (*data_plane == DataPlane::Envoy).then_some((frontend.protocol, frontend.port))
        });
        served.collect()
    }

    /// What of a LoadBalancer is served beside all others.
    pub(super) fn settle(
        &self,
        key: &ObjectKey,
        claimant: &Claimant,
        load_balancer: &Arc<LoadBalancer>,
        problems: &mut Vec<Problem>,
    ) -> Arc<LoadBalancer> {
        let taken_away: BTreeSet<IpAddr> = load_balancer
            .addresses
            .iter()
            .copied()
            .filter(|address| self.tenant_of(*address) != Some(&claimant.tenant))
            .collect();
        for address in &taken_away {
            let message = format!("{address} belongs to another tenant");
            problems.push(Problem::new(
                key,
                "status.loadBalancer.ingress",
                Reason::AddressConflict,
                message,
            ));
        }
        let mut lost = BTreeSet::new();
        for listener in &load_balancer.listeners {
            let frontend = listener.frontend;
            if taken_away.contains(&frontend.address) {
                lost.insert(frontend);
                continue;
            }
            let claimants = self.frontends.get(&frontend).into_iter().flatten();
            let winner = claimants
                .map(|(other, _)| other)
                .find(|other| other.tenant == claimant.tenant);
            if let Some(winner) = winner.filter(|winner| *winner != claimant) {
                let Frontend { address, port, .. } = frontend;
                let message = format!("port {port} of {address} is served for {}, which is older", winner.name);
                problems.push(Problem::new(key, "spec.ports", Reason::PortConflict, message));
                lost.insert(frontend);
            }
        }
        if lost.is_empty() && taken_away.is_empty() {
            return Arc::clone(load_balancer);
        }
        let mut rest = LoadBalancer::clone(load_balancer);
        rest.addresses.retain(|address| !taken_away.contains(address));
        rest.listeners.retain(|listener| !lost.contains(&listener.frontend));
        let targets = rest.listeners.iter().flat_map(|listener| &listener.targets);
        let used: BTreeSet<ClusterId> = targets.map(|target| target.cluster).collect();
        rest.clusters.retain(|cluster| used.contains(&cluster.id));
        Arc::new(rest)
    }
}
