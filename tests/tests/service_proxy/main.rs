//! The testbed's service proxy as a user of the cluster meets it: Services and EndpointSlices are written to the API
//! server by the tests, and real clients talk to plain sockets in pods' namespaces.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod balancers;
mod inside;
mod names;
mod node_ports;
mod proxies;
mod talk;
mod world;
