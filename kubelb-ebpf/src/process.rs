//! From bytes to [`Outcome`]: the whole way of a packet.

use kubelb_common::addr::{ICMP, ICMPV6, UDP};
use kubelb_common::backend::flag as backend_flag;
use kubelb_common::checksum::negate;
use kubelb_common::control::{Control, FILTER_SNAT, FILTER_VIP};
use kubelb_common::flow::{Binding, Flow, flag, tag};
use kubelb_common::flow_table;
use kubelb_common::frontend::{ECHO_ONLY, Frontend, FrontendKey};
use kubelb_common::hash;
use kubelb_common::next_hop::flag as hop_flag;
use kubelb_common::stats::Reason;
use kubelb_common::tcp::{self, ACK, Direction, FIN, RST, SYN};

use crate::answer::{self, Why};
use crate::bytes::{Bytes, get32};
use crate::insert::{Insertion, key_of};
use crate::neighbour::{LINK_MULTICAST, Question};
use crate::outcome::Outcome;
use crate::parse::{self, Destination, Packet, Unsteerable};
use crate::rewrite::{self, Translation};
use crate::tables::Tables;

/// Decides about a packet and rewrites it.
#[inline(always)]
pub fn process<B: Bytes, T: Tables>(bytes: &mut B, tables: &T) -> Outcome {
    let Some(to) = parse::destination(bytes) else {
        return match parse::arp(bytes) {
            Some(l3) => ask(bytes, tables, Question::Arp(l3)),
            None => Outcome::Pass,
        };
    };
    // Two copies of the rest: in the first the compiler knows the family and all offsets.
    if to.plain {
        onward(bytes, tables, &Destination::plain(to.address))
    } else {
        onward(bytes, tables, &Destination { plain: false, ..to })
    }
}

#[inline(always)]
fn onward<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, to: &Destination) -> Outcome {
    let Some(control) = tables.control() else {
        return Outcome::Pass;
    };
    let (which, seed) = control.filter();
    let class = tables.filter(which, hash::address(seed, to.address));
    if class == 0 {
        if to.v6 && to.address.words().0 == LINK_MULTICAST {
            return ask(bytes, tables, Question::Discovery(to.l3));
        }
        return Outcome::Pass;
    }
    let mut packet = Packet::default();
    match steer(bytes, tables, control, to, &mut packet, class) {
        Decision::Done(outcome) => outcome,
        Decision::Answer(frontend, why) => answer::give(bytes, tables, &packet, frontend, why),
    }
}

/// A frame that may be a question about an address.
#[inline(always)]
fn ask<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, question: Question) -> Outcome {
    if bytes.consider(tables, question) {
        Outcome::Answer
    } else {
        Outcome::Pass
    }
}

/// What steering came to.
enum Decision {
    Done(Outcome),
    /// Nothing was touched: count it, and answer where that helps.
    Answer(u32, Why),
}

#[inline(always)]
fn drop(frontend: u32, reason: Reason) -> Decision {
    Decision::Answer(frontend, Why::Refused(reason))
}

#[inline(always)]
fn steer<B: Bytes, T: Tables>(
    bytes: &mut B,
    tables: &T,
    control: &Control,
    to: &Destination,
    packet: &mut Packet,
    class: u8,
) -> Decision {
    if let Err(why) = parse::headers(bytes, to, packet) {
        let reason = match why {
            Unsteerable::NotIp | Unsteerable::Protocol => return Decision::Done(Outcome::Pass),
            Unsteerable::Fragment => Reason::FRAGMENT,
            Unsteerable::Malformed => Reason::MALFORMED,
        };
        if !is_vip(tables, to) {
            return Decision::Done(Outcome::Pass);
        }
        // Never answered, so what was read of the packet need not be kept.
        tables.count_drop(0, reason);
        return Decision::Done(Outcome::Drop(reason));
    }
    if packet.protocol == ICMP || packet.protocol == ICMPV6 {
        let echo = answer::is_echo_request(packet) && is_vip(tables, to);
        return if echo {
            Decision::Answer(0, Why::Echo)
        } else if packet.v6 {
            Decision::Done(ask(bytes, tables, Question::Discovery(to.l3)))
        } else {
            Decision::Done(Outcome::Pass)
        };
    }
    let slot = class & FILTER_SNAT;
    if slot != 0
        && let Some(decision) = reply(bytes, tables, control, packet, u32::from(slot) - 1)
    {
        return decision;
    }
    if class & FILTER_VIP != 0 {
        forward(bytes, tables, control, packet)
    } else {
        Decision::Done(Outcome::Pass)
    }
}

