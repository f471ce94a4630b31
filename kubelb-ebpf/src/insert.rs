//! The slow half of steering: a packet that belongs to no flow yet.
//!
//! One function that is not inlined, so that the established path stays small; it returns one word because a BPF
//! function can return no more.

use kubelb_common::addr::{TCP, UDP};
use kubelb_common::checksum::address_delta;
use kubelb_common::flow::{Binding, flag, tag};
use kubelb_common::flow_table::{self, FlowKey};
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::snat::MAX_ADDRESSES;
use kubelb_common::stats::Reason;
use kubelb_common::tcp::{ACK, RST, SYN};

use crate::parse::Packet;
use crate::tables::Tables;

/// Tries to get the claim of a bucket; an insertion holds it for well under a microsecond.
const CLAIM_TRIES: u32 = 64;

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

impl Insertion {
    const FLOW: u64 = 1 << 62;
    const REFUSED: u64 = 1 << 63;

    #[expect(clippy::cast_lossless, reason = "From is not const")]
    const fn encode(self) -> u64 {
        match self {
            Self::Flow(index) => Self::FLOW | index as u64,
            Self::NotOurs => 0,
            Self::Refused(frontend, reason) => Self::REFUSED | ((reason.index() as u64) << 32) | frontend as u64,
        }
    }

    /// Undoes the packing into one word.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub const fn decode(word: u64) -> Self {
        if word & Self::REFUSED != 0 {
            Self::Refused(word as u32, Reason::from_index((word >> 32) as u8 & 0x3f))
        } else if word & Self::FLOW != 0 {
            Self::Flow(word as u32)
        } else {
            Self::NotOurs
        }
    }
}

/// Makes a flow for `packet`, or finds the one that another CPU has just made. The result is an [`Insertion`] in one
/// word.
#[inline(never)]
pub fn insert<T: Tables>(tables: &T, packet: &Packet) -> u64 {
    try_insert(tables, packet).encode()
}

#[inline(always)]
fn try_insert<T: Tables>(tables: &T, packet: &Packet) -> Insertion {
    let key = FrontendKey::new(packet.destination, packet.destination_port, packet.protocol);
    let number = match tables.frontend_number(&key) {
        None | Some(ECHO_ONLY) => return Insertion::NotOurs,
        Some(number) => number,
    };
    let refuse = |reason| Insertion::Refused(number, reason);
    if packet.protocol == TCP && packet.tcp_flags & (SYN | ACK | RST) != SYN {
        return refuse(Reason::NO_FLOW);
    }
    let (Some(frontend), Some(control)) = (tables.frontend(number), tables.control()) else {
        return refuse(Reason::BROKEN_STATE);
    };
    if frontend.set().1 == 0 {
        return refuse(Reason::NO_BACKEND);
    }
    let cap = frontend.max_flows();
    if cap != 0 && frontend.flows().load() >= cap {
        return refuse(Reason::FRONTEND_CAP);
    }
    let key = FlowKey {
        client: packet.source,
        vip: packet.destination,
        client_port: packet.source_port,
        vip_port: packet.destination_port,
        protocol: packet.protocol,
    };
    let hash = key.hash(control.flow_seed.load());
    let ([first, ..], _) = tables.layout().places(hash);
    let Some(bucket) = tables.bucket(first) else { return refuse(Reason::BROKEN_STATE) };
    let me = u64::from(tables.cpu()) + 1;
    let mut claimed = false;
    for _ in 0..CLAIM_TRIES {
        if bucket.claim().compare_exchange(0, me) {
            claimed = true;
            break;
        }
    }
    if !claimed {
        return refuse(Reason::CONTENDED);
    }
    let result = match flow_table::find(tables, hash, &key) {
        Some(hit) => Insertion::Flow(hit.index),
        None => insert_claimed(tables, packet, hash, number, frontend),
    };
    bucket.claim().store(0);
    result
}

