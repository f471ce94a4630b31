//! The pure core: answers and events in, next hops and things to do out.
//!
//! Owns the picture of links, routes and neighbours, the revision and the pace of neighbour resolution. Must not know
//! netlink, sockets or the clock: time is an argument.
//!
//! A neighbour that the kernel forgot (garbage collection) is remembered with its MAC as [`Reachability::Gone`]: the
//! address is still right, the kernel only had no use for the entry, because forwarding in eBPF does not touch it. It stays
//! usable until the kernel finds another MAC, or none. (An entry that an administrator deletes is announced as failed
//! first, and counts as that.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Counters, Link, NextHopView, NoHop};
use crate::model::NextHop;

/// Destinations followed at most; more are counted, not followed.
pub const MAX_WANTED: usize = 65_536;
/// Neighbours remembered at most, wanted ones aside. The kernel's own default limit is 1,024 for each family.
pub const MAX_NEIGHBOURS: usize = 65_536;
/// First wait before an unresolved neighbour is asked for again; doubles up to [`MAX_BACK_OFF`]. The kernel itself asks
/// three times, one second apart, before it calls a neighbour failed.
pub const MIN_BACK_OFF: Duration = Duration::from_secs(1);
/// Longest wait before an unresolved neighbour is asked for again.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// A stale neighbour in use is confirmed this often.
pub const REFRESH: Duration = Duration::from_secs(20);

/// An address on a link: what a neighbour is known by.
pub type NeighbourKey = (u32, IpAddr);

/// An address block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Any address in the block; bits after `length` don't count.
    pub address: IpAddr,
    /// Leading bits that count, 0 to 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// Whether `address` is in the block; never across families.
    #[must_use]
    pub fn covers(self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(host)) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(length)).unwrap_or(0);
                (net.to_bits() ^ host.to_bits()) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(length)).unwrap_or(0);
                (net.to_bits() ^ host.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What the kernel's routing answered for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// It leaves through a link.
    Via {
        /// Outgoing interface index.
        ifindex: u32,
        /// `None`: the destination is on the link.
        gateway: Option<IpAddr>,
        /// Address that the kernel would send from.
        source: Option<IpAddr>,
        /// MTU of the route in bytes, where it has one of its own.
        mtu: Option<u32>,
    },
    /// It doesn't.
    Nowhere(NoHop),
}

/// What the kernel thinks of a neighbour; the NUD states (neighbour(7) of iproute2) as far as they differ here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// REACHABLE, PERMANENT or NOARP.
    Confirmed,
    /// STALE: probably right, nobody asked lately.
    Stale,
    /// DELAY or PROBE: being confirmed.
    Checking,
    /// INCOMPLETE or NONE: no MAC yet.
    Resolving,
    /// FAILED: does not answer.
    Failed,
    /// The kernel dropped the entry.
    Gone,
}

impl Reachability {
    /// Whether the kernel itself would send to the MAC (NUD_VALID).
    fn is_valid(self) -> bool {
        match self {
            Self::Confirmed | Self::Stale | Self::Checking => true,
            Self::Resolving | Self::Failed | Self::Gone => false,
        }
    }
}

/// A neighbour as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// State.
    pub reachability: Reachability,
    /// `None` while not resolved, or for links without Ethernet addresses.
    pub mac: Option<[u8; 6]>,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link was added or changed, or is gone (`None`).
    Link(u32, Option<Link>),
    /// A neighbour was added or changed; a removed one is [`Reachability::Gone`].
    Neighbour(NeighbourKey, Neighbour),
    /// A route to this block was added, changed or removed.
    Route(Prefix),
    /// Anything else that can change any route: rules, addresses, nexthop objects, messages not understood.
    Everything,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    next: Instant,
    back_off: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub struct NextHops {
    /// `None`: in question.
    routes: BTreeMap<IpAddr, Option<RouteAnswer>>,
    questions: BTreeSet<IpAddr>,
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Neighbours that wanted destinations leave through, with the number of destinations that do.
    in_use: BTreeMap<NeighbourKey, usize>,
    /// When each of those was last kicked; absent: not yet, or not since it was last confirmed.
    paces: BTreeMap<NeighbourKey, Pace>,
    revision: u64,
    counters: Counters,
}

