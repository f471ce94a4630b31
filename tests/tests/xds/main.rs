//! The manager's xDS server with the real Envoy, and with peers that are up to something.
//!
//! What is served is made by the tests themselves: listeners with HTTP and TLS, routes, secrets, clusters, endpoints. Every test ends
//! with a look at the slowest push: one that took more than a second has run into one of the waits that Envoy has.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod bootstrap;
mod forged;
mod hub;
mod layer7;
mod log;
mod peer;
mod quarantine;
mod relay;
mod relaying;
mod replicas;
mod reports;
mod rotation;
mod scale;
mod secrets;
mod slow;
mod tokens;
mod traffic;
mod trust;
mod warming;
mod world;