/// The filter may err towards "ours"; before a packet is dropped its destination must be a VIP for certain.
#[inline(always)]
fn is_vip<T: Tables>(tables: &T, to: &Destination) -> bool {
    let protocol = if to.v6 { ICMPV6 } else { ICMP };
    tables.frontend_number(&FrontendKey::new(to.address, 0, protocol)) == Some(ECHO_ONLY)
}

#[inline(always)]
fn forward<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, control: &Control, packet: &Packet) -> Decision {
    let key = key_of(packet);
    let now = tables.now();
    let mut found = None;
    if let Some(hit) = flow_table::find(tables, key.hash(control.flow_seed.load()), &key) {
        if begins_anew(tables, packet, hit.flow, hit.frontend, now) {
            tables.retire(hit.index, hit.tag);
        } else {
            found = Some((hit.flow, hit.tag_word, hit.tag));
        }
    }
    let (flow, word, tag) = match found {
        Some(found) => found,
        None => match Insertion::decode(tables.insert(packet)) {
            Insertion::NotOurs => return Decision::Done(Outcome::Pass),
            Insertion::Refused(frontend, reason) => return drop(frontend, reason),
            Insertion::Flow(index) => {
                let Some((word, flow)) = flow_table::slot(tables, index) else {
                    return drop(0, Reason::BROKEN_STATE);
                };
                (flow, word, word.load())
            }
        },
    };
    let binding = flow.binding();
    // The slot may have changed hands while it was read: then the client will send again.
    if word.load() != tag || binding.client_port != packet.source_port {
        return drop(binding.frontend, Reason::CONTENDED);
    }
    to_backend(bytes, tables, packet, flow, &binding, now)
}

/// True when the packet must not go on with the flow that it belongs to by its addresses: the flow is over, or its
/// backend may not have it.
#[inline(always)]
fn begins_anew<T: Tables>(tables: &T, packet: &Packet, flow: &Flow, frontend: &Frontend, now: u32) -> bool {
    let udp = packet.protocol == UDP;
    let state = flow.state();
    if flow_table::expired(flow, frontend, udp, now) {
        return true;
    }
    if !udp && packet.tcp_flags & (SYN | ACK | RST) != SYN {
        return false;
    }
    let (backend, generation) = flow.backend();
    let flags = tables.backend(backend).map_or(0, |row| row.flags_of(generation));
    let gone = flags & backend_flag::IN_USE == 0;
    let draining = flags & backend_flag::DRAINING != 0;
    if udp {
        return gone || draining;
    }
    let unwilling = draining || flags & backend_flag::UNHEALTHY != 0;
    gone || tcp::reopens(state) || (state & tcp::state::ANSWERED == 0 && unwilling)
}

