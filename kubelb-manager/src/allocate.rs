//! Gives out addresses of the pools: which claims should exist, and who should hold them.
//!
//! Whole state in, whole answer out. What is held stays held as long as its holder wants it; a change of mind gets the new address first and
//! gives the old one back then. Must not know: how claims are stored. Whoever carries a [`Plan`] out compares and swaps.

mod gateway;
mod pool;
mod want;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kubelb_api::names::AddressName;
use kubelb_api::v1alpha1::{AddressClaim, AddressClaimSpec, Holder};

pub(crate) use gateway::RESOURCE;
pub use gateway::{GatewayWant, gateway_want};
pub use pool::{Pools, Range};
use want::wants;
pub use want::{Want, wants_the_same};

use crate::object::{Kind, ObjectKey};
use crate::problem::{Problem, Reason};
use crate::store::Store;

/// Most holders of one address, as the schema has it.
const MAX_HOLDERS: usize = 256;

/// What to do about claims. Deletions come first: what they free is not given out again by the same plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Claims that nobody holds any more.
    pub delete: BTreeSet<AddressName>,
    /// Claims to create, or to write with other holders.
    pub write: Vec<AddressClaim>,
    /// Why somebody gets no address, or not the one that was asked for.
    pub problems: Vec<Problem>,
}

/// What an address in an object's status means that the object holds no claim on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It was given by hand, and is the object's.
    Held,
    /// The object had it, and would like to have it again. Nothing is served from it.
    Wished,
}

/// Address family of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Plans the claims of all objects. `namespace` is the manager's, where the Config is.
#[must_use]
pub fn plan(store: &Store, namespace: &str, given: Given) -> Plan {
    let pools = Pools::read(store, namespace);
    let (wants, mut problems) = wants(store, &pools, given);
    problems.extend(pool::problems(store, namespace));
    let mut book = Book::open(store, &wants);
    book.keep(&wants);
    // Who finds no pools at all gets an address elsewhere, and keeps what it has.
    let delegates =
        |want: &Want| given == Given::Wished && want.object.kind == Kind::LoadBalancer && pools.are_absent();
    for want in wants.values().filter(|want| !delegates(want) && !want.only_keeps) {
        serve(&mut book, &pools, want, &mut problems);
    }
    let mut plan = book.close(&wants);
    plan.problems = problems;
    plan
}

/// Gets a want's addresses, family by family.
fn serve(book: &mut Book<'_>, pools: &Pools, want: &Want, problems: &mut Vec<Problem>) {
    let mut served = 0_usize;
    let mut missing = Vec::new();
    for family in &want.families {
        let held = book.held(&want.object, *family);
        let got = match want.requested.get(family) {
            Some(wanted) if held == Some(*wanted) => Ok(*wanted),
            Some(wanted) => book.take_requested(pools, want, *wanted).inspect(|_| {
                if let Some(old) = held {
                    book.release(&want.object, old);
                }
            }),
            None => held.map_or_else(|| book.take_any(pools, want, *family), Ok),
        };
        match got {
            Ok(_) => served += 1,
            Err((reason, message)) => {
                served += usize::from(held.is_some());
                missing.push((want.field(*family), reason, message));
            }
        }
    }
    if missing.is_empty() {
        book.release_others(want);
    }
    // Who prefers two families is content with one.
    if served < want.at_least || !want.requested.is_empty() {
        let key = want.object.clone();
        let said = missing.into_iter();
        problems.extend(said.map(|(field, reason, message)| Problem::new(&key, field, reason, message)));
    }
}

type Refusal = (Reason, String);

/// Who holds what while a plan is made.
struct Book<'a> {
    store: &'a Store,
    entries: BTreeMap<IpAddr, Entry>,
    /// Addresses by holder.
    held: BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    /// Addresses that objects have without a claim: given by hand, or by somebody else.
    taken: BTreeMap<IpAddr, ObjectKey>,
    /// Addresses that may be shared, by tenant and the word that is agreed on.
    shared: BTreeMap<(String, String), BTreeSet<IpAddr>>,
    /// Where the search for a free address goes on, by the range's first address and its last.
    cursors: BTreeMap<Range, IpAddr>,
}

struct Entry {
    tenant: String,
    /// `None`: there is no claim yet.
    before: Option<Vec<Holder>>,
    holders: BTreeSet<ObjectKey>,
    ports: BTreeSet<want::Port>,
    sharing: Option<String>,
}

