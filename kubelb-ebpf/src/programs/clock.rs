//! Reads the clocks of the data path for user space, by BPF_PROG_TEST_RUN. A tc program, because a test run of an XDP
//! program waits for RCU, some 10 ms each.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Writes jiffies and the monotonic clock in nanoseconds, both native 64-bit, into the first 16 bytes of the frame.
#[classifier]
pub(super) fn kubelb_clock(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + 16 > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    // SAFETY: 16 bytes from `start` on lie before `data_end`; the helpers read counters.
    unsafe {
        (start as *mut u64).write_unaligned(bpf_jiffies64());
        ((start + 8) as *mut u64).write_unaligned(bpf_ktime_get_ns());
    }
    TC_ACT_OK
}
