//! What every binary of the workspace would otherwise copy: logs, the admin server, orderly shutdown, leader election, guarded watches, tokens,
//! error texts.
//!
//! Knows nothing of load balancing: what `/status` or `/metrics` say is handed in by the binary.
#![forbid(unsafe_code)]

pub mod admin;
pub mod error_chain;
#[cfg(feature = "pace")]
pub mod guard;
#[cfg(feature = "lease")]
pub mod lease;
pub mod or_never;
#[cfg(feature = "pace")]
pub mod pace;
pub mod shutdown;
pub mod telemetry;
#[cfg(feature = "token")]
pub mod token;
#[cfg(feature = "pace")]
pub mod touched;
