//! The IR as resources of the xDS API, as kubelb-xds's contract has them.
//!
//! Infallible and deterministic: what could be refused is not in the IR, or is put right here. [`server`] serves them. The only place of the
//! manager that knows Envoy's messages. What each field is for is said in `docs/design/004-xds-sessions.md` and in the contract.

mod cluster;
mod dial;
mod http;
pub mod limits_client;
mod listener;
pub mod relay_client;
pub mod server;
mod wire;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kubelb_xds::contract::messages::{LocalPort, LocalPortProtocol};
use kubelb_xds::{Audience, Resource, ResourceType, Snapshot, contract};

pub(crate) use wire::{LAYER7, listener_name, object_of};

use crate::ir::{ClusterId, DataPlane, Ir, LoadBalancer, Protocol, Update, VirtualAddress};

/// Translates everything.
#[must_use]
pub fn translate(ir: &Ir) -> Snapshot {
    let load_balancers = ir.load_balancers().flat_map(|load_balancer| resources(load_balancer));
    let addresses = ir
        .addresses
        .iter()
        .map(|(address, known)| virtual_address(*address, known));
    let nothing = Snapshot::default();
    let layer7 = ir
        .tenants
        .iter()
        .flat_map(|(name, tenant)| http::difference(name, None, tenant.http.as_deref(), &nothing).changed);
    nothing.update(load_balancers.chain(addresses).chain(layer7), &[])
}

/// Translates what an update of the IR changed, to the same result. `before` is the IR that `snapshot` was made from.
#[must_use]
pub fn follow(snapshot: &Snapshot, before: &Ir, after: &Ir, update: &Update) -> Snapshot {
    let mut changed = Vec::new();
    let mut removed = BTreeSet::new();
    for name in &update.load_balancers {
        let old = before
            .load_balancer(name)
            .into_iter()
            .flat_map(|load_balancer| resources(load_balancer));
        removed.extend(old.map(|resource| (resource.kind(), Arc::clone(resource.name()))));
        changed.extend(
            after
                .load_balancer(name)
                .into_iter()
                .flat_map(|load_balancer| resources(load_balancer)),
        );
    }
    for tenant in &update.http {
        let (old, new) = (before.http(tenant), after.http(tenant));
        let found = http::difference(tenant, old.map(AsRef::as_ref), new.map(AsRef::as_ref), snapshot);
        changed.extend(found.changed);
        removed.extend(found.removed);
    }
    for address in &update.addresses {
        match after.addresses.get(address) {
            Some(known) => changed.push(virtual_address(*address, known)),
            None => {
                removed.insert((ResourceType::VirtualAddress, address.to_string().into()));
            }
        }
    }
    for resource in &changed {
        removed.remove(&(resource.kind(), Arc::clone(resource.name())));
    }
    let removed: Vec<_> = removed.into_iter().collect();
    snapshot.update(changed, &removed)
}

/// Resources of one object. What the management cluster's Services forward needs none.
fn resources(load_balancer: &LoadBalancer) -> Vec<Resource> {
    let mut resources = Vec::new();
    let mut used: BTreeSet<ClusterId> = BTreeSet::new();
    for one in &load_balancer.listeners {
        if let Some(audience) = audience(one.data_plane) {
            used.extend(one.targets.iter().map(|target| target.cluster));
            resources.push(listener::resource(load_balancer, one, audience));
        }
    }
    for one in load_balancer
        .clusters
        .iter()
        .filter(|cluster| used.contains(&cluster.id))
    {
        // A cluster serves the same port of all addresses of its family, and so one data plane.
        let audience = audience(one.data_plane).unwrap_or(Audience::Agents);
        resources.extend(cluster::resources(load_balancer, one, audience));
    }
    resources
}

const fn audience(data_plane: DataPlane) -> Option<Audience> {
    match data_plane {
        DataPlane::Ebpf => Some(Audience::Agents),
        DataPlane::Envoy => Some(Audience::Fleets),
        DataPlane::KubeProxy => None,
    }
}

fn virtual_address(address: IpAddr, known: &VirtualAddress) -> Resource {
    let local_ports = known.local_ports.iter().map(|(protocol, port)| LocalPort {
        protocol: match protocol {
            Protocol::Tcp => LocalPortProtocol::Tcp,
            Protocol::Udp => LocalPortProtocol::Udp,
        }
        .into(),
        port: u32::from(port.get()),
    });
    let message = contract::VirtualAddress {
        address: address.to_string(),
        owner_node: known.owner.as_ref().map(|owner| owner.node.clone()).unwrap_or_default(),
        epoch: known.owner.as_ref().map_or(0, |owner| owner.epoch),
        interfaces: Vec::new(),
        tenant: known.tenant.to_string(),
        local_ports: local_ports.collect(),
    };
    Resource::new(&message, wire::owner(&known.tenant), Audience::Agents)
}
