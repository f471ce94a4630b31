//! The flow table: find, insert, expire. The same code runs in the kernel, in the agent's sweeper (over mapped memory)
//! and in tests.
//!
//! Layout: `main` buckets, a power of two, then a small stash of buckets for flows whose two buckets are full. A slot
//! changes hands by compare-and-swap on its tag; whoever moves it from live to busy, and nobody else, gives its SNAT
//! port back. Insertions of one flow are serialised by the claim word of its first bucket.

mod slices;

pub use slices::Slices;

use crate::addr::Addr;
use crate::flow::{Bucket, Flow, WAYS, flag, tag};
use crate::frontend::Frontend;
use crate::hash;
use crate::port_pool::PortPool;
use crate::shared::{SharedU32, opaque};
use crate::snat::SnatAddress;
use crate::source::SourceRange;
use crate::tcp;

/// Where the rows are: map helpers in the kernel, mapped memory in the agent, vectors in tests.
pub trait FlowTables: Sized {
    /// Sizes of the flow table.
    fn layout(&self) -> Layout;
    /// A bucket by number.
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// A word of the reverse index.
    fn reverse(&self, index: u32) -> Option<&SharedU32>;
    /// A port pool.
    fn pool(&self, index: u32) -> Option<&PortPool>;
    /// A frontend row.
    fn frontend(&self, index: u32) -> Option<&Frontend>;
    /// A SNAT address row.
    fn snat(&self, slot: u32) -> Option<&SnatAddress>;
    /// A source range.
    fn source_range(&self, index: u32) -> Option<&SourceRange>;

    /// [`expire`]; in the kernel a function of its own, so that the verifier walks through it once.
    fn expire_slot(&self, index: u32, tag: u64, now: u32) -> bool {
        expire(self, index, tag, now)
    }
    /// [`PortPool::take`] of a pool, out of line likewise; `u32::MAX` when there is none.
    fn take_from_pool(&self, pool: u32, from: u32, end: u32) -> u32 {
        take_from_pool(self, pool, from, end)
    }
    /// [`take_expired_port`], out of line likewise.
    fn take_expired_port(&self, reverse: u32, pool: u32, port: u32, index: u32, now: u32) -> bool {
        take_expired_port(self, reverse, pool, port, index, now)
    }
}

/// Sizes of the flow table, both powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Buckets before the stash.
    pub main: u32,
    /// Buckets of the stash.
    pub stash: u32,
}

impl Layout {
    /// The layout that holds `flows` at half load, rounded up to a power of two.
    #[must_use]
    pub const fn for_flows(flows: u32) -> Self {
        let buckets = flows.div_ceil(2);
        let main = if buckets < 64 { 64 } else { buckets.next_power_of_two() };
        Self {
            main,
            stash: crate::maps::STASH_BUCKETS,
        }
    }

    /// All buckets.
    #[must_use]
    pub const fn buckets(self) -> u32 {
        self.main + self.stash
    }

    /// The three buckets where a flow may be, and its fingerprint.
    #[inline(always)]
    #[must_use]
    pub const fn places(self, hash: u64) -> ([u32; 3], u32) {
        let (first, fingerprint, second) = hash::parts(hash);
        let stash = self.main + (second.rotate_left(16) & (self.stash - 1));
        ([first & (self.main - 1), second & (self.main - 1), stash], fingerprint)
    }
}

/// What a client's packet says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The client's address.
    pub client: Addr,
    /// The VIP.
    pub vip: Addr,
    /// The client's port, raw.
    pub client_port: u16,
    /// The VIP's port, raw.
    pub vip_port: u16,
    /// TCP or UDP.
    pub protocol: u8,
}

impl FlowKey {
    /// Keyed hash of the flow.
    #[inline(always)]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        hash::flow(
            seed,
            self.client,
            self.vip,
            self.client_port,
            self.vip_port,
            self.protocol,
        )
    }
}

