//! What clients rely on in an API server: status, reason, shape and effect of its answers.
//!
//! The same tests run against the testbed's own server, and, when `KUBEBUILDER_ASSETS` names a directory with
//! `kube-apiserver` and `etcd`, against those. Where the two may differ (wording of parse errors, times, generated
//! names) the tests do not look.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in what its tests share"
)]

mod access;
mod apply;
mod client;
mod crud;
mod custom;
mod deletion;
mod descriptions;
mod discovery;
mod kubelet;
mod lists;
mod proxy;
mod restart;
mod reviews;
mod robustness;
mod services;
mod updates;
mod versions;
mod watches;
mod workloads;
mod world;
mod zeros;
