//! What kubelb's manager, agents and Envoys say to each other, and both ends of an xDS session without I/O.
//!
//! - [`contract`]: the names, metadata and messages of the wire that kubelb adds to Envoy's.
//! - [`resource`], [`virtual_hosts`], [`snapshot`]: the configuration as immutable, shared, already encoded resources, and what a peer may see
//!   of it.
//! - [`server`]: a peer's stream as the manager sees it. [`client`]: a stream as an agent sees it.
//! - [`reports`]: both ends of what agents tell the manager in the other direction. [`telling`]: what is not about agents in it.
//!
//! Must not know: sockets, TLS, tonic's transport, tasks, clocks (time is an argument), the API objects that resources come from, and
//! what an agent does with them.
#![forbid(unsafe_code)]

mod canonical;
pub mod client;
pub mod contract;
pub mod reports;
pub mod resource;
pub mod resource_type;
pub mod server;
pub mod snapshot;
pub mod telling;
pub mod virtual_hosts;

/// The messages of the xDS API, in the generation that this crate speaks.
pub use envoy_types::pb;

pub use resource::{Audience, Owner, Reference, Resource, Version};
pub use resource_type::ResourceType;
pub use snapshot::{Diff, Scope, Snapshot, Tenants};
pub use virtual_hosts::EncodedHost;
