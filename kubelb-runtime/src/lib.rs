//! What every binary of the workspace would otherwise copy: logs, the admin server, orderly shutdown, error texts.
//!
//! Knows nothing of load balancing: what `/status` or `/metrics` say is handed in by the binary.
#![forbid(unsafe_code)]

pub mod admin;
pub mod error_chain;
pub mod shutdown;
pub mod telemetry;
