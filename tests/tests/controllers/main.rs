//! The testbed's controllers over its API server or a real one, with a stand-in for the nodes' agents: what users of kubectl expect of a cluster.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod cluster;
mod daemon_sets;
mod deletion;
mod deployments;
mod endpoints;
mod namespaces;
mod nodes;
mod restarts;
mod scheduling;
