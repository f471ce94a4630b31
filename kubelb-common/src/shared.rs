//! Words that several CPUs, and user space through mapped memory, read and write at the same time.
//!
//! `core`'s atomics have no compare-and-swap or fetch-and-add on the BPF targets, so this module bridges: intrinsics
//! there, `core::sync::atomic` elsewhere. All orderings are sequentially consistent except plain loads and stores,
//! which are single, untorn and never elided: x86-64 and arm64 give what the protocols in [`crate::flow_table`] need
//! because every publication goes through a read-modify-write.

use core::cell::UnsafeCell;

macro_rules! shared_word {
    ($(#[$doc:meta])* $name:ident, $int:ty, $atomic:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(UnsafeCell<$int>);

        // SAFETY: every access goes through the methods below, which are atomic or volatile single-word accesses.
        unsafe impl Sync for $name {}

        impl $name {
            /// A word with this value.
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(UnsafeCell::new(value))
            }

            /// The value now.
            #[inline(always)]
            #[must_use]
            pub fn load(&self) -> $int {
                #[cfg(target_arch = "bpf")]
                {
                    // SAFETY: the pointer is valid and aligned; a word-sized BPF load is untorn.
                    unsafe { core::ptr::read_volatile(self.0.get()) }
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    self.atomic().load(core::sync::atomic::Ordering::SeqCst)
                }
            }

            /// Replaces the value.
            #[inline(always)]
            pub fn store(&self, value: $int) {
                #[cfg(target_arch = "bpf")]
                {
                    // SAFETY: as for `load`.
                    unsafe { core::ptr::write_volatile(self.0.get(), value) }
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    self.atomic().store(value, core::sync::atomic::Ordering::SeqCst)
                }
            }

            /// Replaces `current` by `new`; false, and nothing changed, when the value was another.
            #[inline(always)]
            pub fn compare_exchange(&self, current: $int, new: $int) -> bool {
                #[cfg(target_arch = "bpf")]
                {
                    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
                    // SAFETY: the pointer is valid and aligned.
                    let (old, _) = unsafe { atomic_cxchg::<$int, { SeqCst }, { SeqCst }>(self.0.get(), current, new) };
                    old == current
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    use core::sync::atomic::Ordering::SeqCst;
                    self.atomic().compare_exchange(current, new, SeqCst, SeqCst).is_ok()
                }
            }

            /// Adds, wrapping, and returns the value before.
            #[inline(always)]
            pub fn fetch_add(&self, value: $int) -> $int {
                #[cfg(target_arch = "bpf")]
                {
                    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
                    // Never Relaxed: LLVM turns that into the form that returns nothing (see docs/design/002).
                    // SAFETY: the pointer is valid and aligned.
                    unsafe { atomic_xadd::<$int, $int, { SeqCst }>(self.0.get(), value) }
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    self.atomic().fetch_add(value, core::sync::atomic::Ordering::SeqCst)
                }
            }

            /// Clears the bits that are not in `mask` and returns the value before.
            #[inline(always)]
            pub fn fetch_and(&self, mask: $int) -> $int {
                #[cfg(target_arch = "bpf")]
                {
                    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_and};
                    // SAFETY: the pointer is valid and aligned.
                    unsafe { atomic_and::<$int, $int, { SeqCst }>(self.0.get(), mask) }
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    self.atomic().fetch_and(mask, core::sync::atomic::Ordering::SeqCst)
                }
            }

            /// Sets the bits of `bits` and returns the value before.
            #[inline(always)]
            pub fn fetch_or(&self, bits: $int) -> $int {
                #[cfg(target_arch = "bpf")]
                {
                    use core::intrinsics::{AtomicOrdering::SeqCst, atomic_or};
                    // SAFETY: the pointer is valid and aligned.
                    unsafe { atomic_or::<$int, $int, { SeqCst }>(self.0.get(), bits) }
                }
                #[cfg(not(target_arch = "bpf"))]
                {
                    self.atomic().fetch_or(bits, core::sync::atomic::Ordering::SeqCst)
                }
            }

            #[cfg(not(target_arch = "bpf"))]
            fn atomic(&self) -> &core::sync::atomic::$atomic {
                // SAFETY: the atomic has the same size and, being made of the same integer, the same alignment; all
                // accesses to the cell go through it.
                unsafe { core::sync::atomic::$atomic::from_ptr(self.0.get()) }
            }
        }
    };
}

shared_word!(
    /// A 32-bit shared word.
    SharedU32,
    u32,
    AtomicU32
);
shared_word!(
    /// A 64-bit shared word.
    SharedU64,
    u64,
    AtomicU64
);

/// Sixteen words, a cache line. Arrays of 32-bit words are arrays of these, because the kernel rounds the size of an
/// array's element up to eight bytes.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Line([SharedU32; 16]);

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// Words in a line.
    pub const WORDS: u32 = 16;

    /// Number of the line that holds a word of the array.
    #[inline(always)]
    #[must_use]
    pub const fn of(index: u32) -> u32 {
        index / Self::WORDS
    }

    /// The word of the array's `index`, which lies in this line.
    #[inline(always)]
    #[must_use]
    pub fn word(&self, index: u32) -> &SharedU32 {
        #[expect(clippy::indexing_slicing, reason = "masked to the array's size, a power of two")]
        &self.0[index as usize & 15]
    }
}

/// `value`, of which the compiler knows nothing any more. Counting from an opaque start keeps a loop a loop: unrolled
/// ones need more stack than BPF has.
#[inline(always)]
#[must_use]
pub fn opaque(value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let result;
        // An empty template would give two instructions the same line of debug information, which the kernel refuses.
        // SAFETY: adds nothing.
        unsafe { core::arch::asm!("{0} += 0", inout(reg) value => result, options(nomem, nostack, preserves_flags)) };
        result
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value
    }
}
