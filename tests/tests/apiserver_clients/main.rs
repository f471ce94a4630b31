//! The clients that people use, as they are installed: kubectl, helm, kube-rs, and client-go where Go is.
//!
//! Each test has a server of its own: the testbed's, as a process, or a real one where `KUBEBUILDER_ASSETS` says so.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in what its tests share"
)]

#[cfg(feature = "soak")]
mod go;
mod helm;
mod kube_restart;
mod kube_rs;
mod kubectl_access;
mod kubectl_apply;
mod kubectl_change;
mod kubectl_delete;
mod kubectl_view;
mod kubectl_workload;
mod running;
mod validation;
