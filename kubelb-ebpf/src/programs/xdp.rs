//! The XDP side: frames before the stack has seen them.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use kubelb_common::checksum::{combine, update, update_udp};
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

/// Forwards at the driver.
#[xdp(frags)]
pub(super) fn kubelb_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context is valid for the whole run of the program.
    let interface = unsafe { (*ctx.ctx).ingress_ifindex };
    let kernel = Kernel {
        context: ctx.ctx.cast(),
        interface,
    };
    let mut frame = Frame { ctx: &ctx, interface };
    match process(&mut frame, &kernel) {
        Outcome::Pass => xdp_action::XDP_PASS,
        Outcome::HandOver => {
            kernel.with_scratch(|scratch| scratch.handed_over += 1);
            xdp_action::XDP_PASS
        }
        Outcome::Drop(reason) => {
            if sampled(&kernel) {
                log_drop(&ctx, reason.index() as u32, interface);
            }
            xdp_action::XDP_DROP
        }
        Outcome::Send(to) if to == interface && !maps::hairpin_by_redirect() => xdp_action::XDP_TX,
        // SAFETY: a helper call with plain arguments.
        Outcome::Send(to) => unsafe { bpf_redirect(to, 0) as u32 },
        Outcome::Answer if !maps::hairpin_by_redirect() => xdp_action::XDP_TX,
        // SAFETY: a helper call with plain arguments.
        Outcome::Answer => unsafe { bpf_redirect(interface, 0) as u32 },
        // XDP cannot resolve neighbours and `process` knows it.
        Outcome::SendToNeighbour(_) => xdp_action::XDP_ABORTED,
    }
}

/// One of 1,024 drops of a CPU is worth a line.
#[inline(always)]
pub(super) fn sampled(kernel: &Kernel) -> bool {
    kernel
        .with_scratch(|scratch| {
            scratch.sampled = scratch.sampled.wrapping_add(1);
            scratch.sampled & 1023 == 1
        })
        .unwrap_or(false)
}

struct Frame<'a> {
    ctx: &'a XdpContext,
    interface: u32,
}

impl Bytes for Frame<'_> {
    const RESOLVES_NEIGHBOURS: bool = false;

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
        // The linear part suffices nearly always; only a frame of several buffers needs the helper.
        self.ctx.data_end() - self.ctx.data() >= length
            // SAFETY: the context is valid.
            || unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) } >= length as u64
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.interface
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, addresses: u16, covered: u16, udp: bool, _v6: bool) -> bool {
        let Some(field) = self.window::<2>(offset) else {
            return false;
        };
        let old = get16::<0, 2>(field);
        let delta = combine(addresses, covered);
        put16::<0, 2>(
            field,
            if udp {
                update_udp(old, delta)
            } else {
                update(old, delta)
            },
        );
        true
    }

    #[inline(always)]
    fn checksum_is_partial(&mut self, _offset: usize) -> bool {
        // XDP cannot tell; drivers hand up finished frames, and on veth the peer's offload must be off (docs).
        false
    }

    #[inline(always)]
    fn make_room(&mut self, l3: usize, room: usize) -> bool {
        // SAFETY: the context is valid; packet pointers are loaded anew by `window`.
        if unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -(room as i32)) } != 0 {
            return false;
        }
        if l3 == 18 {
            self.move_link::<18>(room)
        } else {
            self.move_link::<14>(room)
        }
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        // SAFETY: the context is valid.
        let now = unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) } as usize;
        // SAFETY: as above.
        now == length || unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, length as i32 - now as i32) } == 0
    }

    #[inline(always)]
    fn respond<T: Tables>(&mut self, _tables: &T, packet: &Packet, frontend: u32, why: Why) -> bool {
        let Some(work) = maps::work() else { return false };
        (work.packet, work.frontend, work.why) = (*packet, frontend, why.encode());
        respond(self.ctx.ctx, self.interface) != 0
    }

    #[inline(always)]
    fn consider<T: Tables>(&mut self, _tables: &T, question: Question) -> bool {
        consider(self.ctx.ctx, self.interface, question.encode()) != 0
    }
}

impl Frame<'_> {
    #[inline(always)]
    fn move_link<const N: usize>(&mut self, from: usize) -> bool {
        let Some(old) = self.window::<N>(from) else {
            return false;
        };
        let header = *old;
        let Some(new) = self.window::<N>(0) else { return false };
        *new = header;
        true
    }
}

/// The answer to the packet in [`maps::WORK`], on a stack of its own. 1: the frame is the answer.
#[inline(never)]
fn respond(context: *mut xdp_md, interface: u32) -> u32 {
    let ctx = XdpContext::new(context);
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
fn consider(context: *mut xdp_md, interface: u32, question: u32) -> u32 {
    let ctx = XdpContext::new(context);
    let kernel = Kernel {
        context: context.cast(),
        interface,
    };
    let mut frame = Frame { ctx: &ctx, interface };
    u32::from(neighbour::consider(&mut frame, &kernel, Question::decode(question)))
}

/// Not inlined: a log line wants a stack of its own.
#[inline(never)]
fn log_drop(ctx: &XdpContext, reason: u32, interface: u32) -> u32 {
    info!(ctx, "xdp drop: reason {} interface {}", reason, interface);
    0
}
