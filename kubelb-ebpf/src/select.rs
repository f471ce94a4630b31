//! Who may open a flow, and which backend it gets.

use kubelb_common::affinity::{Affinity, AffinityKey};
use kubelb_common::backend::flag;
use kubelb_common::frontend::{Frontend, Policy, Selection};
use kubelb_common::hash;
use kubelb_common::source;
use kubelb_common::stats::Reason;

use crate::insert::REFUSED;
use crate::parse::Packet;
use crate::tables::Tables;

/// True when the packet's sender may open a flow of frontend `number`.
#[inline(always)]
pub fn admits<T: Tables>(tables: &T, packet: &Packet, number: u32) -> bool {
    let Some(frontend) = tables.frontend(number) else {
        // Whoever looks next says what is broken.
        return true;
    };
    source::admits(tables, frontend, packet.source)
}

/// [`recall`] found none.
const NOBODY: u64 = REFUSED | 0xff;

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "reasons are few")]
const fn refused(reason: Reason) -> u64 {
    REFUSED | reason.index() as u8 as u64
}

/// The backend's row for a new flow of frontend `number`, or a [`Reason`] with the top bit set.
///
/// Words all the way: of an `Option` or a `Result` the compiler spills also the half that was never written, which the verifier refuses.
#[inline(always)]
pub fn select<T: Tables>(tables: &T, packet: &Packet, number: u32) -> u64 {
    let Some(frontend) = tables.frontend(number) else {
        return refused(Reason::BROKEN_STATE);
    };
    let policy = frontend.policy();
    if policy.affinity == 0 {
        return from_slots(tables, packet, frontend, policy.selection);
    }
    let key = AffinityKey::new(packet.source, number);
    let known = recall(tables, &key, number, policy);
    if known != NOBODY {
        return known;
    }
    let selected = from_slots(tables, packet, frontend, policy.selection);
    if selected & REFUSED != 0 {
        return selected;
    }
    #[expect(clippy::cast_possible_truncation, reason = "not refused, so it is a row number")]
    let id = selected as u32;
    let Some(backend) = tables.backend(id) else {
        return refused(Reason::BROKEN_STATE);
    };
    if !tables.set_affinity(&key, Affinity::new(id, backend.generation(), tables.now())) {
        frontend.affinity_failures().fetch_add(1);
    }
    selected
}

/// The backend that the client had, when that is not too long ago and the backend takes new flows; or [`NOBODY`].
#[inline(always)]
fn recall<T: Tables>(tables: &T, key: &AffinityKey, number: u32, policy: Policy) -> u64 {
    let now = tables.now();
    let unwilling = if policy.fail_open {
        flag::DRAINING
    } else {
        flag::DRAINING | flag::UNHEALTHY
    };
    let mut known = NOBODY;
    tables.with_affinity(key, |record| {
        let (id, generation) = record.backend();
        if let Some(backend) = tables.backend(id)
            && record.is_young(now, policy.affinity)
            // Rows change hands: another generation is another backend, perhaps of another frontend.
            && backend.flags_of(generation) & (flag::IN_USE | unwilling) == flag::IN_USE
            && backend.frontend() == number
            && backend.weight() != 0
        {
            record.renew(now);
            known = u64::from(id);
        }
    });
    known
}

#[inline(always)]
fn from_slots<T: Tables>(tables: &T, packet: &Packet, frontend: &Frontend, selection: Selection) -> u64 {
    let (offset, length) = frontend.set();
    if length == 0 {
        return refused(Reason::NO_BACKEND);
    }
    let which = match selection {
        // One counter for all CPUs: that is what makes the turn exact.
        Selection::RoundRobin => frontend.next().fetch_add(1),
        Selection::Maglev => hash::choice(
            packet.source,
            packet.destination,
            packet.source_port,
            packet.destination_port,
            packet.protocol,
        ),
        Selection::MaglevBySource => hash::choice_of_client(packet.source),
    };
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a 32-bit length")]
    let turn = (which % u64::from(length)) as u32;
    match tables.backend_slot(offset.wrapping_add(turn)) {
        Some(id) => u64::from(id),
        None => refused(Reason::BROKEN_STATE),
    }
}
