//! The slow half of steering: a packet that belongs to no flow yet.
//!
//! The steps that [`Tables`] has the kernel call out of line return one word, because a BPF function can return no more.

use kubelb_common::addr::{TCP, UDP};
use kubelb_common::announce::{AnnounceKey, Subject};
use kubelb_common::checksum::address_delta;
use kubelb_common::flow::{Binding, Flow, flag, tag};
use kubelb_common::flow_table::{self, Displacement, FlowKey, NO_PORT, displace};
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::maps::half_open_word;
use kubelb_common::shared::opaque;
use kubelb_common::snat::MAX_ADDRESSES;
use kubelb_common::stats::Reason;
use kubelb_common::tcp::{ACK, RST, SYN};

use crate::parse::Packet;
use crate::tables::Tables;

/// Tries to get the claim of a bucket; an insertion holds it for well under a microsecond.
const CLAIM_TRIES: u32 = 64;

/// Notes of half-open flows that one packet looks at.
const NOTES: u32 = 8;
/// Two to this power is the part of a second for which a handshake is left alone, however many others wait: a quarter, the time for
/// an answer from the other side of the world. Until the budget is spent it is a whole one, after which its SYN is sent again
/// (RFC 6298).
const HANDSHAKE_SHIFT: u32 = 2;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// The number of the flow's slot.
    Flow(u32),
    /// No frontend of ours.
    NotOurs,
    /// No flow, for this reason, at this frontend.
    Refused(u32, Reason),
}

const FLOW: u64 = 1 << 62;
/// Of a packed word: it holds a [`Reason`] in its low byte.
pub(crate) const REFUSED: u64 = 1 << 63;
const CLAIMED: u64 = FLOW | REFUSED;
const KIND: u64 = FLOW | REFUSED;

impl Insertion {
    const fn encode(self) -> u64 {
        match self {
            Self::Flow(index) => FLOW | index as u64,
            Self::NotOurs => 0,
            Self::Refused(frontend, reason) => REFUSED | ((reason.index() as u64) << 32) | frontend as u64,
        }
    }

    /// Undoes the packing into one word.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub const fn decode(word: u64) -> Self {
        match word & KIND {
            FLOW => Self::Flow(word as u32),
            REFUSED => Self::Refused(word as u32, Reason::from_index((word >> 32) as u8 & 0x3f)),
            _ => Self::NotOurs,
        }
    }
}

/// Makes a flow for `packet`, or finds the one that another CPU has just made. The result is an [`Insertion`] in one
/// word.
#[inline(always)]
pub fn insert<T: Tables>(tables: &T, packet: &Packet) -> u64 {
    let begun = tables.begin(packet);
    if begun & KIND != CLAIMED {
        return begun;
    }
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    let (index, number) = (begun as u32, (begun >> 32) as u32 & 0x3fff_ffff);
    let chosen = tables.choose(packet, index, number);
    tables.publish(packet, index, number, chosen)
}

/// True when the packet is for an address that this node announces, and for a port of it that nothing on the node serves either.
#[inline(always)]
pub fn is_unserved<T: Tables>(tables: &T, packet: &Packet) -> bool {
    let key = |subject| AnnounceKey::new(packet.destination, subject);
    if tables.announce_key(&key(Subject::Guarded)).is_none() {
        return false;
    }
    let port = Subject::LocalPort(packet.protocol, packet.destination_port);
    tables.announce_key(&key(port)).is_none()
}

/// First half of [`insert`]: finds the frontend, claims the flow's bucket, looks again, takes a slot. The result is an
/// [`Insertion`] in one word or, with the claim held, slot and frontend.
#[inline(always)]
pub fn begin<T: Tables>(tables: &T, packet: &Packet) -> u64 {
    match try_begin(tables, packet) {
        Ok((index, number)) => CLAIMED | u64::from(number) << 32 | u64::from(index),
        Err(insertion) => insertion.encode(),
    }
}

