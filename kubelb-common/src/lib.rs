//! The contract between the eBPF programs and the agent.
//!
//! Everything that both sides touch is here and nowhere else: the rows of every map, their names and sizes, and the
//! arithmetic on them (hashing, checksums, TCP states, flow slots, SNAT ports).
//!
//! Rules of the layout:
//! - `#[repr(C)]`, no implicit padding, size asserted at compile time, no `bool`, `Option` or data-carrying enum.
//! - Addresses and ports keep the bytes of the wire (big-endian); counters are native.
//! - A word that is written while others read it is a [`shared::SharedU32`] or [`shared::SharedU64`].
//! - Any change of a layout or of a meaning bumps [`ABI_VERSION`]. What was reserved may get a meaning as long as zeros mean what was
//!   before, and new maps may come: they are made beside those that are pinned.
//!
//! This crate has no dependencies, allocates nothing and does no I/O.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "the only way to a compare-and-swap on this target")
)]

pub mod addr;
pub mod affinity;
pub mod announce;
pub mod backend;
pub mod bench;
pub mod checksum;
pub mod control;
pub mod flow;
pub mod flow_table;
pub mod frontend;
pub mod hash;
pub mod maps;
pub mod next_hop;
#[cfg(feature = "user")]
mod pod;
pub mod port_pool;
pub mod shared;
pub mod snat;
pub mod source;
pub mod stats;
pub mod tcp;

/// Version of every layout in this crate; part of the directory name under which maps are pinned.
pub const ABI_VERSION: u32 = 1;