/// A live flow: where it is and the tag it had when it was found.
#[derive(Clone, Copy)]
pub struct Hit<'a> {
    /// Number of the slot: bucket times four plus way.
    pub index: u32,
    /// The tag; while it is unchanged the record is that flow's.
    pub tag: u64,
    /// The tag's word.
    pub tag_word: &'a crate::shared::SharedU64,
    /// The record.
    pub flow: &'a Flow,
    /// Its frontend's row.
    pub frontend: &'a Frontend,
}

/// Finds a flow by what its client sends.
#[inline(always)]
pub fn find<'a, T: FlowTables>(tables: &'a T, hash: u64, key: &FlowKey) -> Option<Hit<'a>> {
    let ([mut place, second, stash], fingerprint) = tables.layout().places(hash);
    let mut step = opaque(0);
    while step < 3 {
        let here = place;
        step += 1;
        place = if step == 1 { second } else { stash };
        let Some(bucket) = tables.bucket(here) else { continue };
        for way in 0..WAYS {
            let tag_word = bucket.tag(way);
            let tag = tag_word.load();
            if !tag::matches(tag, fingerprint) {
                continue;
            }
            let flow = bucket.flow(way);
            if !flow.is_client(key.client, key.client_port) {
                continue;
            }
            let Some(frontend) = tables.frontend(flow.frontend()) else {
                continue;
            };
            if !frontend.is(key.vip, key.vip_port, key.protocol) {
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "way is below 4")]
            return Some(Hit {
                index: (here << 2) | way as u32,
                tag,
                tag_word,
                flow,
                frontend,
            });
        }
    }
    None
}

/// The slot of a number as [`Hit::index`] gives it.
#[inline(always)]
pub fn slot<T: FlowTables>(tables: &T, index: u32) -> Option<(&crate::shared::SharedU64, &Flow)> {
    let bucket = tables.bucket(index >> 2)?;
    let way = index as usize & 3;
    Some((bucket.tag(way), bucket.flow(way)))
}

/// True when the flow has been idle for longer than its frontend allows, or its frontend is gone. `now` is the low
/// half of jiffies.
#[inline(always)]
#[must_use]
pub fn expired(flow: &Flow, frontend: &Frontend, udp: bool, now: u32) -> bool {
    if !frontend.is_active() {
        return true;
    }
    let idle = now.wrapping_sub(flow.last_seen());
    // Another CPU may be a tick ahead: "idle" is then a small negative number.
    idle < 0x8000_0000 && idle > frontend.timeout(tcp::timeout_class(flow.state(), udp))
}

/// Ends the flow of a slot whose tag is `tag`: its port goes back, the slot becomes free. False when another was faster.
#[inline(always)]
pub fn release<T: FlowTables>(tables: &T, index: u32, tag: u64) -> bool {
    let Some((word, flow)) = slot(tables, index) else {
        return false;
    };
    let busy = tag::busy(tag);
    if tag::state(tag) != tag::LIVE || !word.compare_exchange(tag, busy) {
        return false;
    }
    give_back(tables, index, flow);
    word.store(tag::free(busy));
    true
}

/// What came of [`displace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displacement {
    /// The flow is ended.
    Done,
    /// It is a half-open flow of that frontend, and too young.
    Young,
    /// There is none, or it is another frontend's, or established by now.
    Other,
}

/// Ends the flow of slot `index` if it is a half-open one of this frontend and has been idle for `least` jiffies, or one that was
/// reset. One that is established just now keeps its slot.
#[inline(always)]
pub fn displace<T: FlowTables>(tables: &T, index: u32, frontend: u32, now: u32, least: u32) -> Displacement {
    let Some((word, flow)) = slot(tables, index) else {
        return Displacement::Other;
    };
    let tag = word.load();
    let state = flow.state();
    let binding = flow.binding();
    if tag::state(tag) != tag::LIVE
        || binding.frontend != frontend
        || binding.flags & flag::UDP != 0
        || !tcp::is_half_open(state)
    {
        return Displacement::Other;
    }
    let idle = now.wrapping_sub(flow.last_seen());
    // Another CPU may be a tick ahead.
    if state & tcp::state::RESET == 0 && (idle < least || idle >= 0x8000_0000) {
        return Displacement::Young;
    }
    let busy = tag::busy(tag);
    if !word.compare_exchange(tag, busy) {
        return Displacement::Other;
    }
    if !flow.end() {
        flow.resume();
        word.store(tag);
        return Displacement::Other;
    }
    if let Some(frontend) = tables.frontend(frontend) {
        frontend.half_open().fetch_add(u32::MAX);
    }
    // Counted and ended already: no second time.
    give_back(tables, index, flow);
    word.store(tag::free(busy));
    Displacement::Done
}

