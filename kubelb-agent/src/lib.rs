//! The node agent: decides what the eBPF maps hold, and keeps them so.
//!
//! Pure parts decide ([`model`]); only the edges do I/O. See `ARCHITECTURE.md`.
#![deny(unsafe_code)]

pub mod announce;
pub mod args;
#[expect(
    unsafe_code,
    reason = "mapped memory and one ioctl; every block says why it is sound"
)]
pub mod bpf;
pub mod diff;
pub mod engine;
pub mod feedback;
pub mod health;
pub mod metrics;
pub mod model;
pub mod net;
pub mod nudge;
pub mod report;
pub mod run;
pub mod snat;
pub mod source;
pub mod status;
pub mod sweep;
pub mod sysctl;
pub mod tables;
