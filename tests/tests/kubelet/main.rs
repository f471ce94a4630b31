//! The testbed's kubelet as a process in a network namespace, over the testbed's API server or a real one: Pods as a user sees them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod bed;
mod configuration;
mod kubectl;
mod kubectl_terminal;
mod life;
mod logs;
mod ports;