/// Ends the flow if it is expired still once the slot is ours.
#[inline(always)]
pub fn expire<T: FlowTables>(tables: &T, index: u32, tag: u64, now: u32) -> bool {
    let Some((word, flow)) = slot(tables, index) else {
        return false;
    };
    if tag::state(tag) != tag::LIVE {
        return false;
    }
    let Some(frontend) = tables.frontend(flow.frontend()) else {
        return false;
    };
    let udp = flow.binding().flags & flag::UDP != 0;
    if !expired(flow, frontend, udp, now) {
        return false;
    }
    let busy = tag::busy(tag);
    if !word.compare_exchange(tag, busy) {
        return false;
    }
    if !expired(flow, frontend, udp, now) {
        // A packet came in between. Nobody can have taken the busy slot, so the old tag goes back.
        word.store(tag);
        return false;
    }
    give_back(tables, index, flow);
    word.store(tag::free(busy));
    true
}

/// Returns the SNAT port of a slot that the caller owns, and counts the flow out.
#[inline(always)]
pub fn give_back<T: FlowTables>(tables: &T, index: u32, flow: &Flow) {
    let binding = flow.binding();
    let was_half_open = flow.end() && binding.flags & flag::UDP == 0;
    if let Some(row) = tables.snat(u32::from(binding.snat_slot)) {
        let snat = row.view();
        let section = snat.section(binding.flags & flag::UDP != 0, binding.fold);
        if let Some(offset) = snat.port_offset(binding.snat_port)
            && let Some(word) = tables.reverse(snat.reverse_index(section, offset))
            && word.compare_exchange(index + 1, 0)
            && let Some(pool) = tables.pool(snat.pool_index(section))
        {
            pool.put(offset);
        }
    }
    if let Some(frontend) = tables.frontend(binding.frontend) {
        if was_half_open {
            frontend.half_open().fetch_add(u32::MAX);
        }
        frontend.flows().fetch_add(u32::MAX);
    }
}

/// Ways that are not free, of the first two buckets: for the choice of the emptier one.
#[inline(always)]
fn occupied(bucket: &Bucket) -> u32 {
    let mut count = 0;
    for way in 0..WAYS {
        count += u32::from(tag::state(bucket.tag(way).load()) != tag::FREE);
    }
    count
}

/// Takes a slot for a new flow: a free one of its emptier bucket, of the other, of the stash, or else one whose flow
/// has expired. Returns the slot's number and its busy tag.
#[inline(always)]
pub fn acquire<T: FlowTables>(tables: &T, hash: u64, now: u32) -> Option<(u32, u64)> {
    let ([mut first, mut second, stash], _) = tables.layout().places(hash);
    if let (Some(a), Some(b)) = (tables.bucket(first), tables.bucket(second))
        && occupied(b) < occupied(a)
    {
        (first, second) = (second, first);
    }
    let place = |step: u32| match step >> 2 {
        0 => first,
        1 => second,
        _ => stash,
    };
    let mut step = opaque(0);
    while step < 12 {
        let index = (place(step) << 2) | (step & 3);
        step += 1;
        let Some((word, _)) = slot(tables, index) else { continue };
        let tag = word.load();
        if tag::state(tag) == tag::FREE && word.compare_exchange(tag, tag::busy(tag)) {
            return Some((index, tag::busy(tag)));
        }
    }
    let mut step = opaque(0);
    while step < 12 {
        let index = (place(step) << 2) | (step & 3);
        step += 1;
        let Some((word, _)) = slot(tables, index) else { continue };
        if tables.expire_slot(index, word.load(), now) {
            let tag = word.load();
            if tag::state(tag) == tag::FREE && word.compare_exchange(tag, tag::busy(tag)) {
                return Some((index, tag::busy(tag)));
            }
        }
    }
    None
}

