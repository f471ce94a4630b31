//! [`Tables`] over the kernel's maps and helpers.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, bpf_fib_lookup as FibParameters,
};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_jiffies64};
use kubelb_common::addr::Addr;
use kubelb_common::affinity::{Affinity, AffinityKey};
use kubelb_common::announce::{AnnounceKey, AnnounceRow};
use kubelb_common::backend::Backend;
use kubelb_common::control::Control;
use kubelb_common::flow::{Bucket, ClientHop};
use kubelb_common::flow_table::{self, FlowTables, Layout};
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::next_hop::{MacWord, NextHop};
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::{Line, SharedU32};
use kubelb_common::snat::SnatAddress;
use kubelb_common::source::SourceRange;
use kubelb_common::stats::{Drops, REASONS, Reason, Scratch, Traffic};
use kubelb_ebpf::parse::Packet;
use kubelb_ebpf::tables::Tables;
use kubelb_ebpf::{insert, select};

use super::maps;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The maps, and the context that some helpers want.
pub(super) struct Kernel {
    /// `xdp_md` or `__sk_buff`.
    pub(super) context: *mut core::ffi::c_void,
    /// Interface that the packet came in on.
    pub(super) interface: u32,
}

impl FlowTables for Kernel {
    #[inline(always)]
    fn layout(&self) -> Layout {
        maps::layout()
    }
    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        maps::FLOWS.get(index)
    }
    #[inline(always)]
    fn reverse(&self, index: u32) -> Option<&SharedU32> {
        maps::REVERSE.get(Line::of(index)).map(|line| line.word(index))
    }
    #[inline(always)]
    fn pool(&self, index: u32) -> Option<&PortPool> {
        maps::PORT_POOLS.get(index)
    }
    #[inline(always)]
    fn frontend(&self, index: u32) -> Option<&Frontend> {
        maps::FRONTENDS.get(index)
    }
    #[inline(always)]
    fn snat(&self, slot: u32) -> Option<&SnatAddress> {
        maps::SNAT_ADDRESSES.get(slot)
    }
    #[inline(always)]
    fn source_range(&self, index: u32) -> Option<&SourceRange> {
        maps::SOURCE_RANGES.get(index)
    }
    #[inline(always)]
    fn expire_slot(&self, index: u32, tag: u64, now: u32) -> bool {
        kubelb_expire(index, tag, now) != 0
    }
    #[inline(always)]
    fn take_from_pool(&self, pool: u32, from: u32, end: u32) -> u32 {
        kubelb_take_from_pool(pool, from, end)
    }
    #[inline(always)]
    fn take_expired_port(&self, reverse: u32, pool: u32, port: u32, index: u32, now: u32) -> bool {
        kubelb_take_expired_port(reverse, pool, port, index, now) != 0
    }
}