impl<'a> Book<'a> {
    fn open(store: &'a Store, wants: &BTreeMap<want::Rank, Want>) -> Self {
        let mut book = Self {
            store,
            entries: BTreeMap::new(),
            held: BTreeMap::new(),
            taken: BTreeMap::new(),
            shared: BTreeMap::new(),
            cursors: BTreeMap::new(),
        };
        for (name, claim) in store.address_claims() {
            // A claim under a wrong name says nothing; the API refuses it.
            let Ok(address) = name.name.parse::<AddressName>() else {
                continue;
            };
            let entry = Entry {
                tenant: claim.spec.tenant.clone(),
                before: Some(claim.spec.holders.clone()),
                holders: BTreeSet::new(),
                ports: BTreeSet::new(),
                sharing: None,
            };
            book.entries.insert(address.address(), entry);
        }
        for want in wants.values() {
            for address in &want.unclaimed {
                if !book.entries.contains_key(address) {
                    book.taken.entry(*address).or_insert_with(|| want.object.clone());
                }
            }
        }
        book
    }

    /// Holders that still want what they have keep it, the oldest first.
    fn keep(&mut self, wants: &BTreeMap<want::Rank, Want>) {
        let mut claims: BTreeMap<(&str, &str, &str, &str), Vec<IpAddr>> = BTreeMap::new();
        for (name, claim) in self.store.address_claims() {
            let Ok(address) = name.name.parse::<AddressName>().map(AddressName::address) else {
                continue;
            };
            for holder in claim.spec.holders.iter().filter(|holder| is_planned(holder)) {
                let kind = holder.kind.as_str();
                let key = (
                    kind,
                    holder.namespace.as_str(),
                    holder.name.as_str(),
                    holder.uid.as_str(),
                );
                claims.entry(key).or_default().push(address);
            }
        }
        for want in wants.values() {
            let key = (
                want.object.kind.as_str(),
                &*want.object.name.namespace,
                &*want.object.name.name,
                want.uid.as_str(),
            );
            let mut kept = BTreeSet::new();
            // Who asks for an address of the other family keeps what it has until it has that one.
            let keeps_all = want.only_keeps || !want.requested.is_empty();
            for address in claims.get(&key).into_iter().flatten() {
                let family = IpFamily::of(*address);
                let is_wanted = (keeps_all || want.families.contains(&family)) && !kept.contains(&family);
                if is_wanted && self.may_hold(want, *address).is_ok() {
                    kept.insert(family);
                    self.hold(want, *address);
                }
            }
        }
    }

    fn held(&self, name: &ObjectKey, family: IpFamily) -> Option<IpAddr> {
        let held = self.held.get(name)?;
        held.iter().copied().find(|address| IpFamily::of(*address) == family)
    }

    /// Why somebody cannot have an address.
    fn may_hold(&self, want: &Want, address: IpAddr) -> Result<(), Refusal> {
        let refuse = |why: &str| Err((Reason::AddressConflict, format!("{address} {why}")));
        if self.taken.get(&address).is_some_and(|by| *by != want.object) {
            return refuse("is in use");
        }
        let Some(entry) = self.entries.get(&address) else {
            return Ok(());
        };
        if entry.tenant != want.tenant.as_str() {
            return refuse("belongs to another tenant");
        }
        if entry.holders.is_empty() || entry.holders.contains(&want.object) {
            return Ok(());
        }
        if want.sharing.is_none() || want.sharing != entry.sharing {
            return refuse("is in use by another object, and both do not agree to share it");
        }
        if entry.holders.len() >= MAX_HOLDERS {
            return refuse("is shared by as many objects as can be");
        }
        if let Some((protocol, port)) = want.ports.intersection(&entry.ports).next() {
            return refuse(&format!("is shared, and its port {port}/{protocol} is in use"));
        }
        Ok(())
    }

    fn hold(&mut self, want: &Want, address: IpAddr) {
        let entry = self.entries.entry(address).or_insert_with(|| Entry {
            tenant: want.tenant.as_str().to_owned(),
            before: None,
            holders: BTreeSet::new(),
            ports: BTreeSet::new(),
            sharing: None,
        });
        entry.holders.insert(want.object.clone());
        entry.ports.extend(want.ports.iter().copied());
        entry.sharing.clone_from(&want.sharing);
        if let Some(word) = &want.sharing {
            let key = (want.tenant.as_str().to_owned(), word.clone());
            self.shared.entry(key).or_default().insert(address);
        }
        self.held.entry(want.object.clone()).or_default().insert(address);
    }