#[inline(always)]
fn try_begin<T: Tables>(tables: &T, packet: &Packet) -> Result<(u32, u32), Insertion> {
    let key = FrontendKey::new(packet.destination, packet.destination_port, packet.protocol);
    let number = match tables.frontend_number(&key) {
        None | Some(ECHO_ONLY) if tables.is_unserved(packet) => return Err(Insertion::Refused(0, Reason::UNSERVED)),
        None | Some(ECHO_ONLY) => return Err(Insertion::NotOurs),
        Some(number) => number,
    };
    let refuse = |reason| Err(Insertion::Refused(number, reason));
    // Before anything that is answered: who is not let in learns nothing.
    if !tables.admits(packet, number) {
        return refuse(Reason::SOURCE_REFUSED);
    }
    if packet.protocol == TCP && packet.tcp_flags & (SYN | ACK | RST) != SYN {
        return refuse(Reason::NO_FLOW);
    }
    let (Some(frontend), Some(control)) = (tables.frontend(number), tables.control()) else {
        return refuse(Reason::BROKEN_STATE);
    };
    if frontend.set().1 == 0 {
        return refuse(Reason::NO_BACKEND);
    }
    // With no agent to sweep, idle flows count until their slots or ports are needed: a cap would refuse for ever.
    let cap = frontend.max_flows();
    if cap != 0 && frontend.flows().load() >= cap && control.is_swept(tables.now()) {
        return refuse(Reason::FRONTEND_CAP);
    }
    let budget = frontend.half_open_budget();
    if packet.protocol == TCP && budget != 0 && frontend.has_half_open(budget / 2) && tables.make_room(number) == 0 {
        return refuse(Reason::HALF_OPEN_BUDGET);
    }
    let hash = key_of(packet).hash(control.flow_seed.load());
    let ([first, ..], _) = tables.layout().places(hash);
    let Some(bucket) = tables.bucket(first) else {
        return refuse(Reason::BROKEN_STATE);
    };
    let me = u64::from(tables.cpu()) + 1;
    let mut step = opaque(0);
    while step < CLAIM_TRIES && !bucket.claim().compare_exchange(0, me) {
        step += 1;
    }
    if step == CLAIM_TRIES {
        return refuse(Reason::CONTENDED);
    }
    let found = tables.find(packet, hash);
    let taken = if found == NO_SLOT {
        tables.take_slot(hash, tables.now())
    } else {
        NO_SLOT
    };
    if taken != NO_SLOT {
        #[expect(clippy::cast_possible_truncation, reason = "slot numbers have 32 bits")]
        return Ok((taken as u32, number));
    }
    bucket.claim().store(0);
    if found == NO_SLOT {
        return refuse(Reason::TABLE_FULL);
    }
    #[expect(clippy::cast_possible_truncation, reason = "slot numbers have 32 bits")]
    Err(Insertion::Flow(found as u32))
}

/// What a client's packet says of its flow.
#[inline(always)]
#[must_use]
pub const fn key_of(packet: &Packet) -> FlowKey {
    FlowKey {
        client: packet.source,
        vip: packet.destination,
        client_port: packet.source_port,
        vip_port: packet.destination_port,
        protocol: packet.protocol,
    }
}

/// The slot of the packet's flow, or [`NO_SLOT`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, packet: &Packet, hash: u64) -> u64 {
    flow_table::find(tables, hash, &key_of(packet)).map_or(NO_SLOT, |hit| u64::from(hit.index))
}

/// Last part of [`insert`]: fills the slot with what [`choose`] chose and publishes it, or gives it back; then lets go
/// of the claim.
#[inline(always)]
pub fn publish<T: Tables>(tables: &T, packet: &Packet, index: u32, number: u32, chosen: u64) -> u64 {
    let Some(control) = tables.control() else { return 0 };
    let key = key_of(packet);
    let ([first, ..], fingerprint) = tables.layout().places(key.hash(control.flow_seed.load()));
    let (Some((word, flow)), Some(bucket)) = (flow_table::slot(tables, index), tables.bucket(first)) else {
        return 0;
    };
    let busy = word.load();
    let result = match fill(tables, packet, flow, index, number, chosen) {
        Ok(()) => {
            word.store(tag::live(busy, fingerprint));
            Insertion::Flow(index)
        }
        Err(reason) => {
            word.store(tag::free(busy));
            Insertion::Refused(number, reason)
        }
    };
    bucket.claim().store(0);
    result.encode()
}