#[inline(always)]
fn insert_claimed<T: Tables>(tables: &T, packet: &Packet, hash: u64, number: u32, frontend: &Frontend) -> Insertion {
    let refuse = |reason| Insertion::Refused(number, reason);
    let now = tables.now();
    let Some((index, busy)) = flow_table::acquire(tables, hash, now) else { return refuse(Reason::TABLE_FULL) };
    let Some((word, flow)) = flow_table::slot(tables, index) else { return refuse(Reason::BROKEN_STATE) };
    match bind(tables, packet, number, frontend, hash, index, now) {
        Ok(binding) => {
            let (_, fingerprint) = tables.layout().places(hash);
            flow.bind(&binding, 0, now);
            frontend.flows().fetch_add(1);
            word.store(tag::live(busy, fingerprint));
            tables.count_flow(number, binding.backend);
            Insertion::Flow(index)
        }
        Err(reason) => {
            word.store(tag::free(busy));
            refuse(reason)
        }
    }
}

/// Chooses backend, SNAT address and port.
#[inline(always)]
fn bind<T: Tables>(
    tables: &T,
    packet: &Packet,
    number: u32,
    frontend: &Frontend,
    hash: u64,
    index: u32,
    now: u32,
) -> Result<Binding, Reason> {
    let (offset, length) = frontend.set();
    if length == 0 {
        return Err(Reason::NO_BACKEND);
    }
    // One counter for all CPUs: that is what makes the turn exact.
    let turn = frontend.next().fetch_add(1) % u64::from(length);
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a 32-bit length")]
    let id = tables.backend_slot(offset.wrapping_add(turn as u32)).ok_or(Reason::BROKEN_STATE)?;
    let backend = tables.backend(id).ok_or(Reason::BROKEN_STATE)?.view();
    let udp = packet.protocol == UDP;
    let (slot, port) = allocate(tables, packet, udp, backend.fold, hash, index, now).ok_or(Reason::SNAT_EXHAUSTED)?;
    let snat = tables.snat(u32::from(slot)).ok_or(Reason::BROKEN_STATE)?.view();
    Ok(Binding {
        client: packet.source,
        client_port: packet.source_port,
        snat_port: snat.raw_port(port),
        snat_slot: slot,
        frontend: number,
        backend: id,
        generation: backend.generation,
        fold: backend.fold,
        address_delta: address_delta((packet.source, packet.destination), (snat.address, backend.address)),
        flags: if udp { flag::UDP } else { 0 },
    })
}

/// A port of the first SNAT address of the packet's family that has one, beginning at one that the flow's hash names.
#[inline(always)]
fn allocate<T: Tables>(
    tables: &T,
    packet: &Packet,
    udp: bool,
    fold: u8,
    hash: u64,
    index: u32,
    now: u32,
) -> Option<(u8, u32)> {
    let wanted = Wanted { v6: packet.v6, udp, fold, index, now };
    for step in 0..MAX_ADDRESSES {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let slot = ((hash >> 20) as u32).wrapping_add(step) % MAX_ADDRESSES;
        let port = port_of(tables, slot, &wanted);
        if port != NO_PORT {
            return Some((u8::try_from(slot).ok()?, port));
        }
    }
    None
}

const NO_PORT: u32 = u32::MAX;

struct Wanted {
    v6: bool,
    udp: bool,
    fold: u8,
    index: u32,
    now: u32,
}

/// A port of one SNAT address, or [`NO_PORT`].
#[inline(never)]
fn port_of<T: Tables>(tables: &T, slot: u32, wanted: &Wanted) -> u32 {
    let Some(row) = tables.snat(slot) else { return NO_PORT };
    let snat = row.view();
    if snat.ports == 0 || !snat.in_service || snat.address.is_v4() == wanted.v6 {
        return NO_PORT;
    }
    let cpus = tables.control().map_or(1, |control| control.cpus.load());
    let part = flow_table::part_of_range(snat.ports, tables.cpu(), cpus);
    let section = snat.section(wanted.udp, wanted.fold);
    tables
        .with_scratch(|scratch| {
            let cursor = &mut scratch.port_cursor;
            flow_table::allocate_port(tables, &snat, section, wanted.index, part, cursor, wanted.now)
        })
        .flatten()
        .unwrap_or(NO_PORT)
}
