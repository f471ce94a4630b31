//! The programs: contexts and helpers on one side, the library's seams on the other.

mod clock;
mod maps;
mod tables;
mod tc;
mod xdp;

/// `value`, of which the compiler forgets how it was computed. The verifier remembers a bounds check only of the very
/// register that was compared, so the sum that is compared must be the one that is used.
#[inline(always)]
fn opaque(value: usize) -> usize {
    let result;
    // An empty template would give two instructions the same line of debug information, which the kernel refuses.
    // SAFETY: adds nothing.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) value => result, options(nomem, nostack, preserves_flags)) };
    result
}