#[inline(always)]
fn fill<T: Tables>(
    tables: &T,
    packet: &Packet,
    flow: &Flow,
    index: u32,
    number: u32,
    chosen: u64,
) -> Result<(), Reason> {
    if chosen & REFUSED != 0 {
        #[expect(clippy::cast_possible_truncation, reason = "the low byte holds the reason")]
        return Err(Reason::from_index(chosen as u8 & 0x3f));
    }
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    let (id, slot, port) = (chosen as u32 & 0xff_ffff, (chosen >> 24) as u8, (chosen >> 32) as u32);
    let backend = tables.backend(id).ok_or(Reason::BROKEN_STATE)?.view();
    let snat = tables.snat(u32::from(slot)).ok_or(Reason::BROKEN_STATE)?;
    let frontend = tables.frontend(number).ok_or(Reason::BROKEN_STATE)?;
    let binding = Binding {
        client: packet.source,
        client_port: packet.source_port,
        snat_port: snat.raw_port(port),
        snat_slot: slot,
        frontend: number,
        backend: id,
        generation: backend.generation,
        fold: backend.fold,
        address_delta: address_delta((packet.source, packet.destination), (snat.address(), backend.address)),
        flags: if packet.protocol == UDP { flag::UDP } else { 0 },
    };
    if packet.protocol == TCP {
        // Counted before it can be completed.
        frontend.half_open().fetch_add(1);
        note_half_open(tables, frontend, number, index);
    }
    flow.bind(&binding, 0, tables.now());
    frontend.flows().fetch_add(1);
    tables.count_flow(number, id);
    Ok(())
}

/// Writes down where a half-open flow is. The note is a hint; while the slot is busy it leads to nothing.
#[inline(always)]
fn note_half_open<T: Tables>(tables: &T, frontend: &Frontend, number: u32, index: u32) {
    let budget = frontend.half_open_budget();
    if budget != 0 {
        let place = frontend.half_open_hand().fetch_add(1) % budget;
        if let Some(word) = tables.half_open(half_open_word(number, place)) {
            word.store(index + 1);
        }
    }
}

/// Makes room for a half-open flow of a frontend whose budget is half spent, or more. 0: there is none.
///
/// Notes are written one after the other and go round, so that old ones come first. With the budget spent, somebody has to give way who
/// is half-open and not too young. Before that it is enough to find a note that leads to no such flow any more, or to one that has had
/// all the time it needs: written over, it would never be found again. What is found is where the next note goes.
#[inline(always)]
pub fn make_room<T: Tables>(tables: &T, number: u32) -> u32 {
    let (Some(frontend), Some(control)) = (tables.frontend(number), tables.control()) else {
        return 0;
    };
    let budget = frontend.half_open_budget();
    if budget == 0 {
        return 1;
    }
    let spent = frontend.has_half_open(budget);
    let least = control.hz.load() >> if spent { HANDSHAKE_SHIFT } else { 0 };
    let (now, hand) = (tables.now(), frontend.half_open_hand().load());
    let mut step = opaque(0);
    let mut made = u32::from(!spent);
    while step < NOTES {
        let place = hand.wrapping_add(step) % budget;
        let index = tables
            .half_open(half_open_word(number, place))
            .and_then(|word| word.load().checked_sub(1));
        let found = match index {
            Some(index) => displace(tables, index, number, now, least),
            None => Displacement::Other,
        };
        if found == Displacement::Done {
            made = 1;
            break;
        }
        if (found == Displacement::Young) == spent {
            break;
        }
        step += 1;
    }
    if step != 0 {
        frontend.half_open_hand().fetch_add(step);
    }
    made
}

