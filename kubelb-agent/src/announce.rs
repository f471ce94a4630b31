//! Which addresses this node answers for on its links, and what becomes of the map rows that say so.
//!
//! Pure: wanted addresses, links and rows in; operations and announcements out. Rows that another machine's announcement has silenced are
//! the only memory that matters, and it is in the kernel. Must not know where owners come from, nor sockets.

pub mod frames;
pub mod speaker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::announce::{AnnounceKey, AnnounceView, MALFORMED_ROW, NO_ROW, Subject};

use crate::model::{Owner, Protocol, VirtualAddress};
use crate::net::Link;

/// After another machine took an address that is still this node's by its manager: time for the manager to say otherwise.
const DEFEND_AFTER: Duration = Duration::from_secs(1);
/// Shortest time between two defences of an address (`DEFEND_INTERVAL` of RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// An address on an interface.
pub type Place = (IpAddr, u32);

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Row numbers and rows, by place.
    pub rows: BTreeMap<Place, (u32, AnnounceView)>,
    /// The other keys: local ports, and addresses that are guarded.
    pub keys: BTreeSet<AnnounceKey>,
    /// MAC addresses that count as this node's.
    pub macs: BTreeSet<[u8; 6]>,
    /// How many rows there may be.
    pub room: u32,
}

/// A change of the maps. In the order of [`Plan::ops`] it is safe to stop after any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Counts a MAC address as this node's.
    AddMac([u8; 6]),
    /// Does so no longer.
    RemoveMac([u8; 6]),
    /// Empties a row that no key leads to.
    Vacate(u32),
    /// Answers for the address of a row from now on.
    TakeOver {
        /// The row.
        row: u32,
        /// Under this epoch.
        epoch: u64,
        /// With this MAC address.
        mac: [u8; 6],
    },
    /// Keeps who answers as it is.
    Update {
        /// The row.
        row: u32,
        /// Epoch from here on.
        epoch: u64,
        /// MAC address from here on.
        mac: [u8; 6],
    },
    /// Answers no longer.
    Silence(u32),
    /// Makes a key, with the number of its row.
    Insert(AnnounceKey, u32),
    /// Removes a key.
    Remove(AnnounceKey),
}

/// What the node's interfaces are to have, beside the maps, for its addresses to work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Addresses that the node itself has, because something on it serves a port of theirs.
    pub local: BTreeSet<IpAddr>,
    /// Multicast groups to be in, by interface: questions about IPv6 addresses come to them.
    pub groups: BTreeSet<(u32, Ipv6Addr)>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    /// To be announced, with the MAC address.
    pub announce: BTreeMap<Place, [u8; 6]>,
    /// Answered for once all is carried out; what is not among these is not to be announced any more.
    pub answered: BTreeSet<Place>,
    /// Taken by another machine since the last look, with its MAC address.
    pub lost: BTreeMap<Place, [u8; 6]>,
    /// What cannot be announced, and why.
    pub problems: Vec<String>,
    /// For the node's own network stack.
    pub stack: Stack,
}

/// What is remembered from one look to the next. An agent that has just started knows nothing of it, and is the more careful.
#[derive(Debug, Default)]
pub struct Memory {
    /// When each silenced place was first seen so, and when it was last defended.
    silenced: BTreeMap<Place, (Instant, Option<Instant>)>,
    up: BTreeMap<u32, bool>,
}

/// What there is to announce on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Links by index.
    pub links: &'a BTreeMap<u32, Link>,
    /// Indices of those that the programs are attached to.
    pub attached: &'a BTreeSet<u32>,
    /// There is somebody to say who owns what, so that an address may be defended.
    pub is_live: bool,
    /// Now.
    pub now: Instant,
}

impl Memory {
    /// What to do about the addresses that are wanted.
    pub fn plan(&mut self, wanted: &BTreeMap<IpAddr, VirtualAddress>, context: &Context<'_>, actual: &Actual) -> Plan {
        let mut plan = Plan::default();
        let links = context.usable();
        let macs: BTreeSet<[u8; 6]> = links.values().map(|(_, mac)| *mac).collect();
        plan.ops
            .extend(macs.difference(&actual.macs).map(|mac| Op::AddMac(*mac)));
        let mut keys = BTreeSet::new();
        let mut places = BTreeSet::new();
        let mut free = free_rows(actual);
        let owned = wanted.iter().filter(|(_, address)| address.owner == Owner::This);
        for (address, announced) in owned {
            let mut is_somewhere = false;
            for (index, (link, mac)) in &links {
                if !announced.interfaces.is_empty() && !announced.interfaces.contains(&link.name) {
                    continue;
                }
                let place = (*address, *index);
                is_somewhere |= self.one(place, (announced.epoch, *mac), context, actual, &mut free, &mut plan);
                places.insert(place);
                if let IpAddr::V6(v6) = address {
                    plan.stack.groups.insert((*index, solicited_node(*v6)));
                }
            }
            if !is_somewhere {
                plan.problems.push(format!(
                    "{address}: no interface to announce it on, or no room for more addresses"
                ));
                continue;
            }
            keys.extend(keys_of(*address, announced));
            if !announced.local_ports.is_empty() {
                plan.stack.local.insert(*address);
            }
        }
        for (place, (row, _)) in actual.rows.iter().filter(|(place, _)| !places.contains(*place)) {
            let key = AnnounceKey::new(place.0.into(), Subject::Interface(place.1));
            plan.ops.extend([Op::Silence(*row), Op::Remove(key), Op::Vacate(*row)]);
        }
        // An address is guarded after its local ports are known, and not guarded any more before they are forgotten: keys sort that way.
        let insert = keys.difference(&actual.keys).map(|key| Op::Insert(*key, NO_ROW));
        plan.ops.extend(insert);
        let gone: Vec<Op> = actual.keys.difference(&keys).map(|key| Op::Remove(*key)).collect();
        plan.ops.extend(gone.into_iter().rev());
        plan.ops
            .extend(actual.macs.difference(&macs).map(|mac| Op::RemoveMac(*mac)));
        self.silenced.retain(|place, _| places.contains(place));
        self.up = links.iter().map(|(index, (link, _))| (*index, link.up)).collect();
        plan
    }