/// A packet of a client, on to its backend.
#[inline(always)]
fn to_backend<B: Bytes, T: Tables>(
    bytes: &mut B,
    tables: &T,
    packet: &Packet,
    flow: &Flow,
    binding: &Binding,
    now: u32,
) -> Decision {
    let frontend = binding.frontend;
    let Some(row) = tables.backend(binding.backend) else {
        return drop(frontend, Reason::BROKEN_STATE);
    };
    let backend = row.view();
    if backend.generation != binding.generation {
        // The answer ends the connection, so its port need not wait for the idle timeout.
        flow.add_state(0, tcp::state::RESET);
        return drop(frontend, Reason::STALE_BACKEND);
    }
    let Some(hop) = tables.next_hop(backend.next_hop) else {
        return drop(frontend, Reason::BROKEN_STATE);
    };
    let hop = hop.view();
    let resolved = hop.flags() & hop_flag::RESOLVED != 0;
    if B::RESOLVES_NEIGHBOURS {
        if hop.flags() & hop_flag::ROUTED == 0 {
            return drop(frontend, Reason::NO_ROUTE);
        }
    } else if !resolved || hop.flags() & hop_flag::XDP == 0 || crosses_vlan(bytes, packet, hop.interface) {
        return Decision::Done(Outcome::HandOver);
    }
    if packet.ttl <= 1 {
        return drop(frontend, Reason::TTL_EXPIRED);
    }
    if hop.mtu() != 0 && bytes.segment_length(packet) > usize::from(hop.mtu()) {
        return Decision::Answer(frontend, Why::TooBig(hop.mtu()));
    }
    let Some(snat) = tables.snat(u32::from(binding.snat_slot)) else {
        return drop(frontend, Reason::BROKEN_STATE);
    };
    if packet.protocol != UDP {
        let state = flow.state();
        let new = tcp::step(state, packet.tcp_flags, Direction::Forward);
        if new != state {
            advance(bytes, tables, packet, flow, state, new);
        }
    }
    flow.touch(now);
    let translation = Translation {
        source: snat.address(),
        destination: backend.address,
        source_port: binding.snat_port,
        destination_port: backend.port,
        address_delta: binding.address_delta,
    };
    if !rewrite::link(bytes, resolved, hop.destination, hop.source) || !rewrite::translate(bytes, packet, &translation)
    {
        return half_done(tables, frontend);
    }
    tables.count_in(frontend, binding.backend, packet.l3() + packet.ip_length);
    sent(resolved, hop.interface)
}

/// Notes what a client's segment changes. What completes the handshake must acknowledge what the backend said: a client that is made
/// up does not hear it.
#[inline(always)]
fn advance<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, packet: &Packet, flow: &Flow, state: u32, new: u32) {
    let mut new = new;
    if new & !state & tcp::state::ESTABLISHED != 0 {
        let acknowledged = bytes
            .window::<20>(packet.l4())
            .is_some_and(|header| tcp::acknowledges(state, u32::from_be(get32::<8, 20>(header))));
        if !acknowledged {
            new &= !tcp::state::ESTABLISHED;
        }
    }
    if flow.add_state(state, new) {
        // By the record's own word: it may have become another flow's this very moment.
        tables.complete(flow.frontend());
    }
}

/// A tagged frame leaves with its tag, so only where it came from; the tc program can take the tag off.
#[inline(always)]
fn crosses_vlan<B: Bytes>(bytes: &B, packet: &Packet, interface: u32) -> bool {
    packet.l3() != parse::L2 && interface != bytes.interface()
}

/// A packet of a backend, back to its client. `None`: no flow of ours has this address and port.
#[inline(always)]
fn reply<B: Bytes, T: Tables>(
    bytes: &mut B,
    tables: &T,
    control: &Control,
    packet: &Packet,
    slot: u32,
) -> Option<Decision> {
    let snat = tables.snat(slot)?.view();
    if snat.address != packet.destination {
        return None;
    }
    let offset = snat.port_offset(packet.destination_port)?;
    let udp = packet.protocol == UDP;
    let section = snat.section(udp, hash::fold(packet.source, packet.source_port));
    let index = tables
        .reverse(snat.reverse_index(section, offset))?
        .load()
        .checked_sub(1)?;
    let (word, flow) = flow_table::slot(tables, index)?;
    let tag = word.load();
    if tag::state(tag) != tag::LIVE {
        return None;
    }
    let binding = flow.binding();
    let backend = tables.backend(binding.backend)?.view();
    if binding.snat_port != packet.destination_port
        || u32::from(binding.snat_slot) != slot
        || (binding.flags & flag::UDP != 0) != udp
        || backend.address != packet.source
        || backend.port != packet.source_port
        || word.load() != tag
    {
        return None;
    }
    if backend.generation != binding.generation {
        // The same backend, whose flows were ended: it is told so, like the client.
        flow.add_state(0, tcp::state::RESET);
        return Some(drop(binding.frontend, Reason::STALE_BACKEND));
    }
    let frontend = tables.frontend(binding.frontend)?;
    Some(to_client(bytes, tables, control, packet, flow, &binding, frontend))
}