/// [`PortPool::take`] found none.
pub const NO_PORT: u32 = u32::MAX;

/// Takes a free port in `from..end` of a pool, or [`NO_PORT`].
#[inline(always)]
pub fn take_from_pool<T: FlowTables>(tables: &T, pool: u32, from: u32, end: u32) -> u32 {
    tables
        .pool(pool)
        .and_then(|pool| pool.take(from, end))
        .unwrap_or(NO_PORT)
}

/// Entries of the reverse index that an allocation looks at for expired flows when no port is free.
const HAND: u32 = 16;

/// Takes a SNAT port for the flow in slot `index`, from this CPU's part of the range, else from anybody's, else from a
/// flow that has expired. Returns the port's position in the range. `cursor` is this CPU's; it moves on.
#[inline(always)]
pub fn allocate_port<T: FlowTables>(
    tables: &T,
    snat: &crate::snat::SnatView,
    section: u32,
    index: u32,
    part: (u32, u32),
    cursor: &mut u32,
    now: u32,
) -> Option<u32> {
    let (begin, end) = part;
    let from = if *cursor >= begin && *cursor < end {
        *cursor
    } else {
        begin
    };
    let pool_index = snat.pool_index(section);
    let mut port = tables.take_from_pool(pool_index, from, end);
    if port == NO_PORT && from != begin {
        // Round again within the part: a port rests as long as possible before it is used anew.
        port = tables.take_from_pool(pool_index, begin, from);
    }
    if port == NO_PORT {
        port = tables.take_from_pool(pool_index, 0, snat.ports);
    }
    if port != NO_PORT {
        *cursor = port + 1;
        tables.reverse(snat.reverse_index(section, port))?.store(index + 1);
        return Some(port);
    }
    let mut port = if *cursor < snat.ports { *cursor } else { 0 };
    let mut step = opaque(0);
    while step < HAND {
        step += 1;
        if tables.take_expired_port(snat.reverse_index(section, port), pool_index, port, index, now) {
            *cursor = port + 1;
            return Some(port);
        }
        port = if port + 1 < snat.ports { port + 1 } else { 0 };
    }
    *cursor = port;
    None
}

/// Takes a port for the flow in slot `index` from the flow that holds it, if that one has expired. `reverse` is the
/// port's word of the reverse index.
#[inline(always)]
pub fn take_expired_port<T: FlowTables>(tables: &T, reverse: u32, pool: u32, port: u32, index: u32, now: u32) -> bool {
    let Some(word) = tables.reverse(reverse) else {
        return false;
    };
    let Some(holder) = word.load().checked_sub(1) else {
        return false;
    };
    let taken = slot(tables, holder).is_some_and(|(tag_word, _)| tables.expire_slot(holder, tag_word.load(), now))
        && tables.pool(pool).is_some_and(|pool| pool.take_exact(port));
    if taken {
        word.store(index + 1);
    }
    taken
}

/// The part of a port range that a CPU looks at first: (begin, end).
#[inline(always)]
#[must_use]
pub fn part_of_range(ports: u32, cpu: u32, cpus: u32) -> (u32, u32) {
    let cpus = if cpus == 0 { 1 } else { cpus };
    let cpu = cpu % cpus;
    // At most 65,535 ports and 2^16 CPUs: no overflow in 64 bits, and the quotients are at most `ports`.
    let cut = |n: u32| u64::from(ports) * u64::from(n) / u64::from(cpus);
    #[expect(clippy::cast_possible_truncation, reason = "at most `ports`")]
    (cut(cpu) as u32, cut(cpu + 1) as u32)
}

#[cfg(test)]
mod tests;
