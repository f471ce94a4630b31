//! The tenant's side: copies what Services ask for into the management cluster, and the answers back.
//!
//! ```text
//! tenant's Services, Nodes, EndpointSlices ──► plan ──► LoadBalancer, Addresses in the management cluster
//! LoadBalancer's status ──► writeback ──► Service's status and Events
//! tenant's Gateways and routes, and what they refer to ──► layer7 ──► Route, SyncSecret, Addresses, and statuses back
//! ```
//!
//! [`plan`] and [`writeback`] are functions of the objects; [`service`] and [`nodes`] carry their answers out, one object at a time,
//! level-triggered: killed at any point, the next start goes on from what the two API servers hold. Must not know: addresses, pools, and
//! how traffic is forwarded.
#![forbid(unsafe_code)]

pub mod args;
mod cleanup;
mod credential;
mod desk;
mod finalizers;
mod hub;
mod keeper;
pub mod layer7;
mod nodes;
mod orphans;
pub mod plan;
mod route;
pub mod run;
mod service;
mod services;
mod tenancy;
mod watch;
pub mod writeback;
