//! Who may open a flow, and which backend it gets.

use kubelb_common::affinity::{self, Affinity, AffinityKey};
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

/// No backend is known for the client.
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
    let now = tables.now();
    let mut known = NOBODY;
    let mut stale = affinity::NO_CHOICE;
    tables.with_affinity(&key, |record| {
        stale = record.choice();
        if record.is_young(stale, now, policy.affinity) && is_willing(tables, stale, number, policy) {
            record.renew(stale, now);
            known = row_of(stale);
        }
    });
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
    let choice = affinity::choice(id, backend.generation(), now);
    if stale == affinity::NO_CHOICE && tables.add_affinity(&key, Affinity::new(choice, now)) {
        return selected;
    }
    // There is a record that has had its day, or another CPU has just met the same client: whoever is first chooses for all.
    let mut agreed = NOBODY;
    tables.with_affinity(&key, |record| {
        agreed = selected;
        if !record.replace(stale, choice, now) {
            let theirs = record.choice();
            if is_willing(tables, theirs, number, policy) {
                agreed = row_of(theirs);
            }
        }
    });
    if agreed == NOBODY {
        frontend.affinity_failures().fetch_add(1);
        return selected;
    }
    agreed
}

#[inline(always)]
fn row_of(choice: u64) -> u64 {
    u64::from(affinity::backend_of(choice).0)
}

/// True when the backend that a client had at frontend `number` takes new flows.
#[inline(always)]
fn is_willing<T: Tables>(tables: &T, choice: u64, number: u32, policy: Policy) -> bool {
    let (id, generation) = affinity::backend_of(choice);
    let unwilling = if policy.fail_open {
        flag::DRAINING
    } else {
        flag::DRAINING | flag::UNHEALTHY
    };
    tables.backend(id).is_some_and(|backend| {
        // Rows change hands: another generation is another backend, perhaps of another frontend.
        backend.flags_of(generation) & (flag::IN_USE | unwilling) == flag::IN_USE
            && backend.frontend() == number
            && backend.weight() != 0
    })
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