impl Tables for Kernel {
    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        maps::CONTROL.get(0)
    }

    #[inline(always)]
    fn filter(&self, which: u32, index: u16) -> u8 {
        match maps::FILTERS.get(which) {
            Some(filter) => filter.byte(index),
            None => 0,
        }
    }

    #[inline(always)]
    fn frontend_number(&self, key: &FrontendKey) -> Option<u32> {
        maps::FRONTEND_KEYS.get_ptr(key).map(|number| {
            // SAFETY: the pointer is to a live map value; a word-sized read is untorn.
            unsafe { number.read() }
        })
    }

    #[inline(always)]
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&Affinity) -> R) -> Option<R> {
        // SAFETY: the pointer is to a live map value, made of shared words. It may become another client's meanwhile; what is read is
        // verified, and what is written is a renewal, or replaces a choice that was read before.
        maps::AFFINITIES.get_ptr(key).map(|record| f(unsafe { &*record }))
    }

    #[inline(always)]
    fn add_affinity(&self, key: &AffinityKey, record: Affinity) -> bool {
        maps::AFFINITIES.insert(key, &record, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn backend_slot(&self, index: u32) -> Option<u32> {
        maps::BACKEND_SLOTS
            .get(Line::of(index))
            .map(|line| line.word(index).load())
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&Backend> {
        maps::BACKENDS.get(index)
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        maps::NEXT_HOPS.get(index)
    }

    #[inline(always)]
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        let scratch = maps::SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the row is this CPU's, and a program is not interrupted by another that uses it: both run with
        // softirqs off.
        Some(f(unsafe { &mut *scratch }))
    }

    #[inline(always)]
    fn announce_key(&self, key: &AnnounceKey) -> Option<u32> {
        maps::ANNOUNCE_KEYS.get_ptr(key).map(|row| {
            // SAFETY: the pointer is to a live map value; a word-sized read is untorn.
            unsafe { row.read() }
        })
    }

    #[inline(always)]
    fn announce_row(&self, index: u32) -> Option<&AnnounceRow> {
        maps::ANNOUNCED.get(index)
    }

    #[inline(always)]
    fn is_own_mac(&self, mac: MacWord) -> bool {
        maps::OWN_MACS.get_ptr(&mac.word()).is_some()
    }

    #[inline(always)]
    fn is_unserved(&self, _packet: &Packet) -> bool {
        kubelb_is_unserved() != 0
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: reads a counter.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn cpu(&self) -> u32 {
        // SAFETY: reads this CPU's number.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline(always)]
    fn resolve_client(&self, packet: &Packet, client: Addr, vip: Addr) -> ClientHop {
        let Some(work) = maps::work() else {
            return ClientHop::default();
        };
        (work.client, work.vip) = (client, vip);
        if resolve(self.context, self.interface, u32::from(packet.v6)) == 0 {
            return ClientHop::default();
        }
        work.hop
    }

    #[inline(always)]
    fn insert(&self, packet: &Packet) -> u64 {
        let Some(work) = maps::work() else { return 0 };
        work.packet = *packet;
        kubelb_insert()
    }

    #[inline(always)]
    fn begin(&self, _packet: &Packet) -> u64 {
        kubelb_begin()
    }

    #[inline(always)]
    fn choose(&self, _packet: &Packet, index: u32, number: u32) -> u64 {
        kubelb_choose(index, number)
    }

    #[inline(always)]
    fn admits(&self, _packet: &Packet, number: u32) -> bool {
        kubelb_admits(number) != 0
    }

    #[inline(always)]
    fn select(&self, _packet: &Packet, number: u32) -> u64 {
        kubelb_select(number)
    }

    #[inline(always)]
    fn publish(&self, _packet: &Packet, index: u32, number: u32, chosen: u64) -> u64 {
        kubelb_publish(index, number, chosen)
    }

    #[inline(always)]
    fn take_slot(&self, hash: u64, now: u32) -> u64 {
        kubelb_take_slot(hash, now)
    }

    #[inline(always)]
    fn take_port(&self, slot: u32, index: u32, now: u32, kind: u32) -> u32 {
        kubelb_take_port(slot, index, now, kind)
    }

    #[inline(always)]
    fn find(&self, _packet: &Packet, hash: u64) -> u64 {
        kubelb_find(hash)
    }

    #[inline(always)]
    fn half_open(&self, word: u32) -> Option<&SharedU32> {
        maps::HALF_OPEN.get(Line::of(word)).map(|line| line.word(word))
    }

    #[inline(always)]
    fn make_room(&self, number: u32) -> u32 {
        kubelb_make_room(number)
    }

    #[inline(always)]
    fn complete(&self, number: u32) -> u32 {
        kubelb_complete(number)
    }

    #[inline(always)]
    fn retire(&self, index: u32, tag: u64) -> u32 {
        kubelb_retire(index, tag)
    }

    #[inline(always)]
    fn count_in(&self, frontend: u32, backend: u32, bytes: usize) {
        traffic(&maps::FRONTEND_TRAFFIC, frontend, |row| {
            row.packets_in += 1;
            row.bytes_in += bytes as u64;
        });
        traffic(&maps::BACKEND_TRAFFIC, backend, |row| {
            row.packets_in += 1;
            row.bytes_in += bytes as u64;
        });
    }

    #[inline(always)]
    fn count_out(&self, frontend: u32, backend: u32, bytes: usize) {
        traffic(&maps::FRONTEND_TRAFFIC, frontend, |row| {
            row.packets_out += 1;
            row.bytes_out += bytes as u64;
        });
        traffic(&maps::BACKEND_TRAFFIC, backend, |row| {
            row.packets_out += 1;
            row.bytes_out += bytes as u64;
        });
    }

    #[inline(always)]
    fn count_flow(&self, frontend: u32, backend: u32) {
        traffic(&maps::FRONTEND_TRAFFIC, frontend, |row| row.flows += 1);
        traffic(&maps::BACKEND_TRAFFIC, backend, |row| row.flows += 1);
    }

    #[inline(always)]
    fn count_drop(&self, frontend: u32, reason: Reason) {
        let Some(row) = maps::FRONTEND_DROPS.get_ptr_mut(frontend) else {
            return;
        };
        // SAFETY: as in `with_scratch`.
        let row: &mut Drops = unsafe { &mut *row };
        row.0[reason.index() & (REASONS - 1)] += 1;
    }
}

#[inline(always)]
fn traffic(map: &aya_ebpf::maps::PerCpuArray<Traffic>, index: u32, add: impl FnOnce(&mut Traffic)) {
    if let Some(row) = map.get_ptr_mut(index) {
        // SAFETY: as in `with_scratch`.
        add(unsafe { &mut *row });
    }
}

/// Asks the kernel's routes and neighbours for the way to the client in [`maps::WORK`] and puts it there. 0: there is
/// none. Not inlined: it runs once per flow and revision.
#[inline(never)]
fn resolve(context: *mut core::ffi::c_void, interface: u32, v6: u32) -> u32 {
    let Some(work) = maps::work() else { return 0 };
    let parameters = &mut work.fib;
    // SAFETY: all-zero is a valid value of this plain C struct.
    *parameters = unsafe { core::mem::zeroed() };
    parameters.ifindex = interface;
    // A length that fits anywhere: with one, the kernel says how large packets may be, and leaves this packet's own length,
    // which `process` compares, out of it.
    parameters.__bindgen_anon_1.tot_len = 1;
    if v6 != 0 {
        parameters.family = AF_INET6;
        parameters.__bindgen_anon_3.ipv6_src = words(work.vip);
        parameters.__bindgen_anon_4.ipv6_dst = words(work.client);
    } else {
        parameters.family = AF_INET;
        parameters.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(work.vip.v4_bytes());
        parameters.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(work.client.v4_bytes());
    }
    let size = size_of::<FibParameters>() as i32;
    // SAFETY: the context is this program's own, the parameters are initialised and `size` bytes long.
    let result = unsafe { bpf_fib_lookup(context.cast(), parameters, size, 0) };
    let mut hop = ClientHop::default();
    let mut mtu = 0;
    if result == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        let revision = maps::CONTROL.get(0).map_or(0, Control::route_revision);
        hop.destination = MacWord::new(parameters.dmac, revision);
        hop.source = MacWord::new(parameters.smac, 0);
        // SAFETY: any bytes are valid in either field of the union; after success it is the kernel's answer.
        mtu = unsafe { parameters.__bindgen_anon_1.mtu_result };
    } else if result != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return 0;
    }
    let xdp = maps::XDP_INTERFACES.get_ptr(&parameters.ifindex).is_some();
    hop = hop.with(mtu, xdp);
    hop.interface = parameters.ifindex;
    work.hop = hop;
    1
}

#[inline(always)]
fn words(addr: Addr) -> [u32; 4] {
    let (high, low) = addr.words();
    [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
}

// Global functions in BPF's sense: exported, so the verifier checks each once, by itself, instead of at every call on
// every path. That is why they take and return plain words, and the packet comes by way of a map.

const NOWHERE: Kernel = Kernel {
    context: core::ptr::null_mut(),
    interface: 0,
};

/// [`insert::insert`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_insert() -> u64 {
    maps::work().map_or(0, |work| insert::insert(&NOWHERE, &work.packet))
}

/// [`insert::is_unserved`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_is_unserved() -> u32 {
    maps::work().map_or(0, |work| u32::from(insert::is_unserved(&NOWHERE, &work.packet)))
}

