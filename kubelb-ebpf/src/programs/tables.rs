//! [`Tables`] over the kernel's maps and helpers.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParameters};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_jiffies64};
use kubelb_common::addr::Addr;
use kubelb_common::backend::Backend;
use kubelb_common::control::Control;
use kubelb_common::flow::{Bucket, ClientHop};
use kubelb_common::flow_table::{FlowTables, Layout};
use kubelb_common::frontend::{Frontend, FrontendKey};
use kubelb_common::next_hop::{NextHop, flag};
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::SharedU32;
use kubelb_common::snat::SnatAddress;
use kubelb_common::stats::{Drops, Reason, Scratch, Traffic};
use kubelb_ebpf::parse::Packet;
use kubelb_ebpf::tables::Tables;

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
        maps::REVERSE.get(index)
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
}

impl Tables for Kernel {
    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        maps::CONTROL.get(0)
    }

    #[inline(always)]
    fn filter(&self, which: u32, index: u16) -> u8 {
        match maps::FILTERS.get(which) {
            Some(filter) => filter.0[index as usize],
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
    fn backend_slot(&self, index: u32) -> Option<u32> {
        maps::BACKEND_SLOTS.get(index).map(SharedU32::load)
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
        let revision = self.control().map_or(0, Control::route_revision);
        let mut hop = ClientHop::default();
        resolve(self, &Question { v6: packet.v6, client, vip, revision }, &mut hop);
        hop
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
        let Some(row) = maps::FRONTEND_DROPS.get_ptr_mut(frontend) else { return };
        // SAFETY: as in `with_scratch`.
        let row: &mut Drops = unsafe { &mut *row };
        if let Some(counter) = row.0.get_mut(reason.index()) {
            *counter += 1;
        }
    }
}

#[inline(always)]
fn traffic(map: &aya_ebpf::maps::PerCpuArray<Traffic>, index: u32, add: impl FnOnce(&mut Traffic)) {
    if let Some(row) = map.get_ptr_mut(index) {
        // SAFETY: as in `with_scratch`.
        add(unsafe { &mut *row });
    }
}

struct Question {
    v6: bool,
    client: Addr,
    vip: Addr,
    revision: u16,
}

/// Asks the kernel's routes and neighbours for the way to a client. Not inlined: it runs once per flow and revision.
#[inline(never)]
fn resolve(kernel: &Kernel, question: &Question, hop: &mut ClientHop) -> u32 {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut parameters: FibParameters = unsafe { core::mem::zeroed() };
    parameters.ifindex = kernel.interface;
    if question.v6 {
        parameters.family = AF_INET6;
        parameters.__bindgen_anon_3.ipv6_src = words(question.vip);
        parameters.__bindgen_anon_4.ipv6_dst = words(question.client);
    } else {
        parameters.family = AF_INET;
        parameters.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(question.vip.v4_bytes());
        parameters.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(question.client.v4_bytes());
    }
    let size = size_of::<FibParameters>() as i32;
    // SAFETY: the context is this program's own, the parameters are initialised and `size` bytes long.
    let result = unsafe { bpf_fib_lookup(kernel.context, &mut parameters, size, 0) };
    if result == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        hop.revision = question.revision;
        hop.destination_mac = parameters.dmac;
        hop.source_mac = parameters.smac;
    } else if result != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return 0;
    }
    hop.interface = parameters.ifindex;
    hop.flags = flag::ROUTED;
    if maps::XDP_INTERFACES.get_ptr(&hop.interface).is_some() {
        hop.flags |= flag::XDP;
    }
    1
}

#[inline(always)]
fn words(addr: Addr) -> [u32; 4] {
    let (high, low) = addr.words();
    [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
}
