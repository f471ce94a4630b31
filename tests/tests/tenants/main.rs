//! Tenants in a management cluster: how they are registered, what their credentials open, and how they go. The manager's controllers run with the
//! rights that they say they need, so that a missing one fails here.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

mod attacks;
mod ccm;
mod registration;
mod removal;
mod sync_secrets;
mod take_over;
mod world;
