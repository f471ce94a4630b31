//! The driver that restores a frame and tail-calls the program under test, and the programs that its figures are
//! compared with. Knows nothing of the data path.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, ProgramArray};
use aya_ebpf::programs::XdpContext;
use kubelb_common::bench::{COUNTED, HEADER_BYTES, KEY_AT, KEY_BYTES, LISTED, MAX_VARIANTS, Plan, WORDS_AT, counted};

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map]
static VARIANTS: Array<u64> = Array::with_max_entries(MAX_VARIANTS, 0);
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static HASH: HashMap<[u64; KEY_BYTES / 8], u64> = HashMap::with_max_entries(MAX_VARIANTS, 0);

/// Spreads consecutive runs over the variants: an odd factor permutes the numbers below a power of two.
const STRIDE: u64 = 0x9e37_79b1;

/// Restores the frame, makes it this run's variant, and goes on with the program under test.
#[xdp(frags)]
fn bench_driver(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + HEADER_BYTES > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let Some(plan) = PLAN.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: a live map value; one test run at a time uses it.
    let plan = unsafe { &mut *plan };
    let run = plan.run;
    plan.run = run + 1;
    let which = (run.wrapping_mul(STRIDE) as u32) & plan.mask;
    let words = match plan.variants {
        COUNTED => plan.with(counted(which, plan.destination_port())),
        LISTED => match VARIANTS.get(which) {
            Some(variant) => plan.with(*variant),
            None => return xdp_action::XDP_ABORTED,
        },
        _ => plan.words,
    };
    for (at, word) in WORDS_AT.into_iter().zip(words) {
        // SAFETY: `HEADER_BYTES` from `start` on lie before `data_end`; the write needs no alignment.
        unsafe { ((start + at) as *mut u64).write_unaligned(word) };
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    // There is no program under test.
    xdp_action::XDP_ABORTED
}

/// What the driver and the call of a program cost by themselves.
#[xdp(frags)]
fn bench_empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// One lookup in a stock hash map, by bytes of the frame. XDP_TX: a hit.
#[xdp(frags)]
fn bench_hash(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + KEY_AT + KEY_BYTES > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the key's bytes lie before `data_end`; the reads need no alignment.
    let key = unsafe {
        [
            ((start + KEY_AT) as *const u64).read_unaligned(),
            ((start + KEY_AT + 8) as *const u64).read_unaligned(),
        ]
    };
    match HASH.get_ptr(&key) {
        // SAFETY: a live map value.
        Some(value) if unsafe { *value } != 0 => xdp_action::XDP_TX,
        _ => xdp_action::XDP_DROP,
    }
}
