//! The tc side, always attached: what XDP hands over, and everything where XDP is not attached.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data,
    bpf_skb_vlan_pop,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use kubelb_ebpf::answer::{self, Why};
use kubelb_ebpf::bytes::{Bytes, get16, put16};
use kubelb_ebpf::neighbour::{self, Question};
use kubelb_ebpf::outcome::Outcome;
use kubelb_ebpf::parse::Packet;
use kubelb_ebpf::process::process;
use kubelb_ebpf::tables::Tables;

use super::maps;
use super::opaque;
use super::tables::Kernel;
use super::xdp::sampled;

/// Most bytes of headers that are ever looked at: Ethernet with a tag, IPv4 with options, TCP.
const HEADERS: u32 = 18 + 60 + 20;
/// "The sum is of IPv6": kernels that know the flag correct CHECKSUM_COMPLETE with it, older ones refuse it.
const BPF_F_IPV6: u64 = 1 << 7;

/// Forwards at tc ingress.
#[classifier]
pub(super) fn kubelb_tc(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for the whole run of the program.
    let interface = unsafe { (*skb).ifindex };
    let kernel = Kernel {
        context: skb.cast(),
        interface,
    };
    // Headers may lie outside the linear part; there they cannot be read or written.
    // SAFETY: as above.
    unsafe {
        if (*skb).data + HEADERS > (*skb).data_end && (*skb).len > (*skb).data_end - (*skb).data {
            let wanted = if (*skb).len < HEADERS { (*skb).len } else { HEADERS };
            if bpf_skb_pull_data(skb, wanted) != 0 {
                return TC_ACT_UNSPEC;
            }
        }
    }
    let mut frame = Frame { ctx: &ctx, interface };
    match process(&mut frame, &kernel) {
        Outcome::Pass => TC_ACT_UNSPEC,
        Outcome::Drop(reason) => {
            if sampled(&kernel) {
                log_drop(&ctx, reason.index() as u32, interface);
            }
            TC_ACT_SHOT
        }
        Outcome::Send(to) => {
            frame.leave(to);
            // SAFETY: a helper call with plain arguments.
            unsafe { bpf_redirect(to, 0) as i32 }
        }
        Outcome::SendToNeighbour(to) => {
            frame.leave(to);
            // SAFETY: no parameters: the kernel looks the neighbour up by the packet's destination.
            unsafe { bpf_redirect_neigh(to, core::ptr::null_mut(), 0, 0) as i32 }
        }
        // SAFETY: a helper call with plain arguments.
        Outcome::Answer => unsafe { bpf_redirect(interface, 0) as i32 },
        // There is nobody to hand over to, and `process` knows it.
        Outcome::HandOver => TC_ACT_UNSPEC,
    }
}

struct Frame<'a> {
    ctx: &'a TcContext,
    interface: u32,
}

impl Frame<'_> {
    /// A tag belongs to the interface that the frame came in on.
    #[inline(always)]
    fn leave(&mut self, to: u32) {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid.
        unsafe {
            if to != self.interface && (*skb).vlan_present != 0 {
                bpf_skb_vlan_pop(skb);
            }
        }
    }
}