impl NextHops {
    /// Replaces the set of destinations. Beyond [`MAX_WANTED`] the highest addresses are left out and counted.
    pub fn set_wanted(&mut self, wanted: &BTreeSet<IpAddr>) {
        let followed: BTreeSet<IpAddr> = wanted.iter().copied().take(MAX_WANTED).collect();
        let left_out = wanted.len().saturating_sub(followed.len());
        self.counters.untracked_destinations = u64::try_from(left_out).unwrap_or(u64::MAX);
        let gone: Vec<IpAddr> = self
            .routes
            .keys()
            .filter(|ip| !followed.contains(ip))
            .copied()
            .collect();
        for address in gone {
            self.release(address);
            self.routes.remove(&address);
            self.questions.remove(&address);
        }
        for address in followed {
            if let std::collections::btree_map::Entry::Vacant(slot) = self.routes.entry(address) {
                slot.insert(None);
                self.questions.insert(address);
            }
        }
    }

    /// Takes in one event; true when it could make a cached next hop wrong, which raises the revision.
    pub fn apply(&mut self, event: Event) -> bool {
        let changed = match event {
            Event::Link(index, link) => self.apply_link(index, link),
            Event::Neighbour(key, neighbour) => self.apply_neighbour(key, neighbour),
            Event::Route(prefix) => {
                self.questions
                    .extend(self.routes.keys().filter(|ip| prefix.covers(**ip)));
                true
            }
            Event::Everything => {
                self.questions.extend(self.routes.keys());
                true
            }
        };
        if changed {
            self.revision += 1;
        }
        changed
    }

    /// Takes in the answer for `address`; false when it is the one that was known.
    pub fn answer(&mut self, address: IpAddr, answer: RouteAnswer) -> bool {
        self.questions.remove(&address);
        let Some(&old) = self.routes.get(&address) else {
            return false;
        };
        if old == Some(answer) {
            return false;
        }
        self.release(address);
        self.routes.insert(address, Some(answer));
        if let Some(key) = neighbour_of(address, &answer) {
            let users = self.in_use.entry(key).or_insert(0);
            *users += 1;
            if *users == 1 {
                self.paces.remove(&key);
            }
        }
        // A first answer can't contradict anything cached; a different one can, and may come without an event of its
        // own (the answer to one event can already hold the effect of the next).
        if old.is_some() {
            self.revision += 1;
        }
        true
    }

    /// The whole list of links: those that are not in it are gone.
    pub fn reset_links(&mut self, links: Vec<(u32, Link)>) {
        let present: BTreeSet<u32> = links.iter().map(|(index, _)| *index).collect();
        let gone: Vec<u32> = self
            .links
            .keys()
            .filter(|index| !present.contains(index))
            .copied()
            .collect();
        for index in gone {
            self.apply(Event::Link(index, None));
        }
        for (index, link) in links {
            self.apply(Event::Link(index, Some(link)));
        }
    }

    /// The whole list of neighbours: those that are not in it are gone.
    pub fn reset_neighbours(&mut self, neighbours: Vec<(NeighbourKey, Neighbour)>) {
        let present: BTreeSet<NeighbourKey> = neighbours.iter().map(|(key, _)| *key).collect();
        let gone: Vec<NeighbourKey> = self
            .neighbours
            .keys()
            .filter(|key| !present.contains(key))
            .copied()
            .collect();
        for key in gone {
            let removed = Neighbour {
                reachability: Reachability::Gone,
                mac: None,
            };
            self.apply(Event::Neighbour(key, removed));
        }
        for (key, neighbour) in neighbours {
            self.apply(Event::Neighbour(key, neighbour));
        }
    }

