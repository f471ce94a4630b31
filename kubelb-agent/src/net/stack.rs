//! Addresses that this agent gives the node's own network stack: virtual addresses of which something on the node serves a port, on the loopback
//! interface, and the multicast groups in which questions about announced IPv6 addresses are asked.
//!
//! All of them carry this agent's mark, so that a later agent knows them, and nobody else's is ever touched. They stay when the agent ends: what is
//! forwarded and answered goes on, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::socket::RequestSocket;
use super::{Link, NetError};
use crate::announce::Stack;

/// Changes in one datagram.
const BATCH: usize = 32;
/// What was refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// Refusals that are logged, of each attempt; the rest is counted.
const LOGGED: usize = 5;

/// An address of this agent's on an interface, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StackAddress {
    /// The node has it.
    Local(u32, IpAddr),
    /// The interface is in the group. It is an address with `IFA_F_MCAUTOJOIN`: a join of a socket would end with the process.
    Group(u32, Ipv6Addr),
}

/// What is to be there, and where `lo` is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    addresses: BTreeSet<StackAddress>,
}

impl Wanted {
    /// What `stack` says, of the links that there are.
    #[must_use]
    pub fn new(stack: &Stack, links: &BTreeMap<u32, Link>) -> Self {
        let loopback = links
            .iter()
            .find(|(_, link)| link.name == "lo")
            .map(|(index, _)| *index);
        let local = stack
            .local
            .iter()
            .filter_map(|ip| Some(StackAddress::Local(loopback?, *ip)));
        let groups = stack
            .groups
            .iter()
            .map(|(index, group)| StackAddress::Group(*index, *group));
        Self {
            addresses: local.chain(groups).collect(),
        }
    }
}

/// Keeps the addresses as `wanted` says, from the first time that it says something, until the shutdown.
///
/// # Errors
/// When netlink can't be used at all.
pub async fn run(mut wanted: watch::Receiver<Option<Wanted>>, shutdown: CancellationToken) -> Result<(), NetError> {
    let mut requests = RequestSocket::open()?;
    loop {
        let now = wanted.borrow_and_update().clone();
        let is_done = match now {
            Some(now) => settle(&mut requests, &now.addresses).await?,
            None => true,
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = wanted.changed() => if changed.is_err() {
                return Ok(());
            },
            () = tokio::time::sleep(AGAIN), if !is_done => {}
        }
    }
}

/// Removes all addresses of this agent's; how many there were.
///
/// # Errors
/// When netlink can't be used, or refuses.
pub async fn remove_all() -> Result<usize, NetError> {
    let mut requests = RequestSocket::open()?;
    let there = requests.own_addresses().await?.found.len();
    settle(&mut requests, &BTreeSet::new()).await?;
    Ok(there)
}

/// True when all is as it should be.
async fn settle(requests: &mut RequestSocket, wanted: &BTreeSet<StackAddress>) -> Result<bool, NetError> {
    let actual: BTreeSet<StackAddress> = requests.own_addresses().await?.found.into_iter().collect();
    let mut refused = Vec::new();
    for changes in changes(&actual, wanted).chunks(BATCH) {
        refused.extend(requests.change_addresses(changes).await?);
    }
    for (address, error) in refused.iter().take(LOGGED) {
        tracing::warn!(refused = refused.len(), "{}", explained(*address, error));
    }
    Ok(refused.is_empty())
}

/// Additions first.
fn changes(actual: &BTreeSet<StackAddress>, wanted: &BTreeSet<StackAddress>) -> Vec<(StackAddress, bool)> {
    let added = wanted.difference(actual).map(|address| (*address, true));
    let removed = actual.difference(wanted).map(|address| (*address, false));
    added.chain(removed).collect()
}

fn explained(address: StackAddress, error: &io::Error) -> String {
    match address {
        StackAddress::Local(_, ip) => format!("{ip} cannot be given to lo; its local ports are not served: {error}"),
        StackAddress::Group(index, group) => format!(
            "interface {index} cannot join {group}; questions about addresses of this group may not be heard (many \
             addresses need a larger net.core.optmem_max): {error}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_added_before_what_is_not_is_removed() {
        let links = [(1, "lo"), (2, "eth0")].map(|(index, name)| {
            let link = Link {
                name: name.to_owned(),
                mac: None,
                mtu: 1_500,
                up: true,
            };
            (index, link)
        });
        let ip = IpAddr::from([203, 0, 113, 10]);
        let group: Ipv6Addr = "ff02::1:ff00:10".parse().unwrap();
        let stack = Stack {
            local: [ip].into(),
            groups: [(2, group)].into(),
        };
        let wanted = Wanted::new(&stack, &links.into());
        let (local, joined) = (StackAddress::Local(1, ip), StackAddress::Group(2, group));
        assert_eq!(wanted.addresses, [local, joined].into());
        let other = StackAddress::Local(1, IpAddr::from([203, 0, 113, 11]));
        assert_eq!(
            changes(&[other, joined].into(), &wanted.addresses),
            [(local, true), (other, false)]
        );
        assert!(
            Wanted::new(&stack, &BTreeMap::new()).addresses.len() == 1,
            "no lo, no local address"
        );
    }
}
