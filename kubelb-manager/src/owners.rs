//! Which node announces each address: the smallest change that leaves no address with a node that is lost.
//!
//! Whole state in, whole answer out. An address stays where it is for as long as its node is there or about to come back, whoever else comes; one
//! that has no node goes to the highest of a hash of address and node (rendezvous hashing), so that addresses spread and every manager would
//! choose alike. Must not know: how nodes are heard, and how the answer is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_api::names::AddressName;
use kubelb_api::v1alpha1::{VirtualAddressOwner, VirtualAddressOwnerSpec};
use ring::digest::{SHA256, digest};

use crate::store::Store;

/// What is known of a node that is not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its agent is heard.
    Here,
    /// Its agent is about to come back: it keeps what it has.
    Away,
}

/// Nodes by name. One that is not among them is lost.
pub type Nodes = BTreeMap<String, Standing>;

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Owners that are new or others.
    pub write: Vec<VirtualAddressOwner>,
    /// Owners of addresses that nobody serves any more.
    pub over: BTreeSet<AddressName>,
}

impl Plan {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.over.is_empty()
    }
}

/// Plans the owners of `served` addresses. `seconds` is the time since 1970: an epoch is at least that, so that one is higher than every earlier
/// one of the address even when its object was deleted in between.
#[must_use]
pub fn plan(store: &Store, served: impl IntoIterator<Item = IpAddr>, nodes: &Nodes, seconds: i64) -> Plan {
    let served: BTreeSet<AddressName> = served.into_iter().map(AddressName::new).collect();
    let mut known: BTreeMap<AddressName, &VirtualAddressOwnerSpec> = BTreeMap::new();
    for (name, owner) in store.virtual_address_owners() {
        if let Ok(name) = name.name.parse::<AddressName>() {
            known.insert(name, &owner.spec);
        }
    }
    let here: Vec<&str> = nodes
        .iter()
        .filter(|(_, standing)| **standing == Standing::Here)
        .map(|(node, _)| node.as_str())
        .collect();
    let mut plan = Plan::default();
    for name in &served {
        let before = known.get(name);
        if before.is_some_and(|owner| nodes.contains_key(&owner.node)) {
            continue;
        }
        // With nobody to take it, the one that is lost may still answer for it.
        let Some(node) = here.iter().max_by_key(|node| rank(*name, node)) else {
            continue;
        };
        let spec = VirtualAddressOwnerSpec {
            node: (*node).to_owned(),
            epoch: before.map_or(0, |owner| owner.epoch).saturating_add(1).max(seconds),
        };
        plan.write.push(VirtualAddressOwner::new(&name.to_string(), spec));
    }
    plan.over = known.into_keys().filter(|name| !served.contains(name)).collect();
    plan
}

fn rank(address: AddressName, node: &str) -> [u8; 32] {
    let digest = digest(&SHA256, format!("{address} {node}").as_bytes());
    let mut rank = [0; 32];
    for (byte, from) in rank.iter_mut().zip(digest.as_ref()) {
        *byte = *from;
    }
    rank
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::object::Object;

    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count).map(|last| Ipv4Addr::new(203, 0, 113, last).into()).collect()
    }

    fn nodes(here: &[&str], away: &[&str]) -> Nodes {
        let here = here.iter().map(|node| ((*node).to_owned(), Standing::Here));
        let away = away.iter().map(|node| ((*node).to_owned(), Standing::Away));
        here.chain(away).collect()
    }

    fn carry_out(store: &mut Store, plan: Plan) {
        for owner in plan.write {
            store.apply(Ok(Object::VirtualAddressOwner(owner.into())));
        }
    }

    fn owners(store: &Store) -> BTreeMap<String, (String, i64)> {
        let all = store.virtual_address_owners().iter();
        all.map(|(name, owner)| (name.name.to_string(), (owner.spec.node.clone(), owner.spec.epoch)))
            .collect()
    }

    #[test]
    fn addresses_spread_and_stay_whoever_comes() {
        let mut store = Store::default();
        let first = plan(&store, addresses(100), &nodes(&["a", "b"], &[]), 7);
        carry_out(&mut store, first);
        let of_a = owners(&store).values().filter(|(node, _)| node == "a").count();
        assert!((30..=70).contains(&of_a), "{of_a}");
        assert!(plan(&store, addresses(100), &nodes(&["a", "b", "c"], &[]), 8).is_empty());
        assert!(
            plan(&store, addresses(100), &nodes(&["b"], &["a"]), 8).is_empty(),
            "a restart moves nothing"
        );
    }

    #[test]
    fn what_a_lost_node_had_moves_and_no_more() {
        let mut store = Store::default();
        let first = plan(&store, addresses(100), &nodes(&["a", "b", "c"], &[]), 7);
        carry_out(&mut store, first);
        let before = owners(&store);
        let move_ = plan(&store, addresses(100), &nodes(&["b", "c"], &[]), 7);
        carry_out(&mut store, move_);
        for (name, (node, epoch)) in owners(&store) {
            let (old_node, old_epoch) = &before[&name];
            if old_node == "a" {
                assert_ne!(node, "a");
                assert!(epoch > *old_epoch, "even within a second");
            } else {
                assert_eq!((&node, epoch), (old_node, *old_epoch));
            }
        }
    }

    #[test]
    fn with_nobody_there_nothing_moves() {
        let mut store = Store::default();
        assert!(plan(&store, addresses(3), &Nodes::new(), 7).is_empty());
        carry_out(
            &mut store,
            plan(&Store::default(), addresses(3), &nodes(&["a"], &[]), 7),
        );
        assert!(plan(&store, addresses(3), &nodes(&[], &["b"]), 8).is_empty());
    }

    #[test]
    fn owners_of_what_is_not_served_are_over_and_epochs_never_go_back() {
        let mut store = Store::default();
        carry_out(
            &mut store,
            plan(&Store::default(), addresses(1), &nodes(&["a"], &[]), 7),
        );
        let over = plan(&store, [], &nodes(&["a"], &[]), 8);
        assert_eq!(over.over.len(), 1);
        assert!(over.write.is_empty());
        let again = plan(&Store::default(), addresses(1), &nodes(&["a"], &[]), 9);
        assert_eq!(again.write[0].spec.epoch, 9);
    }
}