#[inline(always)]
fn to_client<B: Bytes, T: Tables>(
    bytes: &mut B,
    tables: &T,
    control: &Control,
    packet: &Packet,
    flow: &Flow,
    binding: &Binding,
    frontend: &Frontend,
) -> Decision {
    let vip = frontend.vip();
    let mut hop = flow.client_hop();
    if hop.revision() == 0 || hop.revision() != control.route_revision() {
        hop = tables.resolve_client(packet, binding.client, vip);
        if hop.interface == 0 {
            return drop(binding.frontend, Reason::NO_ROUTE);
        }
        if hop.revision() != 0 {
            flow.set_client_hop(&hop);
        }
    }
    let resolved = hop.revision() != 0;
    if !B::RESOLVES_NEIGHBOURS && (!resolved || !hop.xdp() || crosses_vlan(bytes, packet, hop.interface)) {
        return Decision::Done(Outcome::HandOver);
    }
    if packet.ttl <= 1 {
        return drop(binding.frontend, Reason::TTL_EXPIRED);
    }
    if hop.mtu() != 0 && bytes.segment_length(packet) > usize::from(hop.mtu()) {
        return Decision::Answer(binding.frontend, Why::TooBig(hop.mtu()));
    }
    let state = flow.state();
    if packet.protocol == UDP {
        flow.add_state(state, state | tcp::state::ANSWERED);
    } else if tcp::is_half_open(state) {
        answered(bytes, tables, packet, flow, state);
    } else {
        flow.add_state(state, tcp::step(state, packet.tcp_flags, Direction::Reply));
    }
    flow.touch(tables.now());
    let translation = Translation {
        source: vip,
        destination: binding.client,
        source_port: frontend.port(),
        destination_port: binding.client_port,
        address_delta: negate(binding.address_delta),
    };
    if !rewrite::link(bytes, resolved, hop.destination, hop.source) || !rewrite::translate(bytes, packet, &translation)
    {
        return half_done(tables, binding.frontend);
    }
    tables.count_out(binding.frontend, binding.backend, packet.l3() + packet.ip_length);
    sent(resolved, hop.interface)
}

/// Notes what a backend says on a half-open flow: which acknowledgement completes the handshake, or, by data or a FIN, that the
/// client's has come.
#[inline(always)]
fn answered<B: Bytes, T: Tables>(bytes: &mut B, tables: &T, packet: &Packet, flow: &Flow, state: u32) {
    let mut new = tcp::step(state, packet.tcp_flags, Direction::Reply);
    if packet.tcp_flags & SYN != 0 {
        if let Some(header) = bytes.window::<20>(packet.l4()) {
            flow.await_acknowledgement(u32::from_be(get32::<4, 20>(header)).wrapping_add(1));
        }
    } else if packet.tcp_flags & RST == 0 && (packet.ip_length > packet.headers || packet.tcp_flags & FIN != 0) {
        new |= tcp::state::ESTABLISHED;
    }
    if flow.add_state(state, new) {
        tables.complete(flow.frontend());
    }
}

/// The frame shrank, or its checksum could not be updated, with the headers written already: no answer can be made of it.
#[inline(always)]
fn half_done<T: Tables>(tables: &T, frontend: u32) -> Decision {
    tables.count_drop(frontend, Reason::MALFORMED);
    Decision::Done(Outcome::Drop(Reason::MALFORMED))
}

#[inline(always)]
fn sent(resolved: bool, interface: u32) -> Decision {
    Decision::Done(if resolved {
        Outcome::Send(interface)
    } else {
        Outcome::SendToNeighbour(interface)
    })
}