    fn release(&mut self, name: &ObjectKey, address: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.holders.remove(name);
        }
        if let Some(held) = self.held.get_mut(name) {
            held.remove(&address);
        }
    }

    /// Gives back what is of no family that is wanted.
    fn release_others(&mut self, want: &Want) {
        let held = self.held.get(&want.object).into_iter().flatten();
        let others = held.filter(|address| !want.families.contains(&IpFamily::of(**address)));
        for address in others.copied().collect::<Vec<_>>() {
            self.release(&want.object, address);
        }
    }

    fn take_requested(&mut self, pools: &Pools, want: &Want, address: IpAddr) -> Result<IpAddr, Refusal> {
        if !pools.allow(want, address) {
            let message = format!("{address} is in no address pool that the tenant may use");
            return Err((Reason::AddressNotInPool, message));
        }
        self.may_hold(want, address)?;
        self.hold(want, address);
        Ok(address)
    }

    /// One that may be shared, else the one that the object has already and only lacks the claim for, else the first free one.
    fn take_any(&mut self, pools: &Pools, want: &Want, family: IpFamily) -> Result<IpAddr, Refusal> {
        let of_family = |address: &&IpAddr| IpFamily::of(**address) == family;
        let shared = want.sharing.as_ref().and_then(|word| {
            let candidates = self.shared.get(&(want.tenant.as_str().to_owned(), word.clone()))?;
            let mut candidates = candidates.iter().filter(of_family);
            candidates
                .find(|address| self.may_hold(want, **address).is_ok())
                .copied()
        });
        let adopted = want
            .unclaimed
            .iter()
            .filter(of_family)
            .find(|address| pools.allow(want, **address) && self.may_hold(want, **address).is_ok());
        if let Some(address) = shared.or(adopted.copied()) {
            self.hold(want, address);
            return Ok(address);
        }
        let mut any = false;
        for range in pools.ranges(want, family) {
            any = true;
            if let Some(address) = self.first_free(range) {
                self.hold(want, address);
                return Ok(address);
            }
        }
        let family = family.as_str();
        Err(if any {
            let message = format!("every {family} address of the pools that the tenant may use is given out");
            (Reason::PoolExhausted, message)
        } else {
            let message = format!("there is no address pool with {family} addresses that the tenant may use");
            (Reason::NoAddressPool, message)
        })
    }

    /// Goes on where the last search in the same range ended: within one plan nothing becomes free.
    fn first_free(&mut self, range: Range) -> Option<IpAddr> {
        let mut next = self.cursors.get(&range).copied().or(Some(range.first()));
        while let Some(address) = next.filter(|address| *address <= range.last()) {
            self.cursors.insert(range, address);
            if !self.entries.contains_key(&address) && !self.taken.contains_key(&address) {
                return Some(address);
            }
            next = pool::successor(address);
        }
        None
    }

    fn close(self, wants: &BTreeMap<want::Rank, Want>) -> Plan {
        let uids: BTreeMap<&ObjectKey, &str> = wants.values().map(|want| (&want.object, want.uid.as_str())).collect();
        let mut plan = Plan::default();
        for (address, entry) in &self.entries {
            let name = AddressName::new(*address);
            if entry.holders.is_empty() {
                // Holders of a kind that is not planned here keep theirs.
                let others = foreign(entry);
                if others.is_empty() {
                    plan.delete.insert(name);
                } else if entry.before.as_ref() != Some(&others) {
                    plan.write.push(claim(name, &entry.tenant, others));
                }
                continue;
            }
            let mut holders: Vec<Holder> = foreign(entry);
            holders.extend(entry.holders.iter().map(|holder| Holder {
                kind: holder.kind.as_str().to_owned(),
                namespace: holder.name.namespace.to_string(),
                name: holder.name.name.to_string(),
                uid: uids.get(holder).copied().unwrap_or_default().to_owned(),
            }));
            holders.sort();
            if entry.before.as_ref() != Some(&holders) {
                plan.write.push(claim(name, &entry.tenant, holders));
            }
        }
        plan
    }
}

fn foreign(entry: &Entry) -> Vec<Holder> {
    let before = entry.before.iter().flatten();
    before.filter(|holder| !is_planned(holder)).cloned().collect()
}

/// Whether it is of a kind that gets its addresses here.
fn is_planned(holder: &Holder) -> bool {
    [Kind::LoadBalancer, Kind::Route]
        .iter()
        .any(|kind| holder.kind == kind.as_str())
}

fn claim(name: AddressName, tenant: &str, holders: Vec<Holder>) -> AddressClaim {
    let spec = AddressClaimSpec {
        address: name.address().to_string(),
        tenant: tenant.to_owned(),
        holders,
    };
    AddressClaim::new(&name.to_string(), spec)
}

#[cfg(test)]
mod tests;
