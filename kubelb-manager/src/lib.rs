//! The control plane: custom resources of many tenants in, one configuration out.
//!
//! ```text
//! source ──► store ──┬─► allocate ──► claims
//!                    ├─► ir ──► xds ──► snapshot
//!                    └─► status (with what peers report)
//! ```
//!
//! Everything between a source and the outputs is a function of the objects: whole state in, whole answer out, so that every replica
//! comes to the same one. [`hub`] joins the functions, [`run`] alone does I/O around them.
#![forbid(unsafe_code)]

pub mod allocate;
pub mod args;
pub mod bootstrap;
pub mod controllers;
pub mod delegate;
mod desk;
pub mod hub;
pub mod identity;
pub mod ir;
pub mod ledger;
pub mod object;
pub mod owners;
pub mod problem;
pub mod relay;
pub mod run;
pub mod serve;
pub mod source;
pub mod standing;
pub mod state;
pub mod status;
pub mod store;
pub mod xds;