/// Counts a flow of the frontend as no longer half-open.
#[inline(always)]
pub fn complete<T: Tables>(tables: &T, number: u32) -> u32 {
    tables
        .frontend(number)
        .map_or(0, |frontend| frontend.half_open().fetch_add(u32::MAX))
}

/// [`take_slot`] found none.
pub const NO_SLOT: u64 = u64::MAX;

/// Takes a slot for a new flow: its number, or [`NO_SLOT`]. The slot's tag is then busy, and the caller's.
#[inline(always)]
pub fn take_slot<T: Tables>(tables: &T, hash: u64, now: u32) -> u64 {
    flow_table::acquire(tables, hash, now).map_or(NO_SLOT, |(index, _)| u64::from(index))
}

/// Middle part of [`insert`]: chooses backend, SNAT address and port for the flow in slot `index`. The result is
/// backend | address << 24 | port << 32, or a [`Reason`] with the top bit set.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, packet: &Packet, index: u32, number: u32) -> u64 {
    match try_choose(tables, packet, index, number) {
        Ok((id, slot, port)) => u64::from(id) | u64::from(slot) << 24 | u64::from(port) << 32,
        #[expect(clippy::cast_possible_truncation, reason = "reasons are few")]
        Err(reason) => REFUSED | u64::from(reason.index() as u8),
    }
}

#[inline(always)]
fn try_choose<T: Tables>(tables: &T, packet: &Packet, index: u32, number: u32) -> Result<(u32, u32, u32), Reason> {
    let selected = tables.select(packet, number);
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    let id = if selected & REFUSED == 0 {
        selected as u32
    } else {
        return Err(Reason::from_index(selected as u8 & 0x3f));
    };
    let backend = tables.backend(id).ok_or(Reason::BROKEN_STATE)?;
    let kind = kind(packet.v6, packet.protocol == UDP, backend.view().fold);
    let now = tables.now();
    if let Some(slot) = backend.snat() {
        return match tables.take_port(slot, index, now, kind) {
            NO_PORT => Err(Reason::SNAT_EXHAUSTED),
            port => Ok((id, slot, port)),
        };
    }
    // The first SNAT address of the packet's family that has a port, beginning where the slot's number says.
    let mut slot = (index >> 2) % MAX_ADDRESSES;
    let mut step = opaque(0);
    while step < MAX_ADDRESSES {
        step += 1;
        let port = tables.take_port(slot, index, now, kind);
        if port != NO_PORT {
            return Ok((id, slot, port));
        }
        slot = (slot + 1) % MAX_ADDRESSES;
    }
    Err(Reason::SNAT_EXHAUSTED)
}

/// What kind of port is wanted, in one word for [`take_port`].
#[inline(always)]
#[must_use]
pub const fn kind(v6: bool, udp: bool, fold: u8) -> u32 {
    u32::from_le_bytes([fold, udp as u8, v6 as u8, 0])
}

/// Takes a port of the SNAT address in row `slot` for the flow in slot `index`: its position in the range, or
/// [`NO_PORT`].
#[inline(always)]
pub fn take_port<T: Tables>(tables: &T, slot: u32, index: u32, now: u32, kind: u32) -> u32 {
    let [fold, udp, v6, _] = kind.to_le_bytes();
    let Some(row) = tables.snat(slot) else { return NO_PORT };
    let snat = row.view();
    if snat.ports == 0 || !snat.in_service || snat.address.is_v4() == (v6 != 0) {
        return NO_PORT;
    }
    let cpus = tables.control().map_or(1, |control| control.cpus.load());
    let part = flow_table::part_of_range(snat.ports, tables.cpu(), cpus);
    let section = snat.section(udp != 0, fold);
    tables
        .with_scratch(|scratch| {
            let cursor = &mut scratch.port_cursor;
            flow_table::allocate_port(tables, &snat, section, index, part, cursor, now)
        })
        .flatten()
        .unwrap_or(NO_PORT)
}
