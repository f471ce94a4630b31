//! Reads the clocks of the data path for user space, by BPF_PROG_TEST_RUN.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Writes jiffies and the monotonic clock in nanoseconds, both native 64-bit, into the first 16 bytes of the frame.
#[xdp]
pub(super) fn kubelb_clock(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 16 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: 16 bytes from `start` on lie before `data_end`; the helpers read counters.
    unsafe {
        (start as *mut u64).write_unaligned(bpf_jiffies64());
        ((start + 8) as *mut u64).write_unaligned(bpf_ktime_get_ns());
    }
    xdp_action::XDP_PASS
}