impl Bytes for Frame<'_> {
    const RESOLVES_NEIGHBOURS: bool = true;

    #[inline(always)]
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let start = opaque(self.ctx.data() + offset);
        if start + N > self.ctx.data_end() {
            return None;
        }
        // SAFETY: no frame is at address 0. Without this the `Option` costs a comparison.
        unsafe { core::hint::assert_unchecked(start != 0) };
        // SAFETY: `N` bytes from `start` on lie before `data_end`, as just compared; the verifier checks it again.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        self.ctx.len() as usize >= length
    }

    #[inline(always)]
    fn segment_length(&self, packet: &Packet) -> usize {
        // SAFETY: the context is valid.
        let segment = unsafe { (*self.ctx.skb.skb).gso_size } as usize;
        if segment == 0 {
            packet.ip_length
        } else {
            packet.headers + segment
        }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.interface
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, addresses: u16, covered: u16, udp: bool, v6: bool) -> bool {
        let skb = self.ctx.skb.skb;
        let mangled = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = mangled | u64::from(BPF_F_PSEUDO_HDR);
        let family = if v6 { BPF_F_IPV6 } else { 0 };
        let at = offset as u32;
        // Two steps, because of a sum that is left to hardware only the pseudo-header's part is in the field.
        // SAFETY: the context is valid; packet pointers are loaded anew by `window`.
        unsafe {
            if bpf_l4_csum_replace(skb, at, 0, u64::from(addresses), pseudo | family) != 0
                && (family == 0 || bpf_l4_csum_replace(skb, at, 0, u64::from(addresses), pseudo) != 0)
            {
                return false;
            }
            bpf_l4_csum_replace(skb, at, 0, u64::from(covered), mangled) == 0
        }
    }

    #[inline(always)]
    fn checksum_is_partial(&mut self, offset: usize) -> bool {
        let skb = self.ctx.skb.skb;
        let Some(field) = self.window::<2>(offset) else {
            return false;
        };
        let before = get16::<0, 2>(field);
        // The kernel leaves the field of such a frame alone when a covered word changes: say that one did, and undo it.
        // SAFETY: the context is valid; packet pointers are loaded anew by `window`.
        unsafe { bpf_l4_csum_replace(skb, offset as u32, 0, 1, 0) };
        let Some(field) = self.window::<2>(offset) else {
            return false;
        };
        let partial = get16::<0, 2>(field) == before;
        put16::<0, 2>(field, before);
        partial
    }

    #[inline(always)]
    fn make_room(&mut self, _l3: usize, room: usize) -> bool {
        let skb = self.ctx.skb.skb;
        // The frame becomes a single packet (`truncate` sees to that), so the size of its segments no longer matters; without
        // the flag the kernel refuses merged datagrams.
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: the context is valid; packet pointers are loaded anew by `window`.
        unsafe { bpf_skb_adjust_room(skb, room as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags) == 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        // SAFETY: the context is valid; packet pointers are loaded anew by `window`.
        unsafe { bpf_skb_change_tail(self.ctx.skb.skb, length as u32, 0) == 0 }
    }

    #[inline(always)]
    fn respond<T: Tables>(&mut self, _tables: &T, packet: &Packet, frontend: u32, why: Why) -> bool {
        let Some(work) = maps::work() else { return false };
        (work.packet, work.frontend, work.why) = (*packet, frontend, why.encode());
        respond(self.ctx.skb.skb, self.interface) != 0
    }

    #[inline(always)]
    fn consider<T: Tables>(&mut self, _tables: &T, question: Question) -> bool {
        consider(self.ctx.skb.skb, self.interface, question.encode()) != 0
    }
}

/// The answer to the packet in [`maps::WORK`], on a stack of its own. 1: the frame is the answer.
#[inline(never)]
fn respond(context: *mut __sk_buff, interface: u32) -> u32 {
    let ctx = TcContext::new(context);
    let kernel = Kernel {
        context: context.cast(),
        interface,
    };
    let mut frame = Frame { ctx: &ctx, interface };
    let Some(work) = maps::work() else { return 0 };
    u32::from(answer::respond(
        &mut frame,
        &kernel,
        &work.packet,
        work.frontend,
        Why::decode(work.why),
    ))
}

/// [`neighbour::consider`], on a stack of its own.
#[inline(never)]
fn consider(context: *mut __sk_buff, interface: u32, question: u32) -> u32 {
    let ctx = TcContext::new(context);
    let kernel = Kernel {
        context: context.cast(),
        interface,
    };
    let mut frame = Frame { ctx: &ctx, interface };
    u32::from(neighbour::consider(&mut frame, &kernel, Question::decode(question)))
}

/// Not inlined: a log line wants a stack of its own.
#[inline(never)]
fn log_drop(ctx: &TcContext, reason: u32, interface: u32) -> u32 {
    info!(ctx, "tc drop: reason {} interface {}", reason, interface);
    0
}
