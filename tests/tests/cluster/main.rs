//! Whole clusters: what a user deploys answers from another machine of the network.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod playground;
mod power;
mod workloads;
mod world;