    /// Whether a look is due without anything else having changed: something silenced might be defended.
    #[must_use]
    pub fn is_watchful(&self) -> bool {
        !self.silenced.is_empty()
    }

    /// One address on one interface. False when there is no room for it.
    fn one(
        &mut self,
        place: Place,
        (epoch, mac): (u64, [u8; 6]),
        context: &Context<'_>,
        actual: &Actual,
        free: &mut impl Iterator<Item = u32>,
        plan: &mut Plan,
    ) -> bool {
        let Some((row, view)) = actual.rows.get(&place) else {
            let Some(row) = free.next() else { return false };
            let key = AnnounceKey::new(place.0.into(), Subject::Interface(place.1));
            plan.ops
                .extend([Op::Vacate(row), Op::TakeOver { row, epoch, mac }, Op::Insert(key, row)]);
            plan.announce.insert(place, mac);
            plan.answered.insert(place);
            return true;
        };
        let take_over = epoch > view.epoch || (!view.answers && self.may_defend(place, view, context, plan));
        if take_over {
            plan.ops.push(Op::TakeOver { row: *row, epoch, mac });
            plan.announce.insert(place, mac);
        } else if epoch != view.epoch || mac != view.mac {
            plan.ops.push(Op::Update { row: *row, epoch, mac });
        }
        if !take_over && !view.answers {
            return true;
        }
        if epoch > view.epoch || view.answers {
            self.silenced.remove(&place);
        }
        plan.answered.insert(place);
        let came_up = self.up.get(&place.1) == Some(&false) && context.links.get(&place.1).is_some_and(|link| link.up);
        if came_up || mac != view.mac {
            plan.announce.insert(place, mac);
        }
        true
    }

    /// Another machine has announced the address under the epoch that is still this node's. Whoever decides had time to say so, if it
    /// did; else it is defended, now and then.
    fn may_defend(&mut self, place: Place, view: &AnnounceView, context: &Context<'_>, plan: &mut Plan) -> bool {
        let now = context.now;
        let mut is_new = false;
        let (since, defended) = self.silenced.entry(place).or_insert_with(|| {
            is_new = true;
            (now, None)
        });
        if is_new {
            plan.lost.insert(place, view.rival);
        }
        // Of a machine that was stopped, time has passed in which nothing could be heard.
        if !context.is_live {
            *since = now;
            return false;
        }
        let is_due = now.duration_since(*since) >= DEFEND_AFTER
            && defended.is_none_or(|last| now.duration_since(last) >= DEFEND_INTERVAL);
        if is_due {
            *defended = Some(now);
            *since = now;
        }
        is_due
    }
}

impl Context<'_> {
    /// Attached links with a MAC address.
    fn usable(&self) -> BTreeMap<u32, (&Link, [u8; 6])> {
        let attached = self.links.iter().filter(|(index, _)| self.attached.contains(index));
        attached
            .filter_map(|(index, link)| Some((*index, (link, link.mac?))))
            .collect()
    }
}

fn free_rows(actual: &Actual) -> impl Iterator<Item = u32> + use<> {
    let used: BTreeSet<u32> = actual.rows.values().map(|(row, _)| *row).collect();
    (MALFORMED_ROW + 1..actual.room).filter(move |row| !used.contains(row))
}

fn keys_of(address: IpAddr, announced: &VirtualAddress) -> impl Iterator<Item = AnnounceKey> {
    let address = Addr::from(address);
    let ports = announced.local_ports.iter().map(|(protocol, port)| {
        let protocol = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        Subject::LocalPort(protocol, port.get().to_be())
    });
    ports
        .chain([Subject::Guarded])
        .map(move |subject| AnnounceKey::new(address, subject))
}

/// The group to which questions about an address are sent (RFC 4291 §2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    let [.., x, y, z] = &mut group;
    (*x, *y, *z) = (a, b, c);
    group.into()
}

#[cfg(test)]
mod tests;
