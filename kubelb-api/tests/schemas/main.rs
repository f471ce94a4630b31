//! What the definitions promise: to be what an API server takes, to be a superset of KubeLB's, and to describe the Rust types.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code: a definition without the part that is looked for is a failed test"
)]

mod definition;
mod kubelb;
mod objects;
mod rules;
mod structural;

/// Fails with one line for each violation.
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}
