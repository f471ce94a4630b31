//! The node agent: decides what the eBPF maps hold, and keeps them so.
//!
//! Pure parts decide ([`model`]); only the edges do I/O. See `ARCHITECTURE.md`.
#![deny(unsafe_code)]

pub mod args;
pub mod health;
pub mod metrics;
pub mod model;
pub mod net;
pub mod source;
pub mod status;