    /// Up to `limit` destinations whose route must be asked; the same ones again until they are answered.
    #[must_use]
    pub fn questions(&self, limit: usize) -> Vec<IpAddr> {
        self.questions.iter().take(limit).copied().collect()
    }

    /// Up to `limit` neighbours that the kernel should resolve or confirm now; paced from here on as if it were done.
    #[must_use]
    pub fn take_kicks(&mut self, now: Instant, limit: usize) -> Vec<NeighbourKey> {
        let due: Vec<NeighbourKey> = self
            .in_use
            .keys()
            .filter(|key| self.next_kick(key).is_some_and(|at| at.is_none_or(|at| at <= now)))
            .take(limit)
            .copied()
            .collect();
        for key in &due {
            let stale = self
                .neighbours
                .get(key)
                .is_some_and(|n| n.reachability == Reachability::Stale);
            let wait = if stale {
                REFRESH
            } else {
                self.paces
                    .get(key)
                    .map_or(MIN_BACK_OFF, |pace| (pace.back_off * 2).min(MAX_BACK_OFF))
            };
            let pace = Pace {
                next: now + wait,
                back_off: wait,
            };
            self.paces.insert(*key, pace);
        }
        due
    }

    /// When [`Self::take_kicks`] has something to do next; `None`: never, as things are. A kick that is due already has
    /// no time of its own, so call this after `take_kicks` came back empty.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.in_use.keys().filter_map(|key| self.next_kick(key).flatten()).min()
    }

    /// What is known now. Destinations whose first answer is outstanding are absent.
    #[must_use]
    pub fn view(&self) -> NextHopView {
        let mut view = NextHopView {
            links: self.links.clone(),
            revision: self.revision,
            counters: self.counters,
            ..NextHopView::default()
        };
        for (address, answer) in &self.routes {
            let Some(answer) = answer else { continue };
            match self.next_hop(*address, answer) {
                Ok(hop) => drop(view.hops.insert(*address, hop)),
                Err(why) => drop(view.unroutable.insert(*address, why)),
            }
        }
        view
    }

    /// The event queue overflowed.
    pub fn count_overflow(&mut self) {
        self.counters.overflows += 1;
    }

    /// This many messages were not understood.
    pub fn count_undecoded(&mut self, messages: u64) {
        self.counters.undecoded += messages;
    }

    fn apply_link(&mut self, index: u32, link: Option<Link>) -> bool {
        let old = self.links.get(&index);
        let changed = match (old, &link) {
            (None, None) => false,
            // A new link carries nothing yet; its routes come as events of their own.
            (None, Some(_)) => false,
            (Some(_), None) => true,
            (Some(old), Some(new)) => (old.mac, old.mtu, old.up) != (new.mac, new.mtu, new.up),
        };
        let down = link.as_ref().is_none_or(|link| !link.up);
        match link {
            Some(link) => drop(self.links.insert(index, link)),
            None => drop(self.links.remove(&index)),
        }
        if changed {
            let through = |answer: &Option<RouteAnswer>| matches!(answer, Some(RouteAnswer::Via { ifindex, .. }) if *ifindex == index);
            let affected = self.routes.iter().filter(|(_, answer)| through(answer));
            self.questions.extend(affected.map(|(address, _)| *address));
            if down {
                // What was on the other side of a cut link need not be there when it comes back.
                self.neighbours
                    .retain(|key, n| key.0 != index || n.reachability != Reachability::Gone);
            }
            self.paces.retain(|key, _| key.0 != index);
        }
        changed
    }

    fn apply_neighbour(&mut self, key: NeighbourKey, new: Neighbour) -> bool {
        let old = self.neighbours.get(&key).copied();
        let known_mac = old.and_then(|old| old.mac);
        let (mac, changed) = if new.reachability.is_valid() {
            (new.mac, known_mac.is_some() && known_mac != new.mac)
        } else if new.reachability == Reachability::Failed {
            (None, known_mac.is_some())
        } else {
            // Gone or being resolved anew: the last MAC holds until the outcome is known.
            (known_mac, false)
        };
        if new.reachability == Reachability::Gone && mac.is_none() {
            self.neighbours.remove(&key);
            return changed;
        }
        let forgotten = new.reachability == Reachability::Gone && old.is_some_and(|old| old.reachability.is_valid());
        if forgotten || new.reachability == Reachability::Confirmed {
            // Forgotten while it was good: ask at once. Resolved: the next trouble starts with a short wait. An entry
            // that is dropped before it was resolved (the kernel's table is full) keeps its pace.
            self.paces.remove(&key);
        }
        let entry = Neighbour {
            reachability: new.reachability,
            mac,
        };
        if old.is_none() && !self.in_use.contains_key(&key) && !self.make_room() {
            self.counters.untracked_neighbours += 1;
            // Not known whether it changed: err on the safe side.
            return mac.is_some() || new.reachability == Reachability::Failed;
        }
        self.neighbours.insert(key, entry);
        changed
    }

    /// Forgets the neighbours that the kernel forgot when the table is full. What they had told is lost, so the
    /// revision rises.
    fn make_room(&mut self) -> bool {
        if self.neighbours.len() < MAX_NEIGHBOURS {
            return true;
        }
        let before = self.neighbours.len();
        let in_use = &self.in_use;
        self.neighbours
            .retain(|key, n| n.reachability != Reachability::Gone || in_use.contains_key(key));
        let freed = self.neighbours.len() < before;
        if freed {
            self.revision += 1;
        }
        freed
    }

    /// Outer `None`: needs no kick. Inner `None`: at once.
    fn next_kick(&self, key: &NeighbourKey) -> Option<Option<Instant>> {
        if self.links.get(&key.0).is_none_or(|link| !link.up || link.mac.is_none()) {
            return None;
        }
        match self.neighbours.get(key).map(|n| n.reachability) {
            Some(Reachability::Confirmed | Reachability::Checking) => None,
            None | Some(Reachability::Stale | Reachability::Resolving | Reachability::Failed | Reachability::Gone) => {
                Some(self.paces.get(key).map(|pace| pace.next))
            }
        }
    }

    fn next_hop(&self, address: IpAddr, answer: &RouteAnswer) -> Result<NextHop, NoHop> {
        let (ifindex, source, mtu) = match *answer {
            RouteAnswer::Nowhere(why) => return Err(why),
            RouteAnswer::Via {
                ifindex, source, mtu, ..
            } => (ifindex, source, mtu),
        };
        let link = self.links.get(&ifindex).ok_or(NoHop::UnknownLink)?;
        let source_mac = link.mac.ok_or(NoHop::NoLinkLayer)?;
        let neighbour = neighbour_of(address, answer).and_then(|key| self.neighbours.get(&key));
        Ok(NextHop {
            ifindex,
            source_mac,
            neighbour_mac: neighbour.and_then(|n| n.mac),
            mtu: mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            source,
        })
    }

    /// Undoes what the answer for `address` holds on to.
    fn release(&mut self, address: IpAddr) {
        let Some(key) = self
            .routes
            .get(&address)
            .copied()
            .flatten()
            .and_then(|answer| neighbour_of(address, &answer))
        else {
            return;
        };
        if let Some(users) = self.in_use.get_mut(&key) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.in_use.remove(&key);
                self.paces.remove(&key);
            }
        }
    }
}

/// Whom a packet to `address` is handed to.
fn neighbour_of(address: IpAddr, answer: &RouteAnswer) -> Option<NeighbourKey> {
    match *answer {
        RouteAnswer::Via { ifindex, gateway, .. } => Some((ifindex, gateway.unwrap_or(address))),
        RouteAnswer::Nowhere(_) => None,
    }
}

#[cfg(test)]
mod tests;