/// [`insert::begin`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_begin() -> u64 {
    maps::work().map_or(0, |work| insert::begin(&NOWHERE, &work.packet))
}

/// [`insert::choose`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_choose(index: u32, number: u32) -> u64 {
    maps::work().map_or(0, |work| insert::choose(&NOWHERE, &work.packet, index, number))
}

/// [`select::admits`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_admits(number: u32) -> u32 {
    maps::work().map_or(0, |work| u32::from(select::admits(&NOWHERE, &work.packet, number)))
}

/// [`select::select`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_select(number: u32) -> u64 {
    maps::work().map_or(0, |work| select::select(&NOWHERE, &work.packet, number))
}

/// [`insert::publish`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_publish(index: u32, number: u32, chosen: u64) -> u64 {
    maps::work().map_or(0, |work| insert::publish(&NOWHERE, &work.packet, index, number, chosen))
}

/// [`insert::take_slot`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_take_slot(hash: u64, now: u32) -> u64 {
    insert::take_slot(&NOWHERE, hash, now)
}

/// [`insert::take_port`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_take_port(slot: u32, index: u32, now: u32, kind: u32) -> u32 {
    insert::take_port(&NOWHERE, slot, index, now, kind)
}

/// [`insert::find`] of the packet in [`maps::WORK`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_find(hash: u64) -> u64 {
    maps::work().map_or(insert::NO_SLOT, |work| insert::find(&NOWHERE, &work.packet, hash))
}

/// [`insert::make_room`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_make_room(number: u32) -> u32 {
    insert::make_room(&NOWHERE, number)
}

/// [`insert::complete`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_complete(number: u32) -> u32 {
    insert::complete(&NOWHERE, number)
}

/// [`flow_table::release`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_retire(index: u32, tag: u64) -> u32 {
    u32::from(flow_table::release(&NOWHERE, index, tag))
}

/// [`flow_table::expire`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_expire(index: u32, tag: u64, now: u32) -> u32 {
    u32::from(flow_table::expire(&NOWHERE, index, tag, now))
}

/// [`flow_table::take_from_pool`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_take_from_pool(pool: u32, from: u32, end: u32) -> u32 {
    flow_table::take_from_pool(&NOWHERE, pool, from, end)
}

/// [`flow_table::take_expired_port`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kubelb_take_expired_port(reverse: u32, pool: u32, port: u32, index: u32, now: u32) -> u32 {
    u32::from(flow_table::take_expired_port(&NOWHERE, reverse, pool, port, index, now))
}
